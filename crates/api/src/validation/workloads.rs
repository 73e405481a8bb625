//! The workloads in `apps/v1` (upstream: pkg/apis/apps/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, metadata, pod, selector};
use crate::fields::{Fields, same};

pub(super) fn deployment(causes: &mut Causes, deployment: &Value) {
    let (spec, path) = (&deployment["spec"], Path::new("spec"));
    replicas(causes, spec);
    selected_template(causes, &path, spec, Empty::Deployment);
    deployment_strategy(causes, &path.child("strategy"), &spec["strategy"]);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        causes.non_negative(&path, spec, field);
    }
    let deadline = spec.number("progressDeadlineSeconds");
    if spec.has("progressDeadlineSeconds") && deadline <= spec.number("minReadySeconds") {
        let message = "must be greater than minReadySeconds";
        causes.invalid(&path.child("progressDeadlineSeconds"), deadline, message);
    }
}

pub(super) fn replica_set(causes: &mut Causes, replica_set: &Value) {
    let (spec, path) = (&replica_set["spec"], Path::new("spec"));
    replicas(causes, spec);
    causes.non_negative(&path, spec, "minReadySeconds");
    selected_template(causes, &path, spec, Empty::Deployment);
}

/// In `v1`, with a plain selector.
pub(super) fn replication_controller(causes: &mut Causes, controller: &Value) {
    let (spec, path) = (&controller["spec"], Path::new("spec"));
    causes.non_negative(&path, spec, "minReadySeconds");
    if spec.entries("selector").next().is_none() {
        causes.required(&path.child("selector"), "");
    }
    metadata::labels(causes, &path.child("selector"), &spec["selector"]);
    replicas(causes, spec);
    let own = path.child("template");
    if !spec.has("template") {
        return causes.required(&own, "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let fits = spec.entries("selector").all(|(key, value)| labels.get(key) == Some(value));
    if !fits {
        let metadata = own.child("metadata");
        let message = "`selector` does not match template `labels`";
        causes.invalid(&metadata.child("labels"), labels.clone(), message);
    }
    template(causes, &own, &spec["template"]);
    long_running(causes, &own.child("spec"), &spec["template"]["spec"]);
}

pub(super) fn pod_template(causes: &mut Causes, object: &Value) {
    template(causes, &Path::new("template"), &object["template"]);
}

fn template(causes: &mut Causes, path: &Path<'_>, template: &Value) {
    let (own, metadata_path) = (&template["metadata"], path.child("metadata"));
    metadata::labels(causes, &metadata_path.child("labels"), &own["labels"]);
    metadata::annotations(causes, &metadata_path.child("annotations"), &own["annotations"]);
    pod::validate_spec(causes, &path.child("spec"), &template["spec"]);
}

/// Pods that are to run for ever.
fn long_running(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let policy = spec.text("restartPolicy");
    if !matches!(policy, "Always" | "") {
        causes.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        let message = "activeDeadlineSeconds in ReplicaSet is not Supported";
        causes.forbidden(&path.child("activeDeadlineSeconds"), message);
    }
}

pub(super) fn stateful_set(causes: &mut Causes, stateful_set: &Value) {
    let (spec, path) = (&stateful_set["spec"], Path::new("spec"));
    match spec.text("podManagementPolicy") {
        "" => causes.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let message = "must be 'OrderedReady' or 'Parallel'";
            causes.invalid(&path.child("podManagementPolicy"), other, message);
        }
    }
    let (strategy, strategy_path) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match strategy.text("type") {
        "" => causes.required(&strategy_path, ""),
        "OnDelete" => {
            if strategy.has("rollingUpdate") {
                let message = "only allowed for updateStrategy 'RollingUpdate'";
                let rolling = strategy["rollingUpdate"].clone();
                causes.invalid(&strategy_path.child("rollingUpdate"), rolling, message);
            }
        }
        "RollingUpdate" => {
            let path = strategy_path.child("rollingUpdate");
            causes.non_negative(&path, &strategy["rollingUpdate"], "partition");
        }
        other => {
            let message = "must be 'RollingUpdate' or 'OnDelete'";
            causes.invalid(&strategy_path, other, message);
        }
    }
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        causes.non_negative(&path, spec, field);
    }
    let name = spec.text("serviceName");
    if !name.is_empty() {
        causes.all(&path.child("serviceName"), name, formats::dns_subdomain(name));
    }
    replicas(causes, spec);
    selected_template(causes, &path, spec, Empty::StatefulSet);
}

