//! The forwarding table of one address family on one node.
//!
//! Fronts say where a packet may be addressed to; sets say where it may go. A front names one set for
//! each class of source, and sets are shared: when an endpoint comes or goes only sets change. Every
//! entry carries the reason it is there.
//!
//! Upstream rule: `pkg/proxy/topology.go` (which endpoints) and the service loop of
//! `pkg/proxy/nftables/proxier.go` (which chain for whom, masqueraded or not).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    Change, Delta, Family, LocalDetector, LocalhostNodePorts, ModeProfile, NamespacedName,
    NodePort, NodePortAddresses, Protocol, ServicePortName, SessionAffinity, ShortCircuit,
};

/// Everything that decides about packets of one family on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingTable {
    /// The family of every address in the table.
    pub family: Family,
    /// Where packets may be addressed to, and what becomes of them.
    pub fronts: BTreeMap<FrontKey, Front>,
    /// Where packets may go; never an empty set.
    pub sets: BTreeMap<SetId, Arc<EndpointSet>>,
    /// Cluster IPs in use.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Endpoints on this node that may reach themselves through a Service: a connection from such an
    /// address to itself needs the node's address as source. Never an address of the node itself.
    pub hairpins: BTreeSet<IpAddr>,
    /// Where this node tells load balancers whether it has endpoints of a Service.
    pub health_checks: BTreeMap<NodePort, HealthCheck>,
    /// What holds for the table as a whole.
    pub settings: Settings,
}

/// What a load balancer is told at a `healthCheckNodePort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: NamespacedName,
    /// How many different addresses its ready endpoints on this node have.
    ///
    /// Upstream rule: `LocalReadyEndpoints` of pkg/proxy/endpointschangetracker.go.
    pub local_endpoints: usize,
}

impl ForwardingTable {
    /// A table without a front.
    pub fn new(family: Family, settings: Settings) -> Self {
        Self {
            family,
            fronts: BTreeMap::new(),
            sets: BTreeMap::new(),
            cluster_ips: BTreeSet::new(),
            hairpins: BTreeSet::new(),
            health_checks: BTreeMap::new(),
            settings,
        }
    }

    /// The fronts at an address of a Service's own.
    pub fn fronts_at(&self, ip: IpAddr) -> impl Iterator<Item = (&FrontKey, &Front)> {
        self.fronts.range(FrontKey::all_at(ip))
    }

    /// Whether an address is a Service's: a cluster IP in use or a front's, and not the node's own.
    pub fn is_service_address(&self, ip: IpAddr) -> bool {
        !self.settings.is_of_this_node(ip)
            && (self.cluster_ips.contains(&ip) || self.fronts_at(ip).next().is_some())
    }

    /// Makes this table, which `delta` was computed from, the one that `delta` leads to.
    pub fn apply(&mut self, delta: &Delta) {
        change_map(&mut self.fronts, &delta.fronts);
        change_map(&mut self.sets, &delta.sets);
        change_set(&mut self.cluster_ips, &delta.cluster_ips);
        change_set(&mut self.hairpins, &delta.hairpins);
        change_map(&mut self.health_checks, &delta.health_checks);
        if let Some(settings) = delta.settings.as_ref().and_then(|change| change.after.as_ref()) {
            self.settings = settings.clone();
        }
    }
}

fn change_map<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    changes: &BTreeMap<K, Change<V>>,
) {
    for (key, change) in changes {
        match &change.after {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

fn change_set(set: &mut BTreeSet<IpAddr>, changes: &BTreeMap<IpAddr, Change<()>>) {
    for (address, change) in changes {
        match change.after {
            Some(()) => set.insert(*address),
            None => set.remove(address),
        };
    }
}

/// What holds for a table as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How packets of pods are recognised.
    pub local_detector: LocalDetector,
    /// The addresses at which node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Whether node ports answer at this node's loopback address, too. Never in IPv6.
    pub localhost_node_ports: LocalhostNodePorts,
    /// Ranges out of which cluster IPs are allocated.
    pub service_cidrs: BTreeSet<IpNet>,
    /// The node's own addresses, as its object lists them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The prefix lengths of all ranges in [`Front::source_ranges`]: what to look a source up by.
    pub source_prefixes: BTreeSet<u8>,
}

impl Settings {
    /// Whether the node has this address, whatever Services there are.
    pub fn is_of_this_node(&self, ip: IpAddr) -> bool {
        let answers = match &self.node_port_addresses {
            NodePortAddresses::AllLocal => false,
            NodePortAddresses::Only(addresses) => addresses.contains(&ip),
        };
        answers || self.node_addresses.contains(&ip)
    }
}

/// Where a packet may be addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontKey {
    /// A Service's own address: cluster IP, external IP or load balancer's IP.
    Address {
        /// The address.
        ip: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// A port of any address in [`Settings::node_port_addresses`].
    NodePort {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: NodePort,
    },
}

impl FrontKey {
    /// The range of every front at an address.
    pub fn all_at(ip: IpAddr) -> RangeInclusive<Self> {
        let [first, .., last] = Protocol::ALL;
        let at = |protocol, port| Self::Address { ip, protocol, port };
        at(first, 0)..=at(last, u16::MAX)
    }

    /// The front's protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => *protocol,
        }
    }

    /// The front's own address; a node port has none.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address { ip, .. } => Some(*ip),
            Self::NodePort { .. } => None,
        }
    }

    /// The front's port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address { port, .. } => *port,
            Self::NodePort { port, .. } => port.number(),
        }
    }
}

