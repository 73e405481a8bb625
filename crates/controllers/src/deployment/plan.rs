//! The next step of a Deployment. Pure.
//!
//! ```text
//!            paused ──────────────▶ scale proportionally
//!   replicas changed mid-rollout ─▶ scale proportionally
//!   Recreate ────▶ old to 0 ─▶ wait for their pods to end ─▶ new up
//!   RollingUpdate ▶ new up (≤ replicas + surge) ─▶ unhealthy old down ─▶ old down
//!                                                   (≥ replicas − unavailable stay available)
//! ```
//! One direction at a time: whatever scaled up ends the step, and the ReplicaSets' own changes
//! bring the next. Follows upstream's `rolling.go`, `recreate.go` and `sync.go`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;

use super::bounds::{Bounds, Strategy, strategy};
use super::{proportion, revision, status};
use crate::object::Meta;

/// One write to a ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    Create(Box<ReplicaSet>),
    /// From what is cached to what it should be.
    Update {
        old: Arc<ReplicaSet>,
        new: Box<ReplicaSet>,
    },
    Delete(Arc<ReplicaSet>),
}

/// What to write for a Deployment.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    /// The revision annotation, if it has to change.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    /// When time alone changes the status.
    pub(super) next: Option<Duration>,
}

/// A step in the making: copies of the ReplicaSets, changed in place.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) bounds: Bounds,
    /// The ReplicaSet of the present template.
    pub(super) new: Option<ReplicaSet>,
    /// The others, oldest first.
    pub(super) old: Vec<ReplicaSet>,
}

/// Plans the next step. `old_pods_live` says whether pods of old ReplicaSets have not ended.
pub(super) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    old_pods_live: impl Fn(Option<&ReplicaSet>) -> bool,
    now: Timestamp,
) -> Plan {
    let spec = deployment.spec.clone().unwrap_or_default();
    let paused = spec.paused == Some(true);
    let mut rollout = Rollout::new(deployment, sets);
    let mut surplus = Vec::new();
    let mut rolling = false;
    if !deployment.is_terminating() {
        if paused || rollout.is_scaling() {
            rollout.present(Missing::Leave);
            proportion::scale(&mut rollout);
            if paused {
                surplus = rollout.beyond_history();
            }
        } else {
            rolling = true;
            match strategy(&spec) {
                Strategy::RollingUpdate => rollout.roll(),
                Strategy::Recreate => rollout.recreate(old_pods_live),
            }
            if status::is_complete(deployment, &status::counts(&rollout)) {
                surplus = rollout.beyond_history();
            }
        }
    }
    let (status, next) = status::status(&rollout, rolling, now);
    let revision = rollout.new.as_ref().and_then(|n| n.annotation(revision::REVISION));
    let revision = revision.filter(|r| deployment.annotation(revision::REVISION) != Some(*r));
    Plan {
        revision: revision.map(str::to_owned).filter(|_| !deployment.is_terminating()),
        writes: rollout.writes(sets, &surplus),
        status,
        next,
    }
}

