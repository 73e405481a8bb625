//! Pods and pod specs (upstream: ValidatePodSpec, ValidatePodUpdate).

use std::collections::HashSet;

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{container, formats, metadata, volume};
use crate::fields::{Fields, same};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

pub(super) fn validate(causes: &mut Causes, pod: &Value) {
    validate_spec(causes, &Path::new("spec"), &pod["spec"]);
}

/// A pod spec, of a Pod or within a template.
pub(super) fn validate_spec(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let volumes = volume::validate(causes, &path.child("volumes"), spec.items("volumes"));
    if spec.items("containers").is_empty() {
        causes.required(&path.child("containers"), "");
    }
    let mut names = HashSet::new();
    let context = container::Context {
        volumes: &volumes,
        host_network: spec.is("hostNetwork"),
        grace_period: spec.number("terminationGracePeriodSeconds"),
    };
    for field in CONTAINERS {
        let list = path.child(field);
        for (index, container) in spec.items(field).iter().enumerate() {
            let role = match field {
                "initContainers" if container.text("restartPolicy") == "Always" => {
                    container::Role::Sidecar
                }
                "initContainers" => container::Role::Init,
                _ => container::Role::Main,
            };
            let path = list.index(index);
            container::validate(causes, &path, container, &context, role);
            if !names.insert(container.text("name")) {
                causes.duplicate(&path.child("name"), container.text("name"));
            }
        }
    }
    causes.one_of(&path.child("restartPolicy"), spec.text("restartPolicy"), &RESTART_POLICIES);
    dns(causes, path, spec);
    metadata::labels(causes, &path.child("nodeSelector"), &spec["nodeSelector"]);
    causes.non_negative(path, spec, "terminationGracePeriodSeconds");
    if spec.has("activeDeadlineSeconds") {
        let seconds = spec.number("activeDeadlineSeconds");
        if !(1..=i64::from(i32::MAX)).contains(&seconds) {
            let message = "must be between 1 and 2147483647, inclusive";
            causes.invalid(&path.child("activeDeadlineSeconds"), seconds, message);
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = spec.text(field);
        if !name.is_empty() {
            causes.all(&path.child(field), name, formats::dns_label(name));
        }
    }
    for field in ["serviceAccountName", "nodeName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            causes.all(&path.child(field), name, formats::dns_subdomain(name));
        }
    }
    tolerations(causes, &path.child("tolerations"), spec.items("tolerations"));
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let list = path.child("hostAliases");
        let path = list.index(index);
        causes.all(&path.child("ip"), alias.text("ip"), formats::ip(alias.text("ip")));
        for (index, name) in alias.items("hostnames").iter().filter_map(Value::as_str).enumerate() {
            let list = path.child("hostnames");
            causes.all(&list.index(index), name, formats::dns_subdomain(name));
        }
    }
}

fn dns(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    causes.one_of(&path.child("dnsPolicy"), spec.text("dnsPolicy"), &DNS_POLICIES);
    let config_path = path.child("dnsConfig");
    let config = &spec["dnsConfig"];
    if spec.text("dnsPolicy") == "None" && config.items("nameservers").is_empty() {
        if spec.has("dnsConfig") {
            let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.required(&config_path.child("nameservers"), message);
        } else {
            let message = "must provide `dnsConfig` when `dnsPolicy` is None";
            causes.required(&config_path, message);
        }
    }
    for (index, server) in config.items("nameservers").iter().filter_map(Value::as_str).enumerate()
    {
        let list = config_path.child("nameservers");
        causes.all(&list.index(index), server, formats::ip(server));
    }
    for (index, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            let list = config_path.child("options");
            causes.required(&list.index(index), "must not be empty");
        }
    }
}

pub(super) fn tolerations(causes: &mut Causes, path: &Path<'_>, tolerations: &[Value]) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let key = toleration.text("key");
        let operator = toleration.text("operator");
        if !key.is_empty() {
            causes.all(&path.child("key"), key, formats::qualified_name(key));
        } else if operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all \
                           values and all keys\"";
            causes.invalid(&path.child("operator"), operator, message);
        }
        if toleration.has("tolerationSeconds") && toleration.text("effect") != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(&path.child("effect"), toleration.text("effect"), message);
        }
        match operator {
            "" | "Equal" => {
                let value = toleration.text("value");
                causes.all(&path.child("operator"), value, formats::label_value(value));
            }
            "Exists" if !toleration.text("value").is_empty() => {
                let message = "value must be empty when `operator` is 'Exists'";
                causes.invalid(&path.child("operator"), toleration.clone(), message);
            }
            other => {
                causes.one_of_or_empty(&path.child("operator"), other, &["Equal", "Exists"]);
            }
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        causes.one_of_or_empty(&path.child("effect"), toleration.text("effect"), &effects);
    }
}

/// A running pod can hardly be changed.
pub(super) fn validate_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    for field in CONTAINERS {
        if new.items(field).len() != old.items(field).len() {
            let message = "pod updates may not add or remove containers";
            causes.forbidden(&path.child(field), message);
            return;
        }
    }
    deadline(causes, &path.child("activeDeadlineSeconds"), new, old);
    added_tolerations(causes, &path.child("tolerations"), new, old);

    let mut allowed = new.clone();
    for field in CONTAINERS {
        for (container, old) in allowed.items_mut(field).iter_mut().zip(old.items(field)) {
            container.copy_from(old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations"] {
        allowed.copy_from(old, field);
    }
    if old.number("terminationGracePeriodSeconds") < 0
        && new.number("terminationGracePeriodSeconds") == 1
    {
        allowed.copy_from(old, "terminationGracePeriodSeconds");
    }
    let gates = old.items("schedulingGates");
    if new.items("schedulingGates").iter().all(|gate| gates.contains(gate)) {
        allowed.copy_from(old, "schedulingGates");
    }
    if !same(&allowed, old) {
        causes.forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
             additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
             be set to 1 if it was previously negative)",
        );
    }
}

fn deadline(causes: &mut Causes, path: &Path<'_>, new: &Value, old: &Value) {
    let Some(before) = old["activeDeadlineSeconds"].as_i64() else { return };
    match new["activeDeadlineSeconds"].as_i64() {
        None => {
            let message = "must not update from a positive integer to nil value";
            causes.invalid(path, Value::Null, message);
        }
        Some(now) if now > before => {
            let message = format!("must be less than or equal to previous value {before}");
            causes.invalid(path, now, &message);
        }
        Some(_) => {}
    }
}

fn added_tolerations(causes: &mut Causes, path: &Path<'_>, new: &Value, old: &Value) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.unset("tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = new.items("tolerations").iter().map(without_seconds).collect();
    if !old.items("tolerations").iter().all(|before| now.contains(&without_seconds(before))) {
        let message = "existing toleration can not be modified except its tolerationSeconds";
        causes.forbidden(path, message);
    }
}
