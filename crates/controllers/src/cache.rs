//! One kind's objects as last seen, shared by all controllers.
//!
//! Invariants:
//! - An object never goes back to an older resource version, whether it came from the watch or
//!   from the answer to one of our own writes. The second source makes our writes visible to the
//!   next reconciliation at once, so that no controller acts twice for want of a watch event
//!   (upstream keeps *expectations* for that).
//! - An object seen deleted is not revived by a late answer: its uid is remembered for a while.
//! - Handlers run in the order of the changes, one at a time; they only enqueue.

mod index;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use self::index::Index;
use crate::object::{Key, Meta, Object};

const TOMBSTONES: usize = 4096;

/// What happened to one object.
pub(crate) struct Change<'a, K> {
    /// As it was; `None` for a new object.
    pub(crate) old: Option<&'a Arc<K>>,
    /// As it is; `None` for a deleted object.
    pub(crate) new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The object as it is, or as it was when it is gone.
    pub(crate) fn latest(&self) -> &'a Arc<K> {
        self.new.or(self.old).expect("a change has at least one side")
    }

    /// Both sides.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// The objects of one kind.
pub(crate) struct Cache<K> {
    objects: RwLock<Objects<K>>,
    writer: Mutex<Writer<K>>,
}

struct Objects<K> {
    by_namespace: HashMap<String, BTreeMap<String, Arc<K>>>,
    by_controller: HashMap<String, HashSet<Key>>,
    index: Index<K>,
}

struct Writer<K> {
    handlers: Vec<Handler<K>>,
    /// Uids of objects seen deleted, oldest first.
    tombstones: VecDeque<String>,
    buried: HashSet<String>,
    /// Keys put in by our own writes that no watch has confirmed.
    unconfirmed: HashSet<Key>,
    /// Keys and highest version of the initial list in progress.
    listing: Option<(HashSet<Key>, u64)>,
}

impl<K: Object> Cache<K> {
    pub(crate) fn new() -> Self {
        Self::indexed_by(|_| Vec::new())
    }

    /// A cache that finds objects by the values which `values` gives for them.
    pub(crate) fn indexed_by(values: fn(&K) -> Vec<String>) -> Self {
        Self {
            objects: RwLock::new(Objects {
                by_namespace: HashMap::new(),
                by_controller: HashMap::new(),
                index: Index::new(values),
            }),
            writer: Mutex::new(Writer {
                handlers: Vec::new(),
                tombstones: VecDeque::new(),
                buried: HashSet::new(),
                unconfirmed: HashSet::new(),
                listing: None,
            }),
        }
    }

    /// Calls `handler` at every later change.
    pub(crate) fn subscribe(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.writer.lock().handlers.push(Box::new(handler));
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.read().by_namespace.get(&key.namespace)?.get(&key.name).cloned()
    }

    /// Every object of a namespace (or every cluster-scoped object for `""`), by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        objects
            .by_namespace
            .get(namespace)
            .map(|n| n.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The objects of a namespace that the index has under `value`, by name.
    pub(crate) fn indexed(&self, namespace: &str, value: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let found = objects.index.under(namespace, value);
        found.map(|named| named.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects of a namespace under that one of `values` which has the fewest, by name.
    pub(crate) fn rarest<'v>(
        &self,
        namespace: &str,
        values: impl IntoIterator<Item = &'v String>,
    ) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let mut fewest: Option<&BTreeMap<String, Arc<K>>> = None;
        for value in values {
            let Some(found) = objects.index.under(namespace, value) else { return Vec::new() };
            if fewest.is_none_or(|f| found.len() < f.len()) {
                fewest = Some(found);
            }
        }
        fewest.map(|named| named.values().cloned().collect()).unwrap_or_default()
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().by_namespace.values().flat_map(|n| n.values().cloned()).collect()
    }

    /// The objects whose controller is the object of this uid.
    pub(crate) fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let Some(keys) = objects.by_controller.get(uid) else { return Vec::new() };
        let mut found: Vec<_> = keys
            .iter()
            .filter_map(|k| objects.by_namespace.get(&k.namespace)?.get(&k.name).cloned())
            .collect();
        found.sort_by(|a, b| a.name().cmp(b.name()));
        found
    }

    /// An initial list begins.
    pub(crate) fn list_begins(&self) {
        self.writer.lock().listing = Some((HashSet::new(), 0));
    }

