//! Quotas and ranges of resources in a namespace (upstream: pkg/apis/core/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;
use crate::schema::quantity;

/// What can be counted without a domain in its name.
const STANDARD: &[&str] = &[
    "bindings",
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const LIMITS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn nanos(quantity: &Value) -> Option<i128> {
    quantity::parse(quantity.as_str()?).ok().map(|quantity| quantity.nanos)
}

fn resource_name(causes: &mut Causes, path: &Path<'_>, name: &str) {
    let messages = formats::qualified_name(name);
    let fine = messages.is_empty();
    causes.all(path, name, messages);
    if fine && !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        let message = "must be a standard resource for quota";
        causes.invalid(path, name, message);
    }
}

pub(super) fn resource_quota(causes: &mut Causes, quota: &Value) {
    let (spec, path) = (&quota["spec"], Path::new("spec"));
    let hard = path.child("hard");
    for (name, quantity) in spec.entries("hard") {
        let own = hard.key(name);
        resource_name(causes, &own, name);
        let text = quantity.as_str().unwrap_or_default();
        let Some(nanos) = nanos(quantity) else { continue };
        if nanos < 0 {
            causes.invalid(&own, text, formats::NEGATIVE);
        }
        let counted = COUNTED.contains(&name.as_str()) || name.starts_with("count/");
        if counted && nanos % 1_000_000_000 != 0 {
            causes.invalid(&own, text, "must be an integer");
        }
    }
    let list = path.child("scopes");
    for scope in spec.items("scopes").iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            causes.invalid(&list, scope, "unsupported scope");
        }
    }
    let selector = path.child("scopeSelector");
    let list = selector.child("matchExpressions");
    for item in spec["scopeSelector"].items("matchExpressions") {
        let scope = item.text("scopeName");
        if !SCOPES.contains(&scope) {
            causes.invalid(&list.child("scopeName"), scope, "unsupported scope");
        }
        let values = !item.items("values").is_empty();
        match item.text("operator") {
            "In" | "NotIn" if !values => {
                let message = "must be at least one value when `operator` is 'In' or 'NotIn' for \
                               scope selector";
                causes.required(&list.child("values"), message);
            }
            "Exists" | "DoesNotExist" if values => {
                let message = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for \
                               scope selector";
                causes.invalid(&list.child("values"), item["values"].clone(), message);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                causes.invalid(&list.child("operator"), other, "not a valid selector operator")
            }
        }
    }
}

pub(super) fn resource_quota_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let sorted = |quota: &Value| {
        let mut scopes: Vec<String> = quota["spec"]
            .items("scopes")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        scopes.sort_unstable();
        scopes
    };
    if sorted(new) != sorted(old) {
        let scopes = new["spec"]["scopes"].clone();
        causes.invalid(&path.child("scopes"), scopes, formats::IMMUTABLE);
    }
}

pub(super) fn limit_range(causes: &mut Causes, range: &Value) {
    let path = Path::new("spec");
    let list = path.child("limits");
    let items = range["spec"].items("limits");
    for (index, item) in items.iter().enumerate() {
        let path = list.index(index);
        let kind = item.text("type");
        limit_type(causes, &path.child("type"), kind);
        if items[..index].iter().any(|other| other.text("type") == kind) {
            causes.duplicate(&path.child("type"), kind);
        }
        for field in LIMITS {
            let path = path.child(field);
            for (name, _) in item.entries(field) {
                causes.all(&path.key(name), name, formats::qualified_name(name));
            }
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.entries(field).next().is_some() {
                    let message = "may not be specified when `type` is 'Pod'";
                    causes.forbidden(&path.child(field), message);
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && !item["min"].has("storage")
            && !item["max"].has("storage")
        {
            let message = "either minimum or maximum storage value is required, but neither was \
                           provided";
            causes.required(&path.child("limits"), message);
        }
        // Each pair is in order; the cause names the field that is not a bound.
        for (least, most, named) in [
            ("min", "max", "min"),
            ("min", "defaultRequest", "defaultRequest"),
            ("defaultRequest", "max", "defaultRequest"),
            ("defaultRequest", "default", "defaultRequest"),
            ("min", "default", "default"),
            ("default", "max", "default"),
        ] {
            ordered(causes, &path.child(named), item, least, most);
        }
        let ratios = path.child("maxLimitRequestRatio");
        for (name, ratio) in item.entries("maxLimitRequestRatio") {
            if nanos(ratio).is_some_and(|ratio| ratio < 1_000_000_000) {
                let text = ratio.as_str().unwrap_or_default();
                causes.invalid(&ratios.key(name), text, &format!("ratio {text} is less than 1"));
            }
        }
    }
}

fn limit_type(causes: &mut Causes, path: &Path<'_>, kind: &str) {
    let messages = formats::qualified_name(kind);
    let fine = messages.is_empty();
    causes.all(path, kind, messages);
    if fine && !kind.contains('/') && !["Container", "PersistentVolumeClaim", "Pod"].contains(&kind)
    {
        causes.invalid(path, kind, "must be a standard limit type or fully qualified");
    }
}

fn ordered(causes: &mut Causes, path: &Path<'_>, item: &Value, least: &str, most: &str) {
    let spoken = |field: &str| match field {
        "defaultRequest" => "default request",
        "default" if least == "defaultRequest" => "default limit",
        "default" => "default",
        "max" => "max",
        _ => "min",
    };
    for (name, low) in item.entries(least) {
        let high = &item[most][name.as_str()];
        if let (Some(low_nanos), Some(high_nanos)) = (nanos(low), nanos(high))
            && low_nanos > high_nanos
        {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (low, high) = (text(low), text(high));
            let (lower, upper) = (spoken(least), spoken(most));
            let message = format!("{lower} value {low} is greater than {upper} value {high}");
            causes.invalid(&path.key(name), low, &message);
        }
    }
}
