//! Kinds that are served as objects alone: stored, found, listed, selected and deleted like all others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portolan_api::kinds::{self, Scope};
use portolan_apiserver::UserInfo;

use crate::support::*;
use serde_json::{Value, json};

fn template() -> Value {
    json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
    })
}

/// A PEM block around an empty sequence: what is signed is not looked at.
fn signing_request() -> String {
    STANDARD.encode(
        "-----BEGIN CERTIFICATE REQUEST-----\nMAIFAA==\n-----END CERTIFICATE REQUEST-----\n",
    )
}

/// The least of each kind: API version, kind, and what there is beside the metadata.
fn samples() -> Vec<(&'static str, &'static str, Value)> {
    let mut always = template();
    always["spec"]["restartPolicy"] = "Always".into();
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"});
    let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    vec![
        ("v1", "LimitRange", json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}})),
        (
            "v1",
            "PersistentVolumeClaim",
            json!({"spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            }}),
        ),
        (
            "v1",
            "PersistentVolume",
            json!({"spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/v"},
            }}),
        ),
        ("v1", "PodTemplate", json!({"template": always})),
        ("v1", "ReplicationController", json!({"spec": {"template": always}})),
        ("v1", "ResourceQuota", json!({"spec": {"hard": {"pods": "4"}}})),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": scaled}}),
        ),
        (
            "batch/v1",
            "CronJob",
            json!({"spec": {
                "schedule": "@daily", "jobTemplate": {"spec": {"template": template()}},
            }}),
        ),
        ("batch/v1", "Job", json!({"spec": {"template": template()}})),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            json!({"spec": {
                "request": signing_request(), "signerName": "example.com/s",
                "usages": ["client auth"],
            }}),
        ),
        ("networking.k8s.io/v1", "IngressClass", json!({"spec": {"controller": "example.com/c"}})),
        ("networking.k8s.io/v1", "Ingress", json!({"spec": {"defaultBackend": backend}})),
        ("networking.k8s.io/v1", "NetworkPolicy", json!({"spec": {"podSelector": {}}})),
        ("node.k8s.io/v1", "RuntimeClass", json!({"handler": "runc"})),
        ("policy/v1", "PodDisruptionBudget", json!({"spec": {"minAvailable": 1}})),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", json!({"roleRef": role})),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", json!({"rules": []})),
        ("rbac.authorization.k8s.io/v1", "RoleBinding", json!({"roleRef": role})),
        ("rbac.authorization.k8s.io/v1", "Role", json!({"rules": []})),
        ("scheduling.k8s.io/v1", "PriorityClass", json!({"value": 5})),
        ("storage.k8s.io/v1", "CSIDriver", json!({"spec": {}})),
        ("storage.k8s.io/v1", "CSINode", json!({"spec": {"drivers": []}})),
        ("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "example.com/p"})),
        (
            "storage.k8s.io/v1",
            "VolumeAttachment",
            json!({"spec": {
                "attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "pv"},
            }}),
        ),
    ]
}

fn collection(api_version: &str, kind: &str) -> String {
    let kind = kinds::by_kind(api_version, kind).unwrap();
    let root = match kind.group {
        "" => "/api/v1".to_owned(),
        _ => format!("/apis/{api_version}"),
    };
    match kind.scope {
        Scope::Cluster => format!("{root}/{}", kind.plural),
        Scope::Namespaced => format!("{root}/namespaces/default/{}", kind.plural),
    }
}

fn sample(api_version: &str, kind: &str) -> Value {
    let all = samples();
    let found = all.iter().find(|(v, k, _)| (*v, *k) == (api_version, kind));
    let mut object = found.unwrap().2.clone();
    object["metadata"] = json!({"name": "x"});
    object
}

