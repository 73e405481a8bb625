//! Jobs and CronJobs (upstream: pkg/apis/batch/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{cron, formats, metadata, networking, pod, selector};
use crate::fields::{Fields, same};

const MOST_PARALLEL: i64 = 100_000;
/// A CronJob's name becomes part of its Jobs' names, eleven characters longer.
const CRON_JOB_NAME: usize = 52;
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const REPLACEMENTS: &[&str] = &["Failed", "TerminatingOrFailed"];

pub(super) fn job(causes: &mut Causes, job: &Value) {
    let (spec, path) = (&job["spec"], Path::new("spec"));
    generated_selector(causes, &path.child("selector"), job);
    if spec.has("selector") {
        selector::validate(causes, &path.child("selector"), &spec["selector"]);
    } else {
        causes.required(&path.child("selector"), "");
    }
    job_spec(causes, &path, spec);
    let labels = &spec["template"]["metadata"]["labels"];
    if spec.has("selector") && !selector::matches(&spec["selector"], labels) {
        let template = path.child("template");
        let metadata = template.child("metadata");
        let message = "`selector` does not match template `labels`";
        causes.invalid(&metadata.child("labels"), labels.clone(), message);
    }
}

/// Unless it was chosen by hand, the selector is that of the Job's uid and nothing else.
fn generated_selector(causes: &mut Causes, path: &Path<'_>, job: &Value) {
    let of = &job["spec"]["selector"];
    if job["spec"].is("manualSelector") || !job["spec"].has("selector") {
        return;
    }
    let own = serde_json::json!({ "matchLabels": { CONTROLLER_UID: job["metadata"]["uid"] } });
    if !same(of, &own) {
        causes.invalid(path, of.clone(), "`selector` not auto-generated");
    }
}

fn job_spec(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        causes.non_negative(path, spec, field);
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        networking::domain_prefixed_path(causes, &path.child("managedBy"), manager);
        if manager.len() > 63 {
            causes.too_long(&path.child("managedBy"), 63);
        }
    }
    let mode = spec.text("completionMode");
    causes.one_of_or_empty(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    if mode == "Indexed" {
        if !spec.has("completions") {
            causes.required(&path.child("completions"), "when completion mode is Indexed");
        }
        let parallelism = spec.number("parallelism");
        if parallelism > MOST_PARALLEL {
            let message = format!(
                "must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed"
            );
            causes.invalid(&path.child("parallelism"), parallelism, &message);
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if spec.has(field) {
                let value = spec[field].clone();
                causes.invalid(&path.child(field), value, "requires indexed completion mode");
            }
        }
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let message = "when maxFailedIndexes is specified";
        causes.required(&path.child("backoffLimitPerIndex"), message);
    }
    let replacement = spec.text("podReplacementPolicy");
    if spec.has("podFailurePolicy") {
        failure_policy(causes, &path.child("podFailurePolicy"), &spec["podFailurePolicy"]);
        let only = ["Failed"];
        causes.one_of_or_empty(&path.child("podReplacementPolicy"), replacement, &only);
    } else {
        causes.one_of_or_empty(&path.child("podReplacementPolicy"), replacement, REPLACEMENTS);
    }
    template(causes, &path.child("template"), spec);
}

fn template(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let template = &spec["template"];
    let metadata_path = path.child("metadata");
    let own = &template["metadata"];
    metadata::labels(causes, &metadata_path.child("labels"), &own["labels"]);
    metadata::annotations(causes, &metadata_path.child("annotations"), &own["annotations"]);
    let spec_path = path.child("spec");
    pod::validate_spec(causes, &spec_path, &template["spec"]);
    let restart = spec_path.child("restartPolicy");
    match template["spec"].text("restartPolicy") {
        "Always" => {
            causes.required(&restart, "valid values: \"OnFailure\", \"Never\"");
        }
        "OnFailure" if spec.has("podFailurePolicy") => {
            let message = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid(&restart, "OnFailure", message);
        }
        _ => {}
    }
}

fn failure_policy(causes: &mut Causes, path: &Path<'_>, policy: &Value) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let list = path.child("rules");
    for (index, rule) in policy.items("rules").iter().enumerate() {
        let path = list.index(index);
        causes.one_of(&path.child("action"), rule.text("action"), ACTIONS);
        let conditions = !rule.items("onPodConditions").is_empty();
        match (rule.has("onExitCodes"), conditions) {
            (true, true) => {
                let message = "specifying both OnExitCodes and OnPodConditions is not supported";
                causes.invalid(&path, Value::Null, message);
            }
            (false, false) => {
                let message = "specifying one of OnExitCodes and OnPodConditions is required";
                causes.invalid(&path, Value::Null, message);
            }
            (true, false) => exit_codes(causes, &path.child("onExitCodes"), &rule["onExitCodes"]),
            (false, true) => {}
        }
    }
}

