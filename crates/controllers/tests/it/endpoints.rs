//! Endpoints by hand, Endpoints past their limit, and hints by zone.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Event, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::workloads::deployment;
use crate::world::{World, create, run, until, until_one};

const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

fn mirrors(list: &[EndpointSlice]) -> Vec<&EndpointSlice> {
    let manager =
        |s: &EndpointSlice| s.labels().get("endpointslice.kubernetes.io/managed-by").cloned();
    list.iter().filter(|s| manager(s).as_deref() == Some(MIRROR)).collect()
}

fn addresses(slices: &[&EndpointSlice]) -> Vec<String> {
    let mut all: Vec<_> = slices
        .iter()
        .flat_map(|s| s.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()))
        .collect();
    all.sort();
    all
}

#[test]
fn endpoints_by_hand_are_mirrored_while_their_service_has_no_selector() {
    run(async {
        let world = World::start().await;
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let endpoints: Api<Endpoints> = Api::default_namespaced(world.client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
        // First without a Service: nobody takes them away.
        let by_hand = json!({
            "metadata": { "name": "ext", "labels": { "team": "shop" } },
            "subsets": [{
                "addresses": [{ "ip": "192.0.2.1" }],
                "notReadyAddresses": [{ "ip": "192.0.2.2" }],
                "ports": [{ "name": "sql", "port": 5432 }],
            }],
        });
        create(&endpoints, by_hand).await;
        let service = json!({
            "metadata": { "name": "ext" },
            "spec": { "ports": [{ "name": "sql", "port": 5432 }] },
        });
        create(&services, service.clone()).await;
        let list = until(&slices, "a mirror", |list| addresses(&mirrors(list)).len() == 2).await;
        let slice = mirrors(&list)[0];
        assert_eq!(slice.labels()["kubernetes.io/service-name"], "ext");
        assert_eq!(slice.labels()["team"], "shop");
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(5432));
        let ready: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| e.conditions.as_ref().and_then(|c| c.ready))
            .collect();
        assert_eq!(ready, [Some(true), Some(false)]);

        let subsets = json!({ "subsets": [{
            "addresses": [{ "ip": "192.0.2.7" }], "ports": [{ "name": "sql", "port": 5433 }],
        }]});
        endpoints.patch("ext", &PatchParams::default(), &Patch::Merge(subsets)).await.unwrap();
        until(&slices, "the new address", |list| addresses(&mirrors(list)) == ["192.0.2.7"]).await;

        // With a selector the Service has slices of its own.
        let selector = json!({ "spec": { "selector": { "app": "none" } } });
        services.patch("ext", &PatchParams::default(), &Patch::Merge(selector)).await.unwrap();
        until(&slices, "no mirror", |list| mirrors(list).is_empty() && !list.is_empty()).await;

        services.delete("ext", &DeleteParams::default()).await.unwrap();
        until(&endpoints, "no endpoints", |list| list.iter().all(|e| e.name_any() != "ext")).await;
        world.stop().await;
    });
}

#[test]
fn endpoints_past_a_thousand_are_cut_and_made_whole_again() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let endpoints: Api<Endpoints> = Api::default_namespaced(world.client.clone());
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        create(&services, service).await;
        create(&deployments, deployment("web", 1003)).await;
        // In steps, each with a patience of its own.
        for step in [300, 600, 900] {
            until_one(&deployments, "web", "more available", |d| {
                d.status.as_ref().and_then(|s| s.available_replicas) >= Some(step)
            })
            .await;
        }
        let held = |e: &Endpoints| -> usize {
            let subsets = e.subsets.iter().flatten();
            subsets.map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum()
        };
        let cut =
            |e: &Endpoints| e.annotations().get("endpoints.kubernetes.io/over-capacity").cloned();
        until_one(&endpoints, "web", "a thousand of them", |e| {
            held(e) == 1000 && cut(e).as_deref() == Some("truncated")
        })
        .await;
        let scale = json!({ "spec": { "replicas": 990 } });
        deployments
            .patch_scale("web", &PatchParams::default(), &Patch::Merge(scale))
            .await
            .unwrap();
        until_one(&endpoints, "web", "all of them", |e| held(e) == 990 && cut(e).is_none()).await;
        world.stop().await;
    });
}

#[test]
fn topology_mode_auto_shares_endpoints_out_by_cpu_and_says_so() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let nodes: Api<Node> = Api::all(world.client.clone());
        for (name, zone) in [("node-1", "zone-a"), ("node-2", "zone-b")] {
            let labels = json!({
                "metadata": { "labels": { "topology.kubernetes.io/zone": zone } },
            });
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
            let status = json!({ "status": { "allocatable": { "cpu": "2" } } });
            nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
        let events: Api<Event> = Api::default_namespaced(world.client.clone());
        create(&deployments, deployment("web", 8)).await;
        create(
            &services,
            json!({
                "metadata": {
                    "name": "web",
                    "annotations": { "service.kubernetes.io/topology-mode": "Auto" },
                },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
            }),
        )
        .await;
        let hints = |list: &[EndpointSlice]| -> Vec<String> {
            let endpoints = list
                .iter()
                .filter(|s| s.name_any().starts_with("web-"))
                .flat_map(|s| s.endpoints.iter().flatten());
            let mut zones: Vec<_> = endpoints
                .flat_map(|e| e.hints.iter().flat_map(|h| h.for_zones.iter().flatten()))
                .map(|zone| zone.name.clone())
                .collect();
            zones.sort();
            zones
        };
        until(&slices, "a hint each, as many in either zone", |list| {
            let zones = hints(list);
            zones.len() == 8 && zones.iter().filter(|z| *z == "zone-a").count() == 4
        })
        .await;
        let told = |list: &[Event], reason: &str, message: &str| {
            list.iter().any(|e| {
                e.reason.as_deref() == Some(reason) && e.message.as_deref() == Some(message)
            })
        };
        until(&events, "the event", |list| {
            let message = "Topology Aware Hints has been enabled, addressType: IPv4";
            told(list, "TopologyAwareHintsEnabled", message)
        })
        .await;

        // Only one zone is left: no hints, and a reason.
        let labels = json!({
            "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-a" } },
        });
        nodes.patch("node-2", &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
        until(&slices, "no hint", |list| hints(list).is_empty()).await;
        until(&events, "the reason", |list| {
            let message = "Insufficient Node information: allocatable CPU or zone not specified \
                           on one or more nodes, addressType: IPv4";
            told(list, "TopologyAwareHintsDisabled", message)
        })
        .await;
        world.stop().await;
    });
}
