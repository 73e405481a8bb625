//! How objects go: grace, finalizers, propagation, preconditions, namespaces, collections.

use serde_json::{Value, json};

use crate::support::*;

async fn bound_pod(t: &Fixture, name: &str) {
    t.post(PODS, pod(name)).await.ok();
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    t.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
}

async fn delete_with(t: &Fixture, uri: &str, options: Value) -> Answer {
    t.send("DELETE", uri, &[("content-type", "application/json")], options.to_string()).await
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once() {
    let t = start().await;
    t.post(PODS, pod("p")).await.ok();
    let uri = format!("{PODS}/p");
    assert_eq!(t.delete(&uri).await.ok()["kind"], "Pod");
    assert_eq!(t.get(&uri).await.code, 404);
}

#[tokio::test]
async fn a_bound_pod_gets_its_grace_which_only_shortens() {
    let t = start().await;
    bound_pod(&t, "p").await;
    let uri = format!("{PODS}/p");
    let marked = t.delete(&uri).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let first = marked["metadata"]["deletionTimestamp"].clone();
    assert!(first.is_string());
    let longer = delete_with(&t, &uri, json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(longer["metadata"]["deletionTimestamp"], first);
    let shorter = delete_with(&t, &uri, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(shorter["metadata"]["deletionTimestamp"].as_str() < first.as_str());
    // The node agent's last word.
    delete_with(&t, &uri, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(t.get(&uri).await.code, 404);
}

#[tokio::test]
async fn a_deleted_pod_still_takes_status_but_no_binding() {
    let t = start().await;
    bound_pod(&t, "p").await;
    let uri = format!("{PODS}/p");
    t.delete(&uri).await.ok();
    let status = json!({"status": {"phase": "Succeeded"}});
    let patched = t.patch(&format!("{uri}/status"), "merge-patch", status).await.ok();
    assert_eq!(patched["status"]["phase"], "Succeeded");
    assert!(patched["metadata"]["deletionTimestamp"].is_string());
    let again = t.post(&format!("{uri}/binding"), json!({"target": {"name": "n2"}})).await;
    again.fails(
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is being deleted, cannot be \
         assigned to a host",
    );
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let t = start().await;
    bound_pod(&t, "p").await;
    let bound = t.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    t.post(&format!("{PODS}/p/binding"), json!({"target": {"name": "n2"}})).await.fails(
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \
         \"n1\"",
    );
}

#[tokio::test]
async fn an_eviction_is_a_graceful_delete() {
    let t = start().await;
    bound_pod(&t, "p").await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    let answer = t.post(&format!("{PODS}/p/eviction"), eviction).await;
    assert_eq!((answer.code, &answer.body["status"]), (201, &json!("Success")));
    let pod = t.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let t = start().await;
    let mut map = config_map("m");
    map["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    t.post(CONFIG_MAPS, map).await.ok();
    let uri = format!("{CONFIG_MAPS}/m");
    let marked = t.delete(&uri).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/a", "example.com/c"]}});
    t.patch(&uri, "merge-patch", more).await.fails(
        422,
        "Invalid",
        "ConfigMap \"m\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added \
         if the object is being deleted, found new finalizers []string{\"example.com/c\"}",
    );
    let one = json!({"metadata": {"finalizers": ["example.com/a"]}});
    t.patch(&uri, "merge-patch", one).await.ok();
    assert_eq!(t.get(&uri).await.code, 200);
    t.patch(&uri, "merge-patch", json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(t.get(&uri).await.code, 404);
}

#[tokio::test]
async fn propagation_policies_leave_their_finalizers() {
    let t = start().await;
    for (name, policy, finalizers) in
        [("f", "Foreground", json!(["foregroundDeletion"])), ("o", "Orphan", json!(["orphan"]))]
    {
        t.post(CONFIG_MAPS, config_map(name)).await.ok();
        let uri = format!("{CONFIG_MAPS}/{name}?propagationPolicy={policy}");
        let marked = t.delete(&uri).await.ok();
        assert_eq!(marked["metadata"]["finalizers"], finalizers);
        assert!(marked["metadata"]["deletionTimestamp"].is_string());
    }
    t.post(CONFIG_MAPS, config_map("b")).await.ok();
    let uri = format!("{CONFIG_MAPS}/b");
    let answer = delete_with(&t, &uri, json!({"propagationPolicy": "Background"})).await.ok();
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(answer["details"]["kind"], "configmaps");
    let bad = delete_with(&t, &uri, json!({"propagationPolicy": "Sideways"})).await;
    bad.fails(
        422,
        "Invalid",
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \
         \"Sideways\": supported values: \"Background\", \"Foreground\", \"Orphan\"",
    );
}

#[tokio::test]
async fn preconditions_guard_against_deleting_another_incarnation() {
    let t = start().await;
    let map = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let uid = map["metadata"]["uid"].as_str().unwrap();
    let uri = format!("{CONFIG_MAPS}/m");
    delete_with(&t, &uri, json!({"preconditions": {"uid": "x"}})).await.fails(
        409,
        "Conflict",
        &format!(
            "Operation cannot be fulfilled on configmaps \"m\": Precondition failed: UID in \
             precondition: x, UID in object meta: {uid}"
        ),
    );
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(delete_with(&t, &uri, stale).await.code, 409);
    delete_with(&t, &uri, json!({"preconditions": {"uid": uid}})).await.ok();
}

#[tokio::test]
async fn a_namespace_ends_through_its_finalizer() {
    let t = start().await;
    let namespace = json!({"metadata": {"name": "ns"}});
    let created = t.post("/api/v1/namespaces", namespace).await.ok();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    t.post("/api/v1/namespaces/ns/configmaps", config_map("m")).await.ok();
    let mut marked = t.delete("/api/v1/namespaces/ns").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = t.post("/api/v1/namespaces/ns/configmaps", config_map("n")).await;
    refused.fails(
        403,
        "Forbidden",
        "configmaps \"n\" is forbidden: unable to create new content in namespace ns because it is \
         being terminated",
    );
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    t.delete("/api/v1/namespaces/ns/configmaps/m").await.ok();
    marked["spec"]["finalizers"] = json!([]);
    t.put("/api/v1/namespaces/ns/finalize", marked).await.ok();
    assert_eq!(t.get("/api/v1/namespaces/ns").await.code, 404);
    t.post("/api/v1/namespaces/ns/configmaps", config_map("m")).await.fails(
        404,
        "NotFound",
        "namespaces \"ns\" not found",
    );
    t.delete("/api/v1/namespaces/default").await.fails(
        403,
        "Forbidden",
        "namespaces \"default\" is forbidden: this namespace may not be deleted",
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let t = start().await;
    for name in ["a", "b"] {
        t.post(PODS, pod(name)).await.ok();
    }
    t.delete(&format!("{PODS}?labelSelector=app=a")).await.ok();
    let left = t.get(PODS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}
