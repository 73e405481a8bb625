//! What the cluster itself comes with: pod CIDRs and the contents of namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Node, Pod, Secret, Service, ServiceAccount, Toleration,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::workloads::deployment;
use crate::world::{World, config, create, run, until, until_one};

#[test]
fn every_node_gets_a_pod_cidr_of_its_own() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2", "node-3"]).await;
        let nodes: Api<Node> = Api::all(world.client.clone());
        let list = until(&nodes, "a pod CIDR each", |list| {
            list.iter().all(|n| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some()))
        })
        .await;
        let mut cidrs: Vec<_> =
            list.iter().map(|n| n.spec.clone().unwrap().pod_cidr.unwrap()).collect();
        cidrs.sort();
        assert_eq!(cidrs, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        let mut both: Vec<_> =
            list.iter().map(|n| n.spec.clone().unwrap().pod_cidrs.unwrap()).collect();
        both.sort();
        let six = ["fd00:10:244::/64", "fd00:10:244:1::/64", "fd00:10:244:2::/64"];
        let expected: Vec<_> =
            cidrs.iter().zip(six).map(|(a, b)| vec![a.clone(), b.into()]).collect();
        assert_eq!(both, expected);
        world.stop().await;
    });
}

#[test]
fn every_namespace_has_its_account_and_the_ca_and_gets_them_back() {
    run(async {
        let world = World::start().await;
        world.namespace("shop").await;
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "shop");
        let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "shop");
        until(&accounts, "the default account", |list| {
            list.iter().any(|a| a.name_any() == "default")
        })
        .await;
        let has_ca = |list: &[ConfigMap]| {
            list.iter().any(|m| {
                m.name_any() == "kube-root-ca.crt"
                    && m.data.as_ref().is_some_and(|d| d["ca.crt"] == "the CA")
            })
        };
        until(&maps, "the CA", has_ca).await;
        maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
        until(&maps, "the CA again", has_ca).await;
        world.stop().await;
    });
}

#[test]
fn a_secret_for_an_account_is_filled_and_goes_with_it() {
    run(async {
        let world = World::start().await;
        world.namespace("shop").await;
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "shop");
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "shop");
        let account = create(&accounts, json!({"metadata": {"name": "till"}})).await;
        let secret = json!({
            "metadata": {
                "name": "till-token",
                "annotations": {"kubernetes.io/service-account.name": "till"},
            },
            "type": "kubernetes.io/service-account-token",
        });
        create(&secrets, secret).await;
        let filled = until_one(&secrets, "till-token", "filled", |s| s.data.is_some()).await;
        let uid = &filled.annotations()["kubernetes.io/service-account.uid"];
        assert_eq!(uid, account.metadata.uid.as_ref().unwrap());
        let data = filled.data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        assert_eq!((text("ca.crt"), text("namespace")), ("the CA".into(), "shop".into()));

        let review = async |token: String| {
            let reviews: Api<TokenReview> = Api::all(world.client.clone());
            create(&reviews, json!({"metadata": {}, "spec": {"token": token}}))
                .await
                .status
                .unwrap()
        };
        let user = review(text("token")).await.user.unwrap();
        assert_eq!(user.username.as_deref(), Some("system:serviceaccount:shop:till"));

        accounts.delete("till", &DeleteParams::default()).await.unwrap();
        until(&secrets, "no Secret without its account", <[_]>::is_empty).await;
        assert_ne!(review(text("token")).await.authenticated, Some(true));
        world.stop().await;
    });
}

#[test]
fn a_role_that_aggregates_follows_the_roles_that_it_selects() {
    run(async {
        let world = World::start().await;
        let roles: Api<ClusterRole> = Api::all(world.client.clone());
        let part = |name: &str, resource: &str| {
            json!({
                "metadata": {"name": name, "labels": {"for": "auditors"}},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}],
            })
        };
        create(&roles, part("b", "pods")).await;
        let whole = json!({
            "metadata": {"name": "auditors"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"for": "auditors"}}]},
        });
        create(&roles, whole).await;
        let has = |wanted: &'static [&'static str]| {
            move |role: &ClusterRole| {
                let rules = role.rules.iter().flatten();
                rules.flat_map(|rule| rule.resources.iter().flatten()).eq(wanted)
            }
        };
        until_one(&roles, "auditors", "the rules of one", has(&["pods"])).await;
        create(&roles, part("a", "nodes")).await;
        until_one(&roles, "auditors", "the rules of two", has(&["nodes", "pods"])).await;
        roles.delete("b", &DeleteParams::default()).await.unwrap();
        until_one(&roles, "auditors", "the rules of the other", has(&["nodes"])).await;
        world.stop().await;
    });
}

