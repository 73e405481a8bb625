//! A lab's configuration: raw arguments in, checked and immutable values out.
//!
//! Three groups of ranges must stay apart: Services, pods, and the fabric (the nodes' own network).
//! Each has one range, or one of each family, and all have the same families; whose order decides
//! which is the primary one. Fixed places in the fabric: the API server is at number 1, node i at
//! 10+i, the outside client last. In IPv6 these numbers are written as they are in IPv4:
//! 172.30.0.11 and fd00:172:30::11 are one node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use portolan_node::Addresses;
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::nets::{Family, Nets, NetsError, overlap};
use crate::settings::Recorded;

/// The arguments of `up` that shape the lab, as given.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, 1 to 100.
    pub nodes: u16,
    /// The proxy's mode, when it was asked for; nftables otherwise.
    pub proxy_mode: Option<ProxyMode>,
    /// `--service-cidr`, when it was given.
    pub service_cidr: Option<String>,
    /// `--cluster-cidr`, when it was given.
    pub cluster_cidr: Option<String>,
    /// `--fabric-cidr`, when it was given.
    pub fabric_cidr: Option<String>,
    /// `--node-port-range`.
    pub node_port_range: String,
    /// The API server's port on the host's loopback; 0 takes any free one.
    pub api_port: u16,
}

/// The proxy's backends, by the names that kube-proxy's configuration uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// iptables chains, as kube-proxy makes them.
    Iptables,
    /// nf_tables maps and sets.
    Nftables,
}

impl ProxyMode {
    /// The name in the ConfigMap's `mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyMode::Iptables => "iptables",
            ProxyMode::Nftables => "nftables",
        }
    }
}

/// A lab's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) nodes: u16,
    pub(crate) proxy_mode: ProxyMode,
    pub(crate) service_cidr: Nets,
    pub(crate) cluster_cidr: Nets,
    pub(crate) fabric: Nets,
    pub(crate) node_ports: PortRange,
    pub(crate) api_port: u16,
}

/// First and last port of a range, in order, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// The API server's port inside the lab.
pub(crate) const API_PORT: u16 = 6443;

/// Nodes that fit beside the API server and the client in a /24, with room to read addresses by.
const MOST_NODES: u16 = 100;

/// Whether this kernel has IPv6 at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    Present,
    Absent,
}

impl Ipv6 {
    /// Asks the kernel: with `ipv6.disable=1`, or without the module, it knows no such sockets.
    pub(crate) fn of_this_kernel() -> Ipv6 {
        use rustix::net::{AddressFamily, SocketType, socket};
        match socket(AddressFamily::INET6, SocketType::DGRAM, None) {
            Err(rustix::io::Errno::AFNOSUPPORT) => Ipv6::Absent,
            _ => Ipv6::Present,
        }
    }
}

/// What a range flag takes, and what it is when it is not given.
#[derive(Debug, Clone, Copy)]
struct RangeFlag {
    name: &'static str,
    ipv4: Rule,
    ipv6: Rule,
}

/// What holds for a flag's range of one family.
#[derive(Debug, Clone, Copy)]
struct Rule {
    default: &'static str,
    /// The shortest and the longest prefix.
    prefixes: (u8, u8),
}

const SERVICES: RangeFlag = RangeFlag {
    name: "--service-cidr",
    ipv4: Rule { default: "10.96.0.0/12", prefixes: (12, 28) },
    ipv6: Rule { default: "fd00:10:96::/112", prefixes: (108, 124) },
};

const PODS: RangeFlag = RangeFlag {
    name: "--cluster-cidr",
    ipv4: Rule { default: "10.244.0.0/16", prefixes: (8, NODE_PREFIX_IPV4) },
    ipv6: Rule { default: "fd00:10:244::/48", prefixes: (48, NODE_PREFIX_IPV6) },
};

