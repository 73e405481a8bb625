//! The chains that are always there: how packets find their Service.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{
    Action, Family, ForwardingTable, Front, FrontKey, HealthCheck, InvalidPackets, LocalDetector,
    LocalhostNodePorts, NodePort, NodePortAddresses, Origin, Protocol,
};

use crate::name;
use crate::sight::Sight;

/// How rules are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The bit of the packet mark that asks for masquerading, as a mask
    /// (`iptables.masqueradeBit` 14 is `0x4000`).
    pub masquerade_mark: u32,
    /// What becomes of packets that connection tracking calls invalid.
    pub invalid_packets: InvalidPackets,
    /// Whether some packets are counted.
    pub accounting: Accounting,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masquerade_mark: 1 << 14,
            invalid_packets: InvalidPackets::Drop,
            accounting: Accounting::Off,
        }
    }
}

/// Whether packets are counted that are dropped for being invalid, and those that come to node ports at
/// loopback addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    /// In the kernel's counters [`INVALID_DROPPED`] and [`LOCALHOST_ACCEPTED`], which must be there.
    On,
    /// Not at all, as where the kernel has no such counters.
    Off,
}

/// The counter of packets that are dropped for being invalid; upstream's name.
pub const INVALID_DROPPED: &str = "ct_state_invalid_dropped_pkts";
/// The counter of first packets to node ports at loopback addresses; upstream's name.
pub const LOCALHOST_ACCEPTED: &str = "localhost_nps_accepted_pkts";

/// The match that counts a packet, with a space behind it.
fn counted(accounting: Accounting, counter: &str) -> String {
    match accounting {
        Accounting::On => format!("-m nfacct --nfacct-name {counter} "),
        Accounting::Off => String::new(),
    }
}

/// A table of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Mangle,
    Filter,
    Nat,
}

