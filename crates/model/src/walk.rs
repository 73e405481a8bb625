//! What becomes of one packet: the reference that every backend is held to.
//!
//! Only the first packet of a connection is walked; connection tracking carries the rest along.
//!
//! ```text
//! packet ─▶ class of source ─▶ front? ──yes─▶ admitted? ─▶ treatment ─▶ forward, reject or drop
//!                                └─no─▶ cluster IP in use? in a service CIDR? ─▶ as the mode says
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::table::{
    Action, EndpointSet, ForwardingTable, Front, FrontKey, Masquerade, MasqueradeReason, Origin,
    Selection, SetId, SourceClass, Target, Topology,
};
use crate::{
    LocalhostNodePorts, ModeProfile, NodePort, NodePortAddresses, Protocol, ServiceAddresses,
    ServicePortName, UnallocatedClusterIp, UndefinedPort,
};

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol and port; nothing for protocols that Services do not know, such as ICMP.
    pub transport: Option<Transport>,
    /// How it came to this node.
    pub arrival: Arrival,
}

/// A packet's protocol and destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

/// How a packet came to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// A process in the node's own network sent it.
    SentHere,
    /// It came in at this interface.
    Interface(Arc<str>),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one of these, each as likely as the others; never empty.
    Forward(Vec<Choice>),
    /// The sender is told that nobody is there.
    Reject,
    /// It vanishes.
    Drop,
    /// It goes on as if there were no proxy.
    Pass,
}

/// One place where a packet may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// Address and port.
    pub target: SocketAddr,
    /// Whether it gets the node's address as source, and why.
    pub masquerade: Option<MasqueradeReason>,
}

/// A step of a packet's way; printed as a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It comes from there.
    From(SourceClass),
    /// It is addressed to a front.
    Front {
        /// Which.
        key: FrontKey,
        /// Why that is one.
        origin: Origin,
        /// The Service port behind it.
        port: ServicePortName,
    },
    /// The front's source ranges do not contain its source.
    NotAdmitted,
    /// The Service has no usable endpoint.
    NoEndpoints,
    /// The traffic policy is Local and no usable endpoint is on this node.
    NoLocalEndpoints,
    /// It goes to a target of this set.
    Set {
        /// Which.
        id: SetId,
        /// Its endpoints' conditions.
        selection: Selection,
        /// The hints that narrowed it down.
        topology: Topology,
        /// How many targets it has.
        targets: usize,
    },
    /// It gets the node's address as source, whichever target it goes to.
    Masquerade(MasqueradeReason),
    /// It gets the node's address as source if it goes to the endpoint that it came from.
    Hairpin,
    /// No Service defines that port at this cluster IP.
    UndefinedPort(IpAddr),
    /// No Service has that address of a service CIDR.
    UnallocatedClusterIp(IpNet),
    /// It is not addressed to any Service.
    NoFront,
}

/// What becomes of a packet on its way through the table, and why.
pub fn walk(
    table: &ForwardingTable,
    profile: &ModeProfile,
    packet: &Packet,
) -> (Verdict, Vec<Reason>) {
    let class = class_of(table, packet);
    let mut reasons = vec![Reason::From(class)];
    let verdict = match find(table, packet) {
        Some((key, front)) => through(table, profile, packet, class, (key, front), &mut reasons),
        None => past(table, profile, packet, &mut reasons),
    };
    (verdict, reasons)
}

fn class_of(table: &ForwardingTable, packet: &Packet) -> SourceClass {
    let detector = &table.settings.local_detector;
    match &packet.arrival {
        Arrival::SentHere if detector.detects(packet.source, None) => SourceClass::Pod,
        Arrival::SentHere => SourceClass::Node,
        Arrival::Interface(name) if detector.detects(packet.source, Some(name)) => SourceClass::Pod,
        Arrival::Interface(_) => SourceClass::Outside,
    }
}

fn find<'a>(table: &'a ForwardingTable, packet: &Packet) -> Option<(FrontKey, &'a Front)> {
    let Transport { protocol, port } = packet.transport?;
    let at = FrontKey::Address { ip: packet.destination, protocol, port };
    if let Some(front) = table.fronts.get(&at) {
        return Some((at, front));
    }
    let settings = &table.settings;
    let answers = match &settings.node_port_addresses {
        _ if packet.destination.is_loopback() => {
            settings.localhost_node_ports == LocalhostNodePorts::On
                && packet.arrival == Arrival::SentHere
        }
        NodePortAddresses::AllLocal => settings.node_addresses.contains(&packet.destination),
        NodePortAddresses::Only(addresses) => addresses.contains(&packet.destination),
    };
    let at = FrontKey::NodePort { protocol, port: NodePort::new(port)? };
    table.fronts.get(&at).filter(|_| answers).map(|front| (at, front))
}

