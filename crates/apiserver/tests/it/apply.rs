//! Server-side apply and `managedFields`, as clients see them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Fixture {
    async fn apply(&self, uri: &str, query: &str, config: Value) -> Answer {
        let headers = [("content-type", "application/apply-patch+yaml")];
        self.send("PATCH", &format!("{uri}?{query}"), &headers, config.to_string()).await
    }

    /// Writes as somebody.
    async fn write_as(&self, method: &str, uri: &str, manager: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json"), ("user-agent", manager)];
        self.send(method, uri, &headers, body.to_string()).await
    }
}

/// The managers of an object: `manager/operation[/subresource]` and their fields.
fn managers(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            assert_eq!(entry["fieldsType"], "FieldsV1");
            assert!(entry["time"].is_string(), "{entry}");
            let text = |field: &str| entry[field].as_str().unwrap_or("");
            let mut name = format!("{}/{}", text("manager"), text("operation"));
            if !text("subresource").is_empty() {
                name = format!("{name}/{}", text("subresource"));
            }
            (name, entry["fieldsV1"].clone())
        })
        .collect()
}

fn names(object: &Value) -> Vec<String> {
    // By name: the order of the list depends on seconds.
    let mut names: Vec<String> = managers(object).into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

fn configured(replicas: Option<u32>, image: &str) -> Value {
    let mut deployment = deployment("web");
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    if let Some(replicas) = replicas {
        deployment["spec"]["replicas"] = replicas.into();
    }
    deployment
}

#[tokio::test]
async fn a_created_service_belongs_to_its_creator_but_for_what_the_server_allocates() {
    let t = start().await;
    let spec = json!({"selector": {"a": "b"}, "ports": [
        {"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]});
    let mut body = service("web", spec);
    body["metadata"]["labels"] = json!({"x": "y"});
    let created = t.write_as("POST", SERVICES, "kubectl-create/v1.36 (linux)", body).await.ok();
    let port = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}});
    assert_eq!(
        managers(&created),
        [(
            "kubectl-create/Update".to_owned(),
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
                "f:spec": {
                    "f:internalTrafficPolicy": {},
                    "f:ports": {
                        ".": {},
                        "k:{\"port\":53,\"protocol\":\"TCP\"}": port,
                        "k:{\"port\":53,\"protocol\":\"UDP\"}": port,
                    },
                    "f:selector": {},
                    "f:sessionAffinity": {},
                    "f:type": {},
                },
            })
        )]
    );
    // The same through a read, a list and YAML.
    let read = t.get(&format!("{SERVICES}/web")).await.ok();
    assert_eq!(read["metadata"], created["metadata"]);
    let list = t.get(SERVICES).await.ok();
    let item = list["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "web");
    assert_eq!(item.unwrap()["metadata"], created["metadata"]);
    let yaml = [("accept", "application/yaml")];
    let yaml = t.send("GET", &format!("{SERVICES}/web"), &yaml, "").await.body;
    assert!(yaml.as_str().unwrap().contains("\"f:internalTrafficPolicy\": {}"), "{yaml}");
}

#[tokio::test]
async fn apply_creates_changes_prunes_and_writes_nothing_twice() {
    let t = start().await;
    let uri = format!("{CONFIG_MAPS}/m");
    let config = |data: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m"}, "data": data})
    };
    let created = t.apply(&uri, "fieldManager=a", config(json!({"x": "1", "y": "1"}))).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let fields = json!({"f:data": {"f:x": {}, "f:y": {}}});
    assert_eq!(managers(&created.body), [("a/Apply".to_owned(), fields)]);
    let again = t.apply(&uri, "fieldManager=a", config(json!({"x": "1", "y": "1"}))).await;
    assert_eq!((again.code, &again.body), (200, &created.body));
    let dry = t.apply(&uri, "fieldManager=a&dryRun=All", config(json!({"z": "1"}))).await.ok();
    assert_eq!(dry["data"], json!({"z": "1"}));
    assert_eq!(t.get(&uri).await.ok(), created.body);
    // What another manager has put in stays, what both have stays until the last lets go.
    t.apply(&uri, "fieldManager=b", config(json!({"y": "1", "other": "1"}))).await.ok();
    let pruned = t.apply(&uri, "fieldManager=a", config(json!({"z": "2"}))).await.ok();
    assert_eq!(pruned["data"], json!({"y": "1", "other": "1", "z": "2"}));
    let gone = t.apply(&uri, "fieldManager=b", config(json!({"other": "1"}))).await.ok();
    assert_eq!(gone["data"], json!({"other": "1", "z": "2"}));
    let dry = t
        .apply(
            &format!("{CONFIG_MAPS}/new"),
            "fieldManager=a&dryRun=All",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}}),
        )
        .await;
    assert_eq!(dry.code, 201);
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"generateName": "x-"}, "data": {"a": "b"}});
    let named = t.apply(&format!("{CONFIG_MAPS}/url"), "fieldManager=a", nameless).await.ok();
    assert_eq!(named["metadata"]["name"], "url");
    let other = t.apply(&format!("{CONFIG_MAPS}/url"), "fieldManager=a", config_map("m")).await;
    other.fails(
        400,
        "BadRequest",
        "the name of the object (m) does not match the name on the URL (url)",
    );
    // Who applies nothing but a name manages nothing.
    assert!(dry.body["metadata"].get("managedFields").is_none(), "{}", dry.body);
    assert_eq!(t.get(&format!("{CONFIG_MAPS}/new")).await.code, 404);
}

