use std::num::NonZeroU16;
use std::time::Duration;

use super::*;
use crate::input::*;
use crate::{Family, Model, NamespacedName};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(local_detector: LocalDetector) -> Config {
    Config { node_name: "node-1".into(), local_detector, ..Config::default() }
}

fn model(config: Config) -> Model {
    let mut model = Model::new(Family::Ipv4, config);
    let addresses = [ip("172.30.0.11")].into();
    model.apply(Event::Node(Node { zone: Some("zone-a".into()), addresses }));
    model.apply(Event::NodePortAddresses(NodePortAddresses::Only(
        [ip("172.30.0.11"), ip("127.0.0.1")].into(),
    )));
    model.apply(Event::ServiceCidrs(vec!["10.96.0.0/12".parse().unwrap()]));
    model
}

fn by_cidr() -> LocalDetector {
    LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()])
}

fn service() -> Service {
    Service {
        name: NamespacedName::new("default", "nginx"),
        cluster_ips: vec![ip("10.96.0.10"), ip("fd00::10")],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(80).unwrap(),
            node_port: NodePort::new(30080),
        }],
        session_affinity: SessionAffinity::None,
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_ips: vec![ip("192.0.2.1")],
        load_balancer_ingress: vec![
            LoadBalancerIngress { ip: ip("192.0.2.2"), mode: IpMode::Vip },
            LoadBalancerIngress { ip: ip("192.0.2.3"), mode: IpMode::Proxy },
        ],
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

