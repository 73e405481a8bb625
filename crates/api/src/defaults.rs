//! Defaulting: what Kubernetes 1.36 writes into fields that the user left out (upstream:
//! pkg/apis/*/v1/defaults.go, and the admission plugins that are always on).
//!
//! Runs after the schema check and before strategy and validation, on every write, and again on its
//! own output without a change. Node ports and addresses are not defaults: they are allocated.

mod autoscaling;
mod batch;
mod pod;
mod service;
mod storage;
mod workloads;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fields::{Fields, empty};
use crate::kinds::Kind;

pub(crate) use self::service::is_externally_accessible;

/// Fills in the defaults of a kind. Idempotent.
pub fn defaults(kind: &Kind, object: &mut Value) {
    object.default_to("apiVersion", kind.api_version());
    object.default_to("kind", kind.kind);
    match (kind.group, kind.kind) {
        ("", "Service") => service::service(object),
        ("", "Pod") => pod::pod(object),
        ("", "Namespace") => namespace(object),
        ("", "Node") => node(object),
        ("", "Secret") => secret(object),
        ("", "Endpoints") => endpoints(object),
        ("apps", "Deployment") => workloads::deployment(object),
        ("apps", "ReplicaSet") => workloads::replica_set(object),
        ("apps", "StatefulSet") => workloads::stateful_set(object),
        ("apps", "DaemonSet") => workloads::daemon_set(object),
        ("", "ReplicationController") => workloads::replication_controller(object),
        ("", "PodTemplate") => pod::pod_template(object),
        ("", "LimitRange") => storage::limit_range(object),
        ("", "PersistentVolume") => storage::persistent_volume(object),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim(object),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            autoscaling::horizontal_pod_autoscaler(object);
        }
        ("batch", "Job") => batch::job(object),
        ("batch", "CronJob") => batch::cron_job(object),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        ("networking.k8s.io", "IngressClass") => ingress_class(object),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("scheduling.k8s.io", "PriorityClass") => {
            object.default_absent("preemptionPolicy", "PreemptLowerPriority");
        }
        ("storage.k8s.io", "StorageClass") => storage::storage_class(object),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(object),
        _ => {}
    }
}

fn namespace(namespace: &mut Value) {
    let name = namespace["metadata"].text("name").to_owned();
    if !name.is_empty()
        && let Some(labels) = namespace.object_mut("metadata").and_then(|m| m.object_mut("labels"))
    {
        labels.set("kubernetes.io/metadata.name", name);
    }
    if let Some(status) = namespace.object_mut("status") {
        status.default_to("phase", "Active");
    }
}

fn node(node: &mut Value) {
    let capacity = node["status"]["capacity"].clone();
    if !capacity.is_null()
        && let Some(status) = node.object_mut("status")
    {
        status.default_absent("allocatable", capacity);
    }
}

/// `stringData` is a convenience for writing: it is folded into `data` and never stored.
fn secret(secret: &mut Value) {
    secret.default_to("type", "Opaque");
    let Some(Value::Object(texts)) = secret.unset("stringData") else { return };
    let Some(data) = secret.object_mut("data") else { return };
    for (key, text) in texts {
        data.set(&key, STANDARD.encode(text.as_str().unwrap_or_default()));
    }
}

fn endpoints(endpoints: &mut Value) {
    for subset in endpoints.items_mut("subsets") {
        for port in subset.items_mut("ports") {
            port.default_to("protocol", "TCP");
        }
    }
}

fn endpoint_slice(slice: &mut Value) {
    for port in slice.items_mut("ports") {
        port.default_absent("name", "");
        port.default_to("protocol", "TCP");
    }
    for endpoint in slice.items_mut("endpoints") {
        endpoint.default_absent("conditions", empty());
    }
}

fn ingress_class(class: &mut Value) {
    if let Some(parameters) = class.get_mut("spec").and_then(|spec| spec.get_mut("parameters")) {
        parameters.default_absent("scope", "Cluster");
    }
}

fn network_policy(policy: &mut Value) {
    let Some(spec) = policy.object_mut("spec") else { return };
    // Without a selector all pods are meant, which Go writes as an empty struct.
    spec.default_absent("podSelector", empty());
    for field in ["ingress", "egress"] {
        for port in spec.items_mut(field).iter_mut().flat_map(|rule| rule.items_mut("ports")) {
            port.default_absent("protocol", "TCP");
        }
    }
    if spec.items("policyTypes").is_empty() {
        let both = !spec.items("egress").is_empty();
        spec.set(
            "policyTypes",
            if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
        );
    }
}

fn binding(binding: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = binding.object_mut("roleRef") {
        role.default_to("apiGroup", GROUP);
    }
    for subject in binding.items_mut("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.default_to("apiGroup", GROUP);
        }
    }
}

/// The two tolerations that upstream's DefaultTolerationSeconds gives to every pod.
fn default_tolerations() -> impl Iterator<Item = Value> {
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].into_iter().map(|key| {
        json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 })
    })
}

#[cfg(test)]
mod tests;
