mod objects;

use serde_json::json;

use super::*;
use crate::kinds;

/// What kubectl would show, wide, for an object created five minutes ago.
fn printed(api_version: &str, kind: &str, mut object: Value) -> String {
    object.object_mut("metadata").unwrap().set("name", "x");
    object.object_mut("metadata").unwrap().set("creationTimestamp", "2026-01-01T00:00:00Z");
    let kind = kinds::by_kind(api_version, kind).unwrap();
    let cells = row(kind, &object, now());
    assert_eq!(cells.len(), columns(kind).len());
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect();
    cells.join(" | ")
}

fn now() -> jiff::Timestamp {
    "2026-01-01T00:05:00Z".parse().unwrap()
}

fn pod(spec: Value, status: Value) -> String {
    printed("v1", "Pod", json!({ "spec": spec, "status": status }))
}

/// READY, STATUS and RESTARTS of a pod of one container in a certain state.
fn status_of(state: Value, ready: bool) -> String {
    let line = pod(
        json!({ "containers": [{ "name": "c" }] }),
        json!({ "phase": "Running", "containerStatuses": [
            { "name": "c", "ready": ready, "restartCount": 0, "state": state }
        ] }),
    );
    line.split(" | ").skip(1).take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for kind in kinds::all() {
        let cells = row(kind, &json!({ "metadata": { "name": "x" } }), now());
        assert_eq!(cells.len(), columns(kind).len(), "{}", kind.kind);
        for (cell, column) in cells.iter().zip(columns(kind)) {
            // Upstream declares some numbers and truths as text, and one text as truth.
            let fits = match column.type_ {
                "integer" => cell.is_number(),
                _ => !cell.is_null() && !cell.is_object() && !cell.is_array(),
            };
            assert!(fits, "{} {}: {cell}", kind.kind, column.name);
        }
    }
}

#[test]
fn services_of_each_type() {
    let service =
        |spec, status| printed("v1", "Service", json!({ "spec": spec, "status": status }));
    assert_eq!(
        service(
            json!({ "type": "NodePort", "clusterIP": "10.96.0.5", "selector": { "b": "2", "a": "1" },
                    "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" },
                              { "port": 53, "protocol": "UDP" }] }),
            json!({}),
        ),
        "x | NodePort | 10.96.0.5 | <none> | 80:30080/TCP,53/UDP | 5m | a=1,b=2"
    );
    assert_eq!(
        service(json!({ "type": "ExternalName", "externalName": "a.example" }), json!({})),
        "x | ExternalName | <none> | a.example | <none> | 5m | <none>"
    );
    let balanced = |external: Value, ingress: Value| {
        let spec =
            json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.6", "externalIPs": external });
        let line = service(spec, json!({ "loadBalancer": { "ingress": ingress } }));
        line.split(" | ").nth(3).unwrap().to_owned()
    };
    assert_eq!(balanced(json!([]), json!([])), "<pending>");
    assert_eq!(
        balanced(json!(["192.0.2.9"]), json!([{ "ip": "192.0.2.2" }, { "hostname": "a" }])),
        "192.0.2.2,a,192.0.2.9"
    );
}

#[test]
fn the_status_of_a_pod_comes_from_its_containers() {
    assert_eq!(status_of(json!({ "running": {} }), true), "1/1 Running");
    assert_eq!(status_of(json!({ "running": {} }), false), "0/1 Running");
    for (waiting, expected) in [
        ("ContainerCreating", "0/1 ContainerCreating"),
        ("CrashLoopBackOff", "0/1 CrashLoopBackOff"),
    ] {
        assert_eq!(status_of(json!({ "waiting": { "reason": waiting } }), false), expected);
    }
    for (terminated, expected) in [
        (json!({ "reason": "Completed", "exitCode": 0 }), "0/1 Completed"),
        (json!({ "reason": "Error", "exitCode": 1 }), "0/1 Error"),
        (json!({ "exitCode": 3 }), "0/1 ExitCode:3"),
        (json!({ "exitCode": 137, "signal": 9 }), "0/1 Signal:9"),
    ] {
        assert_eq!(status_of(json!({ "terminated": terminated }), false), expected);
    }
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let line = pod(
        json!({ "containers": [{ "name": "c" }], "nodeName": "node-1" }),
        json!({ "phase": "Running", "podIP": "10.244.0.2", "containerStatuses": [{
            "name": "c", "ready": true, "restartCount": 3, "state": { "running": {} },
            "lastState": { "terminated": { "finishedAt": "2026-01-01T00:04:30Z" } },
        }] }),
    );
    assert_eq!(
        line,
        "x | 1/1 | Running | 3 (30s ago) | 5m | 10.244.0.2 | node-1 | <none> | <none>"
    );
}

