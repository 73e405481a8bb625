//! Services get EndpointSlices and Endpoints.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::workloads::deployment;
use crate::world::{World, create, run, until, until_one};

fn of<'a>(list: &'a [EndpointSlice], service: &str) -> Vec<&'a EndpointSlice> {
    list.iter()
        .filter(|s| s.labels().get("kubernetes.io/service-name").is_some_and(|n| n == service))
        .collect()
}

fn count(slices: &[&EndpointSlice]) -> usize {
    slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).sum()
}

fn ready(slices: &[&EndpointSlice]) -> usize {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
}

#[test]
fn a_service_with_250_ready_pods_has_three_slices() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2", "node-3"]).await;
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
        create(&deployments, deployment("web", 250)).await;
        until_one(&deployments, "web", "250 available", |d| {
            d.status.as_ref().is_some_and(|s| s.available_replicas == Some(250))
        })
        .await;
        create(
            &services,
            json!({
                "metadata": { "name": "web" },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
            }),
        )
        .await;
        let list =
            until(&slices, "250 ready endpoints", |list| ready(&of(list, "web")) == 250).await;
        let mut sizes: Vec<_> =
            of(&list, "web").iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [50, 100, 100]);

        let endpoints: Api<Endpoints> = Api::default_namespaced(world.client.clone());
        until_one(&endpoints, "web", "250 addresses", |e| {
            let subsets = e.subsets.clone().unwrap_or_default();
            subsets.iter().map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum::<usize>() == 250
        })
        .await;

        services.delete("web", &DeleteParams::default()).await.unwrap();
        until(&slices, "no slices", |list| of(list, "web").is_empty()).await;
        until(&endpoints, "no endpoints", |list| list.iter().all(|e| e.name_any() != "web")).await;
        world.stop().await;
    });
}

#[test]
fn endpoints_follow_readiness_scale_and_selector() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
        create(
            &services,
            json!({
                "metadata": { "name": "web" },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
            }),
        )
        .await;
        until(&slices, "an empty slice", |list| of(list, "web").len() == 1).await;
        create(&deployments, deployment("web", 3)).await;
        until(&slices, "three ready", |list| ready(&of(list, "web")) == 3).await;

        let one = pods.list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
        let unready =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
        pods.patch_status(&one, &PatchParams::default(), &Patch::Strategic(unready)).await.unwrap();
        until(&slices, "two of three ready", |list| {
            let slices = of(list, "web");
            (count(&slices), ready(&slices)) == (3, 2)
        })
        .await;

        let scale = json!({ "spec": { "replicas": 0 } });
        deployments
            .patch_scale("web", &PatchParams::default(), &Patch::Merge(scale))
            .await
            .unwrap();
        let empty = until(&slices, "none", |list| count(&of(list, "web")) == 0).await;
        assert_eq!(of(&empty, "web").len(), 1, "an empty slice stays");
        world.stop().await;
    });
}