const FABRIC: RangeFlag = RangeFlag {
    name: "--fabric-cidr",
    ipv4: Rule { default: "172.30.0.0/24", prefixes: (16, 24) },
    ipv6: Rule { default: "fd00:172:30::/64", prefixes: (64, 112) },
};

/// The prefix lengths of one node's pods.
const NODE_PREFIX_IPV4: u8 = 24;
const NODE_PREFIX_IPV6: u8 = 64;

impl Config {
    /// Checks the arguments, each by itself and the ranges against each other. A range that is not
    /// given is as in `recorded`, when the data directory has been used before, and otherwise the
    /// default of each family that the given ones have, or of both where none is given.
    pub(crate) fn parse(
        options: &Options,
        recorded: Option<&Recorded>,
        ipv6: Ipv6,
    ) -> Result<Config, LabError> {
        if !(1..=MOST_NODES).contains(&options.nodes) {
            return Err(LabError::Argument {
                flag: "--nodes",
                value: options.nodes.to_string(),
                problem: "not a possible number of nodes".into(),
                hint: format!("give a number from 1 to {MOST_NODES}"),
            });
        }
        let given = |flag: RangeFlag, value: &Option<String>| {
            value.as_deref().map(|value| flag.parse(value)).transpose()
        };
        let services = given(SERVICES, &options.service_cidr)?;
        let pods = given(PODS, &options.cluster_cidr)?;
        let fabric = given(FABRIC, &options.fabric_cidr)?;
        if let Some(recorded) = recorded {
            recorded.compare(services.as_ref(), pods.as_ref())?;
        }
        let services = services.or_else(|| recorded.map(|old| old.service_cidr().clone()));
        let pods = pods.or_else(|| recorded.map(|old| old.cluster_cidr().clone()));
        let families = families(services.as_ref(), pods.as_ref(), ipv6)?;
        let config = Config {
            nodes: options.nodes,
            proxy_mode: options.proxy_mode.unwrap_or(ProxyMode::Nftables),
            service_cidr: services.unwrap_or_else(|| SERVICES.default(&families)),
            cluster_cidr: pods.unwrap_or_else(|| PODS.default(&families)),
            fabric: FABRIC.completed(fabric, &families)?,
            node_ports: options.node_port_range.parse()?,
            api_port: options.api_port,
        };
        config.check_room()?;
        let ranges: Vec<_> = config.ranges().collect();
        for (index, (flag, range)) in ranges.iter().enumerate() {
            for (other_flag, other) in &ranges[..index] {
                if overlap(range, other) {
                    return Err(LabError::Argument {
                        flag,
                        value: range.to_string(),
                        problem: format!("it overlaps {other_flag} {other}"),
                        hint: format!("choose a {flag} apart from {other}"),
                    });
                }
            }
        }
        Ok(config)
    }

    /// Refuses more nodes than there are blocks of addresses for their pods.
    fn check_room(&self) -> Result<(), LabError> {
        for net in self.cluster_cidr.iter() {
            let of_a_node = match net {
                IpNet::V4(_) => NODE_PREFIX_IPV4,
                IpNet::V6(_) => NODE_PREFIX_IPV6,
            };
            let blocks = 1u32 << (of_a_node - net.prefix_len());
            if u32::from(self.nodes) > blocks {
                return Err(LabError::Argument {
                    flag: PODS.name,
                    value: net.to_string(),
                    problem: format!("it has room for {blocks} nodes of a /{of_a_node} each"),
                    hint: format!("widen it, or ask for --nodes {blocks}"),
                });
            }
        }
        Ok(())
    }

    /// Refuses ranges that overlap a route of the host: traffic for it would go astray in the lab.
    pub(crate) fn check_against(&self, host_routes: &[IpNet]) -> Result<(), LabError> {
        for (flag, range) in self.ranges() {
            if let Some(route) = host_routes.iter().find(|route| overlap(route, &range)) {
                let show = match range {
                    IpNet::V4(_) => "ip route",
                    IpNet::V6(_) => "ip -6 route",
                };
                return Err(LabError::Argument {
                    flag,
                    value: range.to_string(),
                    problem: format!("it overlaps the host's route to {route}"),
                    hint: format!(
                        "choose another range with {flag}, one that `{show}` does not show"
                    ),
                });
            }
        }
        Ok(())
    }

