//! Create, read, list, update, patch, and the forms of answers.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn the_system_namespaces_and_the_kubernetes_service_exist_from_the_start() {
    let t = start().await;
    let namespaces: Api<Namespace> = Api::all(t.client());
    let names: Vec<String> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = t.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    let endpoints = t.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert!(endpoints.warnings()[0].contains("v1 Endpoints is deprecated in v1.33+"));
    assert_eq!(endpoints.ok()["subsets"][0]["addresses"][0]["ip"], "172.30.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = t.get(&format!("{slices}/kubernetes")).await.ok();
    assert_eq!(slice["endpoints"][0]["addresses"][0], "172.30.0.1");
}

#[tokio::test]
async fn the_kubernetes_service_comes_back_when_it_is_deleted() {
    let t = start().await;
    let before = t.get(&format!("{SERVICES}/kubernetes")).await.ok();
    t.delete(&format!("{SERVICES}/kubernetes")).await.ok();
    tokio::time::timeout(PATIENCE, async {
        loop {
            let now = t.get(&format!("{SERVICES}/kubernetes")).await;
            if now.code == 200 && now.body["metadata"]["uid"] != before["metadata"]["uid"] {
                assert_eq!(now.body["spec"]["clusterIP"], "10.96.0.1");
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_kube_client_creates_reads_patches_and_replaces() {
    let t = start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(t.client());
    let mut map: ConfigMap = serde_json::from_value(config_map("one")).unwrap();
    let created = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let patch = Patch::Merge(json!({"data": {"a": null, "c": "d"}}));
    let patched = maps.patch("one", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().into_iter().collect::<Vec<_>>(), [("c".into(), "d".into())]);
    // The created object's version is stale now.
    map.metadata.resource_version = created.metadata.resource_version;
    let error = maps.replace("one", &PostParams::default(), &map).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict"));
    map.metadata.resource_version = None;
    maps.replace("one", &PostParams::default(), &map).await.unwrap();
    let read = maps.get("one").await.unwrap();
    assert_eq!(read.data.unwrap()["a"], "b");
    assert_eq!(read.metadata.uid, created.metadata.uid);
}

#[tokio::test]
async fn a_stale_version_is_refused_in_the_words_of_upstream() {
    let t = start().await;
    let created = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    t.patch(&format!("{CONFIG_MAPS}/m"), "merge-patch", json!({"data": {"x": "y"}})).await.ok();
    t.put(&format!("{CONFIG_MAPS}/m"), created).await.fails(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please \
         apply your changes to the latest version and try again",
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "z"}});
    let answer = t.patch(&format!("{CONFIG_MAPS}/m"), "merge-patch", stale).await;
    assert_eq!(answer.code, 409);
    let now = t.get(&format!("{CONFIG_MAPS}/m")).await.ok();
    assert_eq!(now["data"]["x"], "y");
}

#[tokio::test]
async fn concurrent_patches_without_a_version_all_arrive() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let uri = format!("{CONFIG_MAPS}/m");
    let patches = (0..10).map(|i| {
        let key = format!("k{i}");
        let (t, uri) = (&t, &uri);
        async move { t.patch(uri, "merge-patch", json!({"data": {key: "v"}})).await.ok() }
    });
    futures::future::join_all(patches).await;
    let data = t.get(&uri).await.ok()["data"].as_object().unwrap().len();
    assert_eq!(data, 11);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let t = start().await;
    let created = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let again = t.put(&format!("{CONFIG_MAPS}/m"), created.clone()).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn generated_names_differ_and_keep_their_prefix() {
    let t = start().await;
    let body = json!({"metadata": {"generateName": "web-"}});
    let one = t.post(CONFIG_MAPS, body.clone()).await.ok();
    let two = t.post(CONFIG_MAPS, body).await.ok();
    let (one, two) = (&one["metadata"]["name"], &two["metadata"]["name"]);
    assert_ne!(one, two);
    assert!(one.as_str().unwrap().starts_with("web-") && one.as_str().unwrap().len() == 9);
}

#[tokio::test]
async fn a_dry_run_answers_like_a_write_and_stores_nothing() {
    let t = start().await;
    let answer = t.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("m")).await;
    assert_eq!(answer.code, 201);
    assert!(answer.body["metadata"]["uid"].is_string());
    assert_eq!(t.get(&format!("{CONFIG_MAPS}/m")).await.code, 404);
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    t.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("m")).await.fails(
        409,
        "AlreadyExists",
        "configmaps \"m\" already exists",
    );
    let uri = format!("{CONFIG_MAPS}/m?dryRun=All");
    let patched = t.patch(&uri, "merge-patch", json!({"data": {"a": "c"}})).await.ok();
    assert_eq!(patched["data"]["a"], "c");
    t.delete(&uri).await.ok();
    assert_eq!(t.get(&format!("{CONFIG_MAPS}/m")).await.ok()["data"]["a"], "b");
}

#[tokio::test]
async fn status_and_spec_do_not_write_each_other() {
    let t = start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let mut created = deployment("web");
    created["status"] = json!({"replicas": 7});
    let created = t.post(deployments, created).await.ok();
    assert_eq!(created["status"]["replicas"], serde_json::Value::Null);
    assert_eq!(created["metadata"]["generation"], 1);
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 2}});
    let uri = format!("{deployments}/web");
    let of_status = t.patch(&format!("{uri}/status"), "merge-patch", both.clone()).await.ok();
    assert_eq!(of_status["spec"]["replicas"], 1);
    assert_eq!(of_status["status"]["replicas"], 2);
    assert_eq!(of_status["metadata"]["generation"], 1);
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 9}});
    let of_spec = t.patch(&uri, "merge-patch", both).await.ok();
    assert_eq!(of_spec["spec"]["replicas"], 3);
    assert_eq!(of_spec["status"]["replicas"], 2);
    assert_eq!(of_spec["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_is_a_view_of_the_replicas() {
    let t = start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    t.post(deployments, deployment("web")).await.ok();
    let uri = format!("{deployments}/web/scale");
    let scale = t.get(&uri).await.ok();
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()),
        (Some("Scale"), Some(1))
    );
    assert_eq!(scale["status"]["selector"], "app=web");
    let scale = t.patch(&uri, "merge-patch", json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(scale["spec"]["replicas"], 4);
    let answer = t.put(&uri, json!({"metadata": {"name": "web"}, "spec": {"replicas": -1}})).await;
    answer.fails(
        422,
        "Invalid",
        "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater \
         than or equal to 0",
    );
    let deployment = t.get(&format!("{deployments}/web")).await.ok();
    assert_eq!(deployment["spec"]["replicas"], 4);
    assert_eq!(deployment["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_json_patch_applies_whole_or_not_at_all() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let uri = format!("{CONFIG_MAPS}/m");
    let good = json!([{"op": "replace", "path": "/data/a", "value": "x"}]);
    assert_eq!(t.patch(&uri, "json-patch", good).await.ok()["data"]["a"], "x");
    let bad = json!([
        {"op": "replace", "path": "/data/a", "value": "y"},
        {"op": "test", "path": "/data/a", "value": "z"},
    ]);
    t.patch(&uri, "json-patch", bad).await.fails(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    );
    assert_eq!(t.get(&uri).await.ok()["data"]["a"], "x");
}

#[tokio::test]
async fn lists_are_cut_into_consistent_pages() {
    let t = start().await;
    for i in 0..5 {
        t.post(CONFIG_MAPS, config_map(&format!("m{i}"))).await.ok();
    }
    let first = t.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What is created later than the first page is not part of this list.
    t.post(CONFIG_MAPS, config_map("m9")).await.ok();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let mut names = Vec::new();
    loop {
        let page = t.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        for item in page["items"].as_array().unwrap() {
            names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
        }
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["m2", "m3", "m4"]);
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let t = start().await;
    for name in ["a", "b", "c"] {
        t.post(PODS, pod(name)).await.ok();
    }
    let node = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "b"},
        "target": {"kind": "Node", "name": "n1"}});
    t.post(&format!("{PODS}/b/binding"), node).await.ok();
    let names = async |query: &str| -> Vec<String> {
        let list = t.get(&format!("{PODS}?{query}")).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("labelSelector=app%20in%20(a,c)").await, ["a", "c"]);
    assert_eq!(names("labelSelector=app!=a").await, ["b", "c"]);
    assert_eq!(names("fieldSelector=spec.nodeName=n1").await, ["b"]);
    assert_eq!(names("fieldSelector=spec.nodeName=").await, ["a", "c"]);
    assert_eq!(names("fieldSelector=metadata.name!=a,status.phase=Pending").await, ["b", "c"]);
    assert_eq!(names("labelSelector=app&limit=1&fieldSelector=metadata.name=c").await, ["c"]);
}

