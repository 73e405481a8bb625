//! The generic registry: one storage path for all kinds, after upstream's `registry/generic/registry.Store`.
//!
//! A write is: decode → default → prepare → validate → allocate → commit. Validation, defaulting and the status and
//! generation rules come from `portolan_api`; this module keeps the metadata that only the server may set, decides
//! between deleting and marking, and turns the store's conflicts into retries or 409.

mod admission;
mod apply;
mod binding;
mod certificates;
mod create;
mod delete;
mod list;
mod managed;
pub(crate) mod meta;
mod namespaces;
mod patch;
mod scale;
mod update;
mod watch;

pub(crate) use apply::ApplyBody;
pub(crate) use create::name_suffix;
pub(crate) use delete::{DeleteOptions, Deleted};
pub(crate) use list::ListPage;
pub(crate) use managed::{Ownership, Writer};
pub(crate) use namespaces::{SYSTEM as SYSTEM_NAMESPACES, namespace_kind};
pub(crate) use patch::{PatchBody, findings as patch_findings};
pub(crate) use scale::{COMPONENT as SCALE, scale_of};
pub(crate) use watch::WatchSpec;

use portolan_api::Kind;
use portolan_store::{Op, Revision, Store, StoreError, Stored};
use serde_json::Value;

use crate::authz::Authorizer;
use crate::encode::LineCache;
use crate::query::DryRun;
use crate::services::{Claim, ServiceAllocator};
use crate::status::{Result, Status, Subject};

/// All objects, and what their kinds need beside the store.
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) services: ServiceAllocator,
    pub(crate) lines: LineCache,
    /// Who may do what to them.
    pub(crate) access: Authorizer,
}

/// The object that a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stored: Stored,
    pub(crate) change: Change,
    pub(crate) warnings: Vec<String>,
}

/// How the object changed, which decides the answer's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created,
    Updated,
}

pub(crate) fn subject(kind: &'static Kind) -> Subject<'static> {
    Subject { group: kind.group, resource: kind.plural, kind: kind.kind }
}

impl Target {
    pub(crate) fn key(&self) -> String {
        self.kind.key(self.namespace.as_deref(), &self.name)
    }

    pub(crate) fn subject(&self) -> Subject<'static> {
        subject(self.kind)
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.subject(), &self.name)
    }
}

impl Registry {
    pub(crate) fn new(store: Store, services: ServiceAllocator) -> Registry {
        let access = Authorizer::new(store.clone());
        Registry { store, services, lines: LineCache::default(), access }
    }

    /// Reads one object.
    ///
    /// # Errors
    /// 404; 504 for a resource version that has not happened yet.
    pub(crate) fn get(&self, target: &Target, at_least: Option<u64>) -> Result<Stored> {
        self.check_reached(at_least)?;
        self.store.get(&target.key()).ok_or_else(|| target.not_found())
    }

    fn check_reached(&self, version: Option<u64>) -> Result<()> {
        let current = self.store.revision().0;
        match version {
            Some(asked) if asked > current => Err(Status::future_version(asked, current)),
            _ => Ok(()),
        }
    }

    /// Commits one operation; a dry run answers what it would have stored.
    async fn commit_one(
        &self,
        target: &Target,
        current: Option<&Stored>,
        value: Value,
        dry_run: DryRun,
    ) -> Result<Stored> {
        let key = target.key();
        if dry_run == DryRun::All {
            let revision = current.map_or(Revision(0), |c| c.revision);
            return Ok(Stored {
                key: key.into(),
                create_revision: current.map_or(Revision(0), |c| c.create_revision),
                revision,
                value: value.into(),
            });
        }
        let op = match current {
            None => Op::Create { key, value },
            Some(current) => Op::Update { key, expected: current.revision, value },
        };
        self.commit_op(target, op).await
    }

    async fn commit_op(&self, target: &Target, op: Op) -> Result<Stored> {
        first(target, self.store.commit(vec![op]).await)
    }

    /// As [`commit_one`](Self::commit_one), together with what the claim writes.
    async fn commit_claimed(
        &self,
        target: &Target,
        current: Option<&Stored>,
        value: Value,
        dry_run: DryRun,
        claim: Claim,
    ) -> Result<Stored> {
        if dry_run == DryRun::All || claim.is_nothing() {
            return self.commit_one(target, current, value, dry_run).await;
        }
        let mut claim = claim;
        let more = claim.operations(&self.store, &value)?;
        let key = target.key();
        let op = match current {
            None => Op::Create { key, value },
            Some(current) => Op::Update { key, expected: current.revision, value },
        };
        self.commit_with(target, op, more, claim).await
    }

    /// Removes an object, and with it what it held beside its key.
    async fn commit_removal(&self, target: &Target, current: &Stored) -> Result<Stored> {
        let op = Op::Delete { key: target.key(), expected: current.revision };
        let mut claim = self.services.end(target.kind, &current.value);
        if claim.is_nothing() {
            return self.commit_op(target, op).await;
        }
        let more = claim.operations(&self.store, &current.value)?;
        self.commit_with(target, op, more, claim).await
    }

    /// A transaction that has been queued happens, also when the client goes away: what it means for the claim is
    /// settled by a task that nobody can cancel.
    async fn commit_with(
        &self,
        target: &Target,
        op: Op,
        more: Vec<Op>,
        claim: Claim,
    ) -> Result<Stored> {
        let store = self.store.clone();
        let task = tokio::spawn(async move {
            let outcome = store.commit(std::iter::once(op).chain(more).collect()).await;
            claim.finish(&outcome);
            outcome
        });
        first(target, task.await.map_err(Status::internal)?)
    }
}

/// What became of the first operation of a transaction.
fn first(target: &Target, outcome: Result<Vec<Stored>, StoreError>) -> Result<Stored> {
    let stored = outcome.map_err(|e| store_status(target, &e))?;
    let first = stored.into_iter().next();
    first.ok_or_else(|| Status::internal("the store answered a commit with nothing"))
}

/// Whether a failed write was a lost race, so that trying again from a fresh read makes sense.
fn is_race(status: &Status) -> bool {
    status.reason == "Conflict"
}

fn store_status(target: &Target, error: &StoreError) -> Status {
    match error {
        StoreError::Exists { key } if *key == target.key() => {
            Status::already_exists(target.subject(), &target.name)
        }
        // Somebody deleted it between the read and the write: upstream reports that as a conflict, too. An address
        // that came or went with the same transaction is a lost race as well.
        StoreError::Exists { .. } | StoreError::NotFound { .. } | StoreError::Conflict { .. } => {
            Status::modified(target.subject(), &target.name)
        }
        other => other.into(),
    }
}

impl From<&StoreError> for Status {
    fn from(error: &StoreError) -> Status {
        match error {
            StoreError::Compacted { requested, oldest } => {
                Status::expired(format!("too old resource version: {requested} ({oldest})"))
            }
            StoreError::Future { requested, current } => {
                Status::future_version(requested.0, current.0)
            }
            StoreError::Closed => Status::unavailable("the server is shutting down"),
            // A full disk and other faults of the storage say so in their own words; upstream, too,
            // reports them as internal errors.
            other => Status::internal(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_internal_error_that_says_so() {
        let full = StoreError::Full { path: "/data/objects.redb".into(), reason: "ENOSPC".into() };
        let status = Status::from(&full);
        assert_eq!((status.code.as_u16(), status.reason), (500, "InternalError"));
        let message = &status.message;
        assert!(message.contains("no space left to write /data/objects.redb: ENOSPC"), "{message}");
    }
}