impl fmt::Display for FrontKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { ip, protocol, port } => {
                write!(f, "{} {protocol}", SocketAddr::new(*ip, *port))
            }
            Self::NodePort { protocol, port } => write!(f, "node port {port} {protocol}"),
        }
    }
}

/// Why a front is there. When two Services claim one front, the lesser origin wins, so that nobody
/// takes a cluster IP over with an external IP (CVE-2020-8554); within one origin the lesser name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancerIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster IP",
            Self::LoadBalancerIp => "load balancer IP",
            Self::ExternalIp => "external IP",
            Self::NodePort => "node port",
        })
    }
}

/// What becomes of packets that are addressed to a [`FrontKey`].
///
/// Pods and this node always go to the same set; only packets from outside are bound to this node's
/// endpoints by `externalTrafficPolicy: Local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// The Service port behind it.
    pub port: ServicePortName,
    /// Why the front is there.
    pub origin: Origin,
    /// Where packets of pods and of this node go.
    pub inside: Action,
    /// Where packets from outside go.
    pub outside: Action,
    /// Whether packets get the node's address as source, by where they come from.
    pub masquerade: PerSource<Masquerade>,
    /// Who may use the front at all; nothing means everyone.
    pub source_ranges: Option<Arc<SourceRanges>>,
}

impl Front {
    /// Where packets of a class of source go in a mode.
    pub fn action(&self, profile: &ModeProfile, class: SourceClass) -> Action {
        match (class, profile.short_circuit) {
            (SourceClass::Outside, _) | (_, ShortCircuit::Absent) => self.outside,
            (SourceClass::Pod | SourceClass::Node, ShortCircuit::Honoured) => self.inside,
        }
    }
}

/// Where a packet comes from, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceClass {
    /// A pod of the cluster, by [`LocalDetector`].
    Pod,
    /// A process of this node.
    Node,
    /// Anywhere else; other nodes too.
    Outside,
}

impl SourceClass {
    /// Every class, in the order of this enum.
    pub const ALL: [Self; 3] = [Self::Pod, Self::Node, Self::Outside];
}

impl fmt::Display for SourceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "a pod",
            Self::Node => "this node",
            Self::Outside => "outside the cluster",
        })
    }
}

/// One value for each class of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerSource<T> {
    /// For pods of the cluster.
    pub pod: T,
    /// For processes of this node.
    pub node: T,
    /// For everyone else.
    pub outside: T,
}

impl<T> PerSource<T> {
    /// A value for each class.
    pub fn from_fn(mut value: impl FnMut(SourceClass) -> T) -> Self {
        Self {
            pod: value(SourceClass::Pod),
            node: value(SourceClass::Node),
            outside: value(SourceClass::Outside),
        }
    }

    /// The value for a class.
    pub fn of(&self, class: SourceClass) -> &T {
        match class {
            SourceClass::Pod => &self.pod,
            SourceClass::Node => &self.node,
            SourceClass::Outside => &self.outside,
        }
    }
}

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To one of a set's targets.
    Balance(SetId),
    /// They are refused: no usable endpoint anywhere.
    Reject,
    /// They are dropped: the traffic policy is Local and all usable endpoints are on other nodes.
    Drop,
}

/// Whether packets get the node's address as source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masquerade {
    /// They keep their source (but see [`ForwardingTable::hairpins`]).
    #[default]
    No,
    /// They do not, for a reason.
    Yes(MasqueradeReason),
}