#[test]
fn what_the_controllers_count_is_served_beside_the_servers_own() {
    run(async {
        let config = config();
        let metrics = Arc::clone(&config.metrics);
        let world = World::start_with(config).await;
        world.server.serve_metrics_of(move || metrics.text());
        let services: Api<Service> = Api::default_namespaced(world.client.clone());
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
        create(&services, json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
        until(&slices, "the Service's slice", |list| {
            list.iter().any(|slice| slice.name_any().starts_with("web-"))
        })
        .await;
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = world.client.request_text(request).await.unwrap();
        for name in [
            "apiserver_request_total{",
            "endpoint_slice_controller_changes{operation=\"create\"} 1",
            "workqueue_adds_total{name=\"endpointslice\"}",
            "# TYPE workqueue_retries_total counter",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in {text}");
        }
        assert!(!text.contains("# EOF"));
        world.stop().await;
    });
}

#[test]
fn a_silent_node_turns_unknown_and_loses_pods_that_do_not_bear_it() {
    run(async {
        let mut hasty = config();
        hasty.node_monitor_grace_period = Duration::from_millis(1500);
        let world = World::start_with(hasty).await;
        world.nodes(&["node-1"]).await;
        let nodes: Api<Node> = Api::all(world.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
        let pod = |name: &str, seconds: Option<i64>| {
            let toleration = Toleration {
                key: Some("node.kubernetes.io/unreachable".into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: seconds,
                value: None,
            };
            json!({
                "metadata": { "name": name },
                "spec": {
                    "containers": [{ "name": "c", "image": "v1" }],
                    "tolerations": [toleration],
                },
            })
        };
        create(&pods, pod("stays", None)).await;
        create(&pods, pod("leaves", Some(0))).await;
        until_one(&nodes, "node-1", "Ready=Unknown and tainted", |n| {
            let conditions = n.status.as_ref().and_then(|s| s.conditions.clone());
            let taints = n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
            conditions
                .unwrap_or_default()
                .iter()
                .any(|c| c.type_ == "Ready" && c.reason.as_deref() == Some("NodeStatusUnknown"))
                && taints
                    .iter()
                    .any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute")
        })
        .await;
        let left = until(&pods, "one left, not ready", |list| {
            let unready = |p: &Pod| {
                let conditions = p.status.as_ref().and_then(|s| s.conditions.clone());
                conditions
                    .unwrap_or_default()
                    .iter()
                    .any(|c| c.type_ == "Ready" && c.status == "False")
            };
            list.len() == 1 && unready(&list[0])
        })
        .await;
        assert_eq!(left[0].name_any(), "stays");
        world.stop().await;
    });
}

/// Every object's resource version, by kind and name.
async fn versions(client: &Client, skip: &str) -> BTreeMap<String, String> {
    async fn of<K>(client: &Client, kind: &str, skip: &str, into: &mut BTreeMap<String, String>)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::default_namespaced(client.clone());
        for object in api.list(&ListParams::default()).await.unwrap().items {
            if !object.name_any().starts_with(skip) {
                let key = format!("{kind} {}", object.name_any());
                into.insert(key, object.resource_version().unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    of::<Deployment>(client, "deployment", skip, &mut found).await;
    of::<ReplicaSet>(client, "replicaset", skip, &mut found).await;
    of::<StatefulSet>(client, "statefulset", skip, &mut found).await;
    of::<Pod>(client, "pod", skip, &mut found).await;
    of::<Endpoints>(client, "endpoints", skip, &mut found).await;
    of::<EndpointSlice>(client, "endpointslice", skip, &mut found).await;
    of::<ConfigMap>(client, "configmap", skip, &mut found).await;
    found
}

#[test]
fn a_restart_of_the_controllers_writes_nothing() {
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let client = world.client.clone();
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
        let services: Api<Service> = Api::default_namespaced(client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
        create(&deployments, deployment("web", 3)).await;
        create(&sets, deployment("db", 2)).await;
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        create(&services, service).await;
        let available = |d: &Deployment| {
            d.status.as_ref().is_some_and(|s| s.available_replicas == Some(3))
                && d.status.as_ref().unwrap().observed_generation == d.metadata.generation
        };
        until_one(&deployments, "web", "available", available).await;
        until_one(&sets, "db", "ready", |s| {
            s.status
                .as_ref()
                .is_some_and(|s| s.ready_replicas == Some(2) && s.updated_replicas == Some(2))
        })
        .await;
        until(&slices, "three endpoints", |list| {
            list.iter().any(|s| {
                s.name_any().starts_with("web-")
                    && s.endpoints.as_ref().is_some_and(|e| e.len() == 3)
            })
        })
        .await;

        let world = world.restart_controllers().await;
        let settled = |name: &'static str| {
            let deployments = deployments.clone();
            async move {
                create(&deployments, deployment(name, 3)).await;
                until_one(&deployments, name, "available", available).await;
            }
        };
        settled("other-1").await;
        let before = versions(&client, "other").await;
        let world = world.restart_controllers().await;
        // Once this has gone through, the new controllers have looked at everything.
        settled("other-2").await;
        assert_eq!(versions(&client, "other").await, before);
        world.stop().await;
    });
}
