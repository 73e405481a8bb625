//! Why each endpoint of a Service port is in or out.
//!
//! The model selects; this explains, endpoint by endpoint, in the words of the object's fields. It is
//! written apart from the model, so a property can hold the two to each other.
//!
//! Upstream rule: `CategorizeEndpoints` of pkg/proxy/topology.go, pkg/proxy/endpointslicecache.go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_model::{
    Conditions, Endpoint, EndpointSlice, Family, NamespacedName, Protocol, Scope,
};

/// What is asked for, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The Service port's name, empty for none.
    pub port: &'a str,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of the front.
    pub family: Family,
    /// Which endpoints the traffic policy lets in.
    pub scope: Scope,
    /// The node whose rules they are.
    pub node: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
}

/// What became of every endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Endpoint by endpoint, by address.
    pub accounts: Vec<Account>,
    /// What became of topology hints.
    pub hints: Hints,
}

/// What became of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its address.
    pub ip: IpAddr,
    /// The port of its slice that was joined, if there is one.
    pub port: Option<u16>,
    /// Its slice.
    pub slice: NamespacedName,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// Whether it may be chosen, and why.
    pub fate: Fate,
}

/// Whether an endpoint may be chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It may.
    In(In),
    /// It may not.
    Out(Out),
}

/// Why an endpoint may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum In {
    /// It is ready.
    Ready,
    /// It is ready, and has a hint for this zone.
    Zone(Arc<str>),
    /// It is ready, and has a hint for this node.
    Node(Arc<str>),
    /// No endpoint is ready; it is terminating but still serving.
    ServingTerminating,
}

/// Why an endpoint may not be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// Its address is of the other family.
    OtherFamily,
    /// Its slice has no port of the Service port's name and protocol; it has these.
    NoPort(Vec<String>),
    /// The same address and port is in this slice, too, in better condition.
    Twice(NamespacedName),
    /// It is on another node and the traffic policy is Local.
    OtherNode,
    /// It is not ready and does not terminate.
    NotReady,
    /// It is terminating, and others are ready.
    Terminating,
    /// It is terminating, and serves no longer.
    NotServing,
    /// Hints count, and its are for other nodes.
    OtherNodes(BTreeSet<Arc<str>>),
    /// Hints count, and its are for other zones.
    OtherZones(BTreeSet<Arc<str>>),
}

/// What became of topology hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hints {
    /// No ready endpoint has any.
    None,
    /// Policy Local asks for endpoints on this node whatever their hints.
    NotAsked,
    /// Those for this node count.
    Node(Arc<str>),
    /// Those for this zone count.
    Zone(Arc<str>),
    /// They are ignored, for these reasons.
    Ignored(Vec<Ignored>),
}

/// Why hints are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// This ready endpoint has no hint for nodes.
    NoNodeHint(SocketAddr),
    /// All have hints for nodes, but none is for this one.
    NoneForNode,
    /// This ready endpoint has no hint for zones.
    NoZoneHint(SocketAddr),
    /// All have hints for zones, but none is for this one.
    NoneForZone(Arc<str>),
    /// This node has no zone.
    NoZone,
}

impl Explanation {
    /// Where packets may go.
    #[must_use]
    pub fn targets(&self) -> BTreeSet<SocketAddr> {
        let chosen = self.accounts.iter().filter(|a| matches!(a.fate, Fate::In(_)));
        chosen.filter_map(|a| Some(SocketAddr::new(a.ip, a.port?))).collect()
    }
}

/// An endpoint that the Service port could be joined to.
struct Candidate<'a> {
    slice: &'a NamespacedName,
    endpoint: &'a Endpoint,
    index: usize,
}

