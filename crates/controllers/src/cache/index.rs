//! Objects by values computed from them, so that a look-up costs what it finds.
//!
//! Invariant: an object stands under exactly the values that the function gives for it as it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::object::Key;

type Named<K> = BTreeMap<String, Arc<K>>;

/// Namespace → value → name → object.
pub(super) struct Index<K> {
    values: fn(&K) -> Vec<String>,
    entries: HashMap<String, HashMap<String, Named<K>>>,
}

impl<K> Index<K> {
    pub(super) fn new(values: fn(&K) -> Vec<String>) -> Self {
        Self { values, entries: HashMap::new() }
    }

    /// The objects of a namespace under one value.
    pub(super) fn under(&self, namespace: &str, value: &str) -> Option<&Named<K>> {
        self.entries.get(namespace)?.get(value)
    }

    /// The object of this key was `old` and is `new`.
    pub(super) fn replace(&mut self, key: &Key, old: Option<&K>, new: Option<&Arc<K>>) {
        let wanted = new.map(|n| (self.values)(n)).unwrap_or_default();
        for value in old.map(self.values).unwrap_or_default() {
            if !wanted.contains(&value) {
                self.remove(key, &value);
            }
        }
        if let Some(new) = new
            && !wanted.is_empty()
        {
            let values = self.entries.entry(key.namespace.clone()).or_default();
            for value in wanted {
                values.entry(value).or_default().insert(key.name.clone(), Arc::clone(new));
            }
        }
    }

    fn remove(&mut self, key: &Key, value: &str) {
        let Some(values) = self.entries.get_mut(&key.namespace) else { return };
        if let Some(named) = values.get_mut(value) {
            named.remove(&key.name);
            if named.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.entries.remove(&key.namespace);
        }
    }
}
