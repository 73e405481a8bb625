//! Defaults of Jobs and CronJobs (upstream: pkg/apis/batch/v1/defaults.go).

use serde_json::Value;

use super::pod;
use crate::fields::Fields;

pub(super) fn job(job: &mut Value) {
    pod::template(job);
    // Labels of the template stand in for those that the Job lacks.
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_some_and(|labels| !labels.is_empty())
        && job["metadata"].entries("labels").next().is_none()
        && let Some(metadata) = job.object_mut("metadata")
    {
        metadata.set("labels", labels);
    }
    let Some(spec) = job.object_mut("spec") else { return };
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
    }
    spec.default_absent("parallelism", 1);
    let retries = if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 };
    spec.default_absent("backoffLimit", retries);
    spec.default_absent("completionMode", "NonIndexed");
    spec.default_absent("suspend", false);
    spec.default_absent("manualSelector", false);
    let replacement = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.default_absent("podReplacementPolicy", replacement);
    failure_policy(spec);
}

pub(super) fn cron_job(cron_job: &mut Value) {
    let Some(spec) = cron_job.object_mut("spec") else { return };
    spec.default_to("concurrencyPolicy", "Allow");
    spec.default_absent("suspend", false);
    spec.default_absent("successfulJobsHistoryLimit", 3);
    spec.default_absent("failedJobsHistoryLimit", 1);
    // The Jobs get their own defaults when they are made; only what is in the pod comes early.
    let Some(job) = spec.object_mut("jobTemplate") else { return };
    job.default_absent("metadata", crate::fields::empty());
    pod::template(job);
    if let Some(spec) = job.object_mut("spec") {
        failure_policy(spec);
    }
}

fn failure_policy(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy") else { return };
    for pattern in policy.items_mut("rules").iter_mut().flat_map(|r| r.items_mut("onPodConditions"))
    {
        pattern.default_to("status", "True");
    }
}
