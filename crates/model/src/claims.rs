//! Elements that several owners can claim, and numbers for sets.
//!
//! Invariant: what a table shows for a key depends only on who claims it, never on who came first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::ServicePortName;
use crate::few::Few;
use crate::table::{Scope, SetId};

/// For each key the claims on it; the least owner's value holds.
#[derive(Debug, Clone)]
pub(crate) struct Claims<K, O, V>(BTreeMap<K, Few<O, V>>);

impl<K, O, V> Default for Claims<K, O, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, O: Ord, V: Clone> Claims<K, O, V> {
    /// Makes, changes or gives up a claim; gives the value that held and the one that holds now.
    pub(crate) fn set(&mut self, key: &K, owner: O, value: Option<V>) -> (Option<V>, Option<V>) {
        let claims = self.0.entry(key.clone()).or_default();
        let before = claims.values().next().cloned();
        match value {
            Some(value) => claims.insert(owner, value),
            None => claims.remove(&owner),
        };
        let after = claims.values().next().cloned();
        if claims.is_empty() {
            self.0.remove(key);
        }
        (before, after)
    }
}

/// What a set is the set of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetKey {
    pub(crate) port: ServicePortName,
    pub(crate) scope: Scope,
}

/// The numbers that sets have.
#[derive(Debug, Clone, Default)]
pub(crate) struct SetIds {
    by_key: HashMap<SetKey, SetId>,
    taken: HashMap<SetId, SetKey>,
}

impl SetIds {
    /// The set's number, given to it now if it has none.
    pub(crate) fn allocate(&mut self, key: &SetKey) -> SetId {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        let mut number = hash(key);
        while number < SetId::RESERVED || self.taken.contains_key(&SetId(number)) {
            number = number.wrapping_add(1);
        }
        let id = SetId(number);
        self.taken.insert(id, key.clone());
        self.by_key.insert(key.clone(), id);
        id
    }

    /// Takes the set's number back.
    pub(crate) fn release(&mut self, key: &SetKey) {
        if let Some(id) = self.by_key.remove(key) {
            self.taken.remove(&id);
        }
    }
}

/// FNV-1a: the same on every machine and in every build, which std's hasher does not promise.
fn hash(key: &SetKey) -> u32 {
    let SetKey { port, scope } = key;
    let protocol = [port.protocol.number()];
    let scope: &[u8] = match scope {
        Scope::Cluster => b"cluster",
        Scope::Local => b"local",
    };
    let service = &port.service;
    let parts = [
        service.namespace.as_bytes(),
        service.name.as_bytes(),
        port.port.as_bytes(),
        &protocol,
        scope,
    ];
    parts
        .into_iter()
        .flat_map(|part| part.iter().chain(b"/"))
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
