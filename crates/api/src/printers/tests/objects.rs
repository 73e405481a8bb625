//! Kinds that are served as objects alone: the headers and the cells of each.

use super::*;

/// Headers as kubectl shows them, those of `-o wide` behind a bar.
fn headers(kind: &Kind) -> String {
    let shown = |priority: i32| {
        let own = columns(kind).iter().filter(|column| column.priority == priority);
        own.map(|column| column.name.to_uppercase()).collect::<Vec<_>>().join(" ")
    };
    match shown(1).as_str() {
        "" => shown(0),
        wide => format!("{} | {wide}", shown(0)),
    }
}

#[test]
fn headers_are_those_of_upstream() {
    let expected = [
        ("v1 ConfigMap", "NAME DATA AGE"),
        ("v1 Endpoints", "NAME ENDPOINTS AGE"),
        (
            "v1 Event",
            "LAST SEEN TYPE REASON OBJECT MESSAGE | SUBOBJECT SOURCE FIRST SEEN COUNT NAME",
        ),
        ("v1 LimitRange", "NAME CREATED AT"),
        ("v1 Namespace", "NAME STATUS AGE"),
        (
            "v1 Node",
            "NAME STATUS ROLES AGE VERSION | INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION \
             CONTAINER-RUNTIME",
        ),
        (
            "v1 PersistentVolume",
            "NAME CAPACITY ACCESS MODES RECLAIM POLICY STATUS CLAIM STORAGECLASS \
             VOLUMEATTRIBUTESCLASS REASON AGE | VOLUMEMODE",
        ),
        (
            "v1 PersistentVolumeClaim",
            "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE | \
             VOLUMEMODE",
        ),
        ("v1 Pod", "NAME READY STATUS RESTARTS AGE | IP NODE NOMINATED NODE READINESS GATES"),
        ("v1 PodTemplate", "NAME CONTAINERS IMAGES POD LABELS"),
        ("v1 ReplicationController", "NAME DESIRED CURRENT READY AGE | CONTAINERS IMAGES SELECTOR"),
        ("v1 ResourceQuota", "NAME REQUEST LIMIT AGE"),
        ("v1 Secret", "NAME TYPE DATA AGE"),
        ("v1 Service", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE | SELECTOR"),
        ("v1 ServiceAccount", "NAME SECRETS AGE"),
        ("apps/v1 ControllerRevision", "NAME CONTROLLER REVISION AGE"),
        (
            "apps/v1 DaemonSet",
            "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE | CONTAINERS IMAGES \
             SELECTOR",
        ),
        ("apps/v1 Deployment", "NAME READY UP-TO-DATE AVAILABLE AGE | CONTAINERS IMAGES SELECTOR"),
        ("apps/v1 ReplicaSet", "NAME DESIRED CURRENT READY AGE | CONTAINERS IMAGES SELECTOR"),
        ("apps/v1 StatefulSet", "NAME READY AGE | CONTAINERS IMAGES"),
        (
            "autoscaling/v2 HorizontalPodAutoscaler",
            "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
        ),
        (
            "batch/v1 CronJob",
            "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE | CONTAINERS IMAGES SELECTOR",
        ),
        ("batch/v1 Job", "NAME STATUS COMPLETIONS DURATION AGE | CONTAINERS IMAGES SELECTOR"),
        (
            "certificates.k8s.io/v1 CertificateSigningRequest",
            "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION",
        ),
        ("coordination.k8s.io/v1 Lease", "NAME HOLDER AGE"),
        ("discovery.k8s.io/v1 EndpointSlice", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        ("networking.k8s.io/v1 Ingress", "NAME CLASS HOSTS ADDRESS PORTS AGE"),
        ("networking.k8s.io/v1 IngressClass", "NAME CONTROLLER PARAMETERS AGE"),
        ("networking.k8s.io/v1 NetworkPolicy", "NAME POD-SELECTOR AGE"),
        ("node.k8s.io/v1 RuntimeClass", "NAME HANDLER AGE"),
        (
            "policy/v1 PodDisruptionBudget",
            "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE",
        ),
        ("rbac.authorization.k8s.io/v1 ClusterRole", "NAME CREATED AT"),
        (
            "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
            "NAME ROLE AGE | USERS GROUPS SERVICEACCOUNTS",
        ),
        ("rbac.authorization.k8s.io/v1 Role", "NAME CREATED AT"),
        (
            "rbac.authorization.k8s.io/v1 RoleBinding",
            "NAME ROLE AGE | USERS GROUPS SERVICEACCOUNTS",
        ),
        ("scheduling.k8s.io/v1 PriorityClass", "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY"),
        (
            "storage.k8s.io/v1 CSIDriver",
            "NAME ATTACHREQUIRED PODINFOONMOUNT STORAGECAPACITY TOKENREQUESTS REQUIRESREPUBLISH \
             MODES AGE",
        ),
        ("storage.k8s.io/v1 CSINode", "NAME DRIVERS AGE"),
        (
            "storage.k8s.io/v1 StorageClass",
            "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE",
        ),
        ("storage.k8s.io/v1 VolumeAttachment", "NAME ATTACHER PV NODE ATTACHED AGE"),
    ];
    for (name, shown) in expected {
        let (api_version, kind) = name.split_once(' ').unwrap();
        assert_eq!(headers(kinds::by_kind(api_version, kind).unwrap()), shown, "{name}");
    }
}

#[test]
fn each_kind_is_printed_as_upstream_prints_it() {
    let template = json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let hosts: Vec<Value> = ["a", "b", "c", "d"].iter().map(|h| json!({ "host": h })).collect();
    for (name, object, expected) in [
        (
            "networking.k8s.io/v1 Ingress",
            json!({
                "spec": { "ingressClassName": "nginx", "rules": hosts, "tls": [{}] },
                "status": { "loadBalancer": { "ingress": [
                    { "ip": "192.0.2.2" }, { "hostname": "a.example" }, { "ip": "192.0.2.2" },
                ] } },
            }),
            "x | nginx | a,b,c + 1 more... | 192.0.2.2,a.example | 80, 443 | 5m",
        ),
        ("networking.k8s.io/v1 Ingress", json!({}), "x | <none> | * |  | 80 | 5m"),
        (
            "networking.k8s.io/v1 IngressClass",
            json!({ "spec": { "controller": "a/b", "parameters": {
                "apiGroup": "g", "kind": "K", "name": "n",
            } } }),
            "x | a/b | K.g/n | 5m",
        ),
        (
            "networking.k8s.io/v1 NetworkPolicy",
            json!({ "spec": { "podSelector": { "matchLabels": { "b": "2", "a": "1" } } } }),
            "x | a=1,b=2 | 5m",
        ),
        ("networking.k8s.io/v1 NetworkPolicy", json!({ "spec": {} }), "x | <none> | 5m"),
        (
            "batch/v1 Job",
            json!({
                "spec": { "completions": 2, "template": template,
                          "selector": { "matchLabels": { "u": "1" } } },
                "status": { "succeeded": 1, "startTime": "2026-01-01T00:03:00Z" },
            }),
            "x | Running | 1/2 | 2m | 5m | c | i | u=1",
        ),
        (
            "batch/v1 Job",
            json!({
                "spec": { "parallelism": 3, "template": template },
                "status": {
                    "succeeded": 1, "startTime": "2026-01-01T00:03:00Z",
                    "completionTime": "2026-01-01T00:03:07Z",
                    "conditions": [{ "type": "Complete", "status": "True" }],
                },
            }),
            "x | Complete | 1/1 of 3 | 7s | 5m | c | i | <none>",
        ),
        (
            "batch/v1 CronJob",
            json!({
                "spec": { "schedule": "@daily", "timeZone": "UTC", "suspend": false,
                          "jobTemplate": { "spec": { "template": template } } },
                "status": { "active": [{}], "lastScheduleTime": "2026-01-01T00:04:00Z" },
            }),
            "x | @daily | UTC | False | 1 | 60s | 5m | c | i | <none>",
        ),
        (
            "autoscaling/v2 HorizontalPodAutoscaler",
            json!({
                "spec": {
                    "scaleTargetRef": { "kind": "Deployment", "name": "web" },
                    "minReplicas": 1, "maxReplicas": 5,
                    "metrics": [
                        { "type": "Resource", "resource": { "name": "cpu", "target": {
                            "averageUtilization": 80 } } },
                        { "type": "Pods", "pods": { "target": { "averageValue": "10" } } },
                        { "type": "Object", "object": { "target": { "value": "1k" } } },
                    ],
                },
                "status": { "currentReplicas": 2, "currentMetrics": [
                    { "type": "Resource", "resource": { "current": { "averageUtilization": 40 } } },
                ] },
            }),
            "x | Deployment/web | cpu: 40%/80%, <unknown>/10 + 1 more... | 1 | 5 | 2 | 5m",
        ),
        (
            "autoscaling/v2 HorizontalPodAutoscaler",
            json!({ "spec": { "metrics": [{ "type": "External", "external": {
                "target": { "averageValue": "5" } } }] } }),
            "x | / | <unknown>/5 (avg) | <unset> | 0 | 0 | 5m",
        ),
        (
            "policy/v1 PodDisruptionBudget",
            json!({ "spec": { "minAvailable": "50%" }, "status": { "disruptionsAllowed": 1 } }),
            "x | 50% | N/A | 1 | 5m",
        ),
        (
            "rbac.authorization.k8s.io/v1 RoleBinding",
            json!({ "roleRef": { "kind": "Role", "name": "r" }, "subjects": [
                { "kind": "User", "name": "u" }, { "kind": "User", "name": "v" },
                { "kind": "Group", "name": "g" },
                { "kind": "ServiceAccount", "name": "s", "namespace": "n" },
            ] }),
            "x | Role/r | 5m | u, v | g | n/s",
        ),
        (
            "certificates.k8s.io/v1 CertificateSigningRequest",
            json!({
                "spec": { "signerName": "a.b/c", "username": "jane", "expirationSeconds": 3600 },
                "status": { "conditions": [{ "type": "Approved" }], "certificate": "eA==" },
            }),
            "x | 5m | a.b/c | jane | 60m | Approved,Issued",
        ),
        (
            "scheduling.k8s.io/v1 PriorityClass",
            json!({ "value": 7, "preemptionPolicy": "Never" }),
            "x | 7 | false | 5m | Never",
        ),
        (
            "storage.k8s.io/v1 StorageClass",
            json!({
                "metadata": { "annotations": {
                    "storageclass.kubernetes.io/is-default-class": "true",
                } },
                "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer",
            }),
            "x (default) | p | Delete | WaitForFirstConsumer | false | 5m",
        ),
        (
            "v1 PersistentVolume",
            json!({
                "spec": {
                    "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast",
                    "claimRef": { "namespace": "n", "name": "c" }, "volumeMode": "Block",
                },
                "status": { "phase": "Bound" },
            }),
            "x | 1Gi | RWO,RWX | Retain | Bound | n/c | fast | <unset> |  | 5m | Block",
        ),
        (
            "v1 PersistentVolumeClaim",
            json!({
                "spec": { "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem" },
                "status": { "phase": "Pending" },
            }),
            "x | Pending |  |  |  |  | <unset> | 5m | Filesystem",
        ),
        (
            "v1 PersistentVolumeClaim",
            json!({
                "spec": { "volumeName": "pv", "storageClassName": "fast" },
                "status": {
                    "phase": "Bound", "capacity": { "storage": "2Gi" },
                    "accessModes": ["ReadWriteOncePod"],
                },
            }),
            "x | Bound | pv | 2Gi | RWOP | fast | <unset> | 5m | <unset>",
        ),
        (
            "v1 ResourceQuota",
            json!({ "status": {
                "hard": { "pods": "4", "limits.cpu": "2", "requests.cpu": "1" },
                "used": { "pods": "1", "requests.cpu": "500m" },
            } }),
            "x | pods: 1/4, requests.cpu: 500m/1 | limits.cpu: 0/2 | 5m",
        ),
        (
            "v1 ReplicationController",
            json!({ "spec": { "replicas": 2, "selector": { "a": "b" }, "template": template } }),
            "x | 2 | 0 | 0 | 5m | c | i | a=b",
        ),
        ("v1 PodTemplate", json!({ "template": template }), "x | c | i | a=b"),
        ("rbac.authorization.k8s.io/v1 Role", json!({ "rules": [] }), "x | 2026-01-01T00:00:00Z"),
        (
            "storage.k8s.io/v1 CSIDriver",
            json!({ "spec": { "tokenRequests": [{ "audience": "a" }] } }),
            "x | true | false | false | a | false | <none> | 5m",
        ),
        ("storage.k8s.io/v1 CSINode", json!({ "spec": { "drivers": [{}] } }), "x | 1 | 5m"),
        (
            "storage.k8s.io/v1 VolumeAttachment",
            json!({ "spec": { "attacher": "a", "nodeName": "n",
                              "source": { "persistentVolumeName": "pv" } } }),
            "x | a | pv | n | false | 5m",
        ),
    ] {
        let (api_version, kind) = name.split_once(' ').unwrap();
        assert_eq!(printed(api_version, kind, object), expected, "{name}");
    }
}
