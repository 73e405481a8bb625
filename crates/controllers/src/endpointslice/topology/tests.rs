//! Zones' shares, and hints for whole sets of endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::testing::{labels, meta, node};

fn of(name: &str, zone: &str, cpu: &str) -> Arc<Node> {
    let mut node = node(name);
    if !zone.is_empty() {
        node.metadata.labels = Some(labels(&[(ZONE, zone)]));
    }
    let cpu = [("cpu".to_owned(), Quantity(cpu.to_owned()))];
    node.status.as_mut().unwrap().allocatable = Some(BTreeMap::from(cpu));
    Arc::new(node)
}

/// A slice of ready endpoints, so many in each zone.
fn slice(zones: &[(&str, usize)]) -> EndpointSlice {
    let endpoint = |zone: &str| Endpoint {
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        zone: (!zone.is_empty()).then(|| zone.to_owned()),
        ..Endpoint::default()
    };
    let endpoints = zones.iter().flat_map(|(zone, n)| std::iter::repeat_n(endpoint(zone), *n));
    EndpointSlice { endpoints: Some(endpoints.collect()), ..EndpointSlice::default() }
}

fn hints(slices: &[EndpointSlice]) -> BTreeMap<String, usize> {
    let mut zones = BTreeMap::new();
    for endpoint in slices.iter().flat_map(held) {
        for zone in endpoint.hints.iter().flat_map(|h| h.for_zones.iter().flatten()) {
            *zones.entry(zone.name.clone()).or_default() += 1;
        }
    }
    zones
}

fn counts(zones: &[(&str, usize)]) -> BTreeMap<String, usize> {
    zones.iter().map(|(zone, n)| ((*zone).to_owned(), *n)).collect()
}

#[test]
fn shares_follow_the_cpus_of_ready_workers() {
    let shares_of = |nodes: &[Arc<Node>]| shares(nodes);
    let quarter = BTreeMap::from([("a".to_owned(), 0.75), ("b".to_owned(), 0.25)]);
    let nodes = [of("1", "a", "4"), of("2", "a", "2"), of("3", "b", "2000m")];
    assert_eq!(shares_of(&nodes), Some(quarter.clone()));

    let mut control = (*of("4", "c", "8")).clone();
    let role = ("node-role.kubernetes.io/control-plane".to_owned(), String::new());
    control.metadata.labels.as_mut().unwrap().extend([role]);
    let mut unready = (*of("5", "", "8")).clone();
    unready.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into();
    let more = [&nodes[..], &[Arc::new(control), Arc::new(unready)]].concat();
    assert_eq!(shares_of(&more), Some(quarter), "neither counts");

    assert_eq!(shares_of(&nodes[..2]), None, "one zone");
    assert_eq!(shares_of(&[&nodes[..], &[of("6", "", "1")]].concat()), None, "no zone");
    assert_eq!(shares_of(&[&nodes[..], &[of("6", "a", "0")]].concat()), None, "no CPU");
    assert_eq!(shares_of(&[]), None);
}

/// CPUs by zone, ready endpoints by zone, and the hints or the reason for none.
type Case = (
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, usize)],
    Result<&'static [(&'static str, usize)], &'static str>,
);

const CASES: &[Case] = &[
    // Balanced: everyone stays at home.
    (&[("a", "1"), ("b", "1")], &[("a", 3), ("b", 3)], Ok(&[("a", 3), ("b", 3)])),
    // All in one zone: half go to the other.
    (&[("a", "1"), ("b", "1")], &[("a", 6)], Ok(&[("a", 3), ("b", 3)])),
    // Three times the CPUs, three times the endpoints.
    (&[("a", "3"), ("b", "1")], &[("a", 4), ("b", 4)], Ok(&[("a", 6), ("b", 2)])),
    // A zone without nodes gives nothing away, for it has no share to exceed.
    (
        &[("a", "1"), ("b", "1")],
        &[("a", 3), ("b", 3), ("c", 1)],
        Ok(&[("a", 3), ("b", 3), ("c", 1)]),
    ),
    // Less than half an endpoint is not worth moving.
    (
        &[("a", "1"), ("b", "1"), ("c", "1")],
        &[("a", 4), ("b", 3), ("c", 3)],
        Ok(&[("a", 4), ("b", 3), ("c", 3)]),
    ),
    (
        &[("a", "1")],
        &[("a", 4)],
        Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
        ),
    ),
    (
        &[("a", "1"), ("b", "1")],
        &[("a", 1)],
        Err("Insufficient number of endpoints (1 endpoints, 2 zones)"),
    ),
    (
        &[("a", "1"), ("b", "1"), ("c", "1")],
        &[("a", 2), ("b", 1), ("c", 1)],
        Err(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload \
          threshold (4 endpoints, 3 zones)",
        ),
    ),
    (
        &[("a", "1"), ("b", "1")],
        &[("a", 3), ("", 1)],
        Err("One or more endpoints do not have a zone specified"),
    ),
];

