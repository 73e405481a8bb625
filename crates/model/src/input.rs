//! What the model is told: views of Service, EndpointSlice and Node, and the proxy's own settings.
//!
//! They are plain values that the caller parses from API objects at its edge: conditions have their
//! defaults filled in (ready nil = true, serving nil = true, terminating nil = false), a port without
//! a number is left out, only the first address of an endpoint is kept. The model filters by family
//! itself, so every event goes to both models. Services with the label
//! `service.kubernetes.io/service-proxy-name`, headless and ExternalName Services are not fed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::{Family, NamespacedName, NodePort, Protocol};

/// One thing that happened to the objects or the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A Service was added or changed.
    Service(Service),
    /// A Service went away (or ceased to be one for this proxy).
    ServiceDeleted(NamespacedName),
    /// An EndpointSlice was added or changed.
    EndpointSlice(EndpointSlice),
    /// An EndpointSlice went away; its own name, not the Service's.
    EndpointSliceDeleted(NamespacedName),
    /// This node's own object was added or changed.
    Node(Node),
    /// The addresses at which node ports answer.
    NodePortAddresses(NodePortAddresses),
    /// The ranges of the ServiceCIDR objects.
    ServiceCidrs(Vec<IpNet>),
}

/// What does not change while the proxy runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// This node's name: endpoints with this `nodeName` are local.
    pub node_name: Arc<str>,
    /// Whether all traffic through cluster IPs is masqueraded (`masqueradeAll`).
    pub masquerade_all: MasqueradeAll,
    /// How traffic of this cluster's pods is recognised (`detectLocalMode`).
    pub local_detector: LocalDetector,
    /// Whether node ports answer at this node's loopback address, too.
    pub localhost_node_ports: LocalhostNodePorts,
    /// Where `loadBalancerSourceRanges` hold.
    pub source_ranges_hold: SourceRangesHold,
}

/// Whether node ports answer at 127.0.0.1, for processes of this node alone (`localhostNodePorts`, as
/// far as `nodePortAddresses` allows loopback addresses). At ::1 they never do: the kernel forwards
/// nothing from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalhostNodePorts {
    /// They do not.
    #[default]
    Off,
    /// They do.
    On,
}

/// Where `spec.loadBalancerSourceRanges` hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceRangesHold {
    /// At load balancer IPs, as upstream.
    #[default]
    AtLoadBalancerIps,
    /// At the Service's node ports, too (kubernetes/kubernetes#33586): nobody goes round a load
    /// balancer.
    AtNodePortsToo,
}

/// `masqueradeAll`: whether every connection through a cluster IP gets the node's address as source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MasqueradeAll {
    /// Only what comes from outside the cluster.
    #[default]
    OffClusterOnly,
    /// All of it.
    Always,
}

/// How a packet is known to come from a pod of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalDetector {
    /// It cannot be known (no cluster CIDR was given): nothing is masqueraded for being off-cluster.
    #[default]
    None,
    /// By source address: `ClusterCIDR` and `NodeCIDR`. Ranges of the other family are ignored.
    Cidrs(Vec<IpNet>),
    /// By the bridge that it came in at: `BridgeInterface`.
    Bridge(Arc<str>),
    /// By the beginning of the name of the interface that it came in at: `InterfaceNamePrefix`.
    InterfacePrefix(Arc<str>),
}

/// The addresses of this node at which node ports answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every local address but loopback ones.
    AllLocal,
    /// Exactly these (already resolved from `nodePortAddresses` and the node's interfaces).
    Only(BTreeSet<IpAddr>),
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

/// The parts of a Service that decide about packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// `spec.clusterIPs`: at most one for each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity` with its timeout.
    pub session_affinity: SessionAffinity,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` entries that have an IP.
    pub load_balancer_ingress: Vec<LoadBalancerIngress>,
    /// `spec.loadBalancerSourceRanges`; empty means everyone.
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`, of a load balancer under policy Local.
    pub health_check_node_port: Option<NodePort>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name, empty when it has none; endpoints are joined by it.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the cluster IP.
    pub port: NonZeroU16,
    /// The port on every node, if there is one.
    pub node_port: Option<NodePort>,
}

/// `spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum SessionAffinity {
    /// Each connection chooses anew.
    #[default]
    None,
    /// A client address keeps its endpoint until it has been silent for this long.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`, 1 s to 86400 s.
        timeout: Duration,
    },
}

/// A traffic policy, external or internal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrafficPolicy {
    /// Endpoints anywhere in the cluster.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// One address in `status.loadBalancer.ingress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadBalancerIngress {
    /// The address.
    pub ip: IpAddr,
    /// Whether packets arrive with this destination.
    pub mode: IpMode,
}

/// `ipMode` of a load balancer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum IpMode {
    /// Packets arrive with the address as destination: nodes answer for it.
    #[default]
    Vip,
    /// The load balancer rewrites the destination: nodes do nothing for the address.
    Proxy,
}

/// An EndpointSlice of a Service (address type IPv4 or IPv6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its own namespace and name.
    pub name: NamespacedName,
    /// The Service's name, from the label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    /// Its ports; every endpoint has all of them.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service port that it belongs to, empty when that has none.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the endpoint.
    pub port: NonZeroU16,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses; upstream uses no other.
    pub address: IpAddr,
    /// Whether it can be used.
    pub conditions: Conditions,
    /// The node that it runs on.
    pub node_name: Option<Arc<str>>,
    /// For whom it is meant.
    pub hints: Hints,
}

/// The conditions of an endpoint, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// `ready`; true when the object does not say.
    pub ready: bool,
    /// `serving`; true when the object does not say.
    pub serving: bool,
    /// `terminating`; false when the object does not say.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { ready: true, serving: true, terminating: false }
    }
}

/// Topology hints of an endpoint; empty means that none was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: BTreeSet<Arc<str>>,
    /// `hints.forNodes`.
    pub nodes: BTreeSet<Arc<str>>,
}

/// The parts of this node's object that decide about packets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Every address of `status.addresses` that is an IP.
    pub addresses: BTreeSet<IpAddr>,
}

impl LocalDetector {
    /// What remains of it for one family: ranges of the other one detect nothing.
    #[must_use]
    pub fn for_family(&self, family: Family) -> Self {
        match self {
            Self::Cidrs(ranges) => {
                let ranges: Vec<_> = ranges
                    .iter()
                    .filter(|range| Family::of(range.addr()) == family)
                    .map(IpNet::trunc)
                    .collect();
                if ranges.is_empty() { Self::None } else { Self::Cidrs(ranges) }
            }
            Self::None | Self::Bridge(_) | Self::InterfacePrefix(_) => self.clone(),
        }
    }

    /// Whether a packet from this address, come in at this interface, is from a pod. What this node
    /// sends itself comes in at none.
    pub fn detects(&self, source: IpAddr, interface: Option<&str>) -> bool {
        match self {
            Self::None => false,
            Self::Cidrs(ranges) => ranges.iter().any(|range| range.contains(&source)),
            Self::Bridge(name) => interface == Some(&**name),
            Self::InterfacePrefix(prefix) => {
                interface.is_some_and(|interface| interface.starts_with(&**prefix))
            }
        }
    }
}

impl NodePortAddresses {
    /// Those of one family, loopback ones left out: they cannot be forwarded from.
    pub(crate) fn for_family(self, family: Family) -> Self {
        match self {
            Self::AllLocal => Self::AllLocal,
            Self::Only(addresses) => Self::Only(
                addresses
                    .into_iter()
                    .filter(|address| Family::of(*address) == family && !address.is_loopback())
                    .collect(),
            ),
        }
    }
}