#[test]
fn init_containers_come_first() {
    let init = |state: Value| {
        let line = pod(
            json!({ "containers": [{ "name": "c" }], "initContainers": [{ "name": "a" }, { "name": "b" }] }),
            json!({ "phase": "Pending",
                    "initContainerStatuses": [
                        { "name": "a", "state": { "terminated": { "exitCode": 0 } } },
                        { "name": "b", "state": state },
                    ],
                    "containerStatuses": [
                        { "name": "c", "state": { "waiting": { "reason": "PodInitializing" } } }
                    ] }),
        );
        line.split(" | ").nth(2).unwrap().to_owned()
    };
    assert_eq!(init(json!({ "running": {} })), "Init:1/2");
    assert_eq!(
        init(json!({ "waiting": { "reason": "CrashLoopBackOff" } })),
        "Init:CrashLoopBackOff"
    );
    assert_eq!(init(json!({ "terminated": { "exitCode": 2 } })), "Init:ExitCode:2");
    assert_eq!(init(json!({ "terminated": { "exitCode": 0 } })), "PodInitializing");
}

#[test]
fn a_pod_that_is_deleted_is_terminating_until_it_has_ended() {
    let status = |phase: &str| {
        let line = printed(
            "v1",
            "Pod",
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:04:00Z" },
                    "spec": {}, "status": { "phase": phase } }),
        );
        line.split(" | ").nth(2).unwrap().to_owned()
    };
    assert_eq!(status("Running"), "Terminating");
    assert_eq!(status("Succeeded"), "Succeeded");
}

#[test]
fn workloads_show_ready_of_wanted() {
    let spec = json!({
        "replicas": 3,
        "selector": { "matchLabels": { "app": "a" }, "matchExpressions": [
            { "key": "tier", "operator": "In", "values": ["y", "x"] },
            { "key": "old", "operator": "DoesNotExist" },
        ] },
        "template": { "spec": { "containers": [
            { "name": "c", "image": "nginx" }, { "name": "d", "image": "redis" }
        ] } },
    });
    let status =
        json!({ "replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1 });
    let object = json!({ "spec": spec, "status": status });
    assert_eq!(
        printed("apps/v1", "Deployment", object.clone()),
        "x | 2/3 | 3 | 1 | 5m | c,d | nginx,redis | app=a,!old,tier in (x,y)"
    );
    assert_eq!(
        printed("apps/v1", "ReplicaSet", object.clone()),
        "x | 3 | 3 | 2 | 5m | c,d | nginx,redis | app=a,!old,tier in (x,y)"
    );
    assert_eq!(printed("apps/v1", "StatefulSet", object), "x | 2/3 | 5m | c,d | nginx,redis");
}

#[test]
fn endpoints_show_three_and_count_the_rest() {
    let addresses: Vec<Value> = (1..=5).map(|n| json!({ "ip": format!("10.0.0.{n}") })).collect();
    let subsets = json!([{ "addresses": addresses, "ports": [{ "port": 80 }] }]);
    assert_eq!(
        printed("v1", "Endpoints", json!({ "subsets": subsets })),
        "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... | 5m"
    );
    assert_eq!(printed("v1", "Endpoints", json!({})), "x | <none> | 5m");
    let slice = json!({
        "addressType": "IPv4", "ports": [{ "port": 80 }, { "name": "any" }, {}],
        "endpoints": [{ "addresses": ["10.0.0.1"] }],
    });
    assert_eq!(
        printed("discovery.k8s.io/v1", "EndpointSlice", slice),
        "x | IPv4 | 80,any,* | 10.0.0.1 | 5m"
    );
    assert_eq!(
        printed("discovery.k8s.io/v1", "EndpointSlice", json!({ "addressType": "IPv6" })),
        "x | IPv6 | <unset> | <unset> | 5m"
    );
}

#[test]
fn nodes_show_readiness_and_roles() {
    let node = json!({
        "metadata": { "labels": { "node-role.kubernetes.io/worker": "" } },
        "spec": { "unschedulable": true },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "addresses": [{ "type": "InternalIP", "address": "172.30.0.11" }],
            "nodeInfo": { "kubeletVersion": "v1.36.0", "osImage": "Debian" },
        },
    });
    assert_eq!(
        printed("v1", "Node", node),
        "x | Ready,SchedulingDisabled | worker | 5m | v1.36.0 | 172.30.0.11 | <none> | Debian | \
         <unknown> | <unknown>"
    );
}

#[test]
fn an_event_is_printed_alike_in_both_its_forms() {
    let core = json!({
        "type": "Warning", "reason": "BackOff", "message": "again ",
        "involvedObject": { "kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}" },
        "source": { "component": "kubelet", "host": "node-1" },
        "firstTimestamp": "2026-01-01T00:03:00Z", "lastTimestamp": "2026-01-01T00:04:50Z",
        "count": 4,
    });
    let mut events = core.clone();
    crate::events::from_core(&mut events);
    let expected = "10s | Warning | BackOff | pod/p | spec.containers{c} | kubelet, node-1 | again | 2m | 4 | x";
    assert_eq!(printed("v1", "Event", core), expected);
    assert_eq!(printed("events.k8s.io/v1", "Event", events), expected);
}