#[tokio::test]
async fn every_kind_is_created_read_listed_printed_changed_and_deleted() {
    let t = start().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    for (api_version, kind, _) in samples() {
        let uri = collection(api_version, kind);
        let created = t.post(&uri, sample(api_version, kind)).await.ok();
        assert_eq!((&created["apiVersion"], &created["kind"]), (&json!(api_version), &json!(kind)));
        let read = t.get(&format!("{uri}/x")).await.ok();
        assert_eq!(read, created);
        // Writing back what was read changes nothing, not even the version.
        assert_eq!(t.put(&format!("{uri}/x"), read.clone()).await.ok(), created, "{kind}");
        let list = t.get(&format!("{uri}?fieldSelector=metadata.name%3Dx")).await.ok();
        assert_eq!(list["kind"], format!("{kind}List"));
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{kind}");
        let other = t.get(&format!("{uri}?fieldSelector=metadata.name%3Dy")).await.ok();
        assert_eq!(other["items"], json!([]), "{kind}");
        let printed = t.send("GET", &format!("{uri}/x"), &table, "").await.ok();
        assert_eq!(printed["rows"][0]["cells"][0], "x", "{kind}");
        let labels = json!({"metadata": {"labels": {"l": "m"}}});
        let patched = t.patch(&format!("{uri}/x"), "strategic-merge-patch", labels).await.ok();
        assert_eq!(patched["metadata"]["labels"]["l"], "m", "{kind}");
        assert_eq!(patched["metadata"]["generation"], created["metadata"]["generation"], "{kind}");
        t.delete(&format!("{uri}/x")).await.ok();
        assert_eq!(t.get(&format!("{uri}/x")).await.code, 404, "{kind}");
    }
}

#[tokio::test]
async fn status_is_a_part_of_its_own_where_upstream_has_one() {
    let t = start().await;
    for (api_version, kind, _) in samples() {
        let served = kinds::by_kind(api_version, kind).unwrap();
        let uri = collection(api_version, kind);
        t.post(&uri, sample(api_version, kind)).await.ok();
        let status = t.get(&format!("{uri}/x/status")).await;
        let has = served.subresources.contains(&kinds::Subresource::Status);
        assert_eq!(status.code, if has { 200 } else { 404 }, "{kind}");
    }
    let jobs = collection("batch/v1", "Job");
    let status = json!({"spec": {"suspend": true}, "status": {"active": 2}});
    let job = t.patch(&format!("{jobs}/x/status"), "merge-patch", status.clone()).await.ok();
    assert_eq!((&job["status"]["active"], &job["spec"]["suspend"]), (&json!(2), &json!(false)));
    let job = t.patch(&format!("{jobs}/x"), "merge-patch", status).await.ok();
    assert_eq!(job["spec"]["suspend"], true);
    assert_eq!((&job["status"]["active"], &job["metadata"]["generation"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn fields_that_upstream_registers_select() {
    let t = start().await;
    let jobs = collection("batch/v1", "Job");
    t.post(&jobs, sample("batch/v1", "Job")).await.ok();
    let count = async |uri: String| t.get(&uri).await.ok()["items"].as_array().unwrap().len();
    assert_eq!(count(format!("{jobs}?fieldSelector=status.successful%3D0")).await, 1);
    let status = json!({"status": {"succeeded": 1}});
    t.patch(&format!("{jobs}/x/status"), "merge-patch", status).await.ok();
    assert_eq!(count(format!("{jobs}?fieldSelector=status.successful%3D0")).await, 0);
    assert_eq!(count(format!("{jobs}?fieldSelector=status.successful%3D1")).await, 1);
    let requests = collection("certificates.k8s.io/v1", "CertificateSigningRequest");
    let object = sample("certificates.k8s.io/v1", "CertificateSigningRequest");
    t.post(&requests, object).await.ok();
    for (signer, expected) in [("example.com/s", 1), ("other", 0)] {
        let uri = format!("{requests}?fieldSelector=spec.signerName%3D{signer}");
        assert_eq!(count(uri).await, expected);
    }
    let roles = collection("rbac.authorization.k8s.io/v1", "ClusterRole");
    t.get(&format!("{roles}?fieldSelector=metadata.namespace%3Dx")).await.fails(
        400,
        "BadRequest",
        "\"metadata.namespace\" is not a known field selector: only \"metadata.name\", \
         \"metadata.namespace\"",
    );
}

#[tokio::test]
async fn a_job_gets_its_selector_and_a_generated_name() {
    let t = start().await;
    let mut job = sample("batch/v1", "Job");
    job["metadata"] = json!({"generateName": "pi-"});
    let created = t.post(&collection("batch/v1", "Job"), job).await.ok();
    let metadata = &created["metadata"];
    let labels = &created["spec"]["template"]["metadata"]["labels"];
    assert!(metadata["name"].as_str().unwrap().starts_with("pi-"));
    assert_eq!(labels["batch.kubernetes.io/job-name"], metadata["name"]);
    let selector = &created["spec"]["selector"]["matchLabels"];
    assert_eq!(*selector, json!({"batch.kubernetes.io/controller-uid": metadata["uid"]}));
}

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let t = start().await;
    let (v1, v2) = (
        collection("autoscaling/v1", "HorizontalPodAutoscaler"),
        collection("autoscaling/v2", "HorizontalPodAutoscaler"),
    );
    let mut object = sample("autoscaling/v2", "HorizontalPodAutoscaler");
    object["spec"]["targetCPUUtilizationPercentage"] = 60.into();
    let created = t.post(&v1, object).await.ok();
    assert_eq!(created["apiVersion"], "autoscaling/v1");
    assert_eq!(created["spec"]["targetCPUUtilizationPercentage"], 60);
    let newer = t.get(&format!("{v2}/x")).await.ok();
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    assert_eq!(
        newer["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60},
        }}])
    );
    let behavior = json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}});
    t.patch(&format!("{v2}/x"), "merge-patch", behavior).await.ok();
    // A client of the older version keeps what it does not know.
    let most = json!({"spec": {"maxReplicas": 9}});
    t.patch(&format!("{v1}/x"), "merge-patch", most).await.ok();
    let newer = t.get(&format!("{v2}/x")).await.ok();
    assert_eq!(newer["spec"]["maxReplicas"], 9);
    assert_eq!(newer["spec"]["behavior"]["scaleDown"]["selectPolicy"], "Disabled");
    assert_eq!(newer["metadata"].get("annotations").cloned().unwrap_or(json!({})), json!({}));
    assert_eq!(t.get(&v1).await.ok()["items"][0]["apiVersion"], "autoscaling/v1");
}

