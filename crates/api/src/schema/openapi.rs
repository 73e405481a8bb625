//! OpenAPI v3 components as upstream publishes them, as far as clients look: names, descriptions,
//! references, group-version-kinds, formats, and the extensions that kubectl merges by.

use serde_json::{Map, Value, json};

use super::overlay;
use super::types::{REFERENCE, ROOTS, generator};
use crate::kinds::{self, Kind};

const GVK: &str = "x-kubernetes-group-version-kind";

/// OpenAPI v3 components (name → schema) that the kinds of one group and version need, lists and
/// metadata included. Built anew at each call: cache the bytes, not the tree.
pub fn components(group: &str, version: &str) -> Map<String, Value> {
    let mut generator = generator();
    for (root, registers) in ROOTS {
        if *root == (group, version) || root.1.is_empty() {
            registers.iter().for_each(|register| register(&mut generator));
        }
    }
    let mut components: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    for (name, schema) in &mut components {
        complete(name, schema);
    }
    for kind in kinds::all().iter().filter(|k| k.group == group && k.version == version) {
        let list = kind.schema.replace(kind.kind, kind.list_kind);
        components.insert(list, list_schema(kind));
    }
    components
}

fn complete(name: &str, schema: &mut Value) {
    match name.rsplit('.').next() {
        Some("IntOrString") => {
            set(schema, "format", "int-or-string".into());
            set(schema, "oneOf", json!([{ "type": "integer" }, { "type": "string" }]));
        }
        Some("Quantity") => {
            set(schema, "oneOf", json!([{ "type": "string" }, { "type": "number" }]));
        }
        _ => {}
    }
    if let Value::Object(schema) = schema {
        schema.remove("x-kubernetes-int-or-string");
    }
    if overlay::is_atomic_struct(name) {
        set(schema, "x-kubernetes-map-type", "atomic".into());
    }
    if let Some(gvk) = gvk_of(name) {
        set(schema, GVK, gvk);
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (field, property) in properties {
        annotate(name, field, property);
    }
}

fn annotate(component: &str, field: &str, property: &mut Value) {
    if overlay::is_atomic_map(component, field) {
        set(property, "x-kubernetes-map-type", "atomic".into());
    }
    if let Some(overlay) = overlay::find(component, field) {
        set(property, "x-kubernetes-patch-strategy", overlay.strategy.into());
        if let Some(first) = overlay.keys.first() {
            set(property, "x-kubernetes-patch-merge-key", first.field.into());
        }
    }
    if property["type"] != "array" {
        return;
    }
    let list_type = match overlay::list_keys(component, field) {
        None => "atomic",
        Some([]) => "set",
        Some(keys) => {
            let keys: Vec<&str> = keys.iter().map(|key| key.field).collect();
            set(property, "x-kubernetes-list-map-keys", keys.into());
            "map"
        }
    };
    set(property, "x-kubernetes-list-type", list_type.into());
}

/// Kinds are known by having both apiVersion and kind; their group is in the component's name.
fn gvk_of(component: &str) -> Option<Value> {
    let entry = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    if let Some(kind) = kinds::all().iter().find(|kind| kind.schema == component) {
        return Some(json!([entry(kind.group, kind.version, kind.kind)]));
    }
    let short = component.rsplit('.').next()?;
    match short {
        // Sent to and from every group.
        "DeleteOptions" | "WatchEvent" => {
            let mut all: Vec<Value> = Vec::new();
            for kind in kinds::all() {
                let gvk = entry(kind.group, kind.version, short);
                if !all.contains(&gvk) {
                    all.push(gvk);
                }
            }
            Some(all.into())
        }
        "Status" => component.contains("apis.meta").then(|| json!([entry("", "v1", short)])),
        "Binding" => Some(json!([entry("", "v1", short)])),
        "Scale" => Some(json!([entry("autoscaling", "v1", short)])),
        "Eviction" => Some(json!([entry("policy", "v1", short)])),
        // CSIDrivers have a TokenRequest of their own, which is no kind.
        "TokenRequest" | "SelfSubjectReview" | "TokenReview"
            if component.contains(".authentication.") =>
        {
            Some(json!([entry("authentication.k8s.io", "v1", short)]))
        }
        "LocalSubjectAccessReview"
        | "SelfSubjectAccessReview"
        | "SelfSubjectRulesReview"
        | "SubjectAccessReview" => Some(json!([entry("authorization.k8s.io", "v1", short)])),
        _ => None,
    }
}

fn list_schema(kind: &Kind) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("{REFERENCE}{name}") });
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("The version of this representation of the list."),
            "kind": text("The kind of the list."),
            "metadata": {
                "description": "Standard metadata of a list.",
                "allOf": [reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")],
            },
            "items": {
                "description": format!("The {} objects.", kind.kind),
                "type": "array",
                "items": reference(kind.schema),
            },
        },
        GVK: [{ "group": kind.group, "version": kind.version, "kind": kind.list_kind }],
    })
}

fn set(schema: &mut Value, name: &str, value: Value) {
    if let Value::Object(schema) = schema {
        schema.insert(name.to_owned(), value);
    }
}

/// Names that are referred to and not defined; for the tests.
#[cfg(test)]
pub(super) fn dangling(components: &Map<String, Value>) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.trim_start_matches(REFERENCE).to_owned());
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    components.values().for_each(|schema| collect(schema, &mut found));
    found.retain(|name| !components.contains_key(name));
    found
}

/// Whether the compact types know a component; for the tests.
#[cfg(test)]
pub(super) fn is_known(component: &str) -> bool {
    super::types::Types::get().component(component).is_some()
}
