//! Watches: from the present, from the past, as tables, with bookmarks, and how they end.

use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::support::*;

/// The lines of a watch.
struct Lines {
    body: portolan_apiserver::Body,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = self.buffer.drain(..=end).collect();
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                let frame = self.body.frame().await?.unwrap();
                self.buffer.extend_from_slice(frame.data_ref().unwrap());
            }
        })
        .await
        .expect("the watch stayed silent")
    }

    async fn event(&mut self) -> (String, Value) {
        let line = self.next().await.expect("the watch ended");
        (line["type"].as_str().unwrap().to_owned(), line["object"].clone())
    }
}

async fn watch(t: &Fixture, uri: &str, headers: &[(&str, &str)]) -> Lines {
    let response = t.raw("GET", uri, headers, "").await;
    assert_eq!(response.status(), 200);
    Lines { body: response.into_body(), buffer: Vec::new() }
}

fn named(name: &str, event: &str) -> impl Fn((String, Value)) -> bool {
    move |(kind, object)| kind == event && object["metadata"]["name"] == name
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_changes() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("old")).await.ok();
    let mut lines = watch(&t, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    assert!(named("old", "ADDED")(lines.event().await));
    let created = t.post(CONFIG_MAPS, config_map("new")).await.ok();
    let (event, object) = lines.event().await;
    assert_eq!((event.as_str(), &object), ("ADDED", &created));
    let uri = format!("{CONFIG_MAPS}/new");
    t.patch(&uri, "merge-patch", json!({"data": {"x": "y"}})).await.ok();
    assert!(named("new", "MODIFIED")(lines.event().await));
    t.delete(&uri).await.ok();
    let (event, gone) = lines.event().await;
    assert_eq!(event, "DELETED");
    let version =
        |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&gone) > version(&created) + 1, "the deletion has its own version");
}

#[tokio::test]
async fn a_watch_from_a_version_misses_nothing_and_repeats_nothing() {
    let t = start().await;
    let first = t.post(CONFIG_MAPS, config_map("a")).await.ok();
    t.post(CONFIG_MAPS, config_map("b")).await.ok();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}");
    let mut lines = watch(&t, &uri, &[]).await;
    assert!(named("b", "ADDED")(lines.event().await));
    t.post(CONFIG_MAPS, config_map("c")).await.ok();
    assert!(named("c", "ADDED")(lines.event().await));
}

#[tokio::test]
async fn beginning_and_ceasing_to_match_are_added_and_deleted() {
    let t = start().await;
    let uri = format!("{PODS}?watch=1&labelSelector=app=x");
    let mut lines = watch(&t, &uri, &[]).await;
    t.post(PODS, pod("p")).await.ok();
    let label = |l: &str| json!({"metadata": {"labels": {"app": l}}});
    t.patch(&format!("{PODS}/p"), "merge-patch", label("x")).await.ok();
    assert!(named("p", "ADDED")(lines.event().await));
    t.patch(&format!("{PODS}/p"), "merge-patch", label("z")).await.ok();
    assert!(named("p", "DELETED")(lines.event().await));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("a")).await.ok();
    let uri = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
         allowWatchBookmarks=true"
    );
    let mut lines = watch(&t, &uri, &[]).await;
    assert!(named("a", "ADDED")(lines.event().await));
    let (event, object) = lines.event().await;
    assert_eq!(event, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(object["kind"], "ConfigMap");
    t.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await.fails(
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
         sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_with_a_last_bookmark_before() {
    let t = start().await;
    let uri = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=3&allowWatchBookmarks=true");
    let mut lines = watch(&t, &uri, &[]).await;
    assert_eq!(lines.event().await.0, "BOOKMARK");
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_watch_of_tables_names_its_columns_once() {
    let t = start().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let mut lines = watch(&t, &format!("{SERVICES}?watch=1"), &table).await;
    let (event, first) = lines.event().await;
    assert_eq!((event.as_str(), &first["kind"]), ("ADDED", &json!("Table")));
    assert_eq!(first["rows"][0]["cells"][0], "kubernetes");
    assert!(!first["columnDefinitions"].as_array().unwrap().is_empty());
    t.post(SERVICES, service("web", json!({"ports": [{"port": 80}]}))).await.ok();
    let (_, second) = lines.event().await;
    assert_eq!(second["rows"][0]["cells"][0], "web");
    assert_eq!(second["columnDefinitions"], json!([]));
}

#[tokio::test]
async fn a_version_out_of_reach_is_an_expired_event() {
    let t = start_forgetful().await;
    let old = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let uri = format!("{CONFIG_MAPS}/m");
    for i in 0..40 {
        t.patch(&uri, "merge-patch", json!({"data": {"a": i.to_string()}})).await.ok();
    }
    let version = old["metadata"]["resourceVersion"].as_str().unwrap();
    let list = format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    t.get(&list).await.fails(
        410,
        "Expired",
        "The resourceVersion for the provided list is too old.",
    );
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}");
    let mut lines = watch(&t, &uri, &[]).await;
    let (event, status) = lines.event().await;
    assert_eq!((event.as_str(), &status["reason"]), ("ERROR", &json!("Expired")));
    assert_eq!(status["code"], 410);
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let t = start_forgetful().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let mut slow = watch(&t, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    for i in 0..20 {
        let change = json!({"data": {"a": i.to_string()}});
        t.patch(&format!("{CONFIG_MAPS}/m"), "merge-patch", change).await.ok();
    }
    let mut last = slow.event().await;
    while last.0 != "ERROR" {
        last = slow.event().await;
    }
    assert_eq!(last.1["code"], 410);
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_kube_watcher_follows_in_both_list_modes() {
    let t = start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(t.client());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = watcher(maps.clone(), config).applied_objects().boxed();
        let name = format!(
            "m-{}",
            t.get(CONFIG_MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap()
        );
        t.post(CONFIG_MAPS, config_map(&name)).await.ok();
        let seen = tokio::time::timeout(PATIENCE, async {
            while let Some(map) = stream.try_next().await.unwrap() {
                if map.metadata.name.as_deref() == Some(name.as_str()) {
                    return true;
                }
            }
            false
        });
        assert!(seen.await.unwrap());
    }
}
