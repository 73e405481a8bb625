//! What a write may touch (upstream: the strategies under pkg/registry).
//!
//! Status is reset on create and kept by updates of the main resource; all but the status is kept by
//! updates of the status; the generation counts changes of the spec. The order of a write is: schema
//! check, defaults, this, allocation, validation.

mod job;
pub mod service;

use serde_json::{Value, json};

use crate::fields::{Fields, empty, same};
use crate::kinds::{Kind, Subresource};

/// Clears what a creator may not set (status) and sets `metadata.generation` where kinds have it.
pub fn prepare_for_create(kind: &Kind, object: &mut Value) {
    match (kind.group, kind.kind) {
        ("", "Pod") => {
            let qos = qos_class(&object["spec"]);
            object.set("status", json!({ "phase": "Pending", "qosClass": qos }));
        }
        ("", "Service") => service::prepare_for_create(object),
        ("networking.k8s.io", "ServiceCIDR") => object.set("status", empty()),
        ("", "Namespace") => {
            object.set("status", json!({ "phase": "Active" }));
            if let Some(spec) = object.object_mut("spec") {
                let mut finalizers = spec.items("finalizers").to_vec();
                if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
                spec.set("finalizers", finalizers);
            }
        }
        ("apps", "Deployment") => object.set("status", empty()),
        ("apps", "ReplicaSet") => object.set("status", json!({ "replicas": 0 })),
        ("apps", "StatefulSet") => {
            object.set("status", json!({ "replicas": 0, "availableReplicas": 0 }));
        }
        ("apps", "DaemonSet") => object.set(
            "status",
            json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0,
                "desiredNumberScheduled": 0, "numberReady": 0,
            }),
        ),
        ("", "ReplicationController") => object.set("status", json!({ "replicas": 0 })),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            object.set("status", json!({ "phase": "Pending" }));
        }
        ("networking.k8s.io", "Ingress") => object.set("status", json!({ "loadBalancer": {} })),
        ("policy", "PodDisruptionBudget") => object.set(
            "status",
            json!({
                "currentHealthy": 0, "desiredHealthy": 0,
                "disruptionsAllowed": 0, "expectedPods": 0,
            }),
        ),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            object.set("status", json!({ "currentReplicas": 0, "desiredReplicas": 0 }));
        }
        ("storage.k8s.io", "VolumeAttachment") => {
            object.set("status", json!({ "attached": false }));
        }
        ("", "ResourceQuota")
        | ("batch", "Job" | "CronJob")
        | ("certificates.k8s.io", "CertificateSigningRequest") => object.set("status", empty()),
        _ => {}
    }
    if has_generation(kind)
        && let Some(metadata) = object.object_mut("metadata")
    {
        metadata.set("generation", 1);
    }
}

/// What depends on the name, which the server may have generated, and on the uid.
pub fn complete(kind: &Kind, object: &mut Value) {
    if (kind.group, kind.kind) == ("batch", "Job") {
        job::generate_selector(object);
    }
}

/// Who asks for a certificate is known by who creates the request, whatever it says.
pub fn set_requester(kind: &Kind, object: &mut Value, name: &str, groups: &[String]) {
    if (kind.group, kind.kind) != ("certificates.k8s.io", "CertificateSigningRequest") {
        return;
    }
    let Some(spec) = object.object_mut("spec") else { return };
    spec.set("username", name);
    spec.set("groups", groups);
    for field in ["uid", "extra"] {
        spec.unset(field);
    }
}

