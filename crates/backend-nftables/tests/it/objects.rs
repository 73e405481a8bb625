//! Services and endpoints in a few words, and the model fed with them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use portolan_model::{
    Conditions, Config, Delta, Endpoint, EndpointPort, EndpointSlice, Event, Family, Hints,
    LocalDetector, MasqueradeAll, Model, NamespacedName, Node, NodePort, NodePortAddresses,
    Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy,
};

pub(crate) const NODE: &str = "node-1";
pub(crate) const NODE_IP: &str = "172.30.0.11";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// One family's addresses in the tests' dual-stack cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) family: Family,
    pub(crate) node: &'static str,
    pub(crate) client: &'static str,
    pub(crate) pods: &'static str,
    pub(crate) services: &'static str,
    /// Beside the node, where packets go that escape with a Service's address.
    pub(crate) router: &'static str,
    /// The node's address towards the router.
    pub(crate) beside_router: &'static str,
    pub(crate) everywhere: &'static str,
    /// The prefix length of the subnets.
    pub(crate) subnet: u8,
    /// Source ranges: the client's surroundings without the node, and the node's without the client.
    pub(crate) around_client: &'static str,
    pub(crate) around_node: &'static str,
}

pub(crate) const IPV4: Stack = Stack {
    family: Family::Ipv4,
    node: NODE_IP,
    client: "172.30.0.254",
    pods: "10.244.0.0/16",
    services: "10.96.0.0/12",
    router: "172.31.0.1",
    beside_router: "172.31.0.11",
    everywhere: "0.0.0.0/0",
    subnet: 24,
    around_client: "172.30.0.128/25",
    around_node: "172.30.0.0/26",
};

pub(crate) const IPV6: Stack = Stack {
    family: Family::Ipv6,
    node: "fd00:172:30::11",
    client: "fd00:172:30::254",
    pods: "fd00:10:244::/48",
    services: "fd00:10:96::/112",
    router: "fd00:172:31::1",
    beside_router: "fd00:172:31::11",
    everywhere: "::/0",
    subnet: 64,
    around_client: "fd00:172:30::200/119",
    around_node: "fd00:172:30::/122",
};

pub(crate) const STACKS: [Stack; 2] = [IPV4, IPV6];

impl Stack {
    /// The address of pod-N.
    pub(crate) fn pod(&self, number: u8) -> String {
        match self.family {
            Family::Ipv4 => format!("10.244.0.{number}"),
            Family::Ipv6 => format!("fd00:10:244::{number}"),
        }
    }

    /// A cluster IP by its last part, which is decimal in either family.
    pub(crate) fn service(&self, number: u8) -> String {
        match self.family {
            Family::Ipv4 => format!("10.96.0.{number}"),
            Family::Ipv6 => format!("fd00:10:96::{number}"),
        }
    }

    /// A model of node-1 in this cluster.
    pub(crate) fn model(&self) -> Model {
        self.model_with(|_| {})
    }

    /// The same with a proxy that is set up otherwise.
    pub(crate) fn model_with(&self, change: impl FnOnce(&mut Config)) -> Model {
        let mut config = Config {
            node_name: NODE.into(),
            masquerade_all: MasqueradeAll::OffClusterOnly,
            local_detector: LocalDetector::Cidrs(
                STACKS.map(|stack| stack.pods.parse().unwrap()).into(),
            ),
            ..Config::default()
        };
        change(&mut config);
        let mut model = Model::new(self.family, config);
        let addresses: BTreeSet<_> = STACKS.map(|stack| ip(stack.node)).into();
        model.apply(Event::Node(Node { zone: None, addresses: addresses.clone() }));
        model.apply(Event::NodePortAddresses(NodePortAddresses::Only(addresses)));
        let services = STACKS.map(|stack| stack.services.parse().unwrap());
        model.apply(Event::ServiceCidrs(services.into()));
        model
    }
}

/// Where a Service, a pod or a node is reached.
pub(crate) fn at(address: &str, port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}

/// A model of node-1 in the IPv4 cluster of 10.244.0.0/16.
pub(crate) fn model() -> Model {
    IPV4.model()
}

/// The model's changes, forgotten: only its table matters.
pub(crate) fn flushed(mut model: Model) -> Model {
    let _: Delta = model.flush();
    model
}

/// A Service with TCP port 80 and UDP port 53.
pub(crate) fn service(name: &str, cluster_ip: &str, node_port: Option<u16>) -> Service {
    let port = |name: &str, protocol, number| ServicePort {
        name: name.into(),
        protocol,
        port: port(number),
        node_port: node_port.and_then(NodePort::new),
    };
    Service {
        name: NamespacedName::new("default", name),
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        session_affinity: SessionAffinity::None,
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ingress: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

/// The endpoints of a Service: addresses with the nodes they are on, ports 8080 and 5353.
pub(crate) fn slice(service: &str, endpoints: &[(&str, &str)]) -> Event {
    let port = |name: &str, protocol, number| EndpointPort {
        name: name.into(),
        protocol,
        port: port(number),
    };
    let endpoint = |(address, node): &(&str, &str)| Endpoint {
        address: ip(address),
        conditions: Conditions::default(),
        node_name: Some((*node).into()),
        hints: Hints::default(),
    };
    Event::EndpointSlice(EndpointSlice {
        name: NamespacedName::new("default", format!("{service}-1")),
        service: service.into(),
        ports: vec![port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 5353)],
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}
