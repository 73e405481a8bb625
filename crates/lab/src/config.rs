//! A lab's configuration: raw arguments in, checked and immutable values out.
//!
//! Three ranges must stay apart: Services, pods, and the fabric (the nodes' own network). Fixed
//! places in the fabric: the API server is its first address, node i is its (10+i)th, the outside
//! client its last.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// The arguments of `up` that shape the lab, as given.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, 1 to 100.
    pub nodes: u16,
    /// The proxy's mode, when it was asked for; nftables otherwise.
    pub proxy_mode: Option<ProxyMode>,
    /// `--service-cidr`.
    pub service_cidr: String,
    /// `--cluster-cidr`.
    pub cluster_cidr: String,
    /// `--fabric-cidr`.
    pub fabric_cidr: String,
    /// `--node-port-range`.
    pub node_port_range: String,
    /// The API server's port on the host's loopback; 0 takes any free one.
    pub api_port: u16,
}

/// The proxy's backends, by the names that kube-proxy's configuration uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// nf_tables maps and sets.
    Nftables,
}

impl ProxyMode {
    /// The name in the ConfigMap's `mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyMode::Nftables => "nftables",
        }
    }
}

/// A lab's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) nodes: u16,
    pub(crate) proxy_mode: ProxyMode,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) fabric: Ipv4Net,
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

impl Config {
    /// Checks the arguments, each by itself and the ranges against each other.
    pub(crate) fn parse(options: &Options) -> Result<Config, LabError> {
        if !(1..=MOST_NODES).contains(&options.nodes) {
            return Err(LabError::Argument {
                flag: "--nodes",
                value: options.nodes.to_string(),
                problem: "not a possible number of nodes".into(),
                hint: format!("give a number from 1 to {MOST_NODES}"),
            });
        }
        let service_cidr = cidr("--service-cidr", &options.service_cidr, 12..=28)?;
        let cluster_cidr = cidr("--cluster-cidr", &options.cluster_cidr, 8..=24)?;
        let fabric = cidr("--fabric-cidr", &options.fabric_cidr, 16..=24)?;
        let blocks = 1u32 << (24 - cluster_cidr.prefix_len());
        if u32::from(options.nodes) > blocks {
            return Err(LabError::Argument {
                flag: "--cluster-cidr",
                value: options.cluster_cidr.clone(),
                problem: format!("it has room for {blocks} nodes of a /24 each"),
                hint: format!("widen it, or ask for --nodes {blocks}"),
            });
        }
        let config = Config {
            nodes: options.nodes,
            proxy_mode: options.proxy_mode.unwrap_or(ProxyMode::Nftables),
            service_cidr,
            cluster_cidr,
            fabric,
            node_ports: options.node_port_range.parse()?,
            api_port: options.api_port,
        };
        let ranges = config.ranges();
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

    /// Refuses ranges that overlap a route of the host: traffic for it would go astray in the lab.
    pub(crate) fn check_against(&self, host_routes: &[Ipv4Net]) -> Result<(), LabError> {
        for (flag, range) in self.ranges() {
            if let Some(route) = host_routes.iter().find(|route| overlap(route, &range)) {
                return Err(LabError::Argument {
                    flag,
                    value: range.to_string(),
                    problem: format!("it overlaps the host's route to {route}"),
                    hint: format!(
                        "choose another range with {flag}, one that `ip route` does not show"
                    ),
                });
            }
        }
        Ok(())
    }

    fn ranges(&self) -> [(&'static str, Ipv4Net); 3] {
        [
            ("--service-cidr", self.service_cidr),
            ("--cluster-cidr", self.cluster_cidr),
            ("--fabric-cidr", self.fabric),
        ]
    }

    /// Where the API server listens inside the lab.
    pub(crate) fn api_address(&self) -> Ipv4Addr {
        nth(self.fabric, 1)
    }

    /// The address of node `index`, counted from 1.
    pub(crate) fn node_address(&self, index: u16) -> Ipv4Addr {
        nth(self.fabric, 10 + u32::from(index))
    }

    /// The address of the outside client: the last before broadcast.
    pub(crate) fn client_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.fabric.broadcast()) - 1)
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

fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) + n)
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn cidr(
    flag: &'static str,
    value: &str,
    prefixes: RangeInclusive<u8>,
) -> Result<Ipv4Net, LabError> {
    let wrong = |problem: String, hint: String| LabError::Argument {
        flag,
        value: value.to_owned(),
        problem,
        hint,
    };
    let net: Ipv4Net = value.parse().map_err(|_| {
        wrong(
            "not an IPv4 network".into(),
            "write it as address/prefix length, as in 10.96.0.0/12".into(),
        )
    })?;
    if net.addr() != net.network() {
        return Err(wrong(
            "the address has bits set beyond the prefix length".into(),
            format!("write {}", net.trunc()),
        ));
    }
    if !prefixes.contains(&net.prefix_len()) {
        return Err(wrong(
            format!(
                "a /{} is too {}",
                net.prefix_len(),
                if net.prefix_len() < *prefixes.start() { "wide" } else { "narrow" }
            ),
            format!("choose a prefix length from {} to {}", prefixes.start(), prefixes.end()),
        ));
    }
    let first = net.network();
    if first.is_loopback()
        || first.is_multicast()
        || first.is_link_local()
        || first.is_unspecified()
    {
        return Err(wrong(
            "these addresses have a meaning of their own".into(),
            "choose a private range, as in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16".into(),
        ));
    }
    Ok(net)
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
