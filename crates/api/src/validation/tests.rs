mod objects;

use serde_json::json;

use super::*;
use crate::defaults;
use crate::kinds;

fn kind_of(object: &Value) -> &'static Kind {
    kinds::by_kind(object.text("apiVersion"), object.text("kind")).unwrap()
}

/// `field: message` of each cause, after defaulting.
fn created(object: &Value) -> Vec<String> {
    let kind = kind_of(object);
    let mut object = object.clone();
    defaults(kind, &mut object);
    crate::strategy::prepare_for_create(kind, &mut object);
    crate::strategy::complete(kind, &mut object);
    validate_create(kind, &object).iter().map(ToString::to_string).collect()
}

fn updated(old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let kind = kind_of(old);
    let mut old = old.clone();
    defaults(kind, &mut old);
    crate::strategy::prepare_for_create(kind, &mut old);
    crate::strategy::complete(kind, &mut old);
    let mut new = old.clone();
    change(&mut new);
    defaults(kind, &mut new);
    crate::strategy::prepare_for_update(kind, None, &mut new, &old);
    validate_update(kind, None, &new, &old).iter().map(ToString::to_string).collect()
}

fn service(spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default" }, "spec": spec,
    })
}

fn pod(spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "namespace": "default" }, "spec": spec,
    })
}

fn container(more: Value) -> Value {
    let mut container = json!({ "name": "c", "image": "nginx" });
    for (field, value) in more.as_object().unwrap() {
        container.set(field, value.clone());
    }
    pod(json!({ "containers": [container], "volumes": [{ "name": "v" }] }))
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "d", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": { "app": "a" } },
            "template": {
                "metadata": { "labels": { "app": "a" } },
                "spec": { "containers": [{ "name": "c", "image": "nginx" }] },
            },
        },
    })
}

#[test]
fn sound_objects_pass() {
    let none: Vec<String> = Vec::new();
    assert_eq!(created(&service(json!({ "ports": [{ "port": 80 }] }))), none);
    assert_eq!(created(&service(json!({ "clusterIP": "None", "selector": { "a": "b" } }))), none);
    let external = json!({ "type": "ExternalName", "externalName": "db.example.com." });
    assert_eq!(created(&service(external)), none);
    let ports = json!({ "type": "NodePort", "ports": [
        { "name": "a", "port": 53, "nodePort": 30053 },
        { "name": "b", "port": 53, "nodePort": 30053, "protocol": "UDP" },
    ] });
    assert_eq!(created(&service(ports)), none);
    assert_eq!(
        created(&container(json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }))),
        none
    );
    assert_eq!(created(&deployment()), none);
    assert_eq!(updated(&deployment(), |d| d["spec"].set("replicas", 5)), none);
}

#[test]
fn metadata_is_checked() {
    let mut object = service(json!({ "ports": [{ "port": 80 }] }));
    object.set(
        "metadata",
        json!({
            "name": "Web", "namespace": "default",
            "labels": { "a b": "x", "ok": "-" }, "annotations": { "A/B/C": "" },
            "finalizers": ["mine"],
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "" }],
        }),
    );
    let causes = created(&object);
    let expected_starts = [
        "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 label",
        "metadata.labels: Invalid value: \"a b\": name part must consist",
        "metadata.labels: Invalid value: \"-\": a valid label must be",
        "metadata.annotations: Invalid value: \"A/B/C\": a qualified name must",
        "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        "metadata.finalizers: Invalid value: \"mine\": name is neither a standard",
    ];
    assert_eq!(causes.len(), expected_starts.len(), "{causes:#?}");
    for (cause, start) in causes.iter().zip(expected_starts) {
        assert!(cause.starts_with(start), "{cause}\n{start}");
    }
    object.set("metadata", json!({ "namespace": "default" }));
    assert_eq!(
        created(&object),
        ["metadata.name: Required value: name or generateName is required"]
    );
    object["metadata"].set("name", "0-may-start-with-a-digit");
    assert_eq!(created(&object), Vec::<String>::new());
}