fn exit_codes(causes: &mut Causes, path: &Path<'_>, codes: &Value) {
    causes.one_of(&path.child("operator"), codes.text("operator"), &["In", "NotIn"]);
    let list = path.child("values");
    let values = codes.items("values");
    if values.is_empty() {
        causes.invalid(&list, Value::Array(Vec::new()), "at least one value is required");
    }
    for (index, value) in values.iter().enumerate() {
        if codes.text("operator") == "In" && value.as_i64() == Some(0) {
            causes.invalid(&list.index(index), 0, "must not be 0 for the In operator");
        }
        if values[..index].contains(value) {
            causes.duplicate(&list.index(index), value.clone());
        }
    }
}

pub(super) fn job_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    // An indexed Job may be made longer or shorter together with its parallelism.
    let elastic = new_spec.text("completionMode") == "Indexed"
        && new_spec["completions"] == new_spec["parallelism"];
    if !elastic {
        let field = path.child("completions");
        causes.immutable(&field, &new_spec["completions"], &old_spec["completions"]);
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        causes.immutable(&path.child(field), &new_spec[field], &old_spec[field]);
    }
    let mut template = new_spec["template"].clone();
    // Where its pods will run may be decided as long as none has been started.
    let unstarted = old_spec.is("suspend") && !old["status"].has("startTime");
    if unstarted {
        let before = &old_spec["template"];
        if let Some(metadata) = template.object_mut("metadata") {
            metadata.copy_from(&before["metadata"], "annotations");
            metadata.copy_from(&before["metadata"], "labels");
        }
        if let Some(spec) = template.object_mut("spec") {
            for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                spec.copy_from(&before["spec"], field);
            }
        }
    }
    if !same(&template, &old_spec["template"]) {
        let value = new_spec["template"].clone();
        causes.invalid(&path.child("template"), value, formats::IMMUTABLE);
    }
}

/// What only a new CronJob has to keep to.
pub(super) fn cron_job_create(causes: &mut Causes, cron_job: &Value) {
    let name = cron_job["metadata"].text("name");
    if name.len() > CRON_JOB_NAME {
        let path = Path::new("metadata");
        let message = format!("must be no more than {CRON_JOB_NAME} characters");
        causes.invalid(&path.child("name"), name, &message);
    }
}

pub(super) fn cron_job(causes: &mut Causes, cron_job: &Value) {
    let (spec, path) = (&cron_job["spec"], Path::new("spec"));
    let own = path.child("schedule");
    match spec.text("schedule") {
        "" => causes.required(&own, ""),
        schedule if schedule.contains("TZ") => {
            let message = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            causes.invalid(&own, schedule, message);
        }
        schedule => {
            if let Err(message) = cron::parse(schedule) {
                causes.invalid(&own, schedule, &message);
            }
        }
    }
    if let Some(zone) = spec["timeZone"].as_str() {
        time_zone(causes, &path.child("timeZone"), zone);
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        causes.non_negative(&path, spec, field);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    causes.one_of(&path.child("concurrencyPolicy"), spec.text("concurrencyPolicy"), &policies);
    let (template, path) = (&spec["jobTemplate"], path.child("jobTemplate"));
    let metadata_path = path.child("metadata");
    metadata::labels(causes, &metadata_path.child("labels"), &template["metadata"]["labels"]);
    let annotations = &template["metadata"]["annotations"];
    metadata::annotations(causes, &metadata_path.child("annotations"), annotations);
    let (job, path) = (&template["spec"], path.child("spec"));
    if job.has("selector") {
        let message = "`selector` will be auto-generated";
        causes.invalid(&path.child("selector"), job["selector"].clone(), message);
    }
    if job.is("manualSelector") {
        causes.not_supported(&path.child("manualSelector"), "true", &["nil", "false"]);
    }
    job_spec(causes, &path, job);
}

/// Whether the zone exists is for the controller to find out, which has a database of them.
fn time_zone(causes: &mut Causes, path: &Path<'_>, zone: &str) {
    if zone.is_empty() {
        causes.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        let message = "timeZone must be an explicit time zone as defined in \
                       https://www.iana.org/time-zones";
        causes.invalid(path, zone, message);
    } else if zone.contains("..") || zone.starts_with(['/', '\\']) || zone.contains('\\') {
        causes.invalid(path, zone, "time: invalid location name");
    } else if !zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b)) {
        causes.invalid(path, zone, &format!("unknown time zone {zone}"));
    }
}