    /// The initial list is complete: what it did not hold is gone.
    pub(crate) fn list_ends(&self) {
        let mut writer = self.writer.lock();
        let Some((seen, newest)) = writer.listing.take() else { return };
        let gone: Vec<Arc<K>> = self
            .all()
            .into_iter()
            .filter(|o| {
                let key = Key::of(&**o);
                let ours = writer.unconfirmed.contains(&key) && o.version() > newest;
                !seen.contains(&key) && !ours
            })
            .collect();
        for object in gone {
            self.remove(&mut writer, &object);
        }
    }

    /// The watch or the initial list shows this object.
    pub(crate) fn seen(&self, object: K) {
        let mut writer = self.writer.lock();
        let key = Key::of(&object);
        writer.unconfirmed.remove(&key);
        if let Some((seen, newest)) = &mut writer.listing {
            seen.insert(key);
            *newest = (*newest).max(object.version());
        }
        self.put(&mut writer, object);
    }

    /// The watch shows this object deleted.
    pub(crate) fn deleted(&self, object: &K) {
        let mut writer = self.writer.lock();
        self.remove(&mut writer, object);
    }

    /// The API server answered a write of ours with this object.
    pub(crate) fn written(&self, object: K) {
        let mut writer = self.writer.lock();
        if writer.buried.contains(object.uid()) {
            return;
        }
        let key = Key::of(&object);
        if self.put(&mut writer, object) {
            writer.unconfirmed.insert(key);
        }
    }

    /// Our delete was accepted: until the watch tells more, the object counts as terminating.
    pub(crate) fn marked_terminating(&self, object: K) {
        let mut writer = self.writer.lock();
        let current = self.find(&Key::of(&object));
        if current.is_some_and(|c| c.uid() == object.uid() && c.version() == object.version()) {
            self.swap(&mut writer, object);
        }
    }

    /// The API server says that the object of this uid is not there.
    pub(crate) fn absent(&self, key: &Key, uid: &str) {
        let mut writer = self.writer.lock();
        if let Some(object) = self.find(key).filter(|o| o.uid() == uid) {
            self.remove(&mut writer, &object);
        }
    }

    fn put(&self, writer: &mut Writer<K>, mut object: K) -> bool {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let old = self.find(&key);
        if let Some(old) = &old
            && old.uid() == object.uid()
            && old.version() >= object.version()
            && object.version() != 0
        {
            return false;
        }
        if let Some(replaced) = old.as_ref().filter(|o| o.uid() != object.uid()).cloned() {
            self.remove(writer, &replaced);
            return self.put(writer, object);
        }
        self.swap(writer, object);
        true
    }

    fn swap(&self, writer: &mut Writer<K>, object: K) {
        let key = Key::of(&object);
        let old = self.find(&key);
        let new = Arc::new(object);
        {
            let mut objects = self.objects.write();
            let objects = &mut *objects;
            if let Some(owner) = old.as_ref().and_then(|o| o.controller()) {
                forget_owner(&mut objects.by_controller, &owner.uid, &key);
            }
            objects.index.replace(&key, old.as_deref(), Some(&new));
            if let Some(owner) = new.controller() {
                objects.by_controller.entry(owner.uid.clone()).or_default().insert(key.clone());
            }
            objects
                .by_namespace
                .entry(key.namespace)
                .or_default()
                .insert(key.name, Arc::clone(&new));
        }
        let change = Change { old: old.as_ref(), new: Some(&new) };
        writer.handlers.iter().for_each(|h| h(&change));
    }

    fn remove(&self, writer: &mut Writer<K>, object: &K) {
        let key = Key::of(object);
        if writer.buried.insert(object.uid().to_owned()) {
            writer.tombstones.push_back(object.uid().to_owned());
            if writer.tombstones.len() > TOMBSTONES
                && let Some(oldest) = writer.tombstones.pop_front()
            {
                writer.buried.remove(&oldest);
            }
        }
        let old = {
            let mut objects = self.objects.write();
            let objects = &mut *objects;
            let Some(namespace) = objects.by_namespace.get_mut(&key.namespace) else { return };
            // A new object may have taken the name since.
            if namespace.get(&key.name).is_none_or(|o| o.uid() != object.uid()) {
                return;
            }
            let Some(old) = namespace.remove(&key.name) else { return };
            objects.index.replace(&key, Some(&old), None);
            if namespace.is_empty() {
                objects.by_namespace.remove(&key.namespace);
            }
            if let Some(owner) = old.controller() {
                forget_owner(&mut objects.by_controller, &owner.uid, &key);
            }
            old
        };
        writer.unconfirmed.remove(&key);
        let change = Change { old: Some(&old), new: None };
        writer.handlers.iter().for_each(|h| h(&change));
    }
}