/// Takes from the old object what this write may not change and bumps `metadata.generation`.
pub fn prepare_for_update(
    kind: &Kind,
    subresource: Option<Subresource>,
    new: &mut Value,
    old: &Value,
) {
    keep_system_metadata(new, old);
    match subresource {
        None => {
            if kind.subresources.contains(&Subresource::Status) {
                new.copy_from(old, "status");
            }
            match (kind.group, kind.kind) {
                ("", "Service") => service::prepare_for_update(new, old),
                ("", "Namespace") => keep_finalizers(new, old),
                ("certificates.k8s.io", "CertificateSigningRequest") => new.copy_from(old, "spec"),
                _ => {}
            }
        }
        Some(Subresource::Approval) => {
            new.copy_from(old, "spec");
            let certificate = &old["status"]["certificate"];
            if let Some(status) = new.object_mut("status") {
                status.unset("certificate");
                if !certificate.is_null() {
                    status.set("certificate", certificate.clone());
                }
            }
        }
        Some(Subresource::Finalize) => {
            new.copy_from(old, "status");
        }
        Some(Subresource::Status) => {
            new.copy_from(old, "spec");
            if kind.kind == "Pod" || kind.group == "apps" {
                keep_metadata(new, old, "ownerReferences");
            }
            if kind.kind == "Deployment" {
                keep_metadata(new, old, "labels");
            }
            if kind.kind == "CertificateSigningRequest" {
                keep_approvals(new, old);
            }
        }
        Some(_) => {}
    }
    if has_generation(kind) {
        let generation = old["metadata"].number("generation");
        let bump = i64::from(content_differs(kind, new, old));
        if let Some(metadata) = new.object_mut("metadata") {
            metadata.set("generation", generation + bump);
        }
    }
}

/// What clients may leave out, and what none of them can take back (upstream: rest.BeforeUpdate).
fn keep_system_metadata(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let Some(new) = new.object_mut("metadata") else { return };
    for field in ["uid", "creationTimestamp"] {
        if !new.has(field) {
            new.copy_from(old, field);
        }
    }
    if old.has("deletionTimestamp") {
        new.copy_from(old, "deletionTimestamp");
        new.copy_from(old, "deletionGracePeriodSeconds");
    }
    if !new.has("generation") {
        new.copy_from(old, "generation");
    }
}

fn keep_finalizers(new: &mut Value, old: &Value) {
    if let Some(spec) = new.object_mut("spec") {
        spec.copy_from(&old["spec"], "finalizers");
    }
}

/// Approved and Denied are written through `approval` alone.
fn keep_approvals(new: &mut Value, old: &Value) {
    let is_approval = |condition: &&Value| matches!(condition.text("type"), "Approved" | "Denied");
    let mut conditions: Vec<Value> =
        old["status"].items("conditions").iter().filter(is_approval).cloned().collect();
    let others = new["status"].items("conditions").iter().filter(|c| !is_approval(c));
    conditions.extend(others.cloned());
    if let Some(status) = new.object_mut("status")
        && (!conditions.is_empty() || status.has("conditions"))
    {
        status.set("conditions", conditions);
    }
}

fn keep_metadata(new: &mut Value, old: &Value, field: &str) {
    if let Some(metadata) = new.object_mut("metadata") {
        metadata.copy_from(&old["metadata"], field);
    }
}

fn has_generation(kind: &Kind) -> bool {
    matches!(
        (kind.group, kind.kind),
        ("", "Pod" | "PodTemplate" | "ReplicationController")
            | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
            | ("batch", "Job" | "CronJob")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("networking.k8s.io", "Ingress" | "IngressClass" | "NetworkPolicy")
            | ("policy", "PodDisruptionBudget")
            | ("scheduling.k8s.io", "PriorityClass")
    )
}

fn content_differs(kind: &Kind, new: &Value, old: &Value) -> bool {
    match kind.kind {
        "EndpointSlice" => {
            let fields = ["endpoints", "ports", "addressType"];
            fields.iter().any(|field| !same(&new[*field], &old[*field]))
                || !same(&new["metadata"]["labels"], &old["metadata"]["labels"])
        }
        "PodTemplate" => !same(&new["template"], &old["template"]),
        _ => !same(&new["spec"], &old["spec"]),
    }
}

/// Quality of service, from the requests and limits of cpu and memory (upstream: qos.ComputePodQOS).
fn qos_class(spec: &Value) -> &'static str {
    let containers = spec.items("initContainers").iter().chain(spec.items("containers"));
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let (limit, request) =
                (resources["limits"].text(name), resources["requests"].text(name));
            any |= !limit.is_empty() || !request.is_empty();
            guaranteed &= !limit.is_empty() && (request.is_empty() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Warnings that upstream sends in a `Warning: 299` header when this object is written.
pub fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    match (kind.group, kind.kind) {
        ("", "Service") => service::warnings(object),
        ("networking.k8s.io", "Ingress")
            if object["metadata"]["annotations"].has("kubernetes.io/ingress.class") =>
        {
            vec![
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use \
                 'spec.ingressClassName' instead"
                    .into(),
            ]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
