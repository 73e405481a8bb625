//! The garbage collector: dependents go when their owners have gone.
//!
//! Kinds that other controllers watch are read from their caches; every other served kind is
//! watched by metadata alone. Before anything is deleted the object is read anew, and an owner
//! that the graph does not know is asked for.

mod decide;
mod graph;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, DeleteParams, GetParams, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::decide::{Decision, Dependent, OwnerState, decide};
use self::graph::{FOREGROUND, Graph, Item, ORPHAN, Owner, Stage, Uid, Work};
use crate::discovery::{ApiKind, served};
use crate::kind::{Kind, retry, status_code};
use crate::kinds::Kinds;
use crate::object::{Key, Meta, Object};
use crate::queue::WorkQueue;
use crate::reconcile::{Reconcile, describe};
use crate::{Error, Result};

/// How often new kinds are looked for.
const REFRESH: Duration = Duration::from_secs(30);

/// The garbage collector.
pub(crate) struct GarbageCollector {
    kinds: Arc<Kinds>,
    queue: Arc<WorkQueue<Work>>,
    graph: Arc<Mutex<Graph>>,
    served: RwLock<Vec<Arc<ApiKind>>>,
    /// Namespaces that wait to become empty.
    namespaces: Arc<WorkQueue<Key>>,
    synced: watch::Sender<bool>,
}

impl GarbageCollector {
    /// `namespaces` gets the key of a namespace being deleted when its last object has gone.
    pub(crate) fn new(kinds: &Arc<Kinds>, namespaces: &Arc<WorkQueue<Key>>) -> Arc<Self> {
        let collector = Arc::new(Self {
            kinds: Arc::clone(kinds),
            queue: Arc::new(WorkQueue::new()),
            graph: Arc::default(),
            served: RwLock::default(),
            namespaces: Arc::clone(namespaces),
            synced: watch::Sender::new(false),
        });
        collector.read_cache(&kinds.namespaces, false);
        collector.read_cache(&kinds.nodes, false);
        collector.read_cache(&kinds.pods, true);
        collector.read_cache(&kinds.services, true);
        collector.read_cache(&kinds.endpoints, true);
        collector.read_cache(&kinds.endpoint_slices, true);
        collector.read_cache(&kinds.deployments, true);
        collector.read_cache(&kinds.replica_sets, true);
        collector.read_cache(&kinds.stateful_sets, true);
        collector.read_cache(&kinds.daemon_sets, true);
        collector
    }

    fn read_cache<K: Object>(self: &Arc<Self>, kind: &Kind<K>, namespaced: bool) {
        let api = Arc::new(ApiKind::of::<K>(namespaced));
        self.served.write().push(Arc::clone(&api));
        let collector = Arc::downgrade(self);
        kind.cache.subscribe(move |change| {
            let Some(collector) = collector.upgrade() else { return };
            match change.new {
                Some(object) => collector.observe(&api, object.meta()),
                None => collector.forget(change.latest().uid()),
            }
        });
    }

    fn observe(&self, kind: &Arc<ApiKind>, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        let work = self.graph.lock().observe(uid, Item::of(kind, meta));
        work.into_iter().for_each(|w| self.queue.add(w));
    }

    fn forget(&self, uid: &str) {
        let (work, emptied) = {
            let mut graph = self.graph.lock();
            let namespace = graph.find(uid).map(|i| i.key.namespace.clone());
            let work = graph.forget(uid);
            (work, namespace.filter(|n| !n.is_empty() && graph.is_empty(n)))
        };
        work.into_iter().for_each(|w| self.queue.add(w));
        if let Some(namespace) = emptied.filter(|n| self.kinds.is_ending(n)) {
            self.namespaces.add(Key::cluster(namespace));
        }
    }

