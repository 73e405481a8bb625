//! What workload controllers ask of pods: phase, readiness, availability, and how to make one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::clock::elapsed;
use crate::object::Meta;

/// A pod's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// Whether a pod has been ready for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, and available after this time.
    In(Duration),
    Unavailable,
}

pub(crate) fn phase(pod: &Pod) -> Phase {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_terminating()
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), Phase::Succeeded | Phase::Failed)
}

pub(crate) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|c| c.status == "True")
}

/// When the pod became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = ready_condition(pod).filter(|c| c.status == "True")?;
    Some(condition.last_transition_time.as_ref()?.0)
}

/// `podutil.IsPodAvailable`, and when it will hold.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::Unavailable;
    }
    let Ok(wanted @ 1..) = u64::try_from(min_ready_seconds) else { return Availability::Available };
    let Some(since) = ready_since(pod) else { return Availability::Unavailable };
    match Duration::from_secs(wanted).checked_sub(elapsed(since, now)) {
        None | Some(Duration::ZERO) => Availability::Available,
        Some(rest) => Availability::In(rest),
    }
}

pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

pub(crate) fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|s| s.restart_count).max().unwrap_or(0)
}

/// A pod as the template says, managed by `owner`.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `generateName` of a controller's pods: its name and a dash, when names may be that long.
pub(crate) fn generate_name(controller: &str) -> String {
    let name = format!("{controller}-");
    if name.len() > 253 { controller.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, ready};

    #[test]
    fn a_ready_pod_is_available_after_its_min_ready_seconds() {
        let pod = ready(pod("a", "p"), 100);
        assert_eq!(availability(&pod, 0, at(100)), Availability::Available);
        assert_eq!(availability(&pod, 10, at(104)), Availability::In(Duration::from_secs(6)));
        assert_eq!(availability(&pod, 10, at(110)), Availability::Available);
    }

    #[test]
    fn a_pod_that_is_not_ready_is_unavailable() {
        assert_eq!(availability(&pod("a", "p"), 0, at(1)), Availability::Unavailable);
    }
}