#[tokio::test]
async fn a_signing_request_is_approved_and_then_issued() {
    let t = start().await;
    let uri = collection("certificates.k8s.io/v1", "CertificateSigningRequest");
    let mut object = sample("certificates.k8s.io/v1", "CertificateSigningRequest");
    object["spec"]["username"] = "somebody-else".into();
    let mut request = t.post(&uri, object).await.ok();
    let admin = UserInfo::admin();
    assert_eq!(request["spec"]["username"], admin.name);
    assert_eq!(request["spec"]["groups"], json!(admin.groups));
    let approved = json!([{"type": "Approved", "status": "True", "reason": "ByHand"}]);
    request["status"]["conditions"] = approved.clone();
    // Through the object itself nothing of this is taken over.
    let same = t.put(&format!("{uri}/x"), request.clone()).await.ok();
    assert_eq!(same["status"], json!({}));
    let answer = t.put(&format!("{uri}/x/approval"), request).await.ok();
    let condition = &answer["status"]["conditions"][0];
    assert_eq!(condition["type"], "Approved");
    for time in ["lastUpdateTime", "lastTransitionTime"] {
        assert!(condition[time].is_string(), "{answer}");
    }
    let issued = json!({"status": {"certificate": "eA=="}});
    let answer = t.patch(&format!("{uri}/x/status"), "merge-patch", issued).await.ok();
    assert_eq!(answer["status"]["certificate"], "eA==");
    assert_eq!(answer["status"]["conditions"][0]["type"], "Approved");
}

