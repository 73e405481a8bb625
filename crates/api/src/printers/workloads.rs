//! The workloads in `apps/v1` and their relatives.

use serde_json::Value;

use super::{
    AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, age, integer, label_selector, labels, name,
    of_containers, text,
};
use crate::fields::Fields;

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Ready pods, of those wanted."),
    text("Up-to-date", "Pods of the latest template."),
    text("Available", "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Of ReplicationControllers, too.
pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", "Pods that are wanted."),
    integer("Current", "Pods that exist."),
    integer("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "Ready pods, of those wanted."), AGE, CONTAINERS, IMAGES];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", "Nodes that are to run the pod."),
    integer("Current", "Nodes that run the pod and are to."),
    integer("Ready", "Nodes whose pod is ready."),
    integer("Up-to-date", "Nodes whose pod has the latest template."),
    integer("Available", "Nodes whose pod has been ready for long enough."),
    text("Node Selector", "Which nodes are meant."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", "Whose revision it is."),
    text("Revision", "Number of the revision."),
    AGE,
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", "Names of the containers in the template."),
    text("Images", "Images of the containers in the template."),
    text("Pod Labels", "The labels for the pod template."),
];

pub(super) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "The minimum number of pods that must be available."),
    text("Max Unavailable", "The maximum number of pods that may be unavailable."),
    integer("Allowed Disruptions", "How many pods may be disrupted now."),
    AGE,
];

pub(super) fn deployment(deployment: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    vec![
        name(deployment),
        ready_of_wanted(deployment),
        status.number("updatedReplicas").into(),
        status.number("availableReplicas").into(),
        age(deployment, now),
        of_containers(&spec["template"], "name"),
        of_containers(&spec["template"], "image"),
        label_selector(&spec["selector"]),
    ]
}

pub(super) fn replica_set(replica_set: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&replica_set["spec"], &replica_set["status"]);
    vec![
        name(replica_set),
        spec.number("replicas").into(),
        status.number("replicas").into(),
        status.number("readyReplicas").into(),
        age(replica_set, now),
        of_containers(&spec["template"], "name"),
        of_containers(&spec["template"], "image"),
        label_selector(&spec["selector"]),
    ]
}

pub(super) fn stateful_set(stateful_set: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let template = &stateful_set["spec"]["template"];
    vec![
        name(stateful_set),
        ready_of_wanted(stateful_set),
        age(stateful_set, now),
        of_containers(template, "name"),
        of_containers(template, "image"),
    ]
}

pub(super) fn daemon_set(daemon_set: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&daemon_set["spec"], &daemon_set["status"]);
    vec![
        name(daemon_set),
        status.number("desiredNumberScheduled").into(),
        status.number("currentNumberScheduled").into(),
        status.number("numberReady").into(),
        status.number("updatedNumberScheduled").into(),
        status.number("numberAvailable").into(),
        labels(&spec["template"]["spec"]["nodeSelector"]),
        age(daemon_set, now),
        of_containers(&spec["template"], "name"),
        of_containers(&spec["template"], "image"),
        label_selector(&spec["selector"]),
    ]
}

pub(super) fn controller_revision(revision: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let owners = revision["metadata"].items("ownerReferences");
    let controller = match owners.iter().find(|owner| owner.is("controller")) {
        Some(owner) => {
            let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = owner.text("kind").to_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", owner.text("name"))
        }
        None => "<none>".into(),
    };
    let number = revision.number("revision");
    vec![name(revision), controller.into(), number.into(), age(revision, now)]
}

pub(super) fn replication_controller(controller: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut cells = replica_set(controller, now);
    cells.pop();
    cells.push(labels(&controller["spec"]["selector"]));
    cells
}

pub(super) fn pod_template(object: &Value) -> Vec<Value> {
    let template = &object["template"];
    vec![
        name(object),
        of_containers(template, "name"),
        of_containers(template, "image"),
        labels(&template["metadata"]["labels"]),
    ]
}

pub(super) fn pod_disruption_budget(budget: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let bound = |field: &str| match &budget["spec"][field] {
        Value::Null => "N/A".to_owned(),
        Value::String(percent) => percent.clone(),
        number => number.to_string(),
    };
    vec![
        name(budget),
        bound("minAvailable").into(),
        bound("maxUnavailable").into(),
        budget["status"].number("disruptionsAllowed").into(),
        age(budget, now),
    ]
}

fn ready_of_wanted(workload: &Value) -> Value {
    let ready = workload["status"].number("readyReplicas");
    format!("{ready}/{}", workload["spec"].number("replicas")).into()
}
