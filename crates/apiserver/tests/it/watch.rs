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

/// How many watches of ConfigMaps the server keeps up.
async fn running(t: &Fixture) -> String {
    let metrics = t.get("/metrics").await.ok();
    let mut lines = metrics.as_str().unwrap().lines();
    let line = lines
        .find(|l| l.starts_with("apiserver_longrunning_requests{") && l.contains("\"configmaps\""));
    line.and_then(|l| l.split_whitespace().next_back()).unwrap_or("none").to_owned()
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_cut_off_and_goes_on_from_its_last_event() {
    let t = start_forgetful().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let uri = format!("{CONFIG_MAPS}/m");
    let mut slow = watch(&t, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    assert!(named("m", "ADDED")(slow.event().await));
    for i in 0..18 {
        t.patch(&uri, "merge-patch", json!({"data": {"a": i.to_string()}})).await.ok();
    }
    let (mut seen, mut last) = (Vec::new(), String::new());
    while let Some(line) = slow.next().await {
        assert_eq!(line["type"], "MODIFIED");
        seen.push(line["object"]["data"]["a"].as_str().unwrap().parse::<u32>().unwrap());
        last = line["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    }
    assert!(seen.len() < 18, "{seen:?}");
    let mut again = watch(&t, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={last}"), &[]).await;
    while seen.len() < 18 {
        let (_, object) = again.event().await;
        seen.push(object["data"]["a"].as_str().unwrap().parse().unwrap());
    }
    assert_eq!(seen, (0..18).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watcher_that_never_reads_costs_nothing_once_it_is_cut_off() {
    let t = start_forgetful().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let deaf = t.raw("GET", &format!("{CONFIG_MAPS}?watch=1"), &[], "").await;
    assert_eq!(running(&t).await, "1");
    for i in 0..30 {
        let change = json!({"data": {"a": i.to_string()}});
        t.patch(&format!("{CONFIG_MAPS}/m"), "merge-patch", change).await.ok();
    }
    // Nobody has looked at the response, and still holds it.
    tokio::time::timeout(PATIENCE, async {
        while running(&t).await != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the watch goes on for a client that does not read");
    drop(deaf);
}

#[tokio::test]
async fn watches_that_are_dropped_end() {
    let t = start().await;
    let first = watch(&t, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    let second = watch(&t, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    assert_eq!(running(&t).await, "2");
    drop((first, second));
    tokio::time::timeout(PATIENCE, async {
        while running(&t).await != "0" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_watch_of_metadata_shows_nothing_else() {
    let t = start().await;
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let headers = [("accept", partial)];
    t.post(CONFIG_MAPS, config_map("old")).await.ok();
    let uri = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=3");
    let mut lines = watch(&t, &uri, &headers).await;
    let created = t.post(CONFIG_MAPS, config_map("new")).await.ok();
    let (_, old) = lines.event().await;
    let (_, new) = lines.event().await;
    for object in [&old, &new] {
        assert_eq!(
            (&object["kind"], &object["apiVersion"], &object["data"]),
            (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"), &Value::Null)
        );
    }
    assert_eq!(new["metadata"], created["metadata"]);
    let (event, mark) = lines.event().await;
    assert_eq!((event.as_str(), &mark["kind"]), ("BOOKMARK", &json!("PartialObjectMetadata")));
}

#[tokio::test]
async fn initial_events_may_be_left_out_or_asked_for_from_a_version_on() {
    let t = start().await;
    let first = t.post(CONFIG_MAPS, config_map("a")).await.ok();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let base = format!("{CONFIG_MAPS}?watch=1&resourceVersionMatch=NotOlderThan");
    let mut none = watch(&t, &format!("{base}&sendInitialEvents=false"), &[]).await;
    let uri = format!("{base}&sendInitialEvents=true&resourceVersion={version}");
    let mut all = watch(&t, &format!("{uri}&allowWatchBookmarks=true"), &[]).await;
    assert!(named("a", "ADDED")(all.event().await));
    let (event, mark) = all.event().await;
    assert_eq!(event, "BOOKMARK");
    assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(mark["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    t.post(CONFIG_MAPS, config_map("b")).await.ok();
    assert!(named("b", "ADDED")(none.event().await));
    assert!(named("b", "ADDED")(all.event().await));
    // What has not happened yet cannot be where to begin.
    let future = t.get(&format!("{base}&sendInitialEvents=true&resourceVersion=99999")).await;
    assert_eq!(future.code, 504);
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn many_initial_events_all_arrive() {
    let t = start().await;
    for i in 0..300 {
        let mut map = config_map(&format!("m-{i:03}"));
        map["data"]["text"] = json!("x".repeat(500));
        t.post(CONFIG_MAPS, map).await.ok();
    }
    let mut lines = watch(&t, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=0"), &[]).await;
    for i in 0..300 {
        assert!(named(&format!("m-{i:03}"), "ADDED")(lines.event().await));
    }
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
