//! Few or many Services of three endpoints, and changes of single ones: what effort is measured by.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use portolan_model::*;

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port")
}

fn address(base: u32, number: u32) -> IpAddr {
    Ipv4Addr::from(base + number).into()
}

fn service(number: u32) -> Event {
    Event::Service(Service {
        name: NamespacedName::new("default", format!("service-{number}")),
        cluster_ips: vec![address(0x0a60_0000, number)],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
        }],
        session_affinity: SessionAffinity::None,
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ingress: Vec::new(),
        health_check_node_port: None,
        load_balancer_source_ranges: Vec::new(),
    })
}

/// Three endpoints, the first of which is on this node; or none.
fn endpoints(number: u32, count: u32) -> Event {
    let endpoint = |k| Endpoint {
        address: address(0x0af4_0000, number * 4 + k),
        conditions: Conditions::default(),
        node_name: Some(format!("node-{k}").into()),
        hints: Hints::default(),
    };
    Event::EndpointSlice(EndpointSlice {
        name: NamespacedName::new("default", format!("service-{number}-1")),
        service: format!("service-{number}").into(),
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(8080),
        }],
        endpoints: (0..count).map(endpoint).collect(),
    })
}

/// A model of so many Services, brought up to date.
pub(crate) fn model(services: u32) -> Model {
    let config = Config { node_name: "node-0".into(), ..Config::default() };
    let mut model = Model::new(Family::Ipv4, config);
    let addresses = [IpAddr::from([172, 30, 0, 11])].into();
    model.apply(Event::Node(Node { zone: None, addresses }));
    for number in 0..services {
        model.apply(service(number));
        model.apply(endpoints(number, 3));
    }
    model.flush();
    model
}

/// Changes one behind the other, for a model of so many Services: fewer endpoints, none, all again, a
/// Service more and one less.
pub(crate) fn changes(services: u32) -> [Vec<Event>; 5] {
    [
        vec![endpoints(7, 2)],
        vec![endpoints(7, 0)],
        vec![endpoints(7, 3)],
        vec![service(services), endpoints(services, 3)],
        vec![Event::ServiceDeleted(NamespacedName::new("default", "service-3"))],
    ]
}

/// How many values of a table a delta changes.
pub(crate) fn size(delta: &Delta) -> usize {
    delta.sets.len() + delta.hairpins.len() + delta.fronts.len() + delta.cluster_ips.len()
}