/// Why packets get the node's address as source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MasqueradeReason {
    /// `masqueradeAll` is set.
    MasqueradeAll,
    /// They come to a cluster IP from outside the cluster.
    OffCluster,
    /// They come to an external front of policy Cluster and may have to leave for another node.
    ClusterPolicy,
    /// This node sent them to an address of its own, which is their source therefore.
    OwnAddress,
    /// The endpoint reaches itself.
    Hairpin,
}

/// The number of a set within a table. It is a hash of the set's Service port and scope, so that a
/// restarted proxy gives the same set the same number; a taken number is passed over. Numbers below
/// [`SetId::RESERVED`] are never given: backends use them for verdicts of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

impl SetId {
    /// Numbers below are never given to a set.
    pub const RESERVED: u32 = 256;
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Out of which of a Service port's endpoints a set is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of them.
    Cluster,
    /// Those on this node.
    Local,
}

/// The usable endpoints of a Service port, within a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    /// The Service port.
    pub port: ServicePortName,
    /// Which endpoints were considered.
    pub scope: Scope,
    /// Whether a client keeps its target.
    pub affinity: SessionAffinity,
    /// Which conditions the targets have.
    pub selection: Selection,
    /// Which topology hints narrowed the set down.
    pub topology: Topology,
    /// Where packets go.
    pub targets: Slots,
}

/// Which conditions the endpoints of a set have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// They are ready.
    Ready,
    /// None is ready; they are terminating but still serving.
    ServingTerminating,
}

/// Which topology hints narrowed a set down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// None did.
    Anywhere,
    /// Endpoints with a hint for this zone (PreferSameZone).
    SameZone(Arc<str>),
    /// Endpoints with a hint for this node (PreferSameNode).
    SameNode(Arc<str>),
}

/// Where a packet may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub location: Location,
}

/// Where a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// On this node.
    ThisNode,
    /// On another one, or on none.
    Elsewhere,
}

/// A set's targets, each in a slot from 0 up, without gaps.
///
/// A target keeps its slot while it can, so that one endpoint's change is one slot's change. Which
/// slot it has depends on the past; two `Slots` are equal when they hold the same targets.
#[derive(Debug, Clone, Default)]
pub struct Slots(Vec<Target>);

impl Slots {
    /// The targets in slots, given in order.
    pub fn new(targets: impl IntoIterator<Item = Target>) -> Self {
        Self(targets.into_iter().collect())
    }

    /// The targets by slot.
    pub fn as_slice(&self) -> &[Target] {
        &self.0
    }

    /// How many targets there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The targets, sorted.
    pub fn sorted(&self) -> BTreeSet<Target> {
        self.0.iter().copied().collect()
    }

    /// These slots with exactly the wanted targets, moving as few of the others as possible: new
    /// targets take the slots of those that go, then gaps are filled from the end.
    pub fn with(&self, wanted: &BTreeSet<Target>) -> Self {
        let present = self.sorted();
        let mut fresh = wanted.difference(&present).copied();
        let mut slots = self.0.clone();
        for index in (0..slots.len()).rev() {
            if !wanted.contains(&slots[index]) {
                match fresh.next() {
                    Some(target) => slots[index] = target,
                    None => {
                        slots.swap_remove(index);
                    }
                }
            }
        }
        slots.extend(fresh);
        slots.shrink_to_fit();
        Self(slots)
    }
}

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.sorted() == other.sorted()
    }
}

impl Eq for Slots {}

/// Who may use a load balancer's IP (`spec.loadBalancerSourceRanges`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRanges {
    /// Sources in these ranges.
    pub ranges: BTreeSet<IpNet>,
    /// Whether the front's own address may, too: it is the source of what this node sends there.
    /// Upstream allows it when an address of the node is within the ranges.
    pub own_address: OwnAddress,
}

/// Whether a front's own address may be the source of a packet to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnAddress {
    /// It may.
    Allowed,
    /// Only if the ranges contain it.
    ByRanges,
}

impl SourceRanges {
    /// The ranges that are admitted at a front, its own address as the longest possible one. A node
    /// port has none of its own.
    pub fn admitted(&self, front: Option<IpAddr>) -> impl Iterator<Item = IpNet> + '_ {
        let own = front.filter(|_| self.own_address == OwnAddress::Allowed).map(IpNet::from);
        self.ranges.iter().copied().chain(own)
    }

    /// Whether a packet from `source` to a front at `front` is let in.
    pub fn admit(&self, source: IpAddr, front: Option<IpAddr>) -> bool {
        self.admitted(front).any(|range| range.contains(&source))
    }
}
