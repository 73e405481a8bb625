//! Jobs choose their pods by their uid (upstream: pkg/registry/batch/job, generateSelector).

use serde_json::Value;

use crate::fields::Fields;

const UIDS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Gives the template the labels of its Job, and the Job the selector, unless it selects by hand.
/// Needs uid and name.
pub(super) fn generate_selector(job: &mut Value) {
    if job["spec"].is("manualSelector") {
        return;
    }
    let uid = job["metadata"].text("uid").to_owned();
    let name = job["metadata"].text("name").to_owned();
    let Some(spec) = job.object_mut("spec") else { return };
    let labels = spec
        .object_mut("template")
        .and_then(|template| template.object_mut("metadata"))
        .and_then(|metadata| metadata.object_mut("labels"));
    let Some(labels) = labels else { return };
    for (labels_of, value) in [(UIDS, &uid), (NAMES, &name)] {
        for label in labels_of {
            labels.default_absent(label, value.clone());
        }
    }
    let matched = spec.object_mut("selector").and_then(|s| s.object_mut("matchLabels"));
    if let Some(matched) = matched {
        matched.default_absent(UIDS[0], uid);
    }
}