#[tokio::test]
async fn conflicts_are_told_and_force_takes_the_field() {
    let t = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    t.apply(&uri, "fieldManager=a", configured(Some(1), "nginx")).await.ok();
    let patch = json!({"spec": {"replicas": 3}});
    let headers = [("content-type", "application/merge-patch+json"), ("user-agent", "x/1")];
    let patched = t.send("PATCH", &uri, &headers, patch.to_string()).await.ok();
    assert_eq!(names(&patched), ["a/Apply", "x/Update"]);
    let refused = t.apply(&uri, "fieldManager=a", configured(Some(1), "nginx")).await;
    refused.fails(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"x\" using apps/v1: .spec.replicas",
    );
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"x\" using apps/v1"}])
    );
    // The same value is shared, not fought over.
    let shared = t
        .apply(
            &uri,
            "fieldManager=c",
            json!({"apiVersion": "apps/v1",
        "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3}}),
        )
        .await
        .ok();
    assert_eq!(names(&shared), ["a/Apply", "c/Apply", "x/Update"]);
    let refused = t.apply(&uri, "fieldManager=b", configured(Some(1), "other")).await;
    refused.fails(
        409,
        "Conflict",
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.template.spec.containers\
         [name=\"main\"].image\nconflicts with \"c\":\n- .spec.replicas\nconflicts with \"x\" \
         using apps/v1:\n- .spec.replicas",
    );
    let forced =
        t.apply(&uri, "fieldManager=b&force=true", configured(Some(1), "other")).await.ok();
    assert_eq!(forced["spec"]["replicas"], 1);
    assert_eq!(names(&forced), ["a/Apply", "b/Apply"]);
    assert_eq!(
        managers(&forced)[0].1["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"main\"}"],
        json!({".": {}, "f:name": {}})
    );
    assert!(managers(&forced)[0].1["f:spec"].get("f:replicas").is_none());
}

#[tokio::test]
async fn status_and_scale_have_managers_of_their_own() {
    let t = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    t.apply(&uri, "fieldManager=a", configured(None, "nginx")).await.ok();
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"}, "spec": {"replicas": 9}, "status": {"readyReplicas": 1}});
    let applied = t.apply(&format!("{uri}/status"), "fieldManager=s", status.clone()).await.ok();
    assert_eq!(
        (&applied["spec"]["replicas"], &applied["status"]["readyReplicas"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        managers(&applied)[1],
        ("s/Apply/status".to_owned(), json!({"f:status": {"f:readyReplicas": {}}}))
    );
    let mut other = status;
    other["status"]["readyReplicas"] = 2.into();
    t.apply(&format!("{uri}/status"), "fieldManager=o", other).await.fails(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"s\" with subresource \"status\": \
         .status.readyReplicas",
    );
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "web"}, "spec": {"replicas": 5}});
    let scaled = t.apply(&format!("{uri}/scale"), "fieldManager=hpa&force=true", scale).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let now = t.get(&uri).await.ok();
    assert_eq!(names(&now), ["a/Apply", "hpa/Apply/scale", "s/Apply/status"]);
    // The applier that never said how many keeps its hands off.
    let applied = t.apply(&uri, "fieldManager=a", configured(None, "nginx:2")).await.ok();
    assert_eq!(applied["spec"]["replicas"], 5);
    let missing = t
        .apply(
            &format!("{DEPLOYMENTS}/no/status"),
            "fieldManager=s",
            json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "no"}}),
        )
        .await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn a_probe_that_is_let_go_takes_its_defaults_along() {
    let t = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    let mut with_probe = configured(None, "nginx");
    with_probe["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] =
        json!({"httpGet": {"port": 80}});
    let created = t.apply(&uri, "fieldManager=a", with_probe.clone()).await.ok();
    let probe = |object: &Value| {
        object["spec"]["template"]["spec"]["containers"][0]["livenessProbe"].clone()
    };
    assert_eq!(probe(&created)["periodSeconds"], 10);
    // What another has set in it stays, and so does the probe.
    let mut shared = with_probe.clone();
    shared["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] =
        7.into();
    t.apply(&uri, "fieldManager=b", shared).await.ok();
    let kept = t.apply(&uri, "fieldManager=a", configured(None, "nginx")).await.ok();
    assert_eq!(probe(&kept)["periodSeconds"], 7);
    let gone = t.apply(&uri, "fieldManager=b", configured(None, "nginx")).await.ok();
    assert_eq!(probe(&gone), Value::Null);
    assert_eq!(gone["spec"]["template"]["spec"]["containers"][0]["image"], "nginx");
}

#[tokio::test]
async fn kubectl_takes_over_from_its_client_side_what_nobody_has_changed_since() {
    let t = start().await;
    let uri = format!("{CONFIG_MAPS}/m");
    let config = |a: &str, b: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
            "data": {"a": a, "b": b}})
    };
    let mut client_side = config("1", "2");
    client_side["metadata"]["annotations"] = json!({
        "kubectl.kubernetes.io/last-applied-configuration": config("1", "1").to_string(),
    });
    t.write_as("POST", CONFIG_MAPS, "kubectl-client-side-apply", client_side).await.ok();
    t.apply(&uri, "fieldManager=kubectl", config("9", "9")).await.fails(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: \
         .data.b",
    );
    assert_eq!(t.apply(&uri, "fieldManager=other", config("9", "2")).await.code, 409);
    let taken = t.apply(&uri, "fieldManager=kubectl", config("9", "2")).await.ok();
    assert_eq!(taken["data"], json!({"a": "9", "b": "2"}));
    let annotations = taken["metadata"]["annotations"].as_object().unwrap();
    let last = annotations["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), config("9", "2"));
    let again = t.apply(&uri, "fieldManager=kubectl", config("9", "2")).await.ok();
    assert_eq!(again, taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appliers_that_race_for_an_absent_object_all_get_their_fields() {
    let t = Arc::new(start().await);
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let t = t.clone();
            tokio::spawn(async move {
                let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "m"}, "data": {format!("key-{number}"): "x"}});
                let query = format!("fieldManager=manager-{number}");
                t.apply(&format!("{CONFIG_MAPS}/m"), &query, config).await
            })
        })
        .collect();
    let mut created = 0;
    for writer in writers {
        let answer = writer.await.unwrap();
        assert!(matches!(answer.code, 200 | 201), "{}", answer.body);
        created += usize::from(answer.code == 201);
    }
    assert_eq!(created, 1);
    let object = t.get(&format!("{CONFIG_MAPS}/m")).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 8);
    assert_eq!(names(&object).len(), 8);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused_in_upstreams_words() {
    let t = start().await;
    let uri = format!("{SERVICES}/web");
    let with = |spec: Value| service("web", spec);
    let mut managed = with(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let typed = "failed to create typed patch object (/web; v1, Kind=Service): ";
    let long = format!("fieldManager={}", "x".repeat(129));
    let options = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: ";
    for (query, config, code, message) in [
        ("", with(json!({})), 422, format!("{options}Required value: is required for apply patch")),
        (&long, with(json!({})), 422, format!("{options}Too long: may not be more than 128 bytes")),
        (
            "fieldManager=a%01",
            with(json!({})),
            422,
            format!(
                "{options}Invalid value: \"a\\u{{1}}\": should only contain printable characters"
            ),
        ),
        ("fieldManager=a", managed, 400, "metadata.managedFields must be nil".into()),
        (
            "fieldManager=a",
            config_map("web"),
            400,
            "invalid object type: /v1, Kind=ConfigMap".into(),
        ),
        (
            "fieldManager=a",
            json!([]),
            400,
            "error decoding YAML: the configuration is not an object".into(),
        ),
        (
            "fieldManager=a",
            with(json!({"foo": 1})),
            500,
            format!("{typed}.spec.foo: field not declared in schema"),
        ),
        (
            "fieldManager=a",
            with(json!({"ports": [{"port": 1}, {"port": 1}]})),
            500,
            format!("{typed}.spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]"),
        ),
    ] {
        let answer = t.apply(&uri, query, config).await;
        assert_eq!((answer.code, &answer.body["message"]), (code, &json!(message)));
    }
    let headers = [("content-type", "application/merge-patch+json")];
    let forced = t.send("PATCH", &format!("{uri}?force=true"), &headers, "{}").await;
    forced.fails(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for \
         non-apply patch",
    );
}

#[tokio::test]
async fn updates_move_ownership_and_nothing_changes_when_nothing_changed() {
    let t = start().await;
    let uri = format!("{CONFIG_MAPS}/m");
    let created = t.write_as("POST", CONFIG_MAPS, "one", config_map("m")).await.ok();
    let mut same = created.clone();
    assert_eq!(t.write_as("PUT", &uri, "two", same.clone()).await.ok(), created);
    same["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(t.write_as("PUT", &uri, "two", same.clone()).await.ok(), created);
    // Whoever lost the last field is a manager no more.
    same["data"] = json!({"a": "c"});
    let changed = t.write_as("PUT", &uri, "two", same.clone()).await.ok();
    assert_eq!(
        managers(&changed),
        [
            // The map itself was its doing.
            ("one/Update".to_owned(), json!({"f:data": {}})),
            ("two/Update".to_owned(), json!({"f:data": {"f:a": {}}})),
        ]
    );
    same.as_object_mut().unwrap().remove("data");
    same["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let emptied = t.write_as("PUT", &uri, "three", same).await.ok();
    assert_eq!(names(&emptied), Vec::<String>::new());
    // A fresh start, also by kubectl's way of migrating: a JSON patch of the list itself.
    t.apply(&uri, "fieldManager=a", config_map("m")).await.ok();
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let reset = t.patch(&uri, "json-patch", reset).await.ok();
    assert!(reset["metadata"].get("managedFields").is_none(), "{reset}");
    assert_eq!(reset["data"], json!({"a": "b"}));
}

#[tokio::test]
async fn old_updaters_are_put_together() {
    let t = start().await;
    let uri = format!("{CONFIG_MAPS}/m");
    t.write_as("POST", CONFIG_MAPS, "creator", config_map("m")).await.ok();
    let headers = |name: String| {
        [("content-type", "application/merge-patch+json".to_owned()), ("user-agent", name)]
    };
    let mut last = Value::Null;
    for number in 0..30 {
        let patch = json!({"data": {format!("key-{number}"): "x"}}).to_string();
        let headers = headers(format!("manager-{number:02}"));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        last = t.send("PATCH", &uri, &headers, patch).await.ok();
    }
    let names = names(&last);
    assert_eq!(names.len(), 10, "{names:?}");
    assert!(names.iter().any(|name| name == "ancient-changes/Update"), "{names:?}");
    let owned: usize = managers(&last)
        .iter()
        .map(|(_, fields)| {
            fields["f:data"].as_object().unwrap().keys().filter(|k| k.starts_with("f:")).count()
        })
        .sum();
    assert_eq!(owned, 31);
}