#[tokio::test]
async fn a_list_at_an_exact_version_shows_the_past() {
    let t = start().await;
    let old = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    t.delete(&format!("{CONFIG_MAPS}/m")).await.ok();
    let version = old["metadata"]["resourceVersion"].as_str().unwrap();
    let list =
        |m: &str| format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch={m}");
    let past = t.get(&list("Exact")).await.ok();
    assert_eq!(past["items"][0]["metadata"]["name"], "m");
    assert_eq!(past["metadata"]["resourceVersion"], version);
    assert_eq!(t.get(&list("NotOlderThan")).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn tables_and_partial_metadata_are_made_on_demand() {
    let t = start().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let answer = t.send("GET", SERVICES, &table, "").await.ok();
    assert_eq!(answer["kind"], "Table");
    let columns: Vec<&str> = answer["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns[..3], ["Name", "Type", "Cluster-IP"]);
    let cells = answer["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], ["kubernetes", "ClusterIP", "10.96.0.1"]);
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = t.send("GET", &format!("{SERVICES}?includeObject=Object"), &table, "").await.ok();
    assert_eq!(whole["rows"][0]["object"]["kind"], "Service");
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let answer = t.send("GET", SERVICES, &partial, "").await.ok();
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert!(answer["items"][0]["spec"].is_null());
}

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let t = start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: \"1\"\n";
    let both = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer = t.send("POST", CONFIG_MAPS, &both, yaml).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/yaml");
    assert!(answer.body.as_str().unwrap().contains("name: yaml"), "{}", answer.body);
    assert_eq!(t.get(&format!("{CONFIG_MAPS}/yaml")).await.ok()["data"]["a"], "1");
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let t = start().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Started",
        "type": "Normal", "message": "went well",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    t.post("/api/v1/namespaces/default/events", event).await.ok();
    let new = t.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!((&new["note"], &new["regarding"]["name"]), (&json!("went well"), &json!("p")));
    assert_eq!(new["apiVersion"], "events.k8s.io/v1");
    let by_field =
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p,type=Normal";
    assert_eq!(t.get(by_field).await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let t = start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let before = t.post(SERVICES, service("web", spec)).await.ok();
    let Fixture { server, dir, .. } = t;
    drop(server);
    let dir = tokio::time::timeout(PATIENCE, async move {
        // The store closes with its last handle.
        while portolan_store::Store::open(&dir.path().join("state"), Default::default()).is_err() {
            tokio::task::yield_now().await;
        }
        dir
    })
    .await
    .unwrap();
    let t = start_in(dir).await;
    let after = t.get(&format!("{SERVICES}/web")).await.ok();
    assert_eq!(after, before);
    let taken = json!({"clusterIP": before["spec"]["clusterIP"], "ports": [{"port": 80}]});
    assert_eq!(t.post(SERVICES, service("thief", taken)).await.code, 422);
}

#[tokio::test]
async fn discovery_comes_aggregated_and_plain() {
    let t = start().await;
    let accept = [(
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    )];
    let answer = t.send("GET", "/apis", &accept, "").await;
    assert!(answer.headers["content-type"].to_str().unwrap().contains("v=v2"));
    let groups = answer.ok()["items"].clone();
    let names: Vec<&str> = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["metadata"]["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"apps") && names.contains(&"discovery.k8s.io"), "{names:?}");
    assert_eq!(t.get("/apis").await.ok()["kind"], "APIGroupList");
    assert_eq!(t.get("/api").await.ok()["versions"], json!(["v1"]));
    let core = t.get("/api/v1").await.ok();
    let resources = core["resources"].as_array().unwrap();
    let services = resources.iter().find(|r| r["name"] == "services").unwrap();
    assert_eq!(services["shortNames"], json!(["svc"]));
    assert!(resources.iter().any(|r| r["name"] == "pods/log"));
}
