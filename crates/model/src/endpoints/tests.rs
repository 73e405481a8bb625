use std::collections::BTreeSet;
use std::num::NonZeroU16;

use super::*;
use crate::NamespacedName;
use crate::input::{Endpoint, EndpointPort};

const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };
const DRAINING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const GONE: Conditions = Conditions { ready: false, serving: false, terminating: true };
const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };

/// An endpoint at 10.244.0.`last`, on node `node`, hints `zones` and `nodes` by blanks.
fn endpoint(last: u8, conditions: Conditions, node: &str, zones: &str, nodes: &str) -> Endpoint {
    let words = |text: &str| text.split_whitespace().map(Arc::from).collect::<BTreeSet<_>>();
    Endpoint {
        address: [10, 244, 0, last].into(),
        conditions,
        node_name: Some(node.into()),
        hints: Hints { zones: words(zones), nodes: words(nodes) },
    }
}

fn plain(last: u8, conditions: Conditions, node: &str) -> Endpoint {
    endpoint(last, conditions, node, "", "")
}

fn slice(name: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    let port = |name: &str, port| EndpointPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(port).unwrap(),
    };
    EndpointSlice {
        name: NamespacedName::new("default", name),
        service: "nginx".into(),
        ports: vec![port("http", 8080), port("admin", 9090)],
        endpoints: endpoints.to_vec(),
    }
}

/// The last bytes of the targets' addresses in the cluster's and in the local set.
fn chosen(slices: &[EndpointSlice]) -> (Vec<u8>, Selection, Topology, Vec<u8>) {
    let (node, zone) = (Arc::from("node-1"), Arc::from("zone-a"));
    let here = Here { node: &node, zone: Some(&zone) };
    let joined = join(slices.iter(), ("http", Protocol::Tcp), Family::Ipv4, here);
    let last = |selected: &Selected| {
        let octets = selected.targets.iter().map(|target| match target.address {
            SocketAddr::V4(address) => {
                assert_eq!(address.port(), 8080);
                address.ip().octets()[3]
            }
            SocketAddr::V6(_) => unreachable!("the slices are of IPv4"),
        });
        octets.collect::<Vec<_>>()
    };
    let (cluster, local) = (cluster(&joined, here), local(&joined));
    (last(&cluster), cluster.selection, cluster.topology, last(&local))
}

fn of(endpoints: &[Endpoint]) -> (Vec<u8>, Selection, Topology, Vec<u8>) {
    chosen(&[slice("a", endpoints)])
}

#[test]
fn only_ready_endpoints_are_used_while_there_is_one() {
    let chosen = of(&[
        plain(1, READY, "node-1"),
        plain(2, DRAINING, "node-1"),
        plain(3, NOT_READY, "node-1"),
        plain(4, READY, "node-2"),
    ]);
    assert_eq!(chosen, (vec![1, 4], Selection::Ready, Topology::Anywhere, vec![1]));
}

#[test]
fn without_a_ready_endpoint_those_that_drain_are_used() {
    let chosen = of(&[
        plain(1, DRAINING, "node-1"),
        plain(2, GONE, "node-1"),
        plain(3, DRAINING, "node-2"),
        plain(4, NOT_READY, "node-1"),
    ]);
    assert_eq!(chosen, (vec![1, 3], Selection::ServingTerminating, Topology::Anywhere, vec![1]));
}

#[test]
fn the_local_set_falls_back_on_its_own() {
    let chosen = of(&[plain(1, DRAINING, "node-1"), plain(2, READY, "node-2")]);
    assert_eq!(chosen, (vec![2], Selection::Ready, Topology::Anywhere, vec![1]));
}

#[test]
fn a_hint_for_this_node_wins_over_the_zone() {
    let chosen = of(&[
        endpoint(1, READY, "node-1", "zone-a", "node-1"),
        endpoint(2, READY, "node-2", "zone-a", "node-2"),
        endpoint(3, READY, "node-3", "zone-b", "node-3"),
    ]);
    assert_eq!(chosen.0, [1]);
    assert_eq!(chosen.2, Topology::SameNode("node-1".into()));
}

#[test]
fn zone_hints_count_when_no_node_hint_names_this_node() {
    let chosen = of(&[
        endpoint(2, READY, "node-2", "zone-a", "node-2"),
        endpoint(3, READY, "node-3", "zone-b", "node-3"),
    ]);
    assert_eq!(chosen.0, [2]);
    assert_eq!(chosen.2, Topology::SameZone("zone-a".into()));
}

#[test]
fn one_ready_endpoint_without_a_hint_switches_hints_off() {
    let chosen = of(&[
        endpoint(1, READY, "node-1", "zone-a", "node-1"),
        endpoint(2, READY, "node-2", "", ""),
    ]);
    assert_eq!((chosen.0, chosen.2), (vec![1, 2], Topology::Anywhere));
    // One that is not ready does not.
    let chosen = of(&[
        endpoint(1, READY, "node-2", "zone-a", ""),
        endpoint(2, READY, "node-3", "zone-b", ""),
        endpoint(3, DRAINING, "node-2", "", ""),
    ]);
    assert_eq!((chosen.0, chosen.2), (vec![1], Topology::SameZone("zone-a".into())));
}

#[test]
fn hints_for_other_zones_only_switch_hints_off() {
    let chosen = of(&[endpoint(1, READY, "node-2", "zone-b", "")]);
    assert_eq!((chosen.0, chosen.2), (vec![1], Topology::Anywhere));
}

#[test]
fn hints_do_not_matter_to_the_local_set_nor_to_draining_endpoints() {
    let chosen = of(&[
        endpoint(1, READY, "node-1", "zone-b", "node-2"),
        endpoint(2, READY, "node-2", "zone-a", "node-1"),
    ]);
    assert_eq!((chosen.0, chosen.3), (vec![2], vec![1]));
    let chosen = of(&[endpoint(1, DRAINING, "node-2", "zone-b", "node-2")]);
    assert_eq!((chosen.0, chosen.2), (vec![1], Topology::Anywhere));
}

#[test]
fn of_two_endpoints_at_one_address_the_one_that_lives_is_used() {
    let old = slice("a", &[plain(1, DRAINING, "node-2")]);
    let new = slice("b", &[plain(1, READY, "node-1")]);
    for slices in [[old.clone(), new.clone()], [new, old]] {
        assert_eq!(chosen(&slices), (vec![1], Selection::Ready, Topology::Anywhere, vec![1]));
    }
}

#[test]
fn ports_are_joined_by_name_and_protocol() {
    let (node, slices) = (Arc::from("node-1"), [slice("a", &[plain(1, READY, "node-1")])]);
    let here = Here { node: &node, zone: None };
    let join = |name, protocol| join(slices.iter(), (name, protocol), Family::Ipv4, here);
    assert_eq!(join("admin", Protocol::Tcp).keys().next().unwrap().port(), 9090);
    assert!(join("http", Protocol::Udp).is_empty());
    assert!(join("", Protocol::Tcp).is_empty());
}

#[test]
fn endpoints_of_the_other_family_do_not_count() {
    let (node, slices) = (Arc::from("node-1"), [slice("a", &[plain(1, READY, "node-1")])]);
    let here = Here { node: &node, zone: None };
    assert!(join(slices.iter(), ("http", Protocol::Tcp), Family::Ipv6, here).is_empty());
}
