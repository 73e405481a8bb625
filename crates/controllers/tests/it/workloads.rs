//! Deployments, StatefulSets and DaemonSets become pods on nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::world::{World, create, run, until, until_one};

pub(crate) fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "v1" }] },
            },
        },
    })
}

fn is_done(d: &Deployment, wanted: i32) -> bool {
    let status = d.status.clone().unwrap_or_default();
    status.observed_generation == d.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

fn per_node(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        *counts.entry(node).or_default() += 1;
    }
    counts
}

#[test]
fn a_deployment_runs_scales_and_rolls() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let sets: Api<ReplicaSet> = Api::default_namespaced(world.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());

        create(&deployments, deployment("web", 4)).await;
        until_one(&deployments, "web", "4 of 4 available", |d| is_done(d, 4)).await;
        let running = pods.list(&Default::default()).await.unwrap().items;
        assert_eq!(
            per_node(&running),
            BTreeMap::from([("node-1".into(), 2), ("node-2".into(), 2)])
        );

        for size in [6, 1] {
            let patch = json!({ "spec": { "replicas": size } });
            deployments
                .patch_scale("web", &PatchParams::default(), &Patch::Merge(patch))
                .await
                .unwrap();
            until_one(&deployments, "web", "scaled", |d| is_done(d, size)).await;
            until(&pods, "as many pods", |list| list.len() == usize::try_from(size).unwrap()).await;
        }

        let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": "v2" }] } } } });
        deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        let rolled = until_one(&deployments, "web", "rolled", |d| {
            is_done(d, 1)
                && d.annotations()
                    .get("deployment.kubernetes.io/revision")
                    .is_some_and(|r| r == "2")
        })
        .await;
        let conditions = rolled.status.unwrap().conditions.unwrap();
        let progressing = conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
        assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
        let two = sets.list(&Default::default()).await.unwrap().items;
        assert_eq!(two.len(), 2, "one ReplicaSet for each template: {two:#?}");

        let events: Api<Event> = Api::default_namespaced(world.client.clone());
        until(&events, "the events that describe shows", |list| {
            let has = |reason: &str| list.iter().any(|e| e.reason.as_deref() == Some(reason));
            has("ScalingReplicaSet")
                && has("SuccessfulCreate")
                && has("SuccessfulDelete")
                && has("Scheduled")
        })
        .await;
        world.stop().await;
    });
}

#[test]
fn a_rollout_waits_for_readiness_and_can_be_undone() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1"]).await;
        let deployments: Api<Deployment> = Api::default_namespaced(world.client.clone());
        let sets: Api<ReplicaSet> = Api::default_namespaced(world.client.clone());
        create(&deployments, deployment("web", 4)).await;
        let first = until_one(&deployments, "web", "first rollout", |d| is_done(d, 4)).await;

        let template = json!({ "metadata": { "labels": { "app": "web", "ready": "no" } } });
        let patch = json!({ "spec": { "template": template } });
        deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        // 25 % of 4: one more, one fewer. The new pods never get ready, so there it stays.
        let sizes = |list: &[ReplicaSet]| {
            let mut sizes: Vec<_> =
                list.iter().map(|s| s.spec.as_ref().unwrap().replicas.unwrap()).collect();
            sizes.sort_unstable();
            sizes
        };
        until(&sets, "three old and two new", |list| sizes(list) == [2, 3]).await;

        // As `kubectl rollout undo` does: the old template again.
        let undo = json!([{ "op": "replace", "path": "/spec/template", "value": first.spec.unwrap().template }]);
        let undo: json_patch::Patch = serde_json::from_value(undo).unwrap();
        deployments.patch("web", &PatchParams::default(), &Patch::Json::<()>(undo)).await.unwrap();
        until_one(&deployments, "web", "undone", |d| {
            is_done(d, 4)
                && d.annotations()
                    .get("deployment.kubernetes.io/revision")
                    .is_some_and(|r| r == "3")
        })
        .await;
        assert_eq!(sets.list(&Default::default()).await.unwrap().items.len(), 2);
        world.stop().await;
    });
}

#[test]
fn a_stateful_set_names_its_pods_and_replaces_them_from_the_top() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let sets: Api<StatefulSet> = Api::default_namespaced(world.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
        let mut object = deployment("db", 3);
        object["spec"]["serviceName"] = json!("db");
        create(&sets, object).await;
        let done = |s: &StatefulSet| {
            let status = s.status.clone().unwrap_or_default();
            status.observed_generation == s.metadata.generation
                && status.ready_replicas == Some(3)
                && status.updated_replicas == Some(3)
                && status.current_revision == status.update_revision
        };
        let first = until_one(&sets, "db", "three ready", done).await;
        let names = |list: Vec<Pod>| list.iter().map(|p| p.name_any()).collect::<Vec<_>>();
        assert_eq!(
            names(pods.list(&Default::default()).await.unwrap().items),
            ["db-0", "db-1", "db-2"]
        );

        let patch = json!({ "spec": { "template": { "metadata": { "labels": { "v": "2" } } } } });
        sets.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        let old = first.status.unwrap().update_revision;
        until_one(&sets, "db", "rolled", |s| {
            done(s) && s.status.as_ref().unwrap().update_revision != old
        })
        .await;
        let list = pods.list(&Default::default()).await.unwrap().items;
        assert!(list.iter().all(|p| p.labels()["v"] == "2"));
        world.stop().await;
    });
}

#[test]
fn a_daemon_set_runs_on_every_node_also_on_one_that_comes_later() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let sets: Api<DaemonSet> = Api::default_namespaced(world.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
        let mut object = deployment("proxy", 0);
        object["spec"].as_object_mut().unwrap().remove("replicas");
        create(&sets, object).await;
        let ready = |n| {
            move |s: &DaemonSet| {
                s.status
                    .as_ref()
                    .is_some_and(|s| s.number_ready == n && s.desired_number_scheduled == n)
            }
        };
        until_one(&sets, "proxy", "two ready", ready(2)).await;
        world.nodes(&["node-3"]).await;
        until_one(&sets, "proxy", "three ready", ready(3)).await;
        let list = pods.list(&Default::default()).await.unwrap().items;
        assert_eq!(per_node(&list).into_values().collect::<Vec<_>>(), [1, 1, 1]);
        world.stop().await;
    });
}

#[test]
fn a_pod_without_a_fitting_node_says_why_and_runs_once_there_is_one() {
    run(async {
        let world = World::start().await;
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
        let events: Api<Event> = Api::default_namespaced(world.client.clone());
        let object = json!({
            "metadata": { "name": "lonely" },
            "spec": { "containers": [{ "name": "c", "image": "v1" }] },
        });
        create(&pods, object).await;
        until(&events, "FailedScheduling", |list| {
            list.iter().any(|e| {
                e.reason.as_deref() == Some("FailedScheduling")
                    && e.message.as_deref() == Some("no nodes available to schedule pods")
            })
        })
        .await;
        until_one(&pods, "lonely", "a condition that says so", |p| {
            let conditions =
                p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
        })
        .await;
        world.nodes(&["node-1"]).await;
        until_one(&pods, "lonely", "scheduled", |p| p.spec.as_ref().unwrap().node_name.is_some())
            .await;
        world.stop().await;
    });
}
