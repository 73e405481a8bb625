//! Chains of owners under each propagation policy, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::PropagationPolicy;
use proptest::prelude::*;

use super::decide::{Decision, Dependent, OwnerState, decide};
use super::graph::{FOREGROUND, Graph, Item, ORPHAN, Stage, Work};
use crate::discovery::ApiKind;
use crate::testing::{at, meta};

/// An API server that knows finalizers, with the collector run on it until nothing is left to do.
struct World {
    kind: Arc<ApiKind>,
    objects: BTreeMap<String, ObjectMeta>,
    graph: Graph,
    work: BTreeSet<Work>,
}

impl World {
    fn new() -> Self {
        Self {
            kind: Arc::new(ApiKind::of::<Pod>(true)),
            objects: BTreeMap::new(),
            graph: Graph::default(),
            work: BTreeSet::new(),
        }
    }

    fn add(&mut self, name: &str, owners: &[&str]) {
        let mut meta = meta("ns", name);
        meta.uid = Some(name.into());
        meta.owner_references = Some(
            owners
                .iter()
                .map(|o| OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: (*o).into(),
                    uid: (*o).into(),
                    block_owner_deletion: Some(true),
                    controller: None,
                })
                .collect(),
        );
        self.objects.insert(name.into(), meta);
        self.watch(name);
    }

    fn watch(&mut self, name: &str) {
        let work = match self.objects.get(name) {
            Some(meta) => self.graph.observe(name, Item::of(&self.kind, meta)),
            None => self.graph.forget(name),
        };
        self.work.extend(work);
    }

    fn delete(&mut self, name: &str, policy: &PropagationPolicy) {
        let Some(meta) = self.objects.get_mut(name) else { return };
        let finalizer = match policy {
            PropagationPolicy::Orphan => Some(ORPHAN),
            PropagationPolicy::Foreground => Some(FOREGROUND),
            PropagationPolicy::Background => None,
        };
        match finalizer {
            None => {
                self.objects.remove(name);
            }
            Some(finalizer) => {
                meta.finalizers = Some(vec![finalizer.into()]);
                meta.deletion_timestamp = Some(Time(at(1)));
            }
        }
        self.watch(name);
    }

    fn strip(&mut self, name: &str, uids: &[String]) {
        if let Some(owners) = self.objects.get_mut(name).and_then(|m| m.owner_references.as_mut()) {
            owners.retain(|o| !uids.contains(&o.uid));
        }
        self.watch(name);
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(work) = self.work.pop_first() else { return };
            match work {
                Work::Orphan(uid) => {
                    let free: Vec<_> =
                        self.graph.dependents(&uid).map(|(u, _)| u.clone()).collect();
                    for dependent in free {
                        self.strip(&dependent, std::slice::from_ref(&uid));
                    }
                    self.objects.remove(&uid);
                    self.watch(&uid);
                }
                Work::Delete(uid) => self.attempt(&uid),
            }
        }
        panic!("the collector does not come to rest");
    }

    fn attempt(&mut self, uid: &str) {
        let Some(meta) = self.objects.get(uid) else { return };
        let item = Item::of(&self.kind, meta);
        let states: Vec<_> = item
            .owners
            .iter()
            .map(|o| match self.objects.get(&o.uid).map(|m| Item::of(&self.kind, m).stage) {
                None => OwnerState::Absent,
                Some(Stage::AwaitingDependents) => OwnerState::AwaitingDependents,
                Some(_) => OwnerState::Solid,
            })
            .collect();
        let dependents: Vec<_> = self
            .graph
            .dependents(uid)
            .map(|(id, d)| Dependent {
                uid: id.clone(),
                stage: d.stage,
                blocks: d.owners.iter().any(|o| o.uid == uid && o.blocks),
            })
            .collect();
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        match decide(&item, &finalizers, &states, &dependents) {
            Decision::Keep => {}
            Decision::Finish => {
                self.objects.remove(uid);
                self.watch(uid);
            }
            Decision::Await(uids) => self.work.extend(uids.into_iter().map(Work::Delete)),
            Decision::Strip(uids) => self.strip(uid, &uids),
            Decision::Delete { policy, unblock } => {
                if unblock {
                    let owners = self.objects.get_mut(uid).unwrap().owner_references.as_mut();
                    owners.unwrap().iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
                    self.watch(uid);
                }
                self.delete(uid, &policy);
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }
}

/// deployment → replica set → two pods, and one pod apart.
fn chain() -> World {
    let mut world = World::new();
    world.add("apart", &[]);
    world.add("deployment", &[]);
    world.add("set", &["deployment"]);
    world.add("pod-1", &["set"]);
    world.add("pod-2", &["set"]);
    world.settle();
    assert_eq!(world.names().len(), 5);
    world
}

#[test]
fn background_deletion_takes_the_whole_chain() {
    let mut world = chain();
    world.delete("deployment", &PropagationPolicy::Background);
    world.settle();
    assert_eq!(world.names(), ["apart"]);
}

#[test]
fn foreground_deletion_takes_the_leaves_first() {
    let mut world = chain();
    world.delete("deployment", &PropagationPolicy::Foreground);
    while world.objects.contains_key("set") {
        assert!(world.objects.contains_key("deployment"), "the owner outlives its dependents");
        let work = world.work.pop_first().unwrap();
        let Work::Delete(uid) = work else { panic!() };
        world.attempt(&uid);
    }
    assert!(!world.objects.contains_key("pod-1"));
    world.settle();
    assert_eq!(world.names(), ["apart"]);
}

#[test]
fn orphaning_frees_the_dependents() {
    let mut world = chain();
    world.delete("deployment", &PropagationPolicy::Orphan);
    world.settle();
    assert_eq!(world.names(), ["apart", "pod-1", "pod-2", "set"]);
    assert_eq!(world.objects["set"].owner_references.as_ref().unwrap().len(), 0);
}

#[test]
fn an_object_with_another_owner_stays_and_loses_the_reference() {
    let mut world = chain();
    world.add("other", &[]);
    world.add("shared", &["deployment", "other"]);
    world.delete("deployment", &PropagationPolicy::Background);
    world.settle();
    assert_eq!(world.names(), ["apart", "other", "shared"]);
    assert_eq!(world.objects["shared"].owner_references.as_ref().unwrap().len(), 1);
}

#[test]
fn an_object_made_for_an_owner_that_is_gone_goes() {
    let mut world = World::new();
    world.add("late", &["never-there"]);
    world.settle();
    assert_eq!(world.names(), Vec::<&str>::new());
}

#[test]
fn a_dependent_that_does_not_block_lets_its_owner_go_first() {
    let mut world = World::new();
    world.add("owner", &[]);
    world.add("lax", &["owner"]);
    world.objects.get_mut("lax").unwrap().owner_references.as_mut().unwrap()[0]
        .block_owner_deletion = None;
    world.watch("lax");
    world.delete("owner", &PropagationPolicy::Foreground);
    world.attempt("owner");
    assert_eq!(world.names(), ["lax"]);
    world.settle();
    assert_eq!(world.names(), Vec::<&str>::new());
}

proptest! {
    /// Whatever the forest and the order of deletions, what is left is what has an owner left or
    /// never had one.
    #[test]
    fn nothing_outlives_its_owners(
        parents in prop::collection::vec(prop::option::of(0..8usize), 1..16),
        deletions in prop::collection::vec((0..16usize, any::<bool>()), 0..8),
    ) {
        let mut world = World::new();
        let name = |i: usize| format!("o{i:02}");
        for (i, parent) in parents.iter().enumerate() {
            let owner = parent.filter(|p| *p < i).map(name);
            world.add(&name(i), &owner.iter().map(String::as_str).collect::<Vec<_>>());
        }
        world.settle();
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        for (i, foreground) in deletions {
            let policy = if foreground { PropagationPolicy::Foreground } else { PropagationPolicy::Background };
            world.delete(&name(i), &policy);
            world.settle();
            if i < parents.len() {
                gone.insert(i);
            }
            for (i, parent) in parents.iter().enumerate() {
                if parent.is_some_and(|p| p < i && gone.contains(&p)) {
                    gone.insert(i);
                }
            }
            let left: Vec<_> = (0..parents.len()).filter(|i| !gone.contains(i)).map(name).collect();
            prop_assert_eq!(world.names(), left);
        }
    }
}
