//! What becomes of one object, given its owners and dependents. Pure.
//!
//! ```text
//!   going ───────────────────────────────▶ keep (it goes by itself)
//!   awaiting dependents: none block ─────▶ finish;   some block ─▶ await them
//!   some owner is solid ─────────────────▶ strip absent and awaiting owners, keep
//!   some owner awaits, and it has dependents of its own ─▶ delete, foreground
//!   no owner is left ────────────────────▶ delete by its finalizers' policy, else background
//! ```

use kube::api::PropagationPolicy;

use super::graph::{Item, Stage, Uid};

/// An owner as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    Solid,
    AwaitingDependents,
    Absent,
}

/// A dependent as the graph has it.
#[derive(Clone, Debug)]
pub(super) struct Dependent {
    pub(super) uid: Uid,
    pub(super) stage: Stage,
    pub(super) blocks: bool,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Decision {
    Keep,
    /// Remove the finalizer that waits for dependents.
    Finish,
    /// Look at these dependents.
    Await(Vec<Uid>),
    /// Remove the references to these owners.
    Strip(Vec<Uid>),
    /// Delete; first stop blocking the owners if asked, for otherwise a circle would never end.
    Delete {
        policy: PropagationPolicy,
        unblock: bool,
    },
}

/// Decides. `owners` are the object's, in order.
pub(super) fn decide(
    item: &Item,
    finalizers: &[String],
    owners: &[OwnerState],
    dependents: &[Dependent],
) -> Decision {
    match item.stage {
        Stage::Going | Stage::Orphaning => return Decision::Keep,
        Stage::AwaitingDependents => {
            let blocking: Vec<_> = dependents.iter().filter(|d| d.blocks).collect();
            if blocking.is_empty() {
                return Decision::Finish;
            }
            let idle = blocking.into_iter().filter(|d| d.stage == Stage::Alive);
            return Decision::Await(idle.map(|d| d.uid.clone()).collect());
        }
        Stage::Alive => {}
    }
    let has = |state| owners.contains(&state);
    if owners.is_empty() {
        return Decision::Keep;
    }
    if has(OwnerState::Solid) {
        let leaving = item.owners.iter().zip(owners).filter(|(_, s)| **s != OwnerState::Solid);
        let uids: Vec<_> = leaving.map(|(owner, _)| owner.uid.clone()).collect();
        return if uids.is_empty() { Decision::Keep } else { Decision::Strip(uids) };
    }
    if has(OwnerState::AwaitingDependents) && !dependents.is_empty() {
        let unblock = dependents.iter().any(|d| d.stage == Stage::AwaitingDependents);
        return Decision::Delete { policy: PropagationPolicy::Foreground, unblock };
    }
    let wants = |name: &str| finalizers.iter().any(|f| f == name);
    let policy = if wants(super::graph::ORPHAN) {
        PropagationPolicy::Orphan
    } else if wants(super::graph::FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Decision::Delete { policy, unblock: false }
}
