//! What is mirrored, and that nothing is written twice.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{Plan, is_mirrored, plan};
use crate::endpointslice::held;
use crate::object::Meta;

fn endpoints(subsets: Value) -> Endpoints {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "ns", "name": "ext", "uid": "uid-1",
            "labels": { "team": "shop" },
            "annotations": {
                "note": "by hand",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
            },
        },
        "subsets": subsets,
    }))
    .unwrap()
}

/// The slices after the plan; those made are named by number.
fn applied(mut slices: Vec<Arc<EndpointSlice>>, plan: Plan) -> Vec<Arc<EndpointSlice>> {
    slices.retain(|s| !plan.delete.iter().any(|d| d.name() == s.name()));
    for slice in plan.update {
        let at = slices.iter().position(|s| s.name() == slice.name()).unwrap();
        assert_eq!(slices[at].address_type, slice.address_type, "address type is immutable");
        slices[at] = Arc::new(slice);
    }
    for mut slice in plan.create {
        let prefix = slice.metadata.generate_name.take().unwrap();
        let mut number = slices.len();
        while slices.iter().any(|s| s.name() == format!("{prefix}{number}")) {
            number += 1;
        }
        slice.metadata.name = Some(format!("{prefix}{number}"));
        slices.push(Arc::new(slice));
    }
    slices
}

fn counts(plan: &Plan) -> (usize, usize, usize) {
    (plan.create.len(), plan.update.len(), plan.delete.len())
}

/// Family, ports, and each address with its readiness.
fn shown(slices: &[Arc<EndpointSlice>]) -> Value {
    let mut shown: Vec<Value> = slices
        .iter()
        .map(|s| {
            let ports: Vec<_> = s.ports.iter().flatten().map(|p| p.port).collect();
            let endpoints: Vec<_> = held(s)
                .iter()
                .map(|e| json!([e.addresses[0], e.conditions.as_ref().unwrap().ready]))
                .collect();
            json!([s.address_type, ports, endpoints])
        })
        .collect();
    shown.sort_by_key(Value::to_string);
    Value::Array(shown)
}

#[test]
fn each_family_and_port_set_has_its_slice() {
    let cases = [
        (json!([]), json!([])),
        (
            json!([{
                "addresses": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
                "notReadyAddresses": [{ "ip": "10.0.0.2" }],
                "ports": [{ "port": 80 }],
            }]),
            json!([
                ["IPv4", [80], [["10.0.0.1", true], ["10.0.0.2", false]]],
                ["IPv6", [80], [["fd00::1", true]]],
            ]),
        ),
        (
            json!([
                { "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] },
                { "addresses": [{ "ip": "10.0.0.2" }], "ports": [{ "port": 81 }] },
                { "addresses": [{ "ip": "10.0.0.3" }], "ports": [{ "port": 80 }] },
            ]),
            json!([
                ["IPv4", [80], [["10.0.0.1", true], ["10.0.0.3", true]]],
                ["IPv4", [81], [["10.0.0.2", true]]],
            ]),
        ),
        (
            json!([{ "addresses": [{ "ip": "10.0.0.1" }] }]),
            json!([["IPv4", [], [["10.0.0.1", true]]]]),
        ),
        (
            json!([{ "addresses": [{ "ip": "010.000.0.9" }, { "ip": "::ffff:10.0.0.8" }] }]),
            json!([["IPv4", [], [["10.0.0.8", true], ["10.0.0.9", true]]]]),
        ),
    ];
    for (subsets, wanted) in cases {
        let endpoints = endpoints(subsets);
        let slices = applied(Vec::new(), plan(&endpoints, &[], 1000));
        assert_eq!(shown(&slices), wanted);
        let again = plan(&endpoints, &slices, 1000);
        assert_eq!(counts(&again), (0, 0, 0), "a second look writes nothing");
    }
}

#[test]
fn labels_and_annotations_are_copied_but_for_what_is_the_objects_own() {
    let one =
        endpoints(json!([{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }]));
    let slices = applied(Vec::new(), plan(&one, &[], 1000));
    let slice = &slices[0];
    assert!(slice.name().starts_with("ext-"));
    assert_eq!(
        json!(slice.metadata.labels),
        json!({
            "team": "shop",
            "kubernetes.io/service-name": "ext",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        })
    );
    assert_eq!(json!(slice.metadata.annotations), json!({ "note": "by hand" }));
    let owner = slice.controller().unwrap();
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Endpoints", "uid-1"));

    let mut relabelled = one.clone();
    relabelled.metadata.labels = None;
    assert_eq!(counts(&plan(&relabelled, &slices, 1000)), (0, 1, 0));
    let mut remade = one;
    remade.metadata.uid = Some("uid-2".into());
    assert_eq!(counts(&plan(&remade, &slices, 1000)), (0, 1, 0), "the owner is another");
}

#[test]
fn invalid_and_surplus_addresses_are_left_out_and_counted() {
    let address = |n: usize| json!({ "ip": format!("10.0.{}.{}", n / 250, n % 250 + 1) });
    let mut ready: Vec<_> = (0..5).map(address).collect();
    ready.insert(2, json!({ "ip": "host.example" }));
    let not_ready: Vec<_> = (5..8).map(address).collect();
    let all = endpoints(json!([{ "addresses": ready, "notReadyAddresses": not_ready }]));
    let made = plan(&all, &[], 6);
    assert_eq!((made.invalid, made.skipped), (1, 3));
    let slices = applied(Vec::new(), made);
    assert_eq!(held(&slices[0]).len(), 6);
    // Two subsets with the same ports share the one slice and its limit.
    let two = endpoints(json!([
        { "addresses": (0..4).map(address).collect::<Vec<_>>() },
        { "addresses": (4..8).map(address).collect::<Vec<_>>() },
    ]));
    let slices = applied(Vec::new(), plan(&two, &[], 6));
    assert_eq!(held(&slices[0]).len(), 6);
    assert_eq!(counts(&plan(&two, &slices, 6)), (0, 0, 0));
}

#[test]
fn a_slice_in_the_wrong_place_lends_its_name() {
    let on = |port: i32| {
        endpoints(json!([{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": port }] }]))
    };
    let slices = applied(Vec::new(), plan(&on(80), &[], 1000));
    let name = slices[0].name().to_owned();
    let moved = plan(&on(81), &slices, 1000);
    assert_eq!(counts(&moved), (0, 1, 0));
    let slices = applied(slices, moved);
    assert_eq!(slices[0].name(), name);
    assert_eq!(counts(&plan(&endpoints(json!([])), &slices, 1000)), (0, 0, 1));
}

#[test]
fn what_says_so_is_not_mirrored() {
    let mut object = endpoints(json!([]));
    assert!(is_mirrored(&object));
    let skip = ("endpointslice.kubernetes.io/skip-mirror".to_owned(), "true".to_owned());
    object.metadata.labels.as_mut().unwrap().extend([skip]);
    assert!(!is_mirrored(&object));
    object.metadata.labels = None;
    let leader = ("control-plane.alpha.kubernetes.io/leader".to_owned(), "{}".to_owned());
    object.metadata.annotations.as_mut().unwrap().extend([leader]);
    assert!(!is_mirrored(&object));
}
