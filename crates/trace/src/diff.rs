//! Which flows a change of objects alters on a node.
//!
//! ```text
//! objects ─────────────▶ tables ─┐
//!    └─ change, delete ─▶ tables ┴─▶ per front and class of source: outcome before ≠ outcome after
//! ```
//!
//! Flows are compared by what a client sees (verdict, endpoints, masquerade, affinity, who is
//! admitted), not by rules: two tables that treat every packet alike differ in nothing.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use portolan_model::{
    Action, Arrival, Family, ForwardingTable, Front, FrontKey, LocalhostNodePorts, Masquerade,
    NodePort, NodePortAddresses, Packet, Protocol, ServiceAddresses, SessionAffinity, SourceClass,
    UnallocatedClusterIp, Verdict, walk,
};
use serde::Serialize;
use serde_json::{Value, json};

pub use change::change;

use crate::answer::VerdictName;
use crate::objects::Objects;
use crate::printable::printable;
use crate::view::View;

/// Where flows are addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// A port of an address.
    Port {
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// A node port, of a node none of whose addresses is known.
    NodePort {
        /// The family.
        family: Family,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// Every port of an address that is no front.
    OtherPorts(IpAddr),
    /// Every address of a service CIDR that no Service has.
    Unallocated(IpNet),
}

/// What becomes of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: VerdictName,
    /// Every endpoint that may be chosen, sorted.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Whether it gets the node's address as source.
    pub masquerade: bool,
    /// For how many seconds of silence a client keeps its endpoint, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u64>,
    /// Which sources alone are admitted; all others are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admitted: Option<BTreeSet<IpNet>>,
    /// The Service port behind it. A flow that goes to the same endpoints through another one is the
    /// same flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A flow that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where it is addressed to.
    pub to: To,
    /// From where, for all of which it changes alike.
    pub sources: BTreeSet<SourceClass>,
    /// What became of it.
    pub before: Outcome,
    /// What becomes of it.
    pub after: Outcome,
}

/// The flows that change from one set of objects to another, by destination.
#[must_use]
pub fn diff(before: (&View, &Objects), after: (&View, &Objects)) -> Vec<Flow> {
    let mut flows = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let old = Side { view: before.0, table: before.0.table(before.1, family) };
        let new = Side { view: after.0, table: after.0.table(after.1, family) };
        let places: BTreeSet<To> = old.places().chain(new.places()).collect();
        for to in places {
            let mut changed: Vec<Flow> = Vec::new();
            for class in classes(&to) {
                let (before, after) = (old.outcome(&to, *class), new.outcome(&to, *class));
                if before.is_as(&after) {
                    continue;
                }
                let alike = changed.iter_mut().find(|f| f.before == before && f.after == after);
                match alike {
                    Some(flow) => {
                        flow.sources.insert(*class);
                    }
                    None => changed.push(Flow { to, sources: [*class].into(), before, after }),
                }
            }
            flows.extend(changed);
        }
    }
    flows
}

/// At a loopback address only the node itself can ask.
fn classes(to: &To) -> &'static [SourceClass] {
    match to {
        To::Port { ip, .. } if ip.is_loopback() => &[SourceClass::Node],
        _ => &SourceClass::ALL,
    }
}

/// A table and the view that it was made by.
struct Side<'a> {
    view: &'a View,
    table: ForwardingTable,
}