/// What to do when no ReplicaSet has the present template.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let mut sets: Vec<ReplicaSet> = sets.iter().map(|s| (**s).clone()).collect();
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        let template = deployment.spec.as_ref().map(|s| &s.template);
        // The oldest of several equals, so that the choice is stable.
        let new = sets.iter().position(|s| template.is_some_and(|t| revision::same_template(s, t)));
        let new = new.map(|i| sets.remove(i));
        Self { deployment, bounds: Bounds::of(deployment), new, old: sets }
    }

    /// Finds or makes the present ReplicaSet and settles its revision.
    fn present(&mut self, missing: Missing) {
        let newest_old = self.old.iter().map(revision::revision).max().unwrap_or(0);
        if let Some(new) = &mut self.new {
            revision::annotate_present(new, self.deployment, newest_old);
            if let Some(spec) = &mut new.spec {
                let wanted = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
                spec.min_ready_seconds = wanted;
            }
        } else if missing == Missing::Create {
            let set = revision::new_set(self.deployment, newest_old);
            if let Some(mut set) = set {
                let replicas = self.room_for_new(0);
                set.spec.get_or_insert_default().replicas = Some(replicas);
                self.new = Some(set);
            }
        }
    }

    /// Whether the wanted number has changed since some live ReplicaSet was scaled.
    fn is_scaling(&self) -> bool {
        self.sets()
            .filter(|s| replicas(s) > 0)
            .any(|s| revision::desired(s).is_some_and(|desired| desired != self.bounds.replicas))
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    /// `NewRSNewReplicas`: how far the present ReplicaSet, now of this size, may grow.
    fn room_for_new(&self, size: i32) -> i32 {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        if strategy(&spec) == Strategy::Recreate {
            return self.bounds.replicas;
        }
        let total: i32 = self.sets().map(replicas).sum();
        let room = self.bounds.most() - total;
        if room <= 0 { size } else { size + room.min(self.bounds.replicas - size) }
    }

    fn roll(&mut self) {
        let existed = self.new.is_some();
        self.present(Missing::Create);
        let Some(new) = &self.new else { return };
        let size = replicas(new);
        let target = if size > self.bounds.replicas {
            self.bounds.replicas
        } else if size < self.bounds.replicas {
            self.room_for_new(size)
        } else {
            size
        };
        if target != size {
            let bounds = self.bounds;
            self.new.as_mut().into_iter().for_each(|n| resize(n, target, bounds));
            return;
        }
        // A new ReplicaSet that starts with pods has been scaled up by being made.
        if existed || size == 0 {
            self.shrink_old();
        }
    }

    /// `reconcileOldReplicaSets`: first what is not available anyway, then as many as the bound
    /// on availability lets go.
    fn shrink_old(&mut self) {
        if self.old.iter().map(replicas).sum::<i32>() == 0 {
            return;
        }
        let total: i32 = self.sets().map(replicas).sum();
        let new_unavailable = self.new.as_ref().map_or(0, |n| replicas(n) - available(n));
        let most = total - self.bounds.fewest_available() - new_unavailable;
        if most <= 0 {
            return;
        }
        let bounds = self.bounds;
        let mut cleaned = 0;
        for set in &mut self.old {
            let idle = replicas(set) - available(set);
            let count = idle.min(most - cleaned);
            if count > 0 {
                let size = replicas(set) - count;
                resize(set, size, bounds);
                cleaned += count;
            }
        }
        let spare = self.sets().map(available).sum::<i32>() - bounds.fewest_available();
        let mut left = spare;
        for set in &mut self.old {
            let count = replicas(set).min(left);
            if count > 0 {
                let size = replicas(set) - count;
                resize(set, size, bounds);
                left -= count;
            }
        }
    }

    fn recreate(&mut self, old_pods_live: impl Fn(Option<&ReplicaSet>) -> bool) {
        let bounds = self.bounds;
        let mut shrunk = false;
        for set in self.old.iter_mut().filter(|s| replicas(s) > 0) {
            resize(set, 0, bounds);
            shrunk = true;
        }
        if shrunk || old_pods_live(self.new.as_ref()) {
            self.present(Missing::Leave);
            return;
        }
        self.present(Missing::Create);
        if let Some(new) = self.new.as_mut().filter(|n| replicas(n) != bounds.replicas) {
            resize(new, bounds.replicas, bounds);
        }
    }

    /// Old ReplicaSets past the history limit that have nothing left, lowest revision first.
    fn beyond_history(&self) -> Vec<String> {
        let limit = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit);
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
        let mut alive: Vec<_> = self.old.iter().filter(|s| !s.is_terminating()).collect();
        let surplus = alive.len().saturating_sub(limit);
        alive.sort_by_key(|s| (revision::revision(s), age(s)));
        let empty = |set: &&&ReplicaSet| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0
                && replicas(set) == 0
                && set.metadata.generation <= status.observed_generation
        };
        alive.iter().take(surplus).filter(empty).map(|s| s.uid().to_owned()).collect()
    }

    fn writes(&self, before: &[Arc<ReplicaSet>], surplus: &[String]) -> Vec<Write> {
        let mut writes = Vec::new();
        for set in self.new.iter().chain(&self.old) {
            match before.iter().find(|b| b.uid() == set.uid()) {
                None => writes.push(Write::Create(Box::new(set.clone()))),
                Some(old) if surplus.iter().any(|uid| uid == set.uid()) => {
                    writes.push(Write::Delete(Arc::clone(old)));
                }
                Some(old) if **old != *set => {
                    writes.push(Write::Update { old: Arc::clone(old), new: Box::new(set.clone()) })
                }
                Some(_) => {}
            }
        }
        writes
    }
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.name())
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn resize(set: &mut ReplicaSet, size: i32, bounds: Bounds) {
    set.spec.get_or_insert_default().replicas = Some(size);
    revision::annotate_scale(set, bounds);
}