    fn ranges(&self) -> impl Iterator<Item = (&'static str, IpNet)> {
        let of = |flag: RangeFlag, nets: &Nets| nets.iter().map(|net| (flag.name, net)).collect();
        let groups: [Vec<_>; 3] = [
            of(SERVICES, &self.service_cidr),
            of(PODS, &self.cluster_cidr),
            of(FABRIC, &self.fabric),
        ];
        groups.into_iter().flatten()
    }

    /// Where the API server is inside the lab; it listens at the primary one.
    pub(crate) fn api_addresses(&self) -> Addresses {
        self.fabric.addresses(|net| nth(net, 1))
    }

    /// The addresses of node `index`, counted from 1.
    pub(crate) fn node_addresses(&self, index: u16) -> Addresses {
        self.fabric.addresses(|net| nth(net, 10 + u32::from(index)))
    }

    /// The addresses of the outside client: in IPv4 the last before broadcast.
    pub(crate) fn client_addresses(&self) -> Addresses {
        self.fabric.addresses(|net| match net {
            IpNet::V4(net) => Ipv4Addr::from(u32::from(net.broadcast()) - 1).into(),
            IpNet::V6(_) => nth(net, 254),
        })
    }

    /// The names of all nodes, in order.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = String> {
        (1..=self.nodes).map(node_name)
    }
}

/// The name of node `index`, counted from 1.
pub(crate) fn node_name(index: u16) -> String {
    format!("node-{index}")
}

/// The address of a range with this number, which in IPv6 reads as in IPv4: 11 is `…::11`.
fn nth(net: IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + n).into(),
        IpNet::V6(net) => {
            let digits = u32::from_str_radix(&n.to_string(), 16).unwrap_or(n);
            Ipv6Addr::from(u128::from(net.network()) + u128::from(digits)).into()
        }
    }
}

