//! The backend, and what is known of it after it has failed.
//!
//! A failed write may be in the storage or not, as after a crash. Nothing is published and nothing
//! more is written until the storage has been opened anew and has told its revision:
//!
//! ```text
//!            write ok                        revision is the group's
//!  sound ───────────────▶ stored ◀─────────────────────────────────────┐
//!    │                                                                  │
//!    └─ write failed ─▶ open anew ──────────────────────────────────────┤
//!                          │ ▲       revision is the one before ─▶ write once more, or refused
//!                          │ └──────────────┐
//!                          └─ failed ─▶ in doubt: callers are told so; tried again later
//! ```
//!
//! The group in doubt is kept, so that it is published when it turns out to be stored: memory and
//! storage always agree on everything that anybody has been told of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Revision;
use crate::backend::{Backend, Change};
use crate::error::StoreError;
use crate::fact::{Fact, Written};

/// Between attempts to open a storage that cannot be opened: each may read all of it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What one turn writes.
#[derive(Debug)]
pub(crate) struct Group {
    /// Revision before it.
    pub(crate) base: Revision,
    /// Revision that it leads to.
    pub(crate) revision: Revision,
    pub(crate) written: Vec<Written>,
}

/// What has become of a group.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is durable.
    Stored(Group),
    /// It is not stored, or ([`StoreError::Unsettled`]) that is not known yet.
    Failed(StoreError),
}

#[derive(Debug)]
pub(crate) struct Durable {
    backend: Box<dyn Backend>,
    state: State,
}

#[derive(Debug)]
enum State {
    Sound,
    Doubt {
        group: Group,
        again: Instant,
        pause: Duration,
        error: StoreError,
    },
    /// Somebody else has written there: it is not ours any more.
    Lost(StoreError),
}

impl Durable {
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, state: State::Sound }
    }

    /// Makes sure that the state of the storage is known; returns a group that was in doubt and
    /// has turned out to be stored.
    pub(crate) fn settle(&mut self, now: Instant) -> Result<Option<Group>, StoreError> {
        match std::mem::replace(&mut self.state, State::Sound) {
            State::Sound => Ok(None),
            State::Lost(error) => {
                self.state = State::Lost(error.clone());
                Err(error)
            }
            State::Doubt { group, again, pause, error } if now < again => {
                self.state = State::Doubt { group, again, pause, error: error.clone() };
                Err(error)
            }
            State::Doubt { group, pause, .. } => match self.look(&group) {
                Ok(true) => {
                    tracing::warn!("the storage is readable again; the write in doubt is stored");
                    Ok(Some(group))
                }
                Ok(false) => {
                    tracing::warn!("the storage is readable again; the write in doubt is not in");
                    Ok(None)
                }
                Err(error) => Err(self.doubt(group, error, now, (pause * 2).min(LONGEST_PAUSE))),
            },
        }
    }

    /// Writes a group; the state must be settled.
    pub(crate) fn commit(&mut self, group: Group, now: Instant) -> Outcome {
        let mut attempts_left = 2;
        loop {
            attempts_left -= 1;
            let error = match self.write(&group) {
                Ok(()) => return Outcome::Stored(group),
                Err(error) => error,
            };
            tracing::error!(%error, "a write failed; opening the storage anew");
            match self.look(&group) {
                Ok(true) => return Outcome::Stored(group),
                Ok(false) if attempts_left > 0 && !matches!(error, StoreError::Full { .. }) => {}
                Ok(false) => return Outcome::Failed(error),
                Err(lost @ StoreError::Diverged { .. }) => return Outcome::Failed(lost),
                Err(again) => {
                    tracing::error!(error = %again, "the storage cannot be opened anew");
                    return Outcome::Failed(self.doubt(group, error, now, FIRST_PAUSE));
                }
            }
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), StoreError> {
        let changes: Vec<Change<'_>> = group.written.iter().map(change_of).collect();
        guarded(|| self.backend.write(group.revision, &changes))
    }

    /// Opens the storage anew: whether the group is in.
    fn look(&mut self, group: &Group) -> Result<bool, StoreError> {
        let found = guarded(|| self.backend.recover())?;
        if found == group.revision || found == group.base {
            return Ok(found == group.revision);
        }
        let lost = StoreError::Diverged { found, expected: group.base };
        self.state = State::Lost(lost.clone());
        Err(lost)
    }

    /// Keeps the group until the storage can be read; the error to tell meanwhile.
    fn doubt(
        &mut self,
        group: Group,
        error: StoreError,
        now: Instant,
        pause: Duration,
    ) -> StoreError {
        if matches!(self.state, State::Lost(_)) {
            return error;
        }
        let error = match error {
            unsettled @ StoreError::Unsettled(_) => unsettled,
            error => StoreError::Unsettled(Arc::new(error)),
        };
        self.state = State::Doubt { group, again: now + pause, pause, error: error.clone() };
        error
    }
}

fn change_of(written: &Written) -> Change<'_> {
    match &written.fact {
        Fact::Put { record, .. } => Change::Put(record),
        Fact::Delete { record, .. } => Change::Delete { key: &record.key },
    }
}

/// A panic below (a page that is damaged in a way the storage does not expect) is a failed
/// operation like others: the storage is opened anew before it is used again.
fn guarded<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(StoreError::disk(std::io::Error::other("the storage panicked"))))
}

#[cfg(test)]
mod tests;
