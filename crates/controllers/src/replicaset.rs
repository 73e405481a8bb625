//! ReplicaSets: a number of pods alike.
//!
//! The runner adopts and releases, makes pods in slow-start batches (1, 2, 4, …: a refused first
//! pod costs one request, not hundreds), deletes the surplus, and keeps the status.

mod plan;
mod rank;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use self::plan::Failure;
pub(crate) use self::plan::nonzero;
use crate::Result;
use crate::claim::{claim, settle};
use crate::clock::Clock;
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::selector::Selector;

/// The ReplicaSet controller.
pub(crate) struct ReplicaSets {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
}

impl ReplicaSets {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.replica_sets.cache.subscribe(move |change| {
            added.add(Key::of(&**change.latest()));
        });
        let (added, sets) = (Arc::clone(&queue), Arc::clone(&kinds.replica_sets));
        kinds.pods.cache.subscribe(move |change| {
            for pod in change.sides() {
                match pod.controller() {
                    Some(owner) if owner.kind == "ReplicaSet" => {
                        added.add(Key::new(pod.namespace(), &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        for set in sets.cache.in_namespace(pod.namespace()) {
                            if selector(&set)
                                .is_some_and(|s| s.matches(pod.metadata.labels.as_ref()))
                            {
                                added.add(Key::of(&*set));
                            }
                        }
                    }
                }
            }
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("replicaset-controller"),
            clock: Arc::clone(clock),
            queue,
        })
    }

    /// The pods of every ReplicaSet that has the same controller as this one.
    fn siblings(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = set.controller() else { return own.to_vec() };
        let sets = self.kinds.replica_sets.cache.controlled_by(&owner.uid);
        sets.iter().flat_map(|s| self.kinds.pods.cache.controlled_by(s.uid())).collect()
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let Some(pod) = plan::new_pod(set) else { return Ok(()) };
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let answers = join_all((0..size).map(|_| self.kinds.pods.create(&pod))).await;
            let mut failure = None;
            for answer in answers {
                match answer {
                    Ok(created) => self.recorder.about(
                        set,
                        EventType::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {}", created.name()),
                    ),
                    Err(error) => failure = Some(crate::reconcile::describe(&error)),
                }
            }
            if let Some(message) = failure {
                let told = format!("Error creating: {message}");
                self.recorder.about(set, EventType::Warning, "FailedCreate", told);
                return Err(Failure { reason: "FailedCreate", message });
            }
            left -= size;
            batch = size * 2;
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let answers = join_all(pods.iter().map(|pod| async move {
            let key = Key::of(&**pod);
            (pod, self.kinds.pods.delete(&key, pod.uid(), Grace::Default).await)
        }))
        .await;
        let mut failure = None;
        for (pod, answer) in answers {
            match answer {
                Ok(()) => self.recorder.about(
                    set,
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("Deleted pod: {}", pod.name()),
                ),
                Err(error) => failure = Some(crate::reconcile::describe(&error)),
            }
        }
        match failure {
            None => Ok(()),
            Some(message) => {
                let told = format!("Error deleting: {message}");
                self.recorder.about(set, EventType::Warning, "FailedDelete", told);
                Err(Failure { reason: "FailedDelete", message })
            }
        }
    }
}

fn selector(set: &ReplicaSet) -> Option<Selector> {
    let selector = Selector::parse(&set.spec.as_ref()?.selector);
    (!selector.is_empty()).then_some(selector)
}

impl Reconcile for ReplicaSets {
    type Key = Key;
    const NAME: &'static str = "replicaset";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(set) = self.kinds.replica_sets.cache.find(key) else { return Ok(None) };
        let Some(selector) = selector(&set) else { return Ok(None) };
        let pods = &self.kinds.pods;
        let candidates = pods.cache.in_namespace(set.namespace());
        let claim = claim(&*set, &selector, candidates);
        let owned = settle(&*set, &self.kinds.replica_sets, pods, claim).await?;

        let plan = plan::plan(&set, &owned, &self.siblings(&set, &owned), self.clock.now());
        let failure = match (plan.create, plan.delete.as_slice()) {
            (0, []) => None,
            (0, surplus) => self.delete(&set, surplus).await.err(),
            _ if self.kinds.is_ending(&key.namespace) => None,
            (missing, _) => self.create(&set, missing).await.err(),
        };

        // Count what has just been written as well: one write of the status instead of two.
        let counted = pods.cache.controlled_by(set.uid());
        let (status, next) = plan::status(&set, &counted, failure.as_ref(), self.clock.now());
        self.kinds.replica_sets.set_status(&*set, set.status.as_ref(), &status).await?;
        match failure {
            None => Ok(next),
            Some(failure) => Err(crate::Error::Object {
                kind: "ReplicaSet",
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                problem: failure.message,
            }),
        }
    }
}