/// The lab's families, the primary first.
fn families(
    services: Option<&Nets>,
    pods: Option<&Nets>,
    ipv6: Ipv6,
) -> Result<Vec<Family>, LabError> {
    let families = match (services, pods) {
        (Some(services), Some(pods)) if services.families() != pods.families() => {
            let list = |nets: &Nets| {
                nets.families().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            return Err(LabError::Argument {
                flag: SERVICES.name,
                value: services.to_string(),
                problem: format!(
                    "Services of {} do not go with {} {pods}, pods of {}",
                    list(services),
                    PODS.name,
                    list(pods)
                ),
                hint: "give both flags the same families in the same order, the primary one first"
                    .into(),
            });
        }
        (Some(nets), _) | (None, Some(nets)) => nets.families(),
        (None, None) if ipv6 == Ipv6::Absent => vec![Family::Ipv4],
        (None, None) => vec![Family::Ipv4, Family::Ipv6],
    };
    if ipv6 == Ipv6::Absent && families.contains(&Family::Ipv6) {
        let (flag, nets) =
            if services.is_some() { (SERVICES.name, services) } else { (PODS.name, pods) };
        return Err(LabError::Argument {
            flag,
            value: nets.map(ToString::to_string).unwrap_or_default(),
            problem: "this kernel has no IPv6".into(),
            hint: "give IPv4 networks only, or start the kernel without ipv6.disable=1".into(),
        });
    }
    Ok(families)
}

impl RangeFlag {
    fn rule(&self, family: Family) -> Rule {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    fn net(&self, family: Family) -> IpNet {
        self.rule(family).default.parse().expect("a default is a network")
    }

    fn default(&self, families: &[Family]) -> Nets {
        let nets = families.iter().map(|family| self.net(*family));
        Nets::of(nets).expect("every family is there once, and one at least")
    }

    /// Defaults in the place of families that were not given; none may be given in vain.
    fn completed(&self, given: Option<Nets>, families: &[Family]) -> Result<Nets, LabError> {
        let Some(given) = given else { return Ok(self.default(families)) };
        if let Some(vain) = given.families().iter().find(|family| !families.contains(family)) {
            return Err(LabError::Argument {
                flag: self.name,
                value: given.to_string(),
                problem: format!("neither Services nor pods of this lab are of {vain}"),
                hint: format!("leave its {vain} network out, or give one with {}", PODS.name),
            });
        }
        let nets = families.iter().map(|family| given.net(*family).unwrap_or(self.net(*family)));
        Ok(Nets::of(nets).expect("every family is there once, and one at least"))
    }

    fn parse(&self, value: &str) -> Result<Nets, LabError> {
        let wrong = |problem: String, hint: String| LabError::Argument {
            flag: self.name,
            value: value.to_owned(),
            problem,
            hint,
        };
        let nets: Nets = value.parse().map_err(|error: NetsError| {
            let hint = match error {
                NetsError::Twice(_) => {
                    "give one network, or one of IPv4 and one of IPv6, the primary family first"
                        .into()
                }
                NetsError::Unreadable(_) | NetsError::Empty => format!(
                    "write it as address/prefix length, as in {}, or two of them, as in {0},{}",
                    self.ipv4.default, self.ipv6.default
                ),
            };
            wrong(error.to_string(), hint)
        })?;
        for net in nets.iter() {
            self.check(net).map_err(|(problem, hint)| wrong(problem, hint))?;
        }
        Ok(nets)
    }

    /// What is wrong with one of a flag's networks, and what to do about it.
    fn check(&self, net: IpNet) -> Result<(), (String, String)> {
        if net.addr() != net.network() {
            return Err((
                format!("the address of {net} has bits set beyond the prefix length"),
                format!("write {}", net.trunc()),
            ));
        }
        let (shortest, longest) = self.rule(Family::of(net.addr())).prefixes;
        if !(shortest..=longest).contains(&net.prefix_len()) {
            let is = if net.prefix_len() < shortest { "wide" } else { "narrow" };
            return Err((
                format!("{net} is too {is}"),
                format!("choose a prefix length from {shortest} to {longest}"),
            ));
        }
        if !is_assignable(net.network()) {
            return Err((
                format!("the addresses of {net} have a meaning of their own"),
                match net {
                    IpNet::V4(_) => {
                        "choose a private range, as in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
                    }
                    IpNet::V6(_) => "choose a private range, as in fd00::/8 (RFC 4193)",
                }
                .into(),
            ));
        }
        Ok(())
    }
}

fn is_assignable(first: IpAddr) -> bool {
    let is_special = match first {
        IpAddr::V4(first) => first.is_link_local(),
        IpAddr::V6(first) => first.is_unicast_link_local() || first.to_ipv4_mapped().is_some(),
    };
    !is_special && !first.is_loopback() && !first.is_multicast() && !first.is_unspecified()
}

impl FromStr for PortRange {
    type Err = LabError;

    fn from_str(value: &str) -> Result<PortRange, LabError> {
        let wrong = |problem: &str| LabError::Argument {
            flag: "--node-port-range",
            value: value.to_owned(),
            problem: problem.to_owned(),
            hint: "write first and last port, as in 30000-32767".into(),
        };
        let (first, last) = value.split_once('-').ok_or_else(|| wrong("not a range"))?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(wrong("ports are numbers from 1 to 65535"));
        };
        if first > last {
            return Err(wrong("the first port is greater than the last"));
        }
        if (first..=last).contains(&API_PORT) || (first..=last).contains(&10250) {
            return Err(wrong(
                "it contains a port of the API server (6443) or of the nodes (10250)",
            ));
        }
        Ok(PortRange { first, last })
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests;