pub(super) fn daemon_set(causes: &mut Causes, daemon_set: &Value) {
    let (spec, path) = (&daemon_set["spec"], Path::new("spec"));
    selected_template(causes, &path, spec, Empty::DaemonSet);
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        causes.non_negative(&path, spec, field);
    }
    let (strategy, path) = (&spec["updateStrategy"], path.child("updateStrategy"));
    causes.one_of(&path.child("type"), strategy.text("type"), &["RollingUpdate", "OnDelete"]);
    if strategy.text("type") == "RollingUpdate" {
        let (rolling, path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
        int_or_percent(causes, &path.child("maxUnavailable"), &rolling["maxUnavailable"]);
        int_or_percent(causes, &path.child("maxSurge"), &rolling["maxSurge"]);
        match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
            (true, true) => {
                let value = rolling["maxUnavailable"].clone();
                let message = "cannot be 0 when `maxSurge` is 0";
                causes.invalid(&path.child("maxUnavailable"), value, message);
            }
            (false, false) => {
                let value = rolling["maxSurge"].clone();
                let message = "may not be set when maxUnavailable is non-zero";
                causes.invalid(&path.child("maxSurge"), value, message);
            }
            _ => {}
        }
    }
}

pub(super) fn replicas(causes: &mut Causes, spec: &Value) {
    causes.non_negative(&Path::new("spec"), spec, "replicas");
}

/// Upstream has the word of another kind in some of its messages.
#[derive(Clone, Copy)]
enum Empty {
    Deployment,
    StatefulSet,
    DaemonSet,
}

/// Selector and template, which have to fit.
fn selected_template(causes: &mut Causes, path: &Path<'_>, spec: &Value, empty: Empty) {
    let of = &spec["selector"];
    if !spec.has("selector") {
        causes.required(&path.child("selector"), "");
    } else {
        selector::validate(causes, &path.child("selector"), of);
        if selector::is_empty(of) {
            let message = match empty {
                Empty::Deployment => "empty selector is invalid for deployment",
                Empty::StatefulSet => "empty selector is invalid for statefulset",
                Empty::DaemonSet => "empty selector is invalid for daemonset",
            };
            causes.invalid(&path.child("selector"), of.clone(), message);
        }
    }
    let template = &spec["template"];
    let template_path = path.child("template");
    let metadata_path = template_path.child("metadata");
    let labels = &template["metadata"]["labels"];
    if spec.has("selector") && !selector::is_empty(of) && !selector::matches(of, labels) {
        let message = "`selector` does not match template `labels`";
        let labels = if labels.is_null() { crate::fields::empty() } else { labels.clone() };
        causes.invalid(&metadata_path.child("labels"), labels, message);
    }
    self::template(causes, &template_path, template);
    long_running(causes, &template_path.child("spec"), &template["spec"]);
}

fn deployment_strategy(causes: &mut Causes, path: &Path<'_>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_path = path.child("rollingUpdate");
    match strategy.text("type") {
        "Recreate" if strategy.has("rollingUpdate") => {
            let message = "may not be specified when strategy `type` is 'Recreate'";
            causes.forbidden(&rolling_path, message);
        }
        "RollingUpdate" => {
            int_or_percent(
                causes,
                &rolling_path.child("maxUnavailable"),
                &rolling["maxUnavailable"],
            );
            int_or_percent(causes, &rolling_path.child("maxSurge"), &rolling["maxSurge"]);
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let value = rolling["maxUnavailable"].clone();
                let message = "may not be 0 when `maxSurge` is 0";
                causes.invalid(&rolling_path.child("maxUnavailable"), value, message);
            }
            if percent(&rolling["maxUnavailable"]).is_some_and(|percent| percent > 100) {
                let value = rolling["maxUnavailable"].clone();
                let message = "must not be greater than 100%";
                causes.invalid(&rolling_path.child("maxUnavailable"), value, message);
            }
        }
        other => causes.one_of(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

pub(super) fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn is_zero(value: &Value) -> bool {
    value.is_null() || value.as_i64() == Some(0) || percent(value) == Some(0)
}

pub(super) fn int_or_percent(causes: &mut Causes, path: &Path<'_>, value: &Value) {
    match value {
        Value::String(text) if percent(value).is_none() => {
            let message = "a valid percent string must be a numeric string followed by an ending \
                           '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.invalid(path, text.as_str(), message);
        }
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            causes.invalid(path, value.clone(), formats::NEGATIVE);
        }
        _ => {}
    }
}

pub(super) fn selector_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    causes.immutable(&path.child("selector"), &new["spec"]["selector"], &old["spec"]["selector"]);
}

pub(super) fn stateful_set_update(causes: &mut Causes, new: &Value, old: &Value) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let mut allowed = new["spec"].clone();
    for field in MUTABLE {
        allowed.copy_from(&old["spec"], field);
    }
    if !same(&allowed, &old["spec"]) {
        causes.forbidden(
            &Path::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        );
    }
}
