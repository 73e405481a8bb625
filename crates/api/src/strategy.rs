//! What a write may touch (upstream: the strategies under pkg/registry).
//!
//! Status is reset on create and kept by updates of the main resource; all but the status is kept by
//! updates of the status; the generation counts changes of the spec. The order of a write is: schema
//! check, defaults, this, allocation, validation.

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
        _ => {}
    }
    if has_generation(kind)
        && let Some(metadata) = object.object_mut("metadata")
    {
        metadata.set("generation", 1);
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
                _ => {}
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

fn keep_metadata(new: &mut Value, old: &Value, field: &str) {
    if let Some(metadata) = new.object_mut("metadata") {
        metadata.copy_from(&old["metadata"], field);
    }
}

fn has_generation(kind: &Kind) -> bool {
    matches!(
        (kind.group, kind.kind),
        ("", "Pod")
            | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
            | ("discovery.k8s.io", "EndpointSlice")
    )
}

fn content_differs(kind: &Kind, new: &Value, old: &Value) -> bool {
    match kind.kind {
        "EndpointSlice" => {
            let fields = ["endpoints", "ports", "addressType"];
            fields.iter().any(|field| !same(&new[*field], &old[*field]))
                || !same(&new["metadata"]["labels"], &old["metadata"]["labels"])
        }
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
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