/// Says of every endpoint of a Service's slices, which come in the order of their names, why it is in
/// or out.
pub fn explain<'a>(
    query: Query<'_>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Explanation {
    let mut accounts = Vec::new();
    let mut joined: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let is_ours = |p: &&portolan_model::EndpointPort| {
            &*p.name == query.port && p.protocol == query.protocol
        };
        let ports: BTreeSet<u16> =
            slice.ports.iter().filter(is_ours).map(|p| p.port.get()).collect();
        for endpoint in &slice.endpoints {
            let account = |port, fate| Account {
                ip: endpoint.address,
                port,
                slice: slice.name.clone(),
                node: endpoint.node_name.clone(),
                fate,
            };
            if Family::of(endpoint.address) != query.family {
                accounts.push(account(None, Fate::Out(Out::OtherFamily)));
                continue;
            }
            if ports.is_empty() {
                let ports = slice.ports.iter().map(|p| described(&p.name, p.protocol)).collect();
                accounts.push(account(None, Fate::Out(Out::NoPort(ports))));
                continue;
            }
            for port in &ports {
                let index = accounts.len();
                // What becomes of it is settled below, when all candidates are known.
                accounts.push(account(Some(*port), Fate::In(In::Ready)));
                let candidate = Candidate { slice: &slice.name, endpoint, index };
                let at = SocketAddr::new(endpoint.address, *port);
                let Some(present) = joined.get(&at) else {
                    joined.insert(at, candidate);
                    continue;
                };
                let is_better = rank(endpoint.conditions) > rank(present.endpoint.conditions);
                let (loser, winner) = if is_better {
                    (present.index, candidate.slice)
                } else {
                    (index, present.slice)
                };
                accounts[loser].fate = Fate::Out(Out::Twice(winner.clone()));
                if is_better {
                    joined.insert(at, candidate);
                }
            }
        }
    }
    let hints = match query.scope {
        Scope::Cluster => hints(query, &joined),
        Scope::Local => Hints::NotAsked,
    };
    let is_here = |e: &Endpoint| e.node_name.as_deref() == Some(query.node);
    let is_in_scope = |e: &Endpoint| query.scope == Scope::Cluster || is_here(e);
    let any_ready = joined.values().any(|c| c.endpoint.conditions.ready && is_in_scope(c.endpoint));
    for candidate in joined.values() {
        accounts[candidate.index].fate = if is_in_scope(candidate.endpoint) {
            fate(candidate.endpoint, any_ready, &hints)
        } else {
            Fate::Out(Out::OtherNode)
        };
    }
    accounts.sort_by(|a, b| (a.ip, a.port, &a.slice).cmp(&(b.ip, b.port, &b.slice)));
    Explanation { accounts, hints }
}

/// Of two entries for one address the one that counts: better not terminating, then ready, then serving.
fn rank(conditions: Conditions) -> (bool, bool, bool) {
    (!conditions.terminating, conditions.ready, conditions.serving)
}

fn fate(endpoint: &Endpoint, any_ready: bool, hints: &Hints) -> Fate {
    let Conditions { ready, serving, terminating } = endpoint.conditions;
    match (ready, terminating) {
        (true, _) => match hints {
            Hints::Node(node) if endpoint.hints.nodes.contains(node) => {
                Fate::In(In::Node(node.clone()))
            }
            Hints::Node(_) => Fate::Out(Out::OtherNodes(endpoint.hints.nodes.clone())),
            Hints::Zone(zone) if endpoint.hints.zones.contains(zone) => {
                Fate::In(In::Zone(zone.clone()))
            }
            Hints::Zone(_) => Fate::Out(Out::OtherZones(endpoint.hints.zones.clone())),
            Hints::None | Hints::NotAsked | Hints::Ignored(_) => Fate::In(In::Ready),
        },
        (false, false) => Fate::Out(Out::NotReady),
        (false, true) if !serving => Fate::Out(Out::NotServing),
        (false, true) if any_ready => Fate::Out(Out::Terminating),
        (false, true) => Fate::In(In::ServingTerminating),
    }
}

