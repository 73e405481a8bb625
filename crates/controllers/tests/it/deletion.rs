//! Deletion under each propagation policy, and of whole namespaces.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::workloads::deployment;
use crate::world::{World, create, run, until, until_one};

async fn deployed(world: &World) -> (Api<Deployment>, Api<ReplicaSet>, Api<Pod>) {
    let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
    create(&deployments, deployment("web", 3)).await;
    until_one(&deployments, "web", "available", |d| {
        d.status.as_ref().is_some_and(|s| s.available_replicas == Some(3))
    })
    .await;
    (
        deployments,
        Api::default_namespaced(world.client.clone()),
        Api::default_namespaced(world.client.clone()),
    )
}

#[test]
fn deleting_in_the_background_takes_replica_sets_and_pods_along() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        let (deployments, sets, pods) = deployed(&world).await;
        deployments.delete("web", &DeleteParams::background()).await.unwrap();
        until(&deployments, "no deployment", |list| list.is_empty()).await;
        until(&sets, "no replica set", |list| list.is_empty()).await;
        until(&pods, "no pod", |list| list.is_empty()).await;
        world.stop().await;
    });
}

#[test]
fn deleting_in_the_foreground_takes_the_pods_first() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        let (deployments, sets, pods) = deployed(&world).await;
        deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
        until(&deployments, "no deployment", |list| list.is_empty()).await;
        assert_eq!(sets.list(&Default::default()).await.unwrap().items.len(), 0);
        assert_eq!(pods.list(&Default::default()).await.unwrap().items.len(), 0);
        world.stop().await;
    });
}

#[test]
fn deleting_with_orphan_leaves_what_was_owned_to_be_adopted_again() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        let (deployments, sets, pods) = deployed(&world).await;
        deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
        until(&deployments, "no deployment", |list| list.is_empty()).await;
        let free = until(&sets, "a free replica set", |list| {
            list.len() == 1 && list[0].owner_references().is_empty()
        })
        .await;
        assert_eq!(pods.list(&Default::default()).await.unwrap().items.len(), 3);

        create(&deployments, deployment("web", 3)).await;
        let again =
            until(&sets, "adopted", |list| list.iter().any(|s| !s.owner_references().is_empty()))
                .await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].uid(), free[0].uid());
        world.stop().await;
    });
}

#[test]
fn an_object_with_a_finalizer_waits_for_whoever_set_it() {
    run(async {
        let world = World::start().await;
        let maps: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
        let owner = create(&maps, json!({ "metadata": { "name": "owner" } })).await;
        create(&maps, json!({ "metadata": {
            "name": "held", "finalizers": ["shop.example/hold"],
            "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid().unwrap() }],
        }}))
        .await;
        maps.delete("owner", &DeleteParams::background()).await.unwrap();
        until_one(&maps, "held", "terminating", |m| m.meta().deletion_timestamp.is_some()).await;
        let patch = json!({ "metadata": { "finalizers": null } });
        maps.patch("held", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        until(&maps, "gone", |list| list.iter().all(|m| m.name_any() != "held")).await;
        world.stop().await;
    });
}

#[test]
fn a_namespace_goes_with_all_it_holds() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        world.namespace("shop").await;
        let client = &world.client;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "shop");
        let services: Api<Service> = Api::namespaced(client.clone(), "shop");
        create(&deployments, deployment("web", 3)).await;
        create(&secrets, json!({ "metadata": { "name": "s" } })).await;
        create(
            &services,
            json!({
                "metadata": { "name": "web" },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
            }),
        )
        .await;
        until_one(&deployments, "web", "available", |d| {
            d.status.as_ref().is_some_and(|s| s.available_replicas == Some(3))
        })
        .await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
        until(&namespaces, "no namespace", |list| list.iter().all(|n| n.name_any() != "shop"))
            .await;
        for left in [
            deployments.list(&Default::default()).await.unwrap().items.len(),
            secrets.list(&Default::default()).await.unwrap().items.len(),
            services.list(&Default::default()).await.unwrap().items.len(),
        ] {
            assert_eq!(left, 0);
        }
        world.stop().await;
    });
}

#[test]
fn a_namespace_that_a_finalizer_holds_says_so() {
    run(async {
        let world = World::start().await;
        world.namespace("held").await;
        let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "held");
        create(&maps, json!({ "metadata": { "name": "m", "finalizers": ["shop.example/hold"] } }))
            .await;
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        namespaces.delete("held", &DeleteParams::default()).await.unwrap();
        until_one(&namespaces, "held", "a condition that names the finalizer", |n| {
            let conditions =
                n.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| {
                c.type_ == "NamespaceFinalizersRemaining"
                    && c.status == "True"
                    && c.message.as_ref().is_some_and(|m| m.contains("shop.example/hold"))
            })
        })
        .await;
        let patch = json!({ "metadata": { "finalizers": null } });
        maps.patch("m", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        until(&namespaces, "no namespace", |list| list.iter().all(|n| n.name_any() != "held"))
            .await;
        world.stop().await;
    });
}