#[test]
fn names_and_uids_do_not_change() {
    let mut old = deployment();
    old["metadata"].set("uid", "1");
    assert_eq!(
        updated(&old, |new| new["metadata"].set("uid", "2")),
        ["metadata.uid: Invalid value: \"2\": field is immutable"]
    );
    old["metadata"].set("deletionTimestamp", "2026-01-01T00:00:00Z");
    let causes = updated(&old, |new| new["metadata"].set("finalizers", json!(["a/b"])));
    assert_eq!(
        causes,
        ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
          deleted, found new finalizers []string{\"a/b\"}"]
    );
}

#[test]
fn services_are_refused_in_upstreams_words() {
    for (spec, expected) in [
        (json!({}), vec!["spec.ports: Required value"]),
        (
            json!({ "ports": [{ "port": 70000, "targetPort": 0 }] }),
            vec![
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80 }, { "port": 81, "name": "a" }, { "port": 82, "name": "a" }] }),
            vec![
                "spec.ports[0].name: Required value",
                "spec.ports[2].name: Duplicate value: \"a\"",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80, "name": "a" }, { "port": 80, "name": "b" }] }),
            vec![
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\
                 \"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80, "protocol": "ICMP" }] }),
            vec![
                "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({ "type": "NodePort", "ports": [
                { "name": "a", "port": 80, "nodePort": 30080 }, { "name": "b", "port": 81, "nodePort": 30080 }
            ] }),
            vec!["spec.ports[1].nodePort: Duplicate value: 30080"],
        ),
        (
            json!({ "type": "NodePort", "clusterIP": "None", "ports": [{ "port": 80 }] }),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        ),
        (json!({ "type": "ExternalName" }), vec!["spec.externalName: Required value"]),
        (
            json!({ "type": "ExternalName", "externalName": "a", "clusterIP": "10.96.0.1" }),
            vec!["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            json!({ "type": "Frob", "ports": [{ "port": 80 }] }),
            vec![
                "spec.type: Unsupported value: \"Frob\": supported values: \"ClusterIP\", \
                 \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({ "clusterIP": "10.96.0", "ports": [{ "port": 80 }] }),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.96.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.2"], "ports": [{ "port": 80 }] }),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.96.0.2\"]: first value must match `clusterIP`",
            ],
        ),
        (
            json!({ "externalIPs": ["127.0.0.1"], "ports": [{ "port": 80 }] }),
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({ "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }] }),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({ "loadBalancerSourceRanges": ["10.0.0.0/8"], "ports": [{ "port": 80 }] }),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({ "sessionAffinity": "ClientIP", "ports": [{ "port": 80 }],
                    "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 86401 } } }),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({ "trafficDistribution": "Far", "ports": [{ "port": 80 }] }),
            vec![
                "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \
                 \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ],
        ),
        (
            json!({ "ipFamilies": ["IPv5"], "ipFamilyPolicy": "Any", "ports": [{ "port": 80 }] }),
            vec![
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
                "spec.ipFamilyPolicy: Unsupported value: \"Any\": supported values: \
                 \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ],
        ),
    ] {
        assert_eq!(created(&service(spec.clone())), expected, "{spec}");
    }
}

#[test]
fn a_service_keeps_its_address() {
    let old = service(json!({
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{ "port": 80 }],
    }));
    assert_eq!(
        updated(&old, |new| new["spec"].set("clusterIP", "10.96.0.6")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]
    );
    assert_eq!(
        updated(&old, |new| new["spec"].set("ipFamilies", json!(["IPv6"])))[0],
        "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set"
    );
    let none: Vec<String> = Vec::new();
    let to_external_name = |new: &mut Value| {
        new["spec"].set("type", "ExternalName");
        new["spec"].set("externalName", "a.example");
    };
    assert_eq!(updated(&old, to_external_name), none);
    assert_eq!(updated(&old, |new| new["spec"].set("type", "NodePort")), none);
}

#[test]
fn what_was_stored_before_a_rule_was_strict_may_stay() {
    let old = service(json!({
        "type": "LoadBalancer", "ports": [{ "port": 80 }], "externalIPs": ["010.0.0.1"],
        "loadBalancerSourceRanges": ["10.0.0.1/8"],
    }));
    assert_eq!(updated(&old, |new| new["spec"].set("selector", json!({ "a": "b" }))), [""; 0]);
    assert_eq!(
        updated(&old, |new| new["spec"].set("externalIPs", json!(["010.0.0.1", "8.8.8.08"]))),
        ["spec.externalIPs[1]: Invalid value: \"8.8.8.08\": must not have leading 0s"]
    );
    let mut old = old;
    let ingress = json!([{ "ip": "010.0.0.1", "ipMode": "VIP" }]);
    old.set("status", json!({ "loadBalancer": { "ingress": ingress } }));
    assert_eq!(validate_update(kind_of(&old), Some(Subresource::Status), &old, &old), []);
}

#[test]
fn the_status_of_a_load_balancer_is_checked() {
    let status = |kind: &str, ingress: Value| {
        let old = service(json!({ "type": kind }));
        let mut new = old.clone();
        new.set("status", json!({ "loadBalancer": { "ingress": [ingress] } }));
        let causes = validate_update(kind_of(&new), Some(Subresource::Status), &new, &old);
        causes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        status("LoadBalancer", json!({ "ip": "1.2.3", "ipMode": "VIP" }))[0],
        "status.loadBalancer.ingress[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    );
    assert_eq!(
        status("LoadBalancer", json!({ "ip": "1.2.3.4" })),
        [
            "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set"
        ]
    );
    assert_eq!(
        status("LoadBalancer", json!({ "hostname": "1.2.3.4" })),
        [
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"
        ]
    );
    assert_eq!(
        status("ClusterIP", json!({ "hostname": "a" })),
        [
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
        ]
    );
}

#[test]
fn pods_are_refused_in_upstreams_words() {
    for (object, expected) in [
        (pod(json!({})), vec!["spec.containers: Required value"]),
        (
            pod(json!({ "containers": [{ "name": "", "image": "" }] })),
            vec![
                "spec.containers[0].name: Required value",
                "spec.containers[0].image: Required value",
            ],
        ),
        (
            pod(
                json!({ "containers": [{ "name": "c", "image": "a" }, { "name": "c", "image": "a" }] }),
            ),
            vec!["spec.containers[1].name: Duplicate value: \"c\""],
        ),
        (
            container(json!({ "ports": [{ "containerPort": 0 }, { "containerPort": 70000 }] })),
            vec![
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            container(
                json!({ "env": [{ "name": "A", "value": "1", "valueFrom": {} }, { "name": "B=" }] }),
            ),
            vec![
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                "spec.containers[0].env[1].name: Invalid value: \"B=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            container(
                json!({ "volumeMounts": [{ "name": "x", "mountPath": "/a" }, { "name": "v", "mountPath": "/a" }] }),
            ),
            vec![
                "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            ],
        ),
        (
            container(
                json!({ "livenessProbe": { "successThreshold": 2, "tcpSocket": { "port": 80 } },
                              "readinessProbe": {} }),
            ),
            vec![
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ],
        ),
        (
            container(
                json!({ "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1500m" } } }),
            ),
            vec![
                "spec.containers[0].resources.requests: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            pod(
                json!({ "restartPolicy": "Sometimes", "containers": [{ "name": "c", "image": "a" }] }),
            ),
            vec![
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            pod(json!({ "containers": [{ "name": "c", "image": "a" }],
                        "volumes": [{ "name": "a", "configMap": {} }, { "name": "a", "emptyDir": {}, "secret": { "secretName": "s" } }] })),
            vec![
                "spec.volumes[0].configMap.name: Required value",
                "spec.volumes[1].name: Duplicate value: \"a\"",
                "spec.volumes[1].secret: Forbidden: may not specify more than 1 volume type",
            ],
        ),
    ] {
        assert_eq!(created(&object), expected, "{object}");
    }
}

#[test]
fn of_a_pod_only_a_few_fields_change() {
    let old = container(json!({}));
    let none: Vec<String> = Vec::new();
    let image = |new: &mut Value| new["spec"]["containers"][0].set("image", "redis");
    assert_eq!(updated(&old, image), none);
    let tolerate = |new: &mut Value| {
        let mut all = new["spec"].items("tolerations").to_vec();
        all.push(json!({ "key": "a", "operator": "Exists" }));
        new["spec"].set("tolerations", all);
    };
    assert_eq!(updated(&old, tolerate), none);
    let command = |new: &mut Value| new["spec"]["containers"][0].set("command", json!(["x"]));
    assert!(
        updated(&old, command)[0].starts_with("spec: Forbidden: pod updates may not change fields")
    );
    let forget = |new: &mut Value| {
        new["spec"].set("tolerations", json!([{ "key": "a", "operator": "Exists" }]))
    };
    // Defaulting puts the two back, so nothing is lost.
    assert_eq!(updated(&old, forget), none);
    let add = |new: &mut Value| {
        new["spec"].set(
            "containers",
            json!([{ "name": "a", "image": "b" }, { "name": "c", "image": "b" }]),
        );
    };
    assert_eq!(
        updated(&old, add),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn workloads_select_their_own_template_and_keep_their_selector() {
    let mut other = deployment();
    other["spec"]["template"]["metadata"].set("labels", json!({ "app": "b" }));
    assert_eq!(
        created(&other),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"
        ]
    );
    other["spec"].unset("selector");
    assert_eq!(created(&other), ["spec.selector: Required value"]);
    other["spec"].set("selector", json!({}));
    assert_eq!(
        created(&other),
        ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
    );
    let reselect = |new: &mut Value| {
        let labels = json!({ "app": "b" });
        new["spec"].set("selector", json!({ "matchLabels": labels }));
        new["spec"]["template"]["metadata"].set("labels", labels);
    };
    assert_eq!(
        updated(&deployment(), reselect),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
    );
}

#[test]
fn replicas_and_strategies_are_checked() {
    let mut object = deployment();
    object["spec"].set("replicas", -1);
    let rolling = json!({ "maxUnavailable": 0, "maxSurge": "0%" });
    object["spec"].set("strategy", json!({ "type": "RollingUpdate", "rollingUpdate": rolling }));
    object["spec"]["template"]["spec"].set("restartPolicy", "Never");
    assert_eq!(
        created(&object),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ]
    );
    let mut set = deployment();
    set.set("kind", "StatefulSet");
    assert_eq!(created(&set), Vec::<String>::new());
    let rename = |new: &mut Value| new["spec"].set("serviceName", "other");
    assert!(updated(&set, rename)[0].starts_with("spec: Forbidden: updates to statefulset spec"));
}

#[test]
fn config_maps_and_secrets() {
    let object = |kind: &str, more: Value| {
        let mut object = json!({
            "apiVersion": "v1", "kind": kind, "metadata": { "name": "x", "namespace": "default" },
        });
        for (field, value) in more.as_object().unwrap() {
            object.set(field, value.clone());
        }
        object
    };
    let causes = created(&object("ConfigMap", json!({ "data": { "a/b": "" } })));
    assert!(causes[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must"));
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(
        created(&object("ConfigMap", json!({ "data": { "a": large } }))),
        [": Too long: may not be more than 1048576 bytes"]
    );
    let sealed = object("ConfigMap", json!({ "immutable": true, "data": { "a": "1" } }));
    assert_eq!(
        updated(&sealed, |new| new["data"].set("a", "2")),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        created(&object("Secret", json!({ "type": "kubernetes.io/tls" }))),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
    assert_eq!(
        updated(&object("Secret", json!({})), |new| new.set("type", "other")),
        ["type: Invalid value: \"other\": field is immutable"]
    );
}

#[test]
fn endpoints_and_slices() {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "s", "namespace": "default" }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["fd00::1"] }, { "addresses": [] }, { "addresses": ["10.0.0.1"] }],
        "ports": [{ "name": "a", "port": 0 }, { "name": "a", "port": 80 }],
    });
    assert_eq!(
        created(&slice),
        [
            "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address",
            "endpoints[1].addresses: Required value: must contain at least 1 address",
            "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "ports[1].name: Duplicate value: \"a\"",
        ]
    );
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "e", "namespace": "default" },
        "subsets": [{}, { "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "port": 80 }] }],
    });
    assert_eq!(
        created(&endpoints),
        [
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ]
    );
}

#[test]
fn a_binding_names_a_node() {
    let causes = |target: Value| {
        let causes = validate_binding(&json!({ "target": target }));
        causes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(causes(json!({ "kind": "Node", "name": "n" })), Vec::<String>::new());
    assert_eq!(
        causes(json!({ "kind": "Pod" })),
        [
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value",
        ]
    );
}
