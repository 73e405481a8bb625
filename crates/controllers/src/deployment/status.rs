//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.
//!
//! Progressing follows upstream's `progress.go`: True while something moves or all is done,
//! False once `progressDeadlineSeconds` pass without movement.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::plan::Rollout;
use crate::clock::{elapsed, whole_seconds};
use crate::object::Meta;
use crate::replicaset::nonzero;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The counts, without conditions.
pub(super) fn counts(rollout: &Rollout<'_>) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSetStatus) -> i32| {
        rollout.sets().filter_map(|s| s.status.as_ref()).map(of).sum::<i32>()
    };
    let total = sum(|s| s.replicas);
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let updated = rollout.new.as_ref().and_then(|n| n.status.as_ref()).map_or(0, |s| s.replicas);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: nonzero(total),
        updated_replicas: nonzero(updated),
        ready_replicas: nonzero(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((total - available).max(0)),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: rollout.deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: None,
    }
}

/// Whether every wanted pod is of the present revision and available.
pub(super) fn is_complete(deployment: &Deployment, counts: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    counts.updated_replicas.unwrap_or(0) == wanted
        && counts.replicas.unwrap_or(0) == wanted
        && counts.available_replicas.unwrap_or(0) == wanted
        && counts.observed_generation >= deployment.metadata.generation
}

/// The status after this step, and when time alone will change it.
pub(super) fn status(
    rollout: &Rollout<'_>,
    rolling: bool,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let deployment = rollout.deployment;
    let mut status = counts(rollout);
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = Conditions { list: old.conditions.clone().unwrap_or_default(), now };

    let available = status.available_replicas.unwrap_or(0);
    if available >= rollout.bounds.fewest_available() {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }

    let spec = deployment.spec.clone().unwrap_or_default();
    let deadline = spec
        .progress_deadline_seconds
        .filter(|d| *d != i32::MAX)
        .and_then(|d| u64::try_from(d).ok())
        .map(Duration::from_secs);
    let mut next = None;
    match deadline {
        None => conditions.remove(PROGRESSING),
        Some(deadline) => {
            conditions.pause(spec.paused == Some(true));
            if rolling {
                next = conditions.progress(rollout, &old, &status, deadline);
            }
        }
    }

    conditions.remove(FAILURE);
    let failure = rollout.new.iter().chain(&rollout.old).find_map(failure);
    if let Some((reason, message)) = failure {
        conditions.set(FAILURE, "True", &reason, &message);
    }
    status.conditions = (!conditions.list.is_empty()).then_some(conditions.list);
    (status, next)
}

fn failure(set: &ReplicaSet) -> Option<(String, String)> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.type_ == FAILURE && c.status == "True")?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn find(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|c| c.type_ == kind)
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        self.find(kind)?.reason.as_deref()
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|c| c.type_ != kind);
    }

    /// Leaves a condition of the same status and reason as it was.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let same =
            |c: &DeploymentCondition| c.status == status && c.reason.as_deref() == Some(reason);
        if !self.find(kind).is_some_and(same) {
            self.renew(kind, status, reason, message);
        }
    }

    /// As [`Self::set`], and notes that there was movement now.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Time(whole_seconds(self.now));
        let kept = self.find(kind).filter(|c| c.status == status);
        let transition = kept.and_then(|c| c.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(transition.unwrap_or(now)),
        };
        match self.list.iter_mut().find(|c| c.type_ == kind) {
            Some(place) => *place = condition,
            None => self.list.push(condition),
        }
    }

    fn pause(&mut self, paused: bool) {
        let was = self.reason(PROGRESSING) == Some(PAUSED);
        // A rollout that has failed its deadline stays failed.
        if self.reason(PROGRESSING) == Some(TIMED_OUT) {
            return;
        }
        if paused && !was {
            self.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused");
        } else if !paused && was {
            self.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
    }

    fn progress(
        &mut self,
        rollout: &Rollout<'_>,
        old: &DeploymentStatus,
        new: &DeploymentStatus,
        deadline: Duration,
    ) -> Option<Duration> {
        let deployment = rollout.deployment;
        let name = rollout.new.as_ref().map_or(deployment.name(), |n| n.name());
        let what = if rollout.new.is_some() { "ReplicaSet" } else { "Deployment" };
        let told = |rest: &str| format!("{what} \"{name}\" {rest}");
        let was_done =
            new.replicas == new.updated_replicas && self.reason(PROGRESSING) == Some(DONE);
        if was_done {
            return None;
        }
        if self.find(PROGRESSING).is_none()
            && let Some(present) = &rollout.new
        {
            let (reason, verb) = if present.uid().is_empty() {
                ("NewReplicaSetCreated", "Created new")
            } else {
                ("FoundNewReplicaSet", "Found new")
            };
            let message = format!("{verb} replica set \"{}\"", present.name());
            self.set(PROGRESSING, "True", reason, &message);
        } else if rollout.new.as_ref().is_some_and(|n| n.uid().is_empty()) {
            let message = format!("Created new replica set \"{name}\"");
            self.renew(PROGRESSING, "True", "NewReplicaSetCreated", &message);
        }
        if is_complete(deployment, new) {
            self.set(PROGRESSING, "True", DONE, &told("has successfully progressed."));
            return None;
        }
        if has_moved(old, new) {
            self.renew(PROGRESSING, "True", "ReplicaSetUpdated", &told("is progressing."));
        }
        let since = self.find(PROGRESSING)?.last_update_time.as_ref()?.0;
        if self.reason(PROGRESSING) == Some(TIMED_OUT) {
            return None;
        }
        match deadline.checked_sub(elapsed(since, self.now)) {
            None | Some(Duration::ZERO) => {
                self.set(PROGRESSING, "False", TIMED_OUT, &told("has timed out progressing."));
                None
            }
            // A second more, for timestamps are cut to whole seconds.
            Some(rest) => Some(rest + Duration::from_secs(1)),
        }
    }
}

fn has_moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    let leftover = |s: &DeploymentStatus| number(s.replicas) - number(s.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || leftover(new) < leftover(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}
