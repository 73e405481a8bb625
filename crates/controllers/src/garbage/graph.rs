//! Who owns whom. Pure.
//!
//! Every object of every kind by uid, with its owners; and for each owner its dependents. Changes
//! go in, work comes out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::discovery::ApiKind;
use crate::object::Key;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object's uid.
pub(crate) type Uid = String;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    /// Whether this object should go.
    Delete(Uid),
    /// This object goes and leaves its dependents be.
    Orphan(Uid),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete(uid) => write!(f, "delete {uid}"),
            Self::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

/// How far an object's deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Alive,
    /// Going; nothing of ours holds it.
    Going,
    /// Going once its blocking dependents are gone.
    AwaitingDependents,
    /// Going once its dependents are set free.
    Orphaning,
}

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: Uid,
    /// The owner's foreground deletion waits for this dependent.
    pub(super) blocks: bool,
}

/// What the graph knows of an object.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Arc<ApiKind>,
    pub(super) key: Key,
    pub(super) owners: Vec<Owner>,
    pub(super) stage: Stage,
}

impl Item {
    pub(super) fn of(kind: &Arc<ApiKind>, meta: &ObjectMeta) -> Self {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let has = |name: &str| finalizers.iter().any(|f| f == name);
        let stage = match meta.deletion_timestamp {
            None => Stage::Alive,
            Some(_) if has(ORPHAN) => Stage::Orphaning,
            Some(_) if has(FOREGROUND) => Stage::AwaitingDependents,
            Some(_) => Stage::Going,
        };
        let owners = meta.owner_references.iter().flatten().map(|o| Owner {
            api_version: o.api_version.clone(),
            kind: o.kind.clone(),
            name: o.name.clone(),
            uid: o.uid.clone(),
            blocks: o.block_owner_deletion == Some(true),
        });
        Self {
            kind: Arc::clone(kind),
            key: Key::new(
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ),
            owners: owners.collect(),
            stage,
        }
    }

    fn is_blocked_by(&self, dependent: &Self, uid: &str) -> bool {
        self.stage == Stage::AwaitingDependents
            && dependent.owners.iter().any(|o| o.uid == uid && o.blocks)
    }
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<Uid, Item>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    /// Objects in each namespace.
    population: HashMap<String, usize>,
}

impl Graph {
    pub(super) fn find(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Uid, &Item)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get_key_value(uid))
    }

    /// Whether a namespace holds any object that the graph knows.
    pub(super) fn is_empty(&self, namespace: &str) -> bool {
        !self.population.contains_key(namespace)
    }

    /// The uids of a kind.
    pub(super) fn of_kind(&self, kind: &ApiKind) -> HashSet<Uid> {
        let same = |item: &Item| item.kind.identity() == kind.identity();
        self.items.iter().filter(|(_, i)| same(i)).map(|(uid, _)| uid.clone()).collect()
    }

    /// An object was added or has changed.
    pub(super) fn observe(&mut self, uid: &str, item: Item) -> Vec<Work> {
        let mut work = Vec::new();
        let old = self.items.remove(uid);
        if let Some(old) = &old {
            self.unlink(uid, old);
        } else if !item.key.namespace.is_empty() {
            *self.population.entry(item.key.namespace.clone()).or_default() += 1;
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        match item.stage {
            Stage::Orphaning => work.push(Work::Orphan(uid.to_owned())),
            Stage::AwaitingDependents => {
                let blocking = self.dependents(uid).filter(|(_, d)| item.is_blocked_by(d, uid));
                work.extend(blocking.map(|(uid, _)| Work::Delete(uid.clone())));
                work.push(Work::Delete(uid.to_owned()));
            }
            Stage::Going => {}
            Stage::Alive => {
                let doubtful = |owner: &Owner| {
                    self.items.get(&owner.uid).is_none_or(|o| o.stage == Stage::AwaitingDependents)
                };
                if old.as_ref().is_none_or(|old| old.owners != item.owners)
                    && item.owners.iter().any(doubtful)
                {
                    work.push(Work::Delete(uid.to_owned()));
                }
            }
        }
        // A dependent that stops blocking may be what its owner waits for.
        if let Some(old) = old.filter(|old| old.owners != item.owners) {
            work.extend(self.waiting_owners(&old));
        }
        self.items.insert(uid.to_owned(), item);
        work
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Work> {
        let Some(old) = self.items.remove(uid) else { return Vec::new() };
        self.unlink(uid, &old);
        if let Some(count) = self.population.get_mut(&old.key.namespace) {
            *count -= 1;
            if *count == 0 {
                self.population.remove(&old.key.namespace);
            }
        }
        let mut work: Vec<_> =
            self.dependents(uid).map(|(uid, _)| Work::Delete(uid.clone())).collect();
        work.extend(self.waiting_owners(&old));
        work
    }

    fn waiting_owners(&self, item: &Item) -> Vec<Work> {
        let waits = |owner: &&Owner| {
            self.items.get(&owner.uid).is_some_and(|o| o.stage == Stage::AwaitingDependents)
        };
        item.owners.iter().filter(waits).map(|o| Work::Delete(o.uid.clone())).collect()
    }

    fn unlink(&mut self, uid: &str, item: &Item) {
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}
