//! DaemonSets: one pod on each node that takes it.

mod backoff;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use self::backoff::Backoff;
use self::plan::{new_pod, plan, target};
use crate::claim::{claim, settle};
use crate::clock::Clock;
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::{Reconcile, describe};
use crate::selector::Selector;
use crate::{Error, Result};

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
    backoff: Mutex<Backoff>,
}

impl DaemonSets {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.daemon_sets.cache.subscribe(move |change| {
            added.add(Key::of(&**change.latest()));
        });
        let (added, sets) = (Arc::clone(&queue), Arc::clone(&kinds.daemon_sets));
        kinds.nodes.cache.subscribe(move |_| {
            sets.cache.all().iter().for_each(|set| added.add(Key::of(&**set)));
        });
        let (added, sets) = (Arc::clone(&queue), Arc::clone(&kinds.daemon_sets));
        kinds.pods.cache.subscribe(move |change| {
            for pod in change.sides() {
                match pod.controller() {
                    Some(owner) if owner.kind == "DaemonSet" => {
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
            recorder: recorder.component("daemonset-controller"),
            clock: Arc::clone(clock),
            queue,
            backoff: Mutex::default(),
        })
    }

    async fn create(&self, set: &DaemonSet, nodes: &[String]) -> Result<()> {
        let made = join_all(
            nodes
                .iter()
                .map(|node| async move { self.kinds.pods.create(&new_pod(set, node)).await }),
        )
        .await;
        self.tell(set, "Create", made.into_iter().map(|answer| answer.map(|p| p.name().to_owned())))
    }

    async fn delete(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> Result<()> {
        let gone = join_all(pods.iter().map(|pod| async move {
            let key = Key::of(&**pod);
            self.kinds.pods.delete(&key, pod.uid(), Grace::Default).await.map(|()| key.name)
        }))
        .await;
        self.tell(set, "Delete", gone.into_iter())
    }

    /// Records each outcome and returns the last failure.
    fn tell(
        &self,
        set: &DaemonSet,
        verb: &str,
        answers: impl Iterator<Item = Result<String>>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for answer in answers {
            match answer {
                Ok(name) => {
                    let (reason, message) =
                        (format!("Successful{verb}"), format!("{verb}d pod: {name}"));
                    self.recorder.about(set, EventType::Normal, &reason, message);
                }
                Err(error) => {
                    let message = format!("Error {}: {}", gerund(verb), describe(&error));
                    self.recorder.about(set, EventType::Warning, &format!("Failed{verb}"), message);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}

fn gerund(verb: &str) -> String {
    format!("{}ing", verb.trim_end_matches('e').to_lowercase())
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    let selector = Selector::parse(&set.spec.as_ref()?.selector);
    (!selector.is_empty()).then_some(selector)
}

impl Reconcile for DaemonSets {
    type Key = Key;
    const NAME: &'static str = "daemonset";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let Some(set) = kinds.daemon_sets.cache.find(key) else { return Ok(None) };
        let Some(selector) = selector(&set) else { return Ok(None) };
        let candidates = kinds.pods.cache.in_namespace(set.namespace());
        let claim = claim(&*set, &selector, candidates);
        let pods = settle(&*set, &kinds.daemon_sets, &kinds.pods, claim).await?;
        let mut nodes = kinds.nodes.cache.all();
        nodes.sort_by(|a, b| a.name().cmp(b.name()));

        let now = self.clock.now();
        let mut plan = plan(&set, &nodes, &pods, now);
        for pod in std::mem::take(&mut plan.ended) {
            let node = target(&pod).unwrap_or_default();
            match self.backoff.lock().replace(set.uid(), node, now) {
                Ok(()) => {
                    let message = format!(
                        "Found failed daemon pod {} on node {node}, will try to kill it",
                        Key::of(&*pod)
                    );
                    self.recorder.about(&*set, EventType::Warning, "FailedDaemonPod", message);
                    plan.delete.push(pod);
                }
                Err(rest) => plan.next = Some(plan.next.map_or(rest, |next| next.min(rest))),
            }
        }
        let mut outcome = self.delete(&set, &plan.delete).await;
        if !kinds.is_ending(&key.namespace) {
            outcome = outcome.and(self.create(&set, &plan.create).await);
        }
        kinds.daemon_sets.set_status(&*set, set.status.as_ref(), &plan.status).await?;
        match outcome {
            Ok(()) => Ok(plan.next),
            Err(error) => Err(Error::Object {
                kind: "DaemonSet",
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                problem: describe(&error),
            }),
        }
    }
}