#[tokio::test]
async fn discovery_and_openapi_know_every_group() {
    let t = start().await;
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let groups = t.send("GET", "/apis", &accept, "").await.ok()["items"].clone();
    let versions = |group: &str| -> Vec<String> {
        let mut all = groups.as_array().unwrap().iter();
        let found = all.find(|g| g["metadata"]["name"] == group).unwrap();
        let versions = found["versions"].as_array().unwrap().iter();
        versions.map(|v| v["version"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(versions("autoscaling"), ["v2", "v1"]);
    let group = t.get("/apis/autoscaling").await.ok();
    assert_eq!(group["preferredVersion"]["groupVersion"], "autoscaling/v2");
    let index = t.get("/openapi/v3").await.ok();
    for kind in kinds::all().iter().filter(|kind| !kind.group.is_empty()) {
        assert!(versions(kind.group).contains(&kind.version.to_owned()), "{}", kind.group);
        let list = t.get(&format!("/apis/{}/{}", kind.group, kind.version)).await.ok();
        let mut resources = list["resources"].as_array().unwrap().iter();
        let resource = resources.find(|r| r["name"] == kind.plural).unwrap();
        assert_eq!(resource["kind"], kind.kind);
        let path = format!("apis/{}/{}", kind.group, kind.version);
        let url = index["paths"][&path]["serverRelativeURL"].as_str().unwrap();
        let document = t.get(url).await.ok();
        assert!(document["components"]["schemas"][kind.schema].is_object(), "{}", kind.schema);
    }
}

#[tokio::test]
async fn classes_that_exist_complete_new_objects() {
    let t = start().await;
    for (name, value) in [("low", json!(1)), ("high", json!(9))] {
        let mut class = sample("scheduling.k8s.io/v1", "PriorityClass");
        class["metadata"]["name"] = name.into();
        class["value"] = value;
        class["globalDefault"] = (name == "low").into();
        t.post(&collection("scheduling.k8s.io/v1", "PriorityClass"), class).await.ok();
    }
    let with = |class: Value, priority: Value| {
        let mut pod = pod("p");
        pod["spec"]["priorityClassName"] = class;
        pod["spec"]["priority"] = priority;
        pod
    };
    let dry = format!("{PODS}?dryRun=All");
    let pod = t.post(&dry, with(json!("high"), json!(null))).await.ok();
    assert_eq!(pod["spec"]["priority"], 9);
    let pod = t.post(&dry, with(json!(null), json!(null))).await.ok();
    assert_eq!(
        (&pod["spec"]["priority"], &pod["spec"]["priorityClassName"]),
        (&json!(1), &json!("low"))
    );
    let pod = t.post(&dry, with(json!("system-node-critical"), json!(null))).await.ok();
    assert_eq!(pod["spec"]["priority"], 2_000_001_000);
    t.post(&dry, with(json!("none"), json!(null))).await.fails(
        403,
        "Forbidden",
        "pods \"p\" is forbidden: no PriorityClass with name none was found",
    );
    t.post(&dry, with(json!("high"), json!(3))).await.fails(
        403,
        "Forbidden",
        "pods \"p\" is forbidden: the integer value of priority (3) must not be provided in pod \
         spec; priority admission controller computed 9 from the given PriorityClass name",
    );
    for (class, mark, kind, field) in [
        (
            ("networking.k8s.io/v1", "IngressClass"),
            "ingressclass.kubernetes.io/is-default-class",
            ("networking.k8s.io/v1", "Ingress"),
            "ingressClassName",
        ),
        (
            ("storage.k8s.io/v1", "StorageClass"),
            "storageclass.kubernetes.io/is-default-class",
            ("v1", "PersistentVolumeClaim"),
            "storageClassName",
        ),
    ] {
        let mut marked = sample(class.0, class.1);
        marked["metadata"]["annotations"] = json!({mark: "true"});
        t.post(&collection(class.0, class.1), marked).await.ok();
        let uri = format!("{}?dryRun=All", collection(kind.0, kind.1));
        let object = t.post(&uri, sample(kind.0, kind.1)).await.ok();
        assert_eq!(object["spec"][field], "x");
        let mut own = sample(kind.0, kind.1);
        own["spec"][field] = "own".into();
        assert_eq!(t.post(&uri, own).await.ok()["spec"][field], "own");
    }
}