fn forget_owner(by_controller: &mut HashMap<String, HashSet<Key>>, uid: &str, key: &Key) {
    if let Some(keys) = by_controller.get_mut(uid) {
        keys.remove(key);
        if keys.is_empty() {
            by_controller.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing::pod;

    fn at(mut pod: Pod, version: u64) -> Pod {
        pod.metadata.resource_version = Some(version.to_string());
        pod
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let cache = Cache::new();
        cache.written(at(pod("a", "p"), 7));
        cache.seen(at(pod("a", "p"), 5));
        assert_eq!(cache.find(&Key::new("a", "p")).unwrap().version(), 7);
    }

    #[test]
    fn a_late_answer_does_not_revive_a_deleted_object() {
        let cache = Cache::new();
        cache.seen(at(pod("a", "p"), 5));
        cache.deleted(&at(pod("a", "p"), 6));
        cache.written(at(pod("a", "p"), 5));
        assert!(cache.find(&Key::new("a", "p")).is_none());
    }

    #[test]
    fn a_list_drops_what_it_does_not_hold_but_keeps_newer_writes_of_ours() {
        let cache = Cache::new();
        cache.seen(at(pod("a", "old"), 3));
        cache.list_begins();
        cache.written(at(pod("a", "ours"), 9));
        cache.seen(at(pod("a", "listed"), 8));
        cache.list_ends();
        let names: Vec<_> = cache.all().iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(names, ["listed", "ours"]);
    }

    #[test]
    fn a_name_taken_by_a_new_object_shows_as_delete_and_create() {
        let cache = Cache::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        cache.subscribe(move |c| sink.lock().push((c.old.is_some(), c.new.is_some())));
        cache.seen(at(pod("a", "p"), 1));
        let mut second = at(pod("a", "p"), 4);
        second.metadata.uid = Some("other".into());
        cache.seen(second);
        assert_eq!(*log.lock(), [(false, true), (true, false), (false, true)]);
    }

    #[test]
    fn objects_are_found_by_what_the_index_says_of_them_as_it_changes() {
        let labels = |p: &Pod| {
            let labels = p.metadata.labels.iter().flatten();
            labels.map(|(key, value)| format!("{key}={value}")).collect()
        };
        let labelled = |name: &str, version, pairs: &[(&str, &str)]| {
            at(crate::testing::labelled(pod("a", name), pairs), version)
        };
        let cache = Cache::indexed_by(labels);
        cache.seen(labelled("p", 1, &[("app", "web"), ("tier", "front")]));
        cache.seen(labelled("q", 2, &[("app", "web")]));
        let named = |found: Vec<Arc<Pod>>| -> Vec<String> {
            found.iter().map(|p| p.name().to_owned()).collect()
        };
        assert_eq!(named(cache.indexed("a", "app=web")), ["p", "q"]);
        assert!(cache.indexed("b", "app=web").is_empty());
        let both = ["app=web".to_owned(), "tier=front".to_owned()];
        assert_eq!(named(cache.rarest("a", &both)), ["p"]);
        cache.seen(labelled("p", 3, &[("app", "db")]));
        assert_eq!(named(cache.indexed("a", "app=web")), ["q"]);
        assert!(cache.rarest("a", &both).is_empty());
        cache.deleted(&labelled("q", 2, &[("app", "web")]));
        assert!(cache.indexed("a", "app=web").is_empty());
        assert_eq!(named(cache.indexed("a", "app=db")), ["p"]);
    }

    #[test]
    fn dependents_are_found_by_their_controllers_uid_as_it_changes() {
        let cache = Cache::new();
        let mut owned = at(pod("a", "p"), 1);
        owned.metadata.owner_references =
            Some(vec![crate::object::controller_ref(&pod("a", "owner"))]);
        cache.seen(owned);
        assert_eq!(cache.controlled_by("uid-a-owner").len(), 1);
        cache.seen(at(pod("a", "p"), 2));
        assert!(cache.controlled_by("uid-a-owner").is_empty());
    }
}
