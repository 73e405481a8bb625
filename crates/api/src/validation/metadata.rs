//! Metadata of all kinds (upstream: apimachinery, api/validation/objectmeta.go).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;
use crate::kinds::{Kind, Scope};

const ANNOTATIONS_BYTES: usize = 256 << 10;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

pub(super) fn validate(causes: &mut Causes, kind: &Kind, object: &Value) {
    let path = Path::new("metadata");
    let metadata = &object["metadata"];
    names(causes, &path, kind, metadata);
    match (kind.scope, metadata.text("namespace")) {
        (Scope::Namespaced, "") => causes.required(&path.child("namespace"), ""),
        (Scope::Namespaced, namespace) => {
            let messages = formats::dns_label(namespace);
            causes.all(&path.child("namespace"), namespace, messages);
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => {
            causes.forbidden(&path.child("namespace"), "not allowed on this type");
        }
    }
    causes.non_negative(&path, metadata, "generation");
    labels(causes, &path.child("labels"), &metadata["labels"]);
    annotations(causes, &path.child("annotations"), &metadata["annotations"]);
    owners(causes, &path.child("ownerReferences"), metadata.items("ownerReferences"));
    for finalizer in metadata.items("finalizers").iter().filter_map(Value::as_str) {
        finalizer_name(causes, &path.child("finalizers"), finalizer);
    }
}

/// Names of objects that become parts of host names are labels, those of roles and the like only
/// have to fit into a path, all others are subdomains.
fn names(causes: &mut Causes, path: &Path<'_>, kind: &Kind, metadata: &Value) {
    let format = match (kind.group, kind.kind) {
        (_, "Service" | "Namespace" | "StatefulSet") => formats::dns_label,
        ("rbac.authorization.k8s.io" | "certificates.k8s.io", _) => formats::path_segment,
        (_, "IPAddress") => formats::canonical_ip,
        _ => formats::dns_subdomain,
    };
    let prefix = metadata.text("generateName");
    if !prefix.is_empty() {
        // What is added ends in a letter or digit, so a dash at the end of the prefix is fine.
        let masked = match prefix.strip_suffix('-') {
            Some(rest) => format!("{rest}a"),
            None => prefix.to_owned(),
        };
        causes.all(&path.child("generateName"), prefix, format(&masked));
    }
    match metadata.text("name") {
        "" => causes.required(&path.child("name"), "name or generateName is required"),
        name => causes.all(&path.child("name"), name, format(name)),
    }
}

pub(super) fn labels(causes: &mut Causes, path: &Path<'_>, labels: &Value) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        causes.all(path, key, formats::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        causes.all(path, value, formats::label_value(value));
    }
}

pub(super) fn annotations(causes: &mut Causes, path: &Path<'_>, annotations: &Value) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        causes.all(path, key, formats::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > ANNOTATIONS_BYTES {
        causes.too_long(path, ANNOTATIONS_BYTES);
    }
}

fn owners(causes: &mut Causes, path: &Path<'_>, owners: &[Value]) {
    let mut controller: Option<&Value> = None;
    for owner in owners {
        // Upstream names the list, not the item.
        if owner.text("apiVersion").is_empty() {
            let version = owner.text("apiVersion");
            causes.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                causes.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if owner.text("kind") == "Event" {
            causes.invalid(path, owner.clone(), "Event is disallowed from being an owner");
        }
        if owner.is("controller") {
            if let Some(other) = controller {
                let message = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {} and {}",
                    other.text("name"),
                    owner.text("name"),
                );
                causes.invalid(path, owners.to_vec(), &message);
            }
            controller = Some(owner);
        }
    }
}

fn finalizer_name(causes: &mut Causes, path: &Path<'_>, name: &str) {
    let messages = formats::qualified_name(name);
    if messages.is_empty() && !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let message = "name is neither a standard finalizer name nor is it fully qualified";
        causes.invalid(path, name, message);
    }
    causes.all(path, name, messages);
}

pub(super) fn validate_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("metadata");
    let (new, old) = (&new["metadata"], &old["metadata"]);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        causes.immutable(&path.child(field), &new[field], &old[field]);
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.has(field) && new[field] != old[field] && !old.has("deletionTimestamp") {
            causes.invalid(&path.child(field), new[field].clone(), formats::IMMUTABLE);
        }
    }
    if new.has("generation") && new.number("generation") < old.number("generation") {
        let generation = new.number("generation");
        causes.invalid(&path.child("generation"), generation, "must not be decremented");
    }
    if old.has("deletionTimestamp") {
        let before = old.items("finalizers");
        let added: Vec<&str> = new
            .items("finalizers")
            .iter()
            .filter(|finalizer| !before.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            );
            causes.forbidden(&path.child("finalizers"), &message);
        }
    }
}