fn through(
    table: &ForwardingTable,
    profile: &ModeProfile,
    packet: &Packet,
    class: SourceClass,
    (key, front): (FrontKey, &Front),
    reasons: &mut Vec<Reason>,
) -> Verdict {
    reasons.push(Reason::Front { key, origin: front.origin, port: front.port.clone() });
    if let Some(ranges) = &front.source_ranges
        && !ranges.admit(packet.source, key.address())
    {
        reasons.push(Reason::NotAdmitted);
        return Verdict::Drop;
    }
    match front.action(profile, class) {
        Action::Reject => {
            reasons.push(Reason::NoEndpoints);
            Verdict::Reject
        }
        Action::Drop => {
            reasons.push(Reason::NoLocalEndpoints);
            Verdict::Drop
        }
        Action::Balance(id) => {
            let Some(set) = table.sets.get(&id) else { return Verdict::Drop };
            reasons.push(set_reason(id, set));
            let masquerade = match front.masquerade.of(class) {
                Masquerade::No => own_source(table, profile, packet),
                Masquerade::Yes(reason) => Some(*reason),
            };
            reasons.extend(masquerade.map(Reason::Masquerade));
            let choices = choices(table, packet, set, masquerade);
            if choices.iter().any(|c| c.masquerade == Some(MasqueradeReason::Hairpin)) {
                reasons.push(Reason::Hairpin);
            }
            Verdict::Forward(choices)
        }
    }
}

/// What a process of this node sends from a Service's address is answered to that address, which every
/// node has.
fn own_source(
    table: &ForwardingTable,
    profile: &ModeProfile,
    packet: &Packet,
) -> Option<MasqueradeReason> {
    let is_own = profile.service_addresses == ServiceAddresses::OnThisNode
        && packet.arrival == Arrival::SentHere
        && table.is_service_address(packet.source);
    is_own.then_some(MasqueradeReason::OwnAddress)
}

fn set_reason(id: SetId, set: &EndpointSet) -> Reason {
    let (selection, topology) = (set.selection, set.topology.clone());
    Reason::Set { id, selection, topology, targets: set.targets.len() }
}

fn choices(
    table: &ForwardingTable,
    packet: &Packet,
    set: &EndpointSet,
    masquerade: Option<MasqueradeReason>,
) -> Vec<Choice> {
    let hairpin = |target: &Target| {
        target.address.ip() == packet.source && table.hairpins.contains(&packet.source)
    };
    set.targets
        .as_slice()
        .iter()
        .map(|target| Choice {
            target: target.address,
            masquerade: masquerade.or_else(|| hairpin(target).then_some(MasqueradeReason::Hairpin)),
        })
        .collect()
}

fn past(
    table: &ForwardingTable,
    profile: &ModeProfile,
    packet: &Packet,
    reasons: &mut Vec<Reason>,
) -> Verdict {
    let is_here = profile.service_addresses == ServiceAddresses::OnThisNode;
    if table.cluster_ips.contains(&packet.destination)
        || is_here && table.is_service_address(packet.destination)
    {
        reasons.push(Reason::UndefinedPort(packet.destination));
        return match profile.undefined_port {
            UndefinedPort::Pass => Verdict::Pass,
            UndefinedPort::Reject => Verdict::Reject,
        };
    }
    let ranges = &table.settings.service_cidrs;
    if let Some(range) = ranges.iter().find(|range| range.contains(&packet.destination)) {
        reasons.push(Reason::UnallocatedClusterIp(*range));
        return match profile.unallocated_cluster_ip {
            UnallocatedClusterIp::Pass => Verdict::Pass,
            UnallocatedClusterIp::Drop => Verdict::Drop,
        };
    }
    reasons.push(Reason::NoFront);
    Verdict::Pass
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(class) => write!(f, "from {class}"),
            Self::Front { key, origin, port } => write!(f, "to {key}, {origin} of {port}"),
            Self::NotAdmitted => f.write_str("dropped: source not within loadBalancerSourceRanges"),
            Self::NoEndpoints => f.write_str("refused: the Service has no usable endpoint"),
            Self::NoLocalEndpoints => {
                f.write_str("dropped: traffic policy Local, no usable endpoint on this node")
            }
            Self::Set { id, selection, topology, targets } => {
                write!(f, "to one of {targets} endpoints, set {id}")?;
                match selection {
                    Selection::Ready => {}
                    Selection::ServingTerminating => {
                        f.write_str(", all terminating but still serving as none is ready")?;
                    }
                }
                match topology {
                    Topology::Anywhere => Ok(()),
                    Topology::SameZone(zone) => write!(f, ", those with a hint for zone {zone}"),
                    Topology::SameNode(node) => write!(f, ", those with a hint for node {node}"),
                }
            }
            Self::Masquerade(reason) => write!(f, "masqueraded: {reason}"),
            Self::Hairpin => {
                write!(f, "masqueraded if sent back: {}", MasqueradeReason::Hairpin)
            }
            Self::UndefinedPort(ip) => write!(f, "no Service defines this port at {ip}"),
            Self::UnallocatedClusterIp(range) => {
                write!(f, "no Service has this address of service CIDR {range}")
            }
            Self::NoFront => f.write_str("not addressed to a Service"),
        }
    }
}

impl fmt::Display for MasqueradeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MasqueradeAll => "masqueradeAll is set",
            Self::OffCluster => "not from a pod of this cluster",
            Self::ClusterPolicy => "external traffic under policy Cluster may leave this node",
            Self::OwnAddress => "this node sent it from an address of its own",
            Self::Hairpin => "the endpoint reaches itself",
        })
    }
}

#[cfg(test)]
mod tests;
