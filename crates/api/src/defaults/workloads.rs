//! Defaults of the workloads in `apps/v1`.

use serde_json::{Value, json};

use super::pod;
use crate::fields::{Fields, empty};

pub(super) fn deployment(deployment: &mut Value) {
    pod::template(deployment);
    let Some(spec) = deployment.object_mut("spec") else { return };
    spec.default_absent("replicas", 1);
    spec.default_absent("revisionHistoryLimit", 10);
    spec.default_absent("progressDeadlineSeconds", 600);
    let Some(strategy) = spec.object_mut("strategy") else { return };
    strategy.default_to("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.object_mut("rollingUpdate")
    {
        rolling.default_absent("maxUnavailable", "25%");
        rolling.default_absent("maxSurge", "25%");
    }
}

pub(super) fn replica_set(replica_set: &mut Value) {
    pod::template(replica_set);
    if let Some(spec) = replica_set.object_mut("spec") {
        spec.default_absent("replicas", 1);
    }
}

/// Labels of the template stand in for a selector and labels that were left out.
pub(super) fn replication_controller(controller: &mut Value) {
    if controller["spec"].has("template") {
        pod::template(controller);
    }
    let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
    let given = labels.as_object().is_some_and(|labels| !labels.is_empty());
    if given
        && controller["metadata"].entries("labels").next().is_none()
        && let Some(metadata) = controller.object_mut("metadata")
    {
        metadata.set("labels", labels.clone());
    }
    let Some(spec) = controller.object_mut("spec") else { return };
    if given && spec.entries("selector").next().is_none() {
        spec.set("selector", labels);
    }
    spec.default_absent("replicas", 1);
}

pub(super) fn stateful_set(stateful_set: &mut Value) {
    pod::template(stateful_set);
    let Some(spec) = stateful_set.object_mut("spec") else { return };
    spec.default_absent("replicas", 1);
    spec.default_absent("revisionHistoryLimit", 10);
    spec.default_to("podManagementPolicy", "OrderedReady");
    spec.default_to("serviceName", "");
    if let Some(strategy) = spec.object_mut("updateStrategy") {
        strategy.default_to("type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = strategy.object_mut("rollingUpdate")
        {
            rolling.default_absent("partition", 0);
        }
    }
    if let Some(policy) = spec.object_mut("persistentVolumeClaimRetentionPolicy") {
        policy.default_to("whenDeleted", "Retain");
        policy.default_to("whenScaled", "Retain");
    }
    for claim in spec.items_mut("volumeClaimTemplates") {
        claim.default_to("apiVersion", "v1");
        claim.default_to("kind", "PersistentVolumeClaim");
        claim.default_absent("status", json!({ "phase": "Pending" }));
        if let Some(claim) = claim.object_mut("spec") {
            claim.default_absent("volumeMode", "Filesystem");
        }
    }
}

pub(super) fn daemon_set(daemon_set: &mut Value) {
    pod::template(daemon_set);
    let Some(spec) = daemon_set.object_mut("spec") else { return };
    spec.default_absent("revisionHistoryLimit", 10);
    spec.default_absent("updateStrategy", empty());
    let Some(strategy) = spec.object_mut("updateStrategy") else { return };
    strategy.default_to("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.object_mut("rollingUpdate")
    {
        rolling.default_absent("maxUnavailable", 1);
        rolling.default_absent("maxSurge", 0);
    }
}