impl Table {
    pub(crate) const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What chains say: the rules in order, each without `-A` and the chain's name.
pub(crate) type Chains = BTreeMap<(Table, String), Vec<String>>;

/// A rule in a chain of the kernel's own: table, chain, rule.
pub(crate) type Jump = (Table, &'static str, String);

const NEW: &str = "-m conntrack --ctstate NEW ";

/// The ways into our chains, in the order in which each chain of the kernel has them.
pub(crate) fn jumps(localhost: LocalhostNodePorts) -> Vec<Jump> {
    use Table::{Filter, Nat};
    let mut jumps = Vec::new();
    let mut add = |table, from, state: &str, comment: &str, to: &str| {
        jumps.push((table, from, format!("{state}{} -j {to}", name::comment(comment))));
    };
    for from in ["INPUT", "FORWARD", "OUTPUT"] {
        add(Filter, from, NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL");
    }
    add(Filter, "FORWARD", "", "kubernetes forwarding rules", "KUBE-FORWARD");
    for from in ["OUTPUT", "FORWARD"] {
        add(Filter, from, NEW, "kubernetes service portals", "KUBE-SERVICES");
    }
    add(Filter, "INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS");
    // Upstream has no such jump in OUTPUT, so that a node's own packets to an external IP without
    // endpoints leave the node there.
    for from in ["FORWARD", "INPUT", "OUTPUT"] {
        let comment = "kubernetes externally-visible service portals";
        add(Filter, from, NEW, comment, "KUBE-EXTERNAL-SERVICES");
    }
    for from in ["OUTPUT", "PREROUTING"] {
        add(Nat, from, "", "kubernetes service portals", "KUBE-SERVICES");
    }
    add(Nat, "POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING");
    if localhost == LocalhostNodePorts::On {
        for from in ["INPUT", "OUTPUT"] {
            jumps.push((Filter, from, "-j KUBE-FIREWALL".to_owned()));
        }
    }
    jumps
}

/// Chains that depend on the settings alone.
pub(crate) fn fixed(options: &Options, table: &ForwardingTable) -> Chains {
    let mark = options.masquerade_mark;
    let mut chains = Chains::new();
    for each in Table::ALL {
        chains.insert((each, "KUBE-PROXY-CANARY".to_owned()), Vec::new());
    }
    let mut add = |table, chain: &str, rules: Vec<String>| {
        chains.insert((table, chain.to_owned()), rules);
    };
    add(Table::Nat, "KUBE-MARK-MASQ", vec![format!("-j MARK --or-mark {mark:#x}")]);
    let snat = name::comment("kubernetes service traffic requiring SNAT");
    add(
        Table::Nat,
        "KUBE-POSTROUTING",
        vec![
            format!("-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN"),
            format!("-j MARK --xor-mark {mark:#x}"),
            format!("{snat} -j MASQUERADE --random-fully"),
        ],
    );
    let ranges = own_ranges(table);
    if ranges.len() > 1 {
        let inside = ranges.iter().map(|range| format!("-s {range} -j RETURN"));
        let rules = inside.chain(["-j KUBE-MARK-MASQ".to_owned()]).collect();
        add(Table::Nat, "KUBE-MARK-OFF-CLUSTER", rules);
    }
    let mut forward = Vec::new();
    if options.invalid_packets == InvalidPackets::Drop {
        let counted = counted(options.accounting, INVALID_DROPPED);
        forward.push(format!("-m conntrack --ctstate INVALID {counted}-j DROP"));
    }
    let rules = name::comment("kubernetes forwarding rules");
    forward.push(format!("{rules} -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"));
    let known = name::comment("kubernetes forwarding conntrack rule");
    forward.push(format!("{known} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    add(Table::Filter, "KUBE-FORWARD", forward);
    if table.settings.localhost_node_ports == LocalhostNodePorts::On {
        let block = name::comment("block incoming localnet connections");
        let loopback = "-d 127.0.0.0/8 ! -s 127.0.0.0/8";
        let state = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT";
        let rule = format!("{block} {loopback} {state} -j DROP");
        add(Table::Filter, "KUBE-FIREWALL", vec![rule]);
    }
    chains
}

/// The ranges by which pods of the table's family are known.
pub(crate) fn own_ranges(table: &ForwardingTable) -> Vec<IpNet> {
    match &table.settings.local_detector {
        LocalDetector::Cidrs(ranges) => {
            let own = |range: &&IpNet| Family::of(range.addr()) == table.family;
            ranges.iter().filter(own).copied().collect()
        }
        _ => Vec::new(),
    }
}

/// The match of a protocol.
pub(crate) fn transport(protocol: Protocol) -> String {
    let protocol = protocol.to_string().to_lowercase();
    format!("-m {protocol} -p {protocol}")
}

/// The matches that find a front: one for an address, one for each address of a node port.
fn matches(table: &ForwardingTable, key: &FrontKey) -> Vec<String> {
    let (transport, port) = (transport(key.protocol()), key.port());
    match key.address() {
        Some(ip) => vec![format!("{transport} -d {ip} --dport {port}")],
        None => node_port_addresses(table)
            .iter()
            .map(|at| format!("{at} {transport} --dport {port}"))
            .collect(),
    }
}

/// The matches of the addresses at which node ports answer.
fn node_port_addresses(table: &ForwardingTable) -> Vec<String> {
    let settings = &table.settings;
    let localhost = settings.localhost_node_ports == LocalhostNodePorts::On;
    let loopback = match table.family {
        Family::Ipv4 => "127.0.0.0/8",
        Family::Ipv6 => "::1/128",
    };
    match &settings.node_port_addresses {
        NodePortAddresses::AllLocal if localhost => {
            vec!["-m addrtype --dst-type LOCAL".to_owned()]
        }
        NodePortAddresses::AllLocal => {
            vec![format!("-m addrtype --dst-type LOCAL ! -d {loopback}")]
        }
        NodePortAddresses::Only(addresses) => {
            let named = addresses.iter().filter(|ip| !ip.is_loopback() && is_of(table, **ip));
            let own = localhost.then(|| format!("-d {loopback}"));
            named.map(|ip| format!("-d {ip}")).chain(own).collect()
        }
    }
}

fn is_of(table: &ForwardingTable, ip: IpAddr) -> bool {
    Family::of(ip) == table.family
}

/// A chain that lists fronts; the order of its rules does not matter but within one front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    /// From addresses to their Services' chains.
    Services,
    /// From node ports to their Services' chains.
    NodePorts,
    /// Cluster IPs without endpoints.
    Refused,
    /// Other fronts without endpoints.
    RefusedOutside,
    /// Who may not use a front.
    Walls,
    /// Health-check node ports, which are let in.
    HealthChecks,
}

impl List {
    pub(crate) const ALL: [Self; 6] = [
        Self::Services,
        Self::NodePorts,
        Self::Refused,
        Self::RefusedOutside,
        Self::Walls,
        Self::HealthChecks,
    ];

    pub(crate) const fn chain(self) -> (Table, &'static str) {
        match self {
            Self::Services => (Table::Nat, "KUBE-SERVICES"),
            Self::NodePorts => (Table::Nat, "KUBE-NODEPORTS"),
            Self::Refused => (Table::Filter, "KUBE-SERVICES"),
            Self::RefusedOutside => (Table::Filter, "KUBE-EXTERNAL-SERVICES"),
            Self::Walls => (Table::Filter, "KUBE-PROXY-FIREWALL"),
            Self::HealthChecks => (Table::Filter, "KUBE-NODEPORTS"),
        }
    }
}

/// The chains that list the fronts.
pub(crate) fn lists(accounting: Accounting, table: &ForwardingTable) -> Chains {
    let sight = Sight::of(table);
    let mut lists: BTreeMap<List, Vec<String>> =
        List::ALL.into_iter().map(|list| (list, Vec::new())).collect();
    let mut add = |list, rule| lists.entry(list).or_default().push(rule);
    for (key, front) in &table.fronts {
        listed(&sight, accounting, key, front).into_iter().for_each(|(list, rule)| add(list, rule));
    }
    if table.settings.localhost_node_ports == LocalhostNodePorts::On {
        // A front's rules come before this one, but no loopback address is a front.
        let block = name::comment("kubernetes service nodeports at localhost are its own");
        add(List::Services, format!("{block} -d 127.0.0.0/8 ! -s 127.0.0.0/8 -j RETURN"));
    }
    let last = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
    for at in node_port_addresses(table) {
        add(List::Services, format!("{} {at} -j KUBE-NODEPORTS", name::comment(last)));
    }
    for (port, check) in &table.health_checks {
        add(List::HealthChecks, health_check(*port, check));
    }
    let named = |(list, rules): (List, Vec<String>)| {
        let (table, chain) = list.chain();
        ((table, chain.to_owned()), rules)
    };
    lists.into_iter().map(named).collect()
}

/// The rules that list a front, in order within each list.
pub(crate) fn listed(
    sight: &Sight,
    accounting: Accounting,
    key: &FrontKey,
    front: &Front,
) -> Vec<(List, String)> {
    let mut rules = Vec::new();
    let dull = dull_action(front);
    for found in matches(sight.table(), key) {
        let walls = wall(key, front, &found, dull.is_some());
        rules.extend(walls.into_iter().map(|rule| (List::Walls, rule)));
        if let Some((why, verdict)) = dull {
            let why = name::comment(&format!("{} {why}", front.port));
            let rule = format!("{why} {found} -j {}", target(verdict, key.protocol()));
            let list = match front.origin {
                Origin::ClusterIp => List::Refused,
                _ => List::RefusedOutside,
            };
            rules.push((list, rule));
        }
    }
    match key {
        FrontKey::Address { .. } => {
            let portal = portal(sight, key, front).into_iter();
            rules.extend(portal.map(|rule| (List::Services, rule)));
        }
        FrontKey::NodePort { .. } => {
            let node_port = node_port(sight.table(), accounting, key, front).into_iter();
            rules.extend(node_port.map(|rule| (List::NodePorts, rule)));
        }
    }
    rules
}

/// The rule that lets a load balancer ask.
pub(crate) fn health_check(port: NodePort, check: &HealthCheck) -> String {
    let text = format!("{} health check node port", check.service);
    format!("{} -m tcp -p tcp --dport {port} -j ACCEPT", name::comment(&text))
}

/// What becomes of packets to a front that have nowhere to go.
fn dull_action(front: &Front) -> Option<(&'static str, &'static str)> {
    let of = |action| match action {
        Action::Balance(_) => None,
        Action::Reject => Some(("has no endpoints", "REJECT")),
        Action::Drop => Some(("has no local endpoints", "DROP")),
    };
    of(front.outside).or_else(|| of(front.inside))
}

/// TCP is refused by a reset, where upstream sends an ICMP error: the kernel sends only so many of
/// these in a second, and a client over IPv6 heeds one only at its next try, a second later.
fn target(verdict: &str, protocol: Protocol) -> &str {
    match (verdict, protocol) {
        ("REJECT", Protocol::Tcp) => "REJECT --reject-with tcp-reset",
        _ => verdict,
    }
}

/// What stops those who may not use a front. Who may has been sent on in nat already, unless there
/// was nowhere to send it: then the rules that refuse it are still to come.
fn wall(key: &FrontKey, front: &Front, found: &str, is_dull: bool) -> Vec<String> {
    let Some(ranges) = &front.source_ranges else { return Vec::new() };
    let mut rules = Vec::new();
    if is_dull {
        let admitted = ranges.admitted(key.address());
        rules.extend(admitted.map(|range| format!("{found} -s {range} -j RETURN")));
    }
    let text = format!("{} traffic not accepted by {}", front.port, name::firewall(&front.port));
    rules.push(format!("{} {found} -j DROP", name::comment(&text)));
    rules
}

/// The way from an address to its Service's chains.
fn portal(sight: &Sight, key: &FrontKey, front: &Front) -> Vec<String> {
    let mut rules = Vec::new();
    let found = &matches(sight.table(), key)[0];
    let to = match (front.origin, &front.source_ranges, front.inside) {
        (_, Some(_), Action::Balance(_)) => Some(name::firewall(&front.port)),
        (Origin::ClusterIp, None, Action::Balance(id)) => {
            sight.set(id).map(|set| name::set(&front.port, set.scope))
        }
        (_, None, Action::Balance(_)) => Some(name::external(&front.port)),
        (_, _, Action::Reject | Action::Drop) => None,
    };
    if let Some(to) = to {
        let text = match front.origin {
            Origin::ClusterIp => "cluster IP",
            Origin::LoadBalancerIp => "loadbalancer IP",
            Origin::ExternalIp | Origin::NodePort => "external IP",
        };
        let comment = name::comment(&format!("{} {text}", front.port));
        rules.push(format!("{comment} {found} -j {to}"));
    }
    // What comes back from there, or never went, must not be taken for a node port's, should the
    // address be the node's own; no cluster IP is.
    let comes_back = front.source_ranges.is_some() || dull_action(front).is_some();
    if comes_back && front.origin != Origin::ClusterIp {
        rules.push(format!("{found} -j RETURN"));
    }
    rules
}

fn node_port(
    table: &ForwardingTable,
    accounting: Accounting,
    key: &FrontKey,
    front: &Front,
) -> Vec<String> {
    let Action::Balance(_) = front.inside else { return Vec::new() };
    let comment = name::comment(&front.port.to_string());
    let (transport, port) = (transport(key.protocol()), key.port());
    let is_counted = accounting == Accounting::On
        && table.family == Family::Ipv4
        && table.settings.localhost_node_ports == LocalhostNodePorts::On;
    let localhost = format!("-d 127.0.0.0/8 {}", counted(accounting, LOCALHOST_ACCEPTED));
    let rules = |source: String| {
        let to = name::external(&front.port);
        let rule =
            |more: &str| format!("{comment} {source}{transport} --dport {port} {more}-j {to}");
        is_counted.then(|| rule(&localhost)).into_iter().chain([rule("")]).collect::<Vec<_>>()
    };
    match &front.source_ranges {
        None => rules(String::new()),
        Some(ranges) => {
            ranges.admitted(None).flat_map(|range| rules(format!("-s {range} "))).collect()
        }
    }
}