#[test]
fn endpoints_are_shared_out_by_cpu_or_not_at_all() {
    for (cpus, endpoints, wanted) in CASES {
        let nodes: Vec<_> = cpus.iter().map(|(zone, cpu)| of(zone, zone, cpu)).collect();
        let shares = shares(&nodes);
        let mut create = vec![slice(endpoints)];
        let mut update = Vec::new();
        let slices = Slices { create: &mut create, update: &mut update, untouched: Vec::new() };
        match (assign(slices, shares.as_ref()), wanted) {
            (Ok(allotted), Ok(wanted)) => {
                assert_eq!(allotted, counts(wanted), "{endpoints:?}");
                assert_eq!(hints(&create), allotted, "what is said is what is written");
            }
            (Err(why), Err(wanted)) => {
                assert_eq!(why, *wanted, "{endpoints:?}");
                assert!(hints(&create).is_empty());
            }
            (got, _) => panic!("{endpoints:?}: {got:?}, not {wanted:?}"),
        }
        assert!(update.is_empty());
    }
}

#[test]
fn slices_whose_hints_may_stay_are_not_written() {
    let nodes = [of("1", "a", "1"), of("2", "b", "1")];
    let shares = shares(&nodes);
    let mut first = vec![slice(&[("a", 5), ("b", 5)])];
    let mut update = Vec::new();
    let all = Slices { create: &mut first, update: &mut update, untouched: Vec::new() };
    assign(all, shares.as_ref()).unwrap();
    let settled = Arc::new(first.remove(0));

    // Another slice comes: the first keeps its hints.
    let mut create = vec![slice(&[("a", 2)])];
    let untouched = vec![Arc::clone(&settled)];
    let all = Slices { create: &mut create, update: &mut update, untouched };
    assert_eq!(assign(all, shares.as_ref()).unwrap(), counts(&[("a", 6), ("b", 6)]));
    assert!(update.is_empty());

    // Its zone b is gone: now it must be written.
    let moved = super::shares(&[of("1", "a", "1"), of("3", "c", "1")]);
    let untouched = vec![Arc::clone(&settled)];
    let all = Slices { create: &mut Vec::new(), update: &mut update, untouched };
    assign(all, moved.as_ref()).unwrap();
    assert_eq!(update.len(), 1);
    update.clear();

    // Nothing is known of the nodes: the hints go.
    let all = Slices { create: &mut Vec::new(), update: &mut update, untouched: vec![settled] };
    assign(all, None).unwrap_err();
    assert!(hints(&update).is_empty());
    assert_eq!(update.len(), 1);
}

#[test]
fn a_service_is_overloaded_when_a_zone_has_less_than_its_share_bears() {
    let shares = shares(&[of("1", "a", "1"), of("2", "b", "1")]).unwrap();
    for (allotted, overloaded) in [
        (&[("a", 5), ("b", 5)][..], false),
        (&[("a", 11), ("b", 9)], false),
        (&[("a", 12), ("b", 8)], true),
        (&[("a", 10)], true),
        (&[], false),
    ] {
        assert_eq!(is_overloaded(&counts(allotted), Some(&shares)), overloaded, "{allotted:?}");
    }
    assert!(is_overloaded(&counts(&[("a", 5)]), None), "hints that nobody can vouch for");
}

#[test]
fn either_annotation_asks_for_hints_and_the_older_one_wins() {
    let asks = |pairs: &[(&str, &str)]| {
        let mut service = Service { metadata: meta("ns", "web"), ..Service::default() };
        service.metadata.annotations = Some(labels(pairs));
        is_auto(&service)
    };
    assert!(asks(&[(MODE, "Auto")]));
    assert!(asks(&[(MODE, "auto")]));
    assert!(!asks(&[(MODE, "Disabled")]));
    assert!(!asks(&[(MODE, "Auto"), (DEPRECATED_MODE, "disabled")]));
    assert!(!asks(&[]));
}
