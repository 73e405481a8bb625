//! Disruption budgets, priorities and runtime classes (upstream: pkg/apis/policy/validation,
//! pkg/apis/scheduling/validation, pkg/apis/node/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, metadata, pod, selector, workloads};
use crate::fields::Fields;

const HIGHEST_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// The classes that every cluster has, with their values.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn pod_disruption_budget(causes: &mut Causes, budget: &Value) {
    let (spec, path) = (&budget["spec"], Path::new("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let message = "minAvailable and maxUnavailable cannot be both set";
        causes.invalid(&path, spec.clone(), message);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        workloads::int_or_percent(causes, &path.child(field), &spec[field]);
        if workloads::percent(&spec[field]).is_some_and(|percent| percent > 100) {
            let message = "must not be greater than 100%";
            causes.invalid(&path.child(field), spec[field].clone(), message);
        }
    }
    selector::validate(causes, &path.child("selector"), &spec["selector"]);
    let policy = spec.text("unhealthyPodEvictionPolicy");
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    causes.one_of_or_empty(&path.child("unhealthyPodEvictionPolicy"), policy, &policies);
}

pub(super) fn budget_status(causes: &mut Causes, budget: &Value) {
    let path = Path::new("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        causes.non_negative(&path, &budget["status"], field);
    }
}

pub(super) fn priority_class(causes: &mut Causes, class: &Value) {
    let (name, value) = (class["metadata"].text("name"), class.number("value"));
    if name.starts_with(SYSTEM_PREFIX) {
        if !SYSTEM_CLASSES.contains(&(name, value)) {
            let path = Path::new("metadata");
            let why = match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
                Some((_, value)) => format!("value of {name} PriorityClass must be {value}"),
                None => format!("{name} is not a known system priority class"),
            };
            let message = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use \
                 only. error: {why}"
            );
            causes.forbidden(&path.child("name"), &message);
        }
    } else if value > HIGHEST_PRIORITY {
        let message =
            format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        causes.forbidden(&Path::new("value"), &message);
    }
    let policies = ["Never", "PreemptLowerPriority"];
    let path = Path::new("preemptionPolicy");
    causes.one_of_or_empty(&path, class.text("preemptionPolicy"), &policies);
}

pub(super) fn priority_class_update(causes: &mut Causes, new: &Value, old: &Value) {
    if new.number("value") != old.number("value") {
        causes.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    let path = Path::new("preemptionPolicy");
    causes.immutable(&path, &new["preemptionPolicy"], &old["preemptionPolicy"]);
}

pub(super) fn runtime_class(causes: &mut Causes, class: &Value) {
    let handler = class.text("handler");
    causes.all(&Path::new("handler"), handler, formats::dns_label(handler));
    let (scheduling, path) = (&class["scheduling"], Path::new("scheduling"));
    metadata::labels(causes, &path.child("nodeSelector"), &scheduling["nodeSelector"]);
    let tolerations = scheduling.items("tolerations");
    pod::tolerations(causes, &path.child("tolerations"), tolerations);
}

pub(super) fn runtime_class_update(causes: &mut Causes, new: &Value, old: &Value) {
    causes.immutable(&Path::new("handler"), &new["handler"], &old["handler"]);
}
