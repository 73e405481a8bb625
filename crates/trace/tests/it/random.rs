//! Random objects, and what a proxy makes of them.

use portolan_model::{Event, Family, ForwardingTable, Model};
use portolan_proxy::config::types::KubeProxyConfiguration;
use portolan_proxy::convert;
use portolan_trace::objects::{Objects, parse};
use portolan_trace::view::{Setup, View};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const ZONES: [&str; 2] = ["zone-a", "zone-b"];
/// Cluster IP, load balancer IP and external IP of Services, the node's address, loopback, and others.
pub(crate) const PLACES: [[&str; 2]; 9] = [
    ["10.96.0.1", "fd00:96::1"],
    ["10.96.0.2", "fd00:96::2"],
    ["192.0.2.1", "2001:db8:2::1"],
    ["192.0.2.2", "2001:db8:2::2"],
    ["172.30.0.11", "fd00:172::11"],
    ["172.30.0.12", "fd00:172::12"],
    ["127.0.0.1", "::1"],
    ["10.96.9.9", "fd00:96::9"],
    ["8.8.8.8", "2001:db8:8::8"],
];
pub(crate) const SOURCES: [[&str; 2]; 5] = [
    ["10.244.0.1", "fd00:244::1"],
    ["10.244.0.2", "fd00:244::2"],
    ["10.244.7.7", "fd00:244::77"],
    ["203.0.113.1", "2001:db8::1"],
    ["172.30.0.11", "fd00:172::11"],
];

const RANGES: &[&[&str]] = &[
    &[],
    &["203.0.113.0/24", "2001:db8::/64"],
    &["172.30.0.0/24", "fd00:172::/64"],
    &["0.0.0.0/0"],
];

fn names(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        3 => Just(Vec::new()),
        5 => proptest::sample::subsequence(of, 1..=of.len()),
    ]
}

fn endpoint(family: usize) -> impl Strategy<Value = Value> {
    let condition = || proptest::option::weighted(0.5, any::<bool>());
    let conditions = (condition(), condition(), proptest::option::weighted(0.4, any::<bool>()));
    let node = proptest::option::weighted(0.9, proptest::sample::select(&NODES[..]));
    (1..=5_u8, conditions, node, names(&ZONES), names(&NODES)).prop_map(
        move |(host, (ready, serving, terminating), node, zones, nodes)| {
            let address =
                if family == 0 { format!("10.244.0.{host}") } else { format!("fd00:244::{host}") };
            let named = |names: Vec<&str>| {
                names.into_iter().map(|name| json!({"name": name})).collect::<Vec<_>>()
            };
            json!({
                "addresses": [address],
                "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "hints": {"forZones": named(zones), "forNodes": named(nodes)},
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let port = proptest::sample::select(&["", "http", "dns"][..]);
    let protocol = proptest::sample::select(&["TCP", "UDP", "SCTP"][..]);
    let ports = vec((port, protocol, 8080..=8081_u16), 0..=3);
    let service = proptest::sample::select(&["a", "b"][..]);
    (0..2_usize).prop_flat_map(move |family| {
        (vec(endpoint(family), 0..=5), ports.clone(), service.clone(), 0..4_u8, 0..10_u8).prop_map(
            move |(endpoints, ports, service, number, odd)| {
                let ports: Vec<_> = ports
                    .into_iter()
                    .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
                    .collect();
                // Sometimes the slice says another family than its addresses are of.
                let says_v6 = (family == 1) != (odd == 0);
                json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": format!("{service}-{number}-{family}"),
                        "labels": {"kubernetes.io/service-name": service},
                    },
                    "addressType": if says_v6 { "IPv6" } else { "IPv4" },
                    "ports": ports,
                    "endpoints": endpoints,
                })
            },
        )
    })
}

fn service(name: &'static str, number: usize) -> impl Strategy<Value = Value> {
    let policy = || proptest::sample::select(&["Cluster", "Local"][..]);
    let ranges = proptest::sample::select(RANGES);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (policy(), policy(), ranges, flags).prop_map(move |(internal, external, ranges, flags)| {
        let (affine, balanced, is_external, has_node_ports) = flags;
        let node_port = |at: u16| if has_node_ports { Some(at) } else { None };
        let base = 30080 + u16::try_from(number).unwrap() * 10;
        let balancer = if balanced { &PLACES[2][..] } else { &[] };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": PLACES[number],
                "externalIPs": if is_external { &PLACES[3][..] } else { &[] },
                "internalTrafficPolicy": internal,
                "externalTrafficPolicy": external,
                "sessionAffinity": if affine { "ClientIP" } else { "None" },
                "loadBalancerSourceRanges": ranges,
                "ports": [
                    {"name": "http", "port": 80, "nodePort": node_port(base)},
                    {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": node_port(base + 1)},
                    {"name": "dns", "port": 53, "protocol": "TCP", "nodePort": node_port(base + 2)},
                ],
            },
            "status": {"loadBalancer": {"ingress":
                balancer.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}},
        })
    })
}

fn node() -> impl Strategy<Value = Value> {
    proptest::option::weighted(0.8, proptest::sample::select(&ZONES[..])).prop_map(|zone| {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODES[0], "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"addresses": PLACES[4].map(|ip| json!({"type": "InternalIP", "address": ip}))},
        })
    })
}

pub(crate) fn objects() -> impl Strategy<Value = Objects> {
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/64"]},
    });
    (service("a", 0), service("b", 1), vec(slice(), 0..6), node()).prop_map(
        move |(a, b, slices, mut node)| {
            if node["metadata"]["labels"]["topology.kubernetes.io/zone"].is_null() {
                node["metadata"]["labels"] = json!({});
            }
            let items: Vec<Value> = [a, b, node, cidr.clone()].into_iter().chain(slices).collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
            let mut objects = Objects::default();
            for object in parse(&list).unwrap() {
                assert_eq!(objects.put(object), None);
            }
            objects
        },
    )
}

pub(crate) fn view(objects: &Objects, mode: &str, all: bool, detects: bool) -> View {
    let mut configuration = KubeProxyConfiguration { mode: mode.into(), ..Default::default() };
    (configuration.iptables.masquerade_all, configuration.nftables.masquerade_all) = (all, all);
    if detects {
        configuration.cluster_cidr = "10.244.0.0/16,fd00:244::/64".into();
    }
    View::new(objects, &Setup { configuration, node_ips: Vec::new() }, NODES[0]).unwrap()
}

/// The table, without what this crate does to make it.
pub(crate) fn table(objects: &Objects, view: &View, family: Family) -> ForwardingTable {
    let mut model = Model::new(family, view.config.clone());
    model.apply(Event::ServiceCidrs(objects.ranges()));
    for slice in objects.slices.values() {
        model.apply(Event::EndpointSlice(convert::endpoint_slice(slice).unwrap()));
    }
    for service in objects.services.values() {
        model.apply(Event::Service(convert::service(service).unwrap()));
    }
    model.apply(Event::NodePortAddresses(view.node_ports.clone()));
    model.apply(Event::Node(convert::node(&objects.nodes[NODES[0]])));
    model.flush();
    model.table().clone()
}
