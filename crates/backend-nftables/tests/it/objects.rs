//! Services and endpoints in a few words, and the model fed with them.

use std::net::IpAddr;
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

/// A model of node-1 in the cluster of 10.244.0.0/16.
pub(crate) fn model() -> Model {
    let config = Config {
        node_name: NODE.into(),
        masquerade_all: MasqueradeAll::OffClusterOnly,
        local_detector: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]),
    };
    let mut model = Model::new(Family::Ipv4, config);
    let addresses = [ip(NODE_IP)].into();
    model.apply(Event::Node(Node { zone: None, addresses }));
    let addresses = NodePortAddresses::Only([ip(NODE_IP)].into());
    model.apply(Event::NodePortAddresses(addresses));
    model.apply(Event::ServiceCidrs(vec!["10.96.0.0/12".parse().unwrap()]));
    model
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
