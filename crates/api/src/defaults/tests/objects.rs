//! Kinds that are served as objects alone: what the server writes into the least that a client sends.

use super::*;

/// The whole object after defaulting, but for its type.
fn check(api_version: &str, kind: &str, sent: Value, expected: Value) {
    let mut object = defaulted(api_version, kind, sent);
    for field in ["apiVersion", "kind"] {
        object.unset(field);
    }
    assert_eq!(object, expected, "{kind}");
}

#[test]
fn each_kind_gets_upstreams_defaults() {
    let mode = json!({ "type": "Resource", "resource": { "name": "cpu", "target": {
        "type": "Utilization", "averageUtilization": 80,
    } } });
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    for (api_version, kind, sent, expected) in [
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({ "spec": { "egress": [{ "ports": [{ "port": 53 }] }] } }),
            json!({ "spec": {
                "podSelector": {},
                "egress": [{ "ports": [{ "port": 53, "protocol": "TCP" }] }],
                "policyTypes": ["Ingress", "Egress"],
            } }),
        ),
        (
            "networking.k8s.io/v1",
            "IngressClass",
            json!({ "spec": { "parameters": { "kind": "P" } } }),
            json!({ "spec": { "parameters": { "kind": "P", "scope": "Cluster" } } }),
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({ "spec": { "behavior": { "scaleUp": {}, "scaleDown": { "policies": [] } } } }),
            json!({ "spec": {
                "minReplicas": 1,
                "metrics": [mode],
                "behavior": {
                    "scaleUp": { "selectPolicy": "Max", "policies": [pods, percent],
                                 "stabilizationWindowSeconds": 0 },
                    "scaleDown": { "selectPolicy": "Max", "policies": [] },
                },
            } }),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({ "roleRef": { "name": "r" }, "subjects": [
                { "kind": "User", "name": "u" }, { "kind": "ServiceAccount", "name": "s" },
            ] }),
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "name": "r" },
                "subjects": [
                    { "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u" },
                    { "kind": "ServiceAccount", "name": "s" },
                ],
            }),
        ),
        (
            "scheduling.k8s.io/v1",
            "PriorityClass",
            json!({ "value": 1 }),
            json!({ "value": 1, "preemptionPolicy": "PreemptLowerPriority" }),
        ),
        (
            "storage.k8s.io/v1",
            "StorageClass",
            json!({ "provisioner": "p" }),
            json!({
                "provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
            }),
        ),
        (
            "v1",
            "PersistentVolume",
            json!({ "spec": { "hostPath": { "path": "/v" } } }),
            json!({
                "spec": {
                    "hostPath": { "path": "/v", "type": "" }, "volumeMode": "Filesystem",
                    "persistentVolumeReclaimPolicy": "Retain",
                },
                "status": { "phase": "Pending" },
            }),
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            json!({ "spec": { "dataSource": { "kind": "K", "name": "n" } } }),
            json!({
                "spec": {
                    "dataSource": { "kind": "K", "name": "n" },
                    "dataSourceRef": { "kind": "K", "name": "n" },
                    "volumeMode": "Filesystem",
                },
                "status": { "phase": "Pending" },
            }),
        ),
        (
            "v1",
            "LimitRange",
            json!({ "spec": { "limits": [
                { "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1Mi" } },
                { "type": "Pod", "max": { "cpu": "4" } },
            ] } }),
            json!({ "spec": { "limits": [
                {
                    "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1Mi" },
                    "default": { "cpu": "2" },
                    "defaultRequest": { "cpu": "2", "memory": "1Mi" },
                },
                { "type": "Pod", "max": { "cpu": "4" } },
            ] } }),
        ),
    ] {
        check(api_version, kind, sent, expected);
    }
}

#[test]
fn a_job_runs_one_pod_and_tries_six_times_more() {
    let job = |mut spec: Value| {
        spec.set("template", json!({ "metadata": { "labels": { "a": "b" } } }));
        defaulted("batch/v1", "Job", json!({ "metadata": {}, "spec": spec }))
    };
    let plain = job(json!({}));
    assert_eq!(plain["metadata"]["labels"], json!({ "a": "b" }));
    for (field, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(plain["spec"][field], value, "{field}");
    }
    let parallel = job(json!({ "parallelism": 3 }));
    assert!(parallel["spec"]["completions"].is_null());
    let indexed = job(json!({ "backoffLimitPerIndex": 1, "podFailurePolicy": { "rules": [
        { "onPodConditions": [{ "type": "DisruptionTarget" }] },
    ] } }));
    assert_eq!(indexed["spec"]["backoffLimit"], i32::MAX);
    assert_eq!(indexed["spec"]["podReplacementPolicy"], "Failed");
    let rule = &indexed["spec"]["podFailurePolicy"]["rules"][0];
    assert_eq!(rule["onPodConditions"][0]["status"], "True");
}

#[test]
fn the_job_of_a_cron_job_gets_its_own_defaults_only_later() {
    let containers = json!([{ "name": "c", "image": "i" }]);
    let job = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
    let cron_job = defaulted("batch/v1", "CronJob", json!({ "spec": { "jobTemplate": job } }));
    let spec = &cron_job["spec"];
    assert_eq!(spec["concurrencyPolicy"], "Allow");
    assert_eq!(spec["successfulJobsHistoryLimit"], 3);
    assert_eq!(spec["failedJobsHistoryLimit"], 1);
    let job = &spec["jobTemplate"]["spec"];
    assert!(job["backoffLimit"].is_null());
    assert_eq!(job["template"]["spec"]["restartPolicy"], "Always");
}

#[test]
fn a_replication_controller_selects_the_labels_of_its_template() {
    let template = json!({ "metadata": { "labels": { "a": "b" } } });
    let controller = defaulted(
        "v1",
        "ReplicationController",
        json!({ "metadata": {}, "spec": { "template": template } }),
    );
    assert_eq!(controller["metadata"]["labels"], json!({ "a": "b" }));
    assert_eq!(controller["spec"]["selector"], json!({ "a": "b" }));
    assert_eq!(controller["spec"]["replicas"], 1);
}
