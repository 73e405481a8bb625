//! A change costs what it is itself, however many Services there are.

use portolan_backend_iptables::{Options, Planner};
use portolan_model::*;

use crate::objects::{ip, port};

fn address(base: u32, number: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(base + number).into()
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

/// For each of some changes: how much of the table is looked at, and how long the plan is.
fn efforts(services: u32) -> Vec<(usize, usize)> {
    let config = Config { node_name: "node-0".into(), ..Config::default() };
    let mut model = Model::new(Family::Ipv4, config);
    model.apply(Event::Node(Node { zone: None, addresses: [ip("172.30.0.11")].into() }));
    for number in 0..services {
        model.apply(service(number));
        model.apply(endpoints(number, 3));
    }
    model.flush();
    let mut planner = Planner::new(Options::default());
    planner.holds(model.table());
    let changes = [
        vec![endpoints(7, 2)],
        vec![endpoints(7, 0)],
        vec![endpoints(7, 3)],
        vec![service(services), endpoints(services, 3)],
        vec![Event::ServiceDeleted(NamespacedName::new("default", "service-3"))],
    ];
    let effort = |change: Vec<Event>| {
        change.into_iter().for_each(|event| model.apply(event));
        let delta = model.flush();
        let plan = planner.delta(model.table(), &delta);
        planner.followed(&delta);
        (plan.looks(), plan.operations())
    };
    changes.into_iter().map(effort).collect()
}

#[test]
fn a_change_costs_the_same_among_few_services_and_among_many() {
    let few = efforts(10);
    assert!(few.iter().all(|(looks, operations)| *looks > 0 && *operations > 0), "{few:?}");
    assert!(few.iter().all(|(looks, operations)| *looks < 40 && *operations < 40), "{few:?}");
    assert_eq!(few, efforts(3_000));
}