fn slice(endpoints: &[(&str, &str)]) -> Event {
    let endpoint = |(address, node): &(&str, &str)| Endpoint {
        address: ip(address),
        conditions: Conditions::default(),
        node_name: Some((*node).into()),
        hints: Hints::default(),
    };
    Event::EndpointSlice(EndpointSlice {
        name: NamespacedName::new("default", "nginx-1"),
        service: "nginx".into(),
        ports: vec![EndpointPort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(8080).unwrap(),
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}

const BOTH: [(&str, &str); 2] = [("10.244.0.1", "node-1"), ("10.244.1.1", "node-2")];

fn table(detector: LocalDetector, service: Service, endpoints: &[(&str, &str)]) -> ForwardingTable {
    table_of(config(detector), service, endpoints)
}

fn table_of(config: Config, service: Service, endpoints: &[(&str, &str)]) -> ForwardingTable {
    let mut model = model(config);
    model.apply(Event::Service(service));
    model.apply(slice(endpoints));
    model.flush();
    model.table().clone()
}

fn packet(source: &str, to: &str) -> Packet {
    let to: SocketAddr = to.parse().unwrap();
    let arrival = match source {
        "172.30.0.11" | "127.0.0.1" => Arrival::SentHere,
        _ => Arrival::Interface("eth0".into()),
    };
    let transport = Some(Transport { protocol: Protocol::Tcp, port: to.port() });
    Packet { source: ip(source), destination: to.ip(), transport, arrival }
}

fn verdict(table: &ForwardingTable, source: &str, to: &str) -> Verdict {
    walk(table, &ModeProfile::NFTABLES, &packet(source, to)).0
}

/// A packet forwarded to those endpoints, all masqueraded for that reason or none.
fn forward(targets: &[&str], masquerade: Option<MasqueradeReason>) -> Verdict {
    let choice = |target: &&str| Choice { target: target.parse().unwrap(), masquerade };
    Verdict::Forward(targets.iter().map(choice).collect())
}

const POD: &str = "10.244.0.9";
const NODE: &str = "172.30.0.11";
const CLIENT: &str = "172.30.0.254";
const ALL: [&str; 2] = ["10.244.0.1:8080", "10.244.1.1:8080"];
const HERE: [&str; 1] = ["10.244.0.1:8080"];

use MasqueradeReason::{ClusterPolicy, Hairpin, OffCluster, OwnAddress};

#[test]
fn a_cluster_ip_masquerades_all_but_pods() {
    let table = table(by_cidr(), service(), &BOTH);
    assert_eq!(verdict(&table, POD, "10.96.0.10:80"), forward(&ALL, None));
    assert_eq!(verdict(&table, NODE, "10.96.0.10:80"), forward(&ALL, Some(OffCluster)));
    assert_eq!(verdict(&table, CLIENT, "10.96.0.10:80"), forward(&ALL, Some(OffCluster)));
}

#[test]
fn without_a_way_to_tell_pods_nothing_is_off_cluster() {
    let other_family = LocalDetector::Cidrs(vec!["fd00::/48".parse().unwrap()]);
    for detector in [LocalDetector::None, other_family] {
        let table = table(detector, service(), &BOTH);
        assert_eq!(verdict(&table, CLIENT, "10.96.0.10:80"), forward(&ALL, None));
    }
}

#[test]
fn pods_can_be_told_by_their_interface() {
    for detector in
        [LocalDetector::Bridge("eth0".into()), LocalDetector::InterfacePrefix("et".into())]
    {
        let table = table(detector, service(), &BOTH);
        assert_eq!(verdict(&table, CLIENT, "10.96.0.10:80"), forward(&ALL, None));
        assert_eq!(verdict(&table, NODE, "10.96.0.10:80"), forward(&ALL, Some(OffCluster)));
    }
}

#[test]
fn external_fronts_of_policy_cluster_masquerade_everybody() {
    let table = table(by_cidr(), service(), &BOTH);
    for front in ["172.30.0.11:30080", "192.0.2.1:80", "192.0.2.2:80"] {
        for source in [POD, NODE, CLIENT] {
            assert_eq!(verdict(&table, source, front), forward(&ALL, Some(ClusterPolicy)));
        }
    }
}

#[test]
fn external_fronts_of_policy_local_keep_the_address_of_who_comes_from_outside() {
    let service = Service { external_traffic_policy: TrafficPolicy::Local, ..service() };
    let table = table(by_cidr(), service, &BOTH);
    for front in ["172.30.0.11:30080", "192.0.2.1:80", "192.0.2.2:80"] {
        assert_eq!(verdict(&table, CLIENT, front), forward(&HERE, None));
        assert_eq!(verdict(&table, POD, front), forward(&ALL, None));
        assert_eq!(verdict(&table, NODE, front), forward(&ALL, Some(OwnAddress)));
    }
    assert_eq!(verdict(&table, POD, "10.96.0.10:80"), forward(&ALL, None));
}

#[test]
fn a_local_policy_without_local_endpoints_drops() {
    let service = Service {
        external_traffic_policy: TrafficPolicy::Local,
        internal_traffic_policy: TrafficPolicy::Local,
        ..service()
    };
    let table = table(by_cidr(), service, &BOTH[1..]);
    for source in [POD, NODE, CLIENT] {
        assert_eq!(verdict(&table, source, "10.96.0.10:80"), Verdict::Drop);
    }
    assert_eq!(verdict(&table, CLIENT, "172.30.0.11:30080"), Verdict::Drop);
    assert_eq!(verdict(&table, POD, "172.30.0.11:30080"), forward(&ALL[1..], None));
}

#[test]
fn without_any_endpoint_every_front_refuses() {
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        let service = Service {
            external_traffic_policy: policy,
            internal_traffic_policy: policy,
            ..service()
        };
        let table = table(by_cidr(), service, &[]);
        assert!(table.sets.is_empty());
        for front in ["10.96.0.10:80", "172.30.0.11:30080", "192.0.2.1:80", "192.0.2.2:80"] {
            for source in [POD, NODE, CLIENT] {
                assert_eq!(verdict(&table, source, front), Verdict::Reject);
            }
        }
    }
}

#[test]
fn an_address_that_the_load_balancer_proxies_is_no_front() {
    let table = table(by_cidr(), service(), &BOTH);
    assert_eq!(verdict(&table, CLIENT, "192.0.2.3:80"), Verdict::Pass);
}

#[test]
fn an_endpoint_that_reaches_itself_is_masqueraded_only_then() {
    let table = table(by_cidr(), service(), &BOTH);
    let choice = |target: &str, masquerade| Choice { target: target.parse().unwrap(), masquerade };
    assert_eq!(
        verdict(&table, "10.244.0.1", "10.96.0.10:80"),
        Verdict::Forward(vec![choice(ALL[0], Some(Hairpin)), choice(ALL[1], None)])
    );
    // The endpoint of another node comes here only by way of that node's own rules.
    assert_eq!(verdict(&table, "10.244.1.1", "10.96.0.10:80"), forward(&ALL, None));
}

#[test]
fn an_endpoint_in_the_nodes_network_is_no_hairpin() {
    let table = table(by_cidr(), service(), &[("172.30.0.11", "node-1")]);
    assert!(table.hairpins.is_empty());
}

#[test]
fn source_ranges_bind_the_load_balancers_address_alone() {
    let ranges = vec!["203.0.113.0/24".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let service = Service { load_balancer_source_ranges: ranges, ..service() };
    let table = table(by_cidr(), service, &BOTH);
    let admitted = forward(&ALL, Some(ClusterPolicy));
    assert_eq!(verdict(&table, "203.0.113.5", "192.0.2.2:80"), admitted);
    for source in [POD, NODE, CLIENT, "192.0.2.2"] {
        assert_eq!(verdict(&table, source, "192.0.2.2:80"), Verdict::Drop);
    }
    for front in ["192.0.2.1:80", "172.30.0.11:30080"] {
        assert_eq!(verdict(&table, CLIENT, front), admitted);
    }
}

#[test]
fn ranges_that_contain_the_node_admit_the_front_itself() {
    let ranges = vec!["172.30.0.0/24".parse().unwrap()];
    let service = Service { load_balancer_source_ranges: ranges, ..service() };
    let table = table(by_cidr(), service, &BOTH);
    assert!(matches!(verdict(&table, "192.0.2.2", "192.0.2.2:80"), Verdict::Forward(_)));
    assert_eq!(verdict(&table, "203.0.113.5", "192.0.2.2:80"), Verdict::Drop);
}

#[test]
fn a_range_of_all_addresses_is_no_restriction() {
    let ranges = vec!["10.0.0.0/8".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
    let service = Service { load_balancer_source_ranges: ranges, ..service() };
    let table = table(by_cidr(), service, &BOTH);
    assert!(matches!(verdict(&table, CLIENT, "192.0.2.2:80"), Verdict::Forward(_)));
}

#[test]
fn node_ports_answer_at_the_listed_addresses_but_loopback() {
    let table = table(by_cidr(), service(), &BOTH);
    assert_eq!(verdict(&table, NODE, "127.0.0.1:30080"), Verdict::Pass);
    assert_eq!(verdict(&table, NODE, "172.31.0.11:30080"), Verdict::Pass);
}

#[test]
fn node_ports_answer_at_loopback_addresses_for_this_node_if_they_are_to() {
    let localhost_node_ports = LocalhostNodePorts::On;
    let table = table_of(Config { localhost_node_ports, ..config(by_cidr()) }, service(), &BOTH);
    assert_eq!(verdict(&table, "127.0.0.1", "127.0.0.1:30080"), forward(&ALL, Some(ClusterPolicy)));
    let from_outside = Packet {
        arrival: Arrival::Interface("eth0".into()),
        ..packet("127.0.0.1", "127.0.0.1:30080")
    };
    assert_eq!(walk(&table, &ModeProfile::IPTABLES, &from_outside).0, Verdict::Pass);
}

#[test]
fn source_ranges_may_hold_at_node_ports_too() {
    let ranges = |range: &str| vec![range.parse().unwrap()];
    let of = |range| {
        let service = Service { load_balancer_source_ranges: ranges(range), ..service() };
        let source_ranges_hold = SourceRangesHold::AtNodePortsToo;
        table_of(Config { source_ranges_hold, ..config(by_cidr()) }, service, &BOTH)
    };
    let clients = of("203.0.113.0/24");
    for (source, admitted) in [("203.0.113.5", true), (CLIENT, false), (NODE, false)] {
        let verdict = verdict(&clients, source, "172.30.0.11:30080");
        assert_eq!(matches!(verdict, Verdict::Forward(_)), admitted, "{source}: {verdict:?}");
    }
    assert!(matches!(
        verdict(&of("172.30.0.0/24"), NODE, "172.30.0.11:30080"),
        Verdict::Forward(_)
    ));
}

#[test]
fn modes_differ_on_what_is_no_front() {
    let table = table(by_cidr(), service(), &BOTH);
    let verdicts = |to: &str| {
        let profiles = [ModeProfile::NFTABLES, ModeProfile::IPTABLES, ModeProfile::IPVS];
        profiles.map(|profile| walk(&table, &profile, &packet(POD, to)).0)
    };
    use Verdict::{Drop, Pass, Reject};
    assert_eq!(verdicts("10.96.0.10:81"), [Reject, Pass, Reject]);
    assert_eq!(verdicts("10.96.0.99:80"), [Drop, Pass, Pass]);
    assert_eq!(verdicts("198.51.100.1:80"), [Pass, Pass, Pass]);
    let ping = Packet { transport: None, ..packet(POD, "10.96.0.10:0") };
    assert_eq!(walk(&table, &ModeProfile::NFTABLES, &ping).0, Reject);
}

#[test]
fn affinity_is_a_property_of_the_set() {
    let session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_secs(10_800) };
    let table = table(by_cidr(), Service { session_affinity, ..service() }, &BOTH);
    assert!(table.sets.values().all(|set| set.affinity == session_affinity));
}

#[test]
fn every_step_says_its_reason() {
    let table = table(by_cidr(), service(), &BOTH);
    let (_, reasons) = walk(&table, &ModeProfile::NFTABLES, &packet(CLIENT, "172.30.0.11:30080"));
    let lines: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let set = table.sets.keys().next().unwrap();
    assert_eq!(
        lines,
        [
            "from outside the cluster",
            "to node port 30080 TCP, node port of default/nginx",
            &format!("to one of 2 endpoints, set {set}"),
            "masqueraded: external traffic under policy Cluster may leave this node",
        ]
    );
}

/// In mode ipvs a front has one list, and Services' addresses are this node's.
#[test]
fn in_mode_ipvs_everybody_goes_to_this_nodes_endpoints_under_policy_local() {
    let local = Service { external_traffic_policy: TrafficPolicy::Local, ..service() };
    let table = table(by_cidr(), local, &BOTH);
    let from = |source: &str, arrival: Arrival, to: &str, port| Packet {
        source: ip(source),
        destination: ip(to),
        transport: Some(Transport { protocol: Protocol::Tcp, port }),
        arrival,
    };
    let pod = Arrival::Interface("veth1".into());
    let packet = from("10.244.0.9", pod, "192.0.2.1", 80);
    let targets = |profile| match walk(&table, profile, &packet).0 {
        Verdict::Forward(choices) => choices.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(targets(&ModeProfile::NFTABLES), 2);
    assert_eq!(targets(&ModeProfile::IPVS), 1);
    let elsewhere = from("198.51.100.7", Arrival::Interface("eth0".into()), "192.0.2.1", 81);
    assert_eq!(walk(&table, &ModeProfile::NFTABLES, &elsewhere).0, Verdict::Pass);
    assert_eq!(walk(&table, &ModeProfile::IPVS, &elsewhere).0, Verdict::Reject);
    let own = from("10.96.0.10", Arrival::SentHere, "10.96.0.10", 80);
    let Verdict::Forward(choices) =
        walk(&table_of(config(LocalDetector::None), service(), &BOTH), &ModeProfile::IPVS, &own).0
    else {
        panic!("not forwarded")
    };
    assert!(choices.iter().all(|c| c.masquerade == Some(MasqueradeReason::OwnAddress)));
}
