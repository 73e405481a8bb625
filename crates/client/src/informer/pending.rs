//! What changed and was not taken yet, at most one entry an object.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to an object, the latest only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It is there, and like this.
    Put(Box<T>),
    /// It is gone.
    Delete,
}

/// What changed since the last time.
#[derive(Debug, Clone)]
pub struct Changes<T> {
    /// The objects that changed, in no order.
    pub objects: Vec<(ObjectKey, Change<T>)>,
    /// Whether a complete list is behind them: until it is, what is missing may yet come.
    pub is_listed: bool,
}

/// One list in progress.
pub(super) struct Round {
    seen: HashSet<ObjectKey>,
}

#[derive(Debug)]
struct State<T> {
    /// The version of every object that the server said is there.
    versions: HashMap<ObjectKey, Box<str>>,
    pending: HashMap<ObjectKey, Change<T>>,
    is_listed: bool,
    /// Whether the first complete list was not told yet.
    news: bool,
    fault: Option<String>,
}

/// The state between a follower and its reader.
#[derive(Debug)]
pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    pub(super) changed: Notify,
}

impl<T> Shared<T> {
    pub(super) fn new() -> Self {
        let state = State {
            versions: HashMap::new(),
            pending: HashMap::new(),
            is_listed: false,
            news: false,
            fault: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn take(&self) -> Option<Changes<T>> {
        let mut state = self.state.lock();
        let news = std::mem::take(&mut state.news);
        if state.pending.is_empty() && !news {
            return None;
        }
        let objects = std::mem::take(&mut state.pending).into_iter().collect();
        Some(Changes { objects, is_listed: state.is_listed })
    }

    pub(super) fn put<K: Resource>(&self, object: K, part: impl FnOnce(K) -> T) {
        let key = ObjectKey::of(&object);
        let version = object.meta().resource_version.as_deref().unwrap_or_default();
        let mut state = self.state.lock();
        // A list repeats what is known; only what differs is a change.
        if !version.is_empty() && state.versions.get(&key).is_some_and(|known| **known == *version)
        {
            return;
        }
        state.versions.insert(key.clone(), version.into());
        state.pending.insert(key, Change::Put(Box::new(part(object))));
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn delete<K: Resource>(&self, object: &K) {
        let key = ObjectKey::of(object);
        let mut state = self.state.lock();
        state.versions.remove(&key);
        state.pending.insert(key, Change::Delete);
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn begin_list(&self) -> Round {
        Round { seen: HashSet::new() }
    }

    pub(super) fn listed<K: Resource>(
        &self,
        round: &mut Round,
        object: K,
        part: impl FnOnce(K) -> T,
    ) {
        round.seen.insert(ObjectKey::of(&object));
        self.put(object, part);
    }

    pub(super) fn end_list(&self, round: Round) {
        let mut state = self.state.lock();
        let known = state.versions.keys();
        let gone: Vec<_> = known.filter(|key| !round.seen.contains(*key)).cloned().collect();
        for key in gone {
            state.versions.remove(&key);
            state.pending.insert(key, Change::Delete);
        }
        state.news |= !state.is_listed;
        state.is_listed = true;
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn note_watching(&self) {
        self.state.lock().fault = None;
    }

    pub(super) fn note_fault(&self, fault: String) {
        self.state.lock().fault = Some(fault);
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.state.lock().fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("default".into()),
                name: Some(name.into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn whole<K>(object: K) -> K {
        object
    }

    fn list(shared: &Shared<ConfigMap>, objects: &[(&str, &str)]) {
        let mut round = shared.begin_list();
        for (name, version) in objects {
            shared.listed(&mut round, object(name, version), whole);
        }
        shared.end_list(round);
    }

    fn taken(shared: &Shared<ConfigMap>) -> Vec<(String, Option<String>)> {
        let changes = shared.take().map(|changes| changes.objects).unwrap_or_default();
        let mut changes: Vec<_> = changes
            .into_iter()
            .map(|(key, change)| match change {
                Change::Put(object) => (key.to_string(), object.metadata.resource_version),
                Change::Delete => (key.to_string(), None),
            })
            .collect();
        changes.sort();
        changes
    }

    #[test]
    fn an_empty_first_list_is_news() {
        let shared = Shared::<ConfigMap>::new();
        assert!(shared.take().is_none());
        list(&shared, &[]);
        assert!(shared.take().is_some_and(|changes| changes.is_listed));
        list(&shared, &[]);
        assert!(shared.take().is_none());
    }

    #[test]
    fn the_latest_change_of_an_object_counts() {
        let shared = Shared::new();
        list(&shared, &[("a", "1")]);
        shared.put(object("a", "2"), whole);
        shared.put(object("a", "3"), whole);
        assert_eq!(taken(&shared), [("default/a".into(), Some("3".into()))]);
        shared.put(object("a", "4"), whole);
        shared.delete(&object("a", "5"));
        assert_eq!(taken(&shared), [("default/a".into(), None)]);
        shared.put(object("a", "6"), whole);
        assert_eq!(taken(&shared), [("default/a".into(), Some("6".into()))]);
    }

    #[test]
    fn a_later_list_tells_only_what_differs() {
        let shared = Shared::new();
        list(&shared, &[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(taken(&shared).len(), 3);
        list(&shared, &[("a", "1"), ("b", "9")]);
        assert_eq!(
            taken(&shared),
            [("default/b".into(), Some("9".into())), ("default/c".into(), None)]
        );
    }
}