    /// Finds served kinds, and watches those that no cache holds, until `shutdown`.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let cached: HashSet<_> = self.served.read().iter().map(|k| owned(k)).collect();
        let mut watched: HashSet<(String, String)> = HashSet::new();
        let mut tasks = JoinSet::new();
        let mut pause = Duration::from_millis(100);
        loop {
            match served(&self.kinds.client).await {
                Ok((kinds, failed)) => {
                    let mut waits = Vec::new();
                    for kind in kinds {
                        if !is_collected(&kind) {
                            continue;
                        }
                        let identity = owned(&kind);
                        if cached.contains(&identity) || !watched.insert(identity) {
                            continue;
                        }
                        self.served.write().push(Arc::clone(&kind));
                        let (listed, wait) = watch::channel(false);
                        waits.push(wait);
                        tasks.spawn(Arc::clone(&self).watch(kind, listed, shutdown.clone()));
                    }
                    for mut wait in waits {
                        // An error means that the watch has ended with the shutdown.
                        let ready = wait.wait_for(|listed| *listed);
                        let _ = shutdown.run_until_cancelled(ready).await;
                    }
                    if failed.is_empty() {
                        self.synced.send_replace(true);
                    }
                    pause = if failed.is_empty() { REFRESH } else { Duration::from_secs(1) };
                }
                Err(error) => {
                    tracing::warn!(error = describe(&error), "discovery failed; trying again");
                    pause = pause.min(REFRESH / 2) * 2;
                }
            }
            let sleep = tokio::time::sleep(pause);
            if shutdown.run_until_cancelled(sleep).await.is_none() {
                break;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn watch(
        self: Arc<Self>,
        kind: Arc<ApiKind>,
        listed: watch::Sender<bool>,
        shutdown: CancellationToken,
    ) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.kinds.client.clone(), &kind.resource);
        let stream = watcher(api, watcher::Config::default()).backoff(retry());
        let mut stream = std::pin::pin!(stream.take_until(shutdown.cancelled_owned()));
        let mut seen: Option<HashSet<Uid>> = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => seen = Some(HashSet::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    seen.get_or_insert_default().extend(object.metadata.uid.clone());
                    self.observe(&kind, &object.metadata);
                }
                Ok(watcher::Event::InitDone) => {
                    let seen = seen.take().unwrap_or_default();
                    let known = self.graph.lock().of_kind(&kind);
                    known.difference(&seen).for_each(|uid| self.forget(uid));
                    listed.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => self.observe(&kind, &object.metadata),
                Ok(watcher::Event::Delete(object)) => {
                    self.forget(object.metadata.uid.as_deref().unwrap_or_default());
                }
                Err(error) => {
                    tracing::debug!(kind = kind.resource.kind, %error, "watch failed; trying again");
                }
            }
        }
    }

    /// Waits until the graph holds every kind.
    pub(crate) async fn synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    async fn read(&self, kind: &ApiKind, key: &Key) -> Result<Option<ObjectMeta>> {
        let request = kind
            .request(key)
            .get_metadata(&key.name, &GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.kinds.client.request::<PartialObjectMeta>(request).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(error) if status_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn patch(&self, item: &Item, meta: &ObjectMeta, fields: Value) -> Result<()> {
        let mut patch = json!({ "metadata": fields });
        patch["metadata"]["uid"] = json!(meta.uid);
        patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
        let request = item
            .kind
            .request(&item.key)
            .patch(&item.key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .map_err(kube::Error::BuildRequest)?;
        accept_absence(self.kinds.client.request::<Value>(request).await.map(drop))
    }

    async fn delete(&self, item: &Item, uid: &str, policy: PropagationPolicy) -> Result<()> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let request = item
            .kind
            .request(&item.key)
            .delete(&item.key.name, &params)
            .map_err(kube::Error::BuildRequest)?;
        accept_absence(self.kinds.client.request::<Value>(request).await.map(drop))
    }

    async fn owner_state(&self, item: &Item, owner: &Owner) -> Result<OwnerState> {
        let of_stage = |stage| match stage {
            Stage::AwaitingDependents => OwnerState::AwaitingDependents,
            _ => OwnerState::Solid,
        };
        let known = self.graph.lock().find(&owner.uid).map(|o| (o.key.namespace.clone(), o.stage));
        if let Some((namespace, stage)) = known {
            // A namespaced owner owns only in its own namespace.
            let reachable = namespace.is_empty() || namespace == item.key.namespace;
            return Ok(if reachable { of_stage(stage) } else { OwnerState::Absent });
        }
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = self
            .served
            .read()
            .iter()
            .find(|k| k.resource.group == group && k.resource.kind == owner.kind)
            .cloned();
        let Some(kind) = kind else {
            return Err(Error::Object {
                kind: "OwnerReference",
                namespace: item.key.namespace.clone(),
                name: owner.name.clone(),
                problem: format!("kind {} of {} is not served", owner.kind, owner.api_version),
            });
        };
        if kind.namespaced && item.key.namespace.is_empty() {
            return Ok(OwnerState::Absent);
        }
        let key = Key::new(&item.key.namespace, &owner.name);
        let live = self.read(&kind, &key).await?;
        Ok(match live.filter(|meta| meta.uid.as_ref() == Some(&owner.uid)) {
            None => OwnerState::Absent,
            Some(meta) => of_stage(Item::of(&kind, &meta).stage),
        })
    }

    fn dependents(&self, uid: &str) -> Vec<Dependent> {
        let graph = self.graph.lock();
        let dependents = graph.dependents(uid).map(|(id, item)| Dependent {
            uid: id.clone(),
            stage: item.stage,
            blocks: item.owners.iter().any(|o| o.uid == uid && o.blocks),
        });
        dependents.collect()
    }

    /// The object read anew; none when it has gone.
    async fn fresh(&self, uid: &str) -> Result<Option<(Item, ObjectMeta)>> {
        let Some(item) = self.graph.lock().find(uid).cloned() else { return Ok(None) };
        let meta = self.read(&item.kind, &item.key).await?;
        let Some(meta) = meta.filter(|m| m.uid.as_deref() == Some(uid)) else { return Ok(None) };
        Ok(Some((Item::of(&item.kind, &meta), meta)))
    }

    async fn attempt(&self, uid: &str) -> Result<()> {
        let Some((item, meta)) = self.fresh(uid).await? else { return Ok(()) };
        let mut owners = Vec::with_capacity(item.owners.len());
        if item.stage == Stage::Alive {
            for owner in &item.owners {
                owners.push(self.owner_state(&item, owner).await?);
            }
        }
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        match decide(&item, &finalizers, &owners, &self.dependents(uid)) {
            Decision::Keep => Ok(()),
            Decision::Finish => self.drop_finalizer(&item, &meta, FOREGROUND).await,
            Decision::Await(uids) => {
                uids.into_iter().for_each(|uid| self.queue.add(Work::Delete(uid)));
                Ok(())
            }
            Decision::Strip(uids) => self.strip(&item, &meta, &uids).await,
            Decision::Delete { policy, unblock } => {
                if unblock {
                    let mut references = meta.owner_references.clone().unwrap_or_default();
                    references.iter_mut().for_each(|r| r.block_owner_deletion = Some(false));
                    self.patch(&item, &meta, json!({ "ownerReferences": references })).await?;
                }
                tracing::debug!(kind = item.kind.resource.kind, key = %item.key, "no owner is left");
                self.delete(&item, uid, policy).await
            }
        }
    }

    async fn orphan(&self, uid: &str) -> Result<()> {
        let Some((item, meta)) = self.fresh(uid).await? else { return Ok(()) };
        if item.stage != Stage::Orphaning {
            return Ok(());
        }
        for dependent in self.dependents(uid) {
            if let Some((dependent, meta)) = self.fresh(&dependent.uid).await? {
                self.strip(&dependent, &meta, &[uid.to_owned()]).await?;
            }
        }
        self.drop_finalizer(&item, &meta, ORPHAN).await
    }

    async fn strip(&self, item: &Item, meta: &ObjectMeta, uids: &[Uid]) -> Result<()> {
        let mut references = meta.owner_references.clone().unwrap_or_default();
        references.retain(|r| !uids.contains(&r.uid));
        self.patch(item, meta, json!({ "ownerReferences": references })).await
    }

    async fn drop_finalizer(&self, item: &Item, meta: &ObjectMeta, name: &str) -> Result<()> {
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|f| f != name);
        self.patch(item, meta, json!({ "finalizers": finalizers })).await
    }
}

fn owned(kind: &ApiKind) -> (String, String) {
    let (group, plural) = kind.identity();
    (group.to_owned(), plural.to_owned())
}

/// Events are too many and too short-lived to follow.
fn is_collected(kind: &ApiKind) -> bool {
    kind.resource.kind != "Event" && ["list", "watch", "delete"].iter().all(|v| kind.can(v))
}

/// The object went by itself.
fn accept_absence(answer: kube::Result<()>) -> Result<()> {
    match answer {
        Err(error) if status_code(&error) == Some(404) => Ok(()),
        answer => Ok(answer?),
    }
}

impl Reconcile for GarbageCollector {
    type Key = Work;
    const NAME: &'static str = "garbage-collector";

    fn queue(&self) -> &Arc<WorkQueue<Work>> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Delete(uid) => self.attempt(uid).await?,
            Work::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(None)
    }
}
