mod objects;

use super::*;
use crate::kinds;

fn defaulted(api_version: &str, kind: &str, mut object: Value) -> Value {
    let kind = kinds::by_kind(api_version, kind).unwrap();
    defaults(kind, &mut object);
    let once = object.clone();
    defaults(kind, &mut object);
    assert_eq!(object, once, "defaulting twice changes nothing");
    object
}

#[test]
fn a_service_of_each_type_gets_upstreams_defaults() {
    let service = |spec| defaulted("v1", "Service", json!({ "spec": spec }))["spec"].clone();
    let port = json!([{ "port": 80 }]);
    let full_port = json!([{ "port": 80, "protocol": "TCP", "targetPort": 80 }]);
    assert_eq!(
        service(json!({ "ports": port })),
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": full_port,
        })
    );
    assert_eq!(
        service(json!({ "type": "NodePort", "ports": port })),
        json!({
            "type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster", "ports": full_port,
        })
    );
    assert_eq!(
        service(json!({ "type": "LoadBalancer", "ports": port })),
        json!({
            "type": "LoadBalancer", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
            "ports": full_port,
        })
    );
    assert_eq!(
        service(json!({ "type": "ExternalName", "externalName": "a.b" })),
        json!({ "type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None" })
    );
    let with_external_ip = service(json!({ "externalIPs": ["192.0.2.1"], "ports": port }));
    assert_eq!(with_external_ip["externalTrafficPolicy"], "Cluster");
    let named = service(json!({ "ports": [{ "port": 80, "targetPort": "web" }] }));
    assert_eq!(named["ports"][0]["targetPort"], "web");
}

#[test]
fn client_ip_affinity_lasts_three_hours_unless_told_otherwise() {
    let config = |spec| {
        defaulted("v1", "Service", json!({ "spec": spec }))["spec"]["sessionAffinityConfig"].clone()
    };
    assert_eq!(
        config(json!({ "sessionAffinity": "ClientIP" })),
        json!({ "clientIP": { "timeoutSeconds": 10800 } })
    );
    let own = json!({ "clientIP": { "timeoutSeconds": 5 } });
    assert_eq!(config(json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": own })), own);
    assert_eq!(config(json!({ "sessionAffinityConfig": own })), Value::Null);
}

#[test]
fn a_minimal_pod_is_completed() {
    let pod = json!({
        "metadata": { "name": "a" },
        "spec": { "containers": [{
            "name": "c", "image": "nginx", "ports": [{ "containerPort": 80 }],
            "readinessProbe": { "httpGet": { "port": 80 } },
            "resources": { "limits": { "cpu": "1" } },
        }], "volumes": [{ "name": "v" }, { "name": "w", "configMap": { "name": "x" } }] },
    });
    let pod = defaulted("v1", "Pod", pod);
    let tolerations: Vec<Value> = default_tolerations().collect();
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                "readinessProbe": {
                    "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" },
                    "timeoutSeconds": 1, "periodSeconds": 10,
                    "successThreshold": 1, "failureThreshold": 3,
                },
                "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                { "name": "v", "emptyDir": {} },
                { "name": "w", "configMap": { "name": "x", "defaultMode": 420 } },
            ],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            "serviceAccountName": "default", "serviceAccount": "default",
            "enableServiceLinks": true, "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority", "tolerations": tolerations,
        })
    );
    assert_eq!(pod["status"]["phase"], "Pending");
}

#[test]
fn a_pod_that_tolerates_everything_gets_no_more_tolerations() {
    let pod = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
    assert_eq!(defaulted("v1", "Pod", pod)["spec"].items("tolerations").len(), 1);
}

#[test]
fn host_network_ports_are_host_ports_in_pods_only() {
    let spec =
        json!({ "hostNetwork": true, "containers": [{ "ports": [{ "containerPort": 80 }] }] });
    let pod = defaulted("v1", "Pod", json!({ "spec": spec }));
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    let set =
        defaulted("apps/v1", "DaemonSet", json!({ "spec": { "template": { "spec": spec } } }));
    let template = &set["spec"]["template"]["spec"];
    assert!(!template["containers"][0]["ports"][0].has("hostPort"));
    assert!(!template.has("tolerations") && !template.has("serviceAccountName"));
}

#[test]
fn workloads_get_their_strategies() {
    let template = json!({ "spec": { "containers": [{ "name": "c", "image": "nginx:1" }] } });
    let spec = |kind| {
        let object = json!({ "spec": { "template": template } });
        let mut spec = defaulted("apps/v1", kind, object)["spec"].clone();
        let template = spec.unset("template").unwrap();
        assert_eq!(template["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        spec
    };
    assert_eq!(
        spec("Deployment"),
        json!({
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" },
            },
        })
    );
    assert_eq!(spec("ReplicaSet"), json!({ "replicas": 1 }));
    assert_eq!(
        spec("StatefulSet"),
        json!({
            "replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
            "serviceName": "",
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain", "whenScaled": "Retain"
            },
        })
    );
    assert_eq!(
        spec("DaemonSet"),
        json!({
            "revisionHistoryLimit": 10,
            "updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 },
            },
        })
    );
}

#[test]
fn string_data_of_a_secret_becomes_data() {
    let secret = json!({ "data": { "a": "eA==", "b": "eQ==" }, "stringData": { "b": "hi" } });
    let secret = defaulted("v1", "Secret", secret);
    assert_eq!(secret["data"], json!({ "a": "eA==", "b": "aGk=" }));
    assert_eq!((secret.text("type"), secret.has("stringData")), ("Opaque", false));
}

#[test]
fn a_namespace_is_labelled_with_its_name() {
    let namespace = defaulted("v1", "Namespace", json!({ "metadata": { "name": "a" } }));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    assert_eq!(namespace["status"]["phase"], "Active");
}
