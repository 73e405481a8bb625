//! What tables and deltas look like for changes that matter.

use std::net::IpAddr;
use std::num::NonZeroU16;

use portolan_model::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn model(family: Family) -> Model {
    let config = Config {
        node_name: "node-1".into(),
        masquerade_all: MasqueradeAll::OffClusterOnly,
        local_detector: LocalDetector::None,
        ..Config::default()
    };
    Model::new(family, config)
}

fn service(name: &str, cluster_ips: &[&str], ports: &[(&str, Protocol, u16, u16)]) -> Service {
    let port = |(name, protocol, port, node_port): &(&str, Protocol, u16, u16)| ServicePort {
        name: (*name).into(),
        protocol: *protocol,
        port: NonZeroU16::new(*port).unwrap(),
        node_port: NodePort::new(*node_port),
    };
    Service {
        name: NamespacedName::new("default", name),
        cluster_ips: cluster_ips.iter().map(|address| ip(address)).collect(),
        ports: ports.iter().map(port).collect(),
        session_affinity: SessionAffinity::None,
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ingress: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

fn slice(service: &str, addresses: &[&str], ports: &[(&str, Protocol, u16)]) -> EndpointSlice {
    let endpoint = |address: &&str| Endpoint {
        address: ip(address),
        conditions: Conditions::default(),
        node_name: None,
        hints: Hints::default(),
    };
    let port = |(name, protocol, port): &(&str, Protocol, u16)| EndpointPort {
        name: (*name).into(),
        protocol: *protocol,
        port: NonZeroU16::new(*port).unwrap(),
    };
    EndpointSlice {
        name: NamespacedName::new("default", format!("{service}-1")),
        service: service.into(),
        ports: ports.iter().map(port).collect(),
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

#[test]
fn udp_and_tcp_on_one_port_stay_separate() {
    let mut model = model(Family::Ipv4);
    let ports = [("tcp", Protocol::Tcp, 53, 30053), ("udp", Protocol::Udp, 53, 30053)];
    model.apply(Event::Service(service("dns", &["10.96.0.10"], &ports)));
    let ports = [("tcp", Protocol::Tcp, 53), ("udp", Protocol::Udp, 5353)];
    model.apply(Event::EndpointSlice(slice("dns", &["10.244.0.1"], &ports)));
    model.flush();
    let table = model.table();
    assert_eq!((table.fronts.len(), table.sets.len()), (4, 2));
    let target = |protocol| {
        let port = NodePort::new(30053).unwrap();
        let Action::Balance(set) = table.fronts[&FrontKey::NodePort { protocol, port }].inside
        else {
            panic!("{protocol} has an endpoint");
        };
        table.sets[&set].targets.as_slice()[0].address.port()
    };
    assert_eq!((target(Protocol::Tcp), target(Protocol::Udp)), (53, 5353));
}

#[test]
fn an_endpoints_change_touches_its_set_alone() {
    let mut model = model(Family::Ipv4);
    let port = [("", Protocol::Tcp, 80, 30080)];
    for number in 0..100 {
        let name = format!("service-{number}");
        model.apply(Event::Service(service(&name, &[&format!("10.96.1.{number}")], &port)));
        let target = format!("10.244.1.{number}");
        model.apply(Event::EndpointSlice(slice(&name, &[&target], &[("", Protocol::Tcp, 8080)])));
    }
    assert_eq!(model.flush().sets.len(), 100);
    let more = slice("service-7", &["10.244.1.7", "10.244.2.7"], &[("", Protocol::Tcp, 8080)]);
    model.apply(Event::EndpointSlice(more));
    let delta = model.flush();
    assert_eq!((delta.fronts.len(), delta.sets.len()), (0, 1));
}

#[test]
fn events_that_change_nothing_give_an_empty_delta() {
    let mut model = model(Family::Ipv4);
    let service = service("a", &["10.96.0.1"], &[("", Protocol::Tcp, 80, 0)]);
    let slice = slice("a", &["10.244.0.1"], &[("", Protocol::Tcp, 80)]);
    for event in [Event::Service(service.clone()), Event::EndpointSlice(slice.clone())] {
        model.apply(event);
    }
    assert!(!model.flush().is_empty());
    for event in [Event::Service(service.clone()), Event::EndpointSlice(slice)] {
        model.apply(event);
    }
    assert!(model.flush().is_empty());
    model.apply(Event::ServiceDeleted(service.name.clone()));
    model.apply(Event::Service(service));
    assert!(model.flush().is_empty());
}

#[test]
fn a_front_of_two_services_goes_when_the_last_one_does() {
    let mut model = model(Family::Ipv4);
    let with_external_ip = |name: &str, cluster_ip: &str| Service {
        external_ips: vec![ip("192.0.2.1")],
        ..service(name, &[cluster_ip], &[("", Protocol::Tcp, 80, 0)])
    };
    model.apply(Event::Service(with_external_ip("b", "10.96.0.2")));
    model.apply(Event::Service(with_external_ip("a", "10.96.0.1")));
    model.flush();
    let key = FrontKey::Address { ip: ip("192.0.2.1"), protocol: Protocol::Tcp, port: 80 };
    let owner = |model: &Model| {
        model.table().fronts.get(&key).map(|front| front.port.service.name.to_string())
    };
    assert_eq!(owner(&model).as_deref(), Some("a"));
    model.apply(Event::ServiceDeleted(NamespacedName::new("default", "a")));
    model.flush();
    assert_eq!(owner(&model).as_deref(), Some("b"));
    model.apply(Event::ServiceDeleted(NamespacedName::new("default", "b")));
    model.flush();
    assert_eq!(owner(&model), None);
}

/// CVE-2020-8554: an external IP must not take another Service's cluster IP over.
#[test]
fn an_external_ip_does_not_take_a_cluster_ip_over() {
    let mut model = model(Family::Ipv4);
    let thief = Service {
        external_ips: vec![ip("10.96.0.2")],
        ..service("a-thief", &["10.96.0.1"], &[("", Protocol::Tcp, 80, 0)])
    };
    model.apply(Event::Service(thief));
    model.apply(Event::Service(service("victim", &["10.96.0.2"], &[("", Protocol::Tcp, 80, 0)])));
    model.flush();
    let key = FrontKey::Address { ip: ip("10.96.0.2"), protocol: Protocol::Tcp, port: 80 };
    assert_eq!(&*model.table().fronts[&key].port.service.name, "victim");
}

#[test]
fn each_family_has_a_table_of_its_own() {
    let dual = service("dual", &["10.96.0.1", "fd00::1"], &[("", Protocol::Tcp, 80, 0)]);
    let endpoints = ["10.244.0.1", "fd01::1"];
    for (family, cluster_ip, endpoint) in
        [(Family::Ipv4, "10.96.0.1", "10.244.0.1"), (Family::Ipv6, "fd00::1", "fd01::1")]
    {
        let mut model = model(family);
        model.apply(Event::Service(dual.clone()));
        model.apply(Event::EndpointSlice(slice("dual", &endpoints, &[("", Protocol::Tcp, 80)])));
        model.flush();
        let table = model.table();
        assert_eq!(table.cluster_ips, [ip(cluster_ip)].into());
        let targets = table.sets.values().next().unwrap().targets.as_slice();
        assert_eq!(targets.iter().map(|t| t.address.ip()).collect::<Vec<_>>(), [ip(endpoint)]);
    }
}

#[test]
fn endpoints_may_come_before_their_service_and_a_slice_may_change_hands() {
    let mut model = model(Family::Ipv4);
    let port = [("", Protocol::Tcp, 80, 0)];
    let mut moving = slice("a", &["10.244.0.1"], &[("", Protocol::Tcp, 80)]);
    model.apply(Event::EndpointSlice(moving.clone()));
    assert!(model.flush().is_empty());
    model.apply(Event::Service(service("a", &["10.96.0.1"], &port)));
    model.apply(Event::Service(service("b", &["10.96.0.2"], &port)));
    model.flush();
    let refused = |model: &Model| {
        let fronts = model.table().fronts.values();
        let refused = fronts.filter(|front| front.inside == Action::Reject);
        refused.map(|front| front.port.service.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(refused(&model), ["b"]);
    moving.service = "b".into();
    model.apply(Event::EndpointSlice(moving));
    model.flush();
    assert_eq!(refused(&model), ["a"]);
}

#[test]
fn a_load_balancer_is_told_how_many_addresses_are_here() {
    let mut model = model(Family::Ipv4);
    let mut web =
        service("web", &["10.96.0.1"], &[("a", Protocol::Tcp, 80, 0), ("b", Protocol::Tcp, 81, 0)]);
    web.external_traffic_policy = TrafficPolicy::Local;
    web.health_check_node_port = NodePort::new(32_000);
    let ports = [("a", Protocol::Tcp, 80), ("b", Protocol::Tcp, 81)];
    let mut endpoints = slice("web", &["10.244.0.1", "10.244.0.2", "10.244.1.1"], &ports);
    for endpoint in &mut endpoints.endpoints[..2] {
        endpoint.node_name = Some("node-1".into());
    }
    model.apply(Event::Service(web.clone()));
    model.apply(Event::EndpointSlice(endpoints.clone()));
    let delta = model.flush();
    let port = NodePort::new(32_000).unwrap();
    let check = |local_endpoints| HealthCheck { service: web.name.clone(), local_endpoints };
    assert_eq!(delta.health_checks[&port], Change { before: None, after: Some(check(2)) });

    // One that still serves while it terminates takes part in forwarding only.
    endpoints.endpoints[0].conditions =
        Conditions { ready: false, serving: true, terminating: true };
    model.apply(Event::EndpointSlice(endpoints.clone()));
    let change = Change { before: Some(check(2)), after: Some(check(1)) };
    assert_eq!(model.flush().health_checks[&port], change);
    endpoints.endpoints[1].conditions = endpoints.endpoints[0].conditions;
    model.apply(Event::EndpointSlice(endpoints));
    let change = Change { before: Some(check(1)), after: Some(check(0)) };
    assert_eq!(model.flush().health_checks[&port], change);

    web.health_check_node_port = NodePort::new(32_001);
    model.apply(Event::Service(web.clone()));
    model.flush();
    let open: Vec<_> = model.table().health_checks.keys().map(|port| port.number()).collect();
    assert_eq!(open, [32_001]);
    model.apply(Event::ServiceDeleted(web.name));
    model.flush();
    assert!(model.table().health_checks.is_empty());
}