impl Side<'_> {
    /// Every place at which the table decides something.
    fn places(&self) -> impl Iterator<Item = To> + '_ {
        let fronts = self.table.fronts.keys().flat_map(|key| match *key {
            FrontKey::Address { ip, protocol, port } => vec![To::Port { ip, port, protocol }],
            FrontKey::NodePort { protocol, port } => {
                let at = self.node_port_addresses();
                let (port, family) = (port.number(), self.table.family);
                if at.is_empty() {
                    return vec![To::NodePort { family, port, protocol }];
                }
                at.into_iter().map(|ip| To::Port { ip, port, protocol }).collect()
            }
        });
        let others = self.addresses().into_iter().map(To::OtherPorts);
        let ranges = self.table.settings.service_cidrs.iter().map(|range| To::Unallocated(*range));
        fronts.chain(others).chain(ranges)
    }

    /// The addresses at which ports are refused that no Service defines, in some mode.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let mut all = self.table.cluster_ips.clone();
        if self.view.profile.service_addresses == ServiceAddresses::OnThisNode {
            let fronts = self.table.fronts.keys().filter_map(FrontKey::address);
            all.extend(fronts.filter(|ip| self.table.is_service_address(*ip)));
        }
        all
    }

    fn node_port_addresses(&self) -> BTreeSet<IpAddr> {
        let settings = &self.table.settings;
        let mut all = match &settings.node_port_addresses {
            NodePortAddresses::AllLocal => settings.node_addresses.clone(),
            NodePortAddresses::Only(addresses) => addresses.clone(),
        };
        if settings.localhost_node_ports == LocalhostNodePorts::On {
            all.insert(Ipv4Addr::LOCALHOST.into());
        }
        all
    }

    fn front(&self, to: &To) -> Option<&Front> {
        match *to {
            To::Port { ip, port, protocol } => {
                let at = FrontKey::Address { ip, protocol, port };
                let node_port = || {
                    let key = FrontKey::NodePort { protocol, port: NodePort::new(port)? };
                    let answers = self.node_port_addresses().contains(&ip);
                    self.table.fronts.get(&key).filter(|_| answers)
                };
                self.table.fronts.get(&at).or_else(node_port)
            }
            To::NodePort { port, protocol, .. } => {
                let key = FrontKey::NodePort { protocol, port: NodePort::new(port)? };
                self.table.fronts.get(&key)
            }
            To::OtherPorts(_) | To::Unallocated(_) => None,
        }
    }

    fn outcome(&self, to: &To, class: SourceClass) -> Outcome {
        match (self.front(to), to) {
            (Some(front), To::Port { ip, .. }) => self.at_front(front, class, Some(*ip)),
            (Some(front), _) => self.at_front(front, class, None),
            (None, To::Port { ip, .. } | To::OtherPorts(ip)) => Outcome::without(self.past(*ip)),
            (None, To::NodePort { .. }) => Outcome::without(VerdictName::Accept),
            (None, To::Unallocated(range)) => {
                let holds = self.table.settings.service_cidrs.contains(range);
                Outcome::without(match self.view.profile.unallocated_cluster_ip {
                    UnallocatedClusterIp::Drop if holds => VerdictName::Drop,
                    _ => VerdictName::Accept,
                })
            }
        }
    }

    fn at_front(&self, front: &Front, class: SourceClass, ip: Option<IpAddr>) -> Outcome {
        let action = front.action(&self.view.profile, class);
        let verdict = match action {
            Action::Balance(_) => VerdictName::Dnat,
            Action::Reject => VerdictName::Reject,
            Action::Drop => VerdictName::Drop,
        };
        let set = match action {
            Action::Balance(id) => self.table.sets.get(&id),
            Action::Reject | Action::Drop => None,
        };
        let targets = set.iter().flat_map(|set| set.targets.as_slice());
        Outcome {
            verdict,
            endpoints: targets.map(|target| target.address).collect(),
            masquerade: set.is_some() && *front.masquerade.of(class) != Masquerade::No,
            affinity_seconds: set.and_then(|set| match set.affinity {
                SessionAffinity::ClientIp { timeout } => Some(timeout.as_secs()),
                SessionAffinity::None => None,
            }),
            admitted: front.source_ranges.as_ref().map(|ranges| ranges.admitted(ip).collect()),
            service: Some(printable(&front.port.to_string())),
        }
    }

    /// What becomes of what is addressed to no front of an address.
    fn past(&self, destination: IpAddr) -> VerdictName {
        let arrival = Arrival::Interface("".into());
        let packet = Packet { source: destination, destination, transport: None, arrival };
        match walk(&self.table, &self.view.profile, &packet).0 {
            Verdict::Reject => VerdictName::Reject,
            Verdict::Drop => VerdictName::Drop,
            Verdict::Forward(_) | Verdict::Pass => VerdictName::Accept,
        }
    }
}

impl Outcome {
    fn without(verdict: VerdictName) -> Self {
        Self {
            verdict,
            endpoints: BTreeSet::new(),
            masquerade: false,
            affinity_seconds: None,
            admitted: None,
            service: None,
        }
    }

    /// Whether a client cannot tell the two apart.
    fn is_as(&self, other: &Self) -> bool {
        let seen = |o: &Self| Self { service: None, ..o.clone() };
        seen(self) == seen(other)
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { ip, port, protocol } => {
                write!(f, "{} {protocol}", SocketAddr::new(*ip, *port))
            }
            Self::NodePort { family, port, protocol } => {
                write!(f, "{family} node port {port} {protocol}")
            }
            Self::OtherPorts(ip) => write!(f, "any other port of {ip}"),
            Self::Unallocated(range) => write!(f, "any unallocated address of {range}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if !self.endpoints.is_empty() {
            let all: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
            write!(f, " to {}", all.join(", "))?;
        }
        if self.masquerade {
            f.write_str(", masqueraded")?;
        }
        if let Some(seconds) = self.affinity_seconds {
            write!(f, ", affinity for {seconds} s")?;
        }
        if let Some(admitted) = &self.admitted {
            let all: Vec<_> = admitted.iter().map(ToString::to_string).collect();
            write!(
                f,
                ", only from {}",
                if all.is_empty() { "nobody".into() } else { all.join(", ") }
            )?;
        }
        match &self.service {
            Some(service) => write!(f, " ({service})"),
            None => Ok(()),
        }
    }
}

/// The flows as text: three lines each, and how many there are.
#[must_use]
pub fn to_text(flows: &[Flow]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for flow in flows {
        let sources: Vec<_> = flow.sources.iter().map(ToString::to_string).collect();
        let from = if flow.sources.len() == 3 { "anywhere".into() } else { sources.join(" or ") };
        let _ = writeln!(text, "{} from {from}\n- {}\n+ {}", flow.to, flow.before, flow.after);
    }
    let _ = match flows.len() {
        0 => writeln!(text, "no flow changes"),
        1 => writeln!(text, "1 flow changes"),
        many => writeln!(text, "{many} flows change"),
    };
    text
}

/// The flows as JSON: `{"flows": [{"to", "sources", "before", "after"}]}`, outcomes with the keys
/// of `trace`.
#[must_use]
pub fn to_json(flows: &[Flow]) -> Value {
    let names: BTreeMap<SourceClass, &str> =
        [(SourceClass::Pod, "pod"), (SourceClass::Node, "node"), (SourceClass::Outside, "outside")]
            .into();
    let flows: Vec<Value> = flows
        .iter()
        .map(|flow| {
            let sources: Vec<_> = flow.sources.iter().filter_map(|s| names.get(s)).collect();
            json!({
                "to": flow.to.to_string(),
                "sources": sources,
                "before": flow.before,
                "after": flow.after,
            })
        })
        .collect();
    json!({ "flows": flows })
}
