//! Scaling while a rollout is under way: each ReplicaSet keeps its share.
//!
//! Upstream's `scale`: rounding leftovers go to the largest; equals are broken by age (newer first
//! when growing, older first when shrinking).

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::bounds::{Strategy, strategy};
use super::plan::{Rollout, available, replicas, resize};
use super::revision;

pub(super) fn scale(rollout: &mut Rollout<'_>) {
    let bounds = rollout.bounds;
    if let Some(only) = active_or_latest(rollout) {
        if replicas(only) != bounds.replicas {
            resize(only, bounds.replicas, bounds);
        }
        return;
    }
    if rollout.new.as_ref().is_some_and(|new| is_saturated(new, bounds.replicas)) {
        for set in rollout.old.iter_mut().filter(|s| replicas(s) > 0) {
            resize(set, 0, bounds);
        }
        return;
    }
    let spec = rollout.deployment.spec.clone().unwrap_or_default();
    if strategy(&spec) != Strategy::RollingUpdate {
        return;
    }
    let status_replicas = rollout.deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let mut active: Vec<&mut ReplicaSet> =
        rollout.old.iter_mut().chain(&mut rollout.new).filter(|s| replicas(s) > 0).collect();
    let total: i32 = active.iter().map(|s| replicas(s)).sum();
    let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
    let change = allowed - total;
    let born = |s: &ReplicaSet| s.metadata.creation_timestamp.as_ref().map(|t| t.0);
    if change > 0 {
        active.sort_by_key(|s| (Reverse(replicas(s)), Reverse(born(s))));
    } else {
        active.sort_by_key(|s| (Reverse(replicas(s)), born(s)));
    }
    let mut shared = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let size = replicas(set);
        let share = match change - shared {
            0 => 0,
            left if change > 0 => fraction(set, bounds, status_replicas).clamp(0, left),
            left => fraction(set, bounds, status_replicas).clamp(left, 0),
        };
        shared += share;
        sizes.push(size + share);
    }
    if let Some(largest) = sizes.first_mut() {
        *largest = (*largest + change - shared).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        resize(set, size, bounds);
    }
}

/// The one live ReplicaSet, or the newest when none is live; none when several are.
fn active_or_latest<'a>(rollout: &'a mut Rollout<'_>) -> Option<&'a mut ReplicaSet> {
    let live = rollout.sets().filter(|s| replicas(s) > 0).count();
    match live {
        0 if rollout.new.is_some() => rollout.new.as_mut(),
        0 => rollout.old.last_mut(),
        1 => rollout.old.iter_mut().chain(&mut rollout.new).find(|s| replicas(s) > 0),
        _ => None,
    }
}

fn is_saturated(new: &ReplicaSet, wanted: i32) -> bool {
    revision::desired(new) == Some(wanted) && replicas(new) == wanted && available(new) == wanted
}

fn fraction(set: &ReplicaSet, bounds: super::bounds::Bounds, status_replicas: i32) -> i32 {
    let size = replicas(set);
    if bounds.replicas == 0 {
        return -size;
    }
    let before = revision::max(set).filter(|m| *m > 0).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    // Round half away from zero in integers; everything here is positive.
    let (size, most, before) = (i64::from(size), i64::from(bounds.most()), i64::from(before));
    let share = (2 * size * most + before) / (2 * before);
    i32::try_from(share - size).unwrap_or(0)
}