/// Hints for this node, or else for its zone, count when every ready endpoint has such a hint and one
/// of them is for here.
fn hints(query: Query<'_>, joined: &BTreeMap<SocketAddr, Candidate<'_>>) -> Hints {
    let ready: Vec<_> = joined
        .iter()
        .filter(|(_, candidate)| candidate.endpoint.conditions.ready)
        .map(|(address, candidate)| (*address, &candidate.endpoint.hints))
        .collect();
    let mut ignored = Vec::new();
    if ready.iter().any(|(_, hints)| !hints.nodes.is_empty()) {
        if let Some((address, _)) = ready.iter().find(|(_, hints)| hints.nodes.is_empty()) {
            ignored.push(Ignored::NoNodeHint(*address));
        } else if ready.iter().any(|(_, hints)| hints.nodes.contains(query.node)) {
            return Hints::Node(query.node.into());
        } else {
            ignored.push(Ignored::NoneForNode);
        }
    }
    if ready.iter().any(|(_, hints)| !hints.zones.is_empty()) {
        let without = ready.iter().find(|(_, hints)| hints.zones.is_empty());
        match (query.zone, without) {
            (None, _) => ignored.push(Ignored::NoZone),
            (_, Some((address, _))) => ignored.push(Ignored::NoZoneHint(*address)),
            (Some(zone), None) if ready.iter().any(|(_, hints)| hints.zones.contains(zone)) => {
                return Hints::Zone(zone.into());
            }
            (Some(zone), None) => ignored.push(Ignored::NoneForZone(zone.into())),
        }
    }
    if ignored.is_empty() { Hints::None } else { Hints::Ignored(ignored) }
}

/// A port as a person names it.
pub(crate) fn described(name: &str, protocol: Protocol) -> String {
    if name.is_empty() { format!("unnamed {protocol}") } else { format!("{name} {protocol}") }
}

fn joined_names(names: &BTreeSet<Arc<str>>) -> String {
    names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f)?,
            None => self.ip.fmt(f)?,
        }
        match &self.fate {
            Fate::In(_) => f.write_str(" in: ")?,
            Fate::Out(_) => f.write_str(" out: ")?,
        }
        self.fate.fmt(f)?;
        match &self.node {
            Some(node) => write!(f, " (slice {}, node {node})", self.slice.name),
            None => write!(f, " (slice {}, no node)", self.slice.name),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(In::Ready) => f.write_str("ready"),
            Self::In(In::Zone(zone)) => write!(f, "ready, with a hint for zone {zone}"),
            Self::In(In::Node(node)) => write!(f, "ready, with a hint for node {node}"),
            Self::In(In::ServingTerminating) => {
                f.write_str("terminating but still serving, and none is ready")
            }
            Self::Out(Out::OtherFamily) => f.write_str("of the other address family"),
            Self::Out(Out::NoPort(ports)) if ports.is_empty() => {
                f.write_str("its slice has no port")
            }
            Self::Out(Out::NoPort(ports)) => {
                write!(f, "its slice has no port of that name, only {}", ports.join(", "))
            }
            Self::Out(Out::Twice(slice)) => {
                write!(f, "the same address in slice {} counts", slice.name)
            }
            Self::Out(Out::OtherNode) => f.write_str("on another node, under policy Local"),
            Self::Out(Out::NotReady) => f.write_str("not ready"),
            Self::Out(Out::Terminating) => f.write_str("terminating, and others are ready"),
            Self::Out(Out::NotServing) => f.write_str("terminating, and no longer serving"),
            Self::Out(Out::OtherNodes(nodes)) => {
                write!(f, "hint for other nodes: {}", joined_names(nodes))
            }
            Self::Out(Out::OtherZones(zones)) => {
                write!(f, "hint for other zones: {}", joined_names(zones))
            }
        }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNodeHint(address) => write!(f, "no hint for nodes on endpoint {address}"),
            Self::NoneForNode => f.write_str("no hint for this node on any endpoint"),
            Self::NoZoneHint(address) => write!(f, "no hint for zones on endpoint {address}"),
            Self::NoneForZone(zone) => write!(f, "no hint for this node's zone {zone}"),
            Self::NoZone => f.write_str("this node has no zone"),
        }
    }
}

impl fmt::Display for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no endpoint has any"),
            Self::NotAsked => f.write_str("not asked under policy Local"),
            Self::Node(node) => write!(f, "those for node {node} count (PreferSameNode)"),
            Self::Zone(zone) => write!(f, "those for zone {zone} count (PreferSameZone)"),
            Self::Ignored(reasons) => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "ignored: {}", reasons.join("; "))
            }
        }
    }
}
