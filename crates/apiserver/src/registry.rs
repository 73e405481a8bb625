//! The generic registry: one storage path for all kinds, after upstream's `registry/generic/registry.Store`.
//!
//! A write is: decode → default → prepare → validate → allocate → commit. Validation, defaulting and the status and
//! generation rules come from `portolan_api`; this module keeps the metadata that only the server may set, decides
//! between deleting and marking, and turns the store's conflicts into retries or 409.

mod binding;
mod create;
mod delete;
mod list;
pub(crate) mod meta;
mod namespaces;
mod patch;
mod scale;
mod update;
mod watch;

pub(crate) use create::name_suffix;
pub(crate) use delete::{DeleteOptions, Deleted};
pub(crate) use list::ListPage;
pub(crate) use namespaces::{SYSTEM as SYSTEM_NAMESPACES, namespace_kind};
pub(crate) use patch::PatchBody;
pub(crate) use scale::{COMPONENT as SCALE, scale_of};
pub(crate) use watch::WatchSpec;

use std::sync::Arc;

use portolan_api::Kind;
use portolan_store::{Op, Revision, Store, StoreError, Stored};
use serde_json::Value;

use crate::authz::Authorizer;
use crate::encode::LineCache;
use crate::query::DryRun;
use crate::services::ServiceAllocator;
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
                value: Arc::new(value),
            });
        }
        let op = match current {
            None => Op::Create { key, value },
            Some(current) => Op::Update { key, expected: current.revision, value },
        };
        self.commit_op(target, op).await
    }

    async fn commit_op(&self, target: &Target, op: Op) -> Result<Stored> {
        let mut stored = self.store.commit(vec![op]).await.map_err(|e| store_status(target, &e))?;
        stored.pop().ok_or_else(|| Status::internal("the store answered a commit with nothing"))
    }
}

/// Whether a failed write was a lost race, so that trying again from a fresh read makes sense.
fn is_race(status: &Status) -> bool {
    status.reason == "Conflict"
}

fn store_status(target: &Target, error: &StoreError) -> Status {
    match error {
        StoreError::Exists { .. } => Status::already_exists(target.subject(), &target.name),
        // Somebody deleted it between the read and the write: upstream reports that as a conflict, too.
        StoreError::NotFound { .. } | StoreError::Conflict { .. } => {
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
            other => Status::internal(other),
        }
    }
}
