//! Volumes, claims, classes, quotas and limits.

use super::*;

#[test]
fn priority_runtime_and_storage_classes() {
    let priority = object("scheduling.k8s.io/v1", "PriorityClass", json!({ "value": 5 }));
    check(
        &priority,
        &[
            case(
                "/value",
                json!(1_000_000_001),
                &["value: Forbidden: maximum allowed value of a user defined priority is \
                   1000000000"],
            ),
            case(
                "/metadata/name",
                json!("system-mine"),
                &["metadata.name: Forbidden: priority class names with 'system-' prefix are \
                   reserved for system use only. error: system-mine is not a known system priority \
                   class"],
            ),
        ],
    );
    check_updates(
        &priority,
        &[
            case("/value", json!(6), &["value: Forbidden: may not be changed in an update."]),
            case("/description", json!("d"), &[]),
        ],
    );
    let runtime = object("node.k8s.io/v1", "RuntimeClass", json!({ "handler": "runc" }));
    check(&runtime, &[]);
    check_updates(
        &runtime,
        &[case("/handler", json!("x"), &["handler: Invalid value: \"x\": field is immutable"])],
    );
    let storage = object(
        "storage.k8s.io/v1",
        "StorageClass",
        json!({ "provisioner": "example.com/p", "parameters": { "a": "b" } }),
    );
    check(
        &storage,
        &[
            case("/provisioner", json!(""), &["provisioner: Required value"]),
            case(
                "/reclaimPolicy",
                json!("Recycle"),
                &["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \
                   \"Retain\""],
            ),
        ],
    );
    check_updates(
        &storage,
        &[
            case("/allowVolumeExpansion", json!(true), &[]),
            case(
                "/parameters",
                json!({}),
                &["parameters: Forbidden: updates to parameters are forbidden."],
            ),
            case(
                "/volumeBindingMode",
                json!("WaitForFirstConsumer"),
                &["volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is \
                   immutable"],
            ),
        ],
    );
}

#[test]
fn volumes_and_claims() {
    let volume = object(
        "v1",
        "PersistentVolume",
        json!({ "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "hostPath": { "path": "/v" },
        } }),
    );
    check(
        &volume,
        &[
            case("/spec/accessModes", Value::Null, &["spec.accessModes: Required value"]),
            case("/spec/capacity", Value::Null, &["spec.capacity: Required value"]),
            case(
                "/spec/capacity/storage",
                json!("0"),
                &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            case(
                "/spec/hostPath",
                Value::Null,
                &["spec: Required value: must specify a volume type"],
            ),
            case(
                "/spec/nfs",
                json!({ "server": "s", "path": "/" }),
                &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            case(
                "/spec/accessModes",
                json!(["ReadWriteOnce", "ReadWriteOncePod"]),
                &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access \
                   modes"],
            ),
        ],
    );
    check_updates(
        &volume,
        &[
            case("/spec/storageClassName", json!("fast"), &[]),
            case(
                "/spec/hostPath/path",
                json!("/w"),
                &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is \
                   immutable after creation"],
            ),
        ],
    );
    let claim = object(
        "v1",
        "PersistentVolumeClaim",
        json!({ "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        } }),
    );
    check(
        &claim,
        &[
            case(
                "/spec/accessModes",
                json!([]),
                &["spec.accessModes: Required value: at least 1 access mode is required"],
            ),
            case("/spec/resources", json!({}), &["spec.resources[storage]: Required value"]),
            case(
                "/spec/volumeMode",
                json!("Tape"),
                &["spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \
                   \"Filesystem\""],
            ),
        ],
    );
    check_updates(
        &claim,
        &[
            case("/spec/volumeName", json!("pv"), &[]),
            case(
                "/spec/storageClassName",
                json!("fast"),
                &[
                    "spec: Forbidden: spec is immutable after creation except resources.requests and \
                   volumeAttributesClassName for bound claims",
                ],
            ),
        ],
    );
}

#[test]
fn quotas_and_limits() {
    let quota = object(
        "v1",
        "ResourceQuota",
        json!({ "spec": { "hard": {
        "pods": "4", "requests.cpu": "500m", "count/deployments.apps": "2",
    } } }),
    );
    check(
        &quota,
        &[
            case(
                "/spec/hard",
                json!({ "pods": "1500m" }),
                &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
            ),
            case(
                "/spec/hard",
                json!({ "apples": "1" }),
                &["spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for \
                   quota"],
            ),
            case(
                "/spec/hard",
                json!({ "pods": "-1" }),
                &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            case(
                "/spec/scopes",
                json!(["Lazy"]),
                &["spec.scopes: Invalid value: \"Lazy\": unsupported scope"],
            ),
        ],
    );
    check_updates(
        &quota,
        &[case(
            "/spec/scopes",
            json!(["BestEffort"]),
            &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
        )],
    );
    let range = object(
        "v1",
        "LimitRange",
        json!({ "spec": { "limits": [
        { "type": "Container", "min": { "cpu": "100m" }, "max": { "cpu": "1" } },
    ] } }),
    );
    check(
        &range,
        &[
            case(
                "/spec/limits/0/default",
                json!({ "cpu": "2" }),
                &[
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request \
                     value 2 is greater than max value 1",
                    "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 2 is greater \
                     than max value 1",
                ],
            ),
            case(
                "/spec/limits/0",
                json!({ "type": "Pod", "default": { "cpu": "1" } }),
                &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
            ),
            case(
                "/spec/limits/0/type",
                json!("Planet"),
                &["spec.limits[0].type: Invalid value: \"Planet\": must be a standard limit type \
                   or fully qualified"],
            ),
        ],
    );
}
