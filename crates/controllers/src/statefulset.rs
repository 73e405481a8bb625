//! StatefulSets: pods with names that last.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;

use self::plan::plan;
use crate::claim::{claim, settle};
use crate::clock::Clock;
use crate::event::{EventType, Recorder};
use crate::kind::{Grace, is_already_exists};
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::{Reconcile, describe};
use crate::selector::Selector;
use crate::{Error, Result};

/// The StatefulSet controller.
pub(crate) struct StatefulSets {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
}

impl StatefulSets {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.stateful_sets.cache.subscribe(move |change| {
            added.add(Key::of(&**change.latest()));
        });
        let (added, sets) = (Arc::clone(&queue), Arc::clone(&kinds.stateful_sets));
        kinds.pods.cache.subscribe(move |change| {
            for pod in change.sides() {
                match pod.controller() {
                    Some(owner) if owner.kind == "StatefulSet" => {
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
            recorder: recorder.component("statefulset-controller"),
            clock: Arc::clone(clock),
            queue,
        })
    }

    /// Records the outcome of one write; a name still taken by a pod on its way out is no failure.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, answer: Result<()>) -> Result<()> {
        match answer {
            Ok(()) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {} successful", set.name());
                let reason = format!("Successful{}", capitalized(verb));
                self.recorder.about(set, EventType::Normal, &reason, message);
                Ok(())
            }
            Err(Error::Api(error)) if is_already_exists(&error) => Err(error.into()),
            Err(error) => {
                let message = format!(
                    "{verb} Pod {pod} in StatefulSet {} failed error: {}",
                    set.name(),
                    describe(&error)
                );
                let reason = format!("Failed{}", capitalized(verb));
                self.recorder.about(set, EventType::Warning, &reason, message);
                Err(error)
            }
        }
    }
}

fn capitalized(verb: &str) -> &'static str {
    if verb == "create" { "Create" } else { "Delete" }
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    let selector = Selector::parse(&set.spec.as_ref()?.selector);
    (!selector.is_empty()).then_some(selector)
}

impl Reconcile for StatefulSets {
    type Key = Key;
    const NAME: &'static str = "statefulset";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let Some(set) = kinds.stateful_sets.cache.find(key) else { return Ok(None) };
        let Some(selector) = selector(&set) else { return Ok(None) };
        // Only pods with one of the set's names can be its own.
        let mut candidates = kinds.pods.cache.in_namespace(set.namespace());
        candidates.retain(|p| {
            let ours = p.controller().is_some_and(|o| o.uid == set.uid());
            ours || p.name().strip_prefix(set.name()).is_some_and(|rest| rest.starts_with('-'))
        });
        let claim = claim(&*set, &selector, candidates);
        let pods = settle(&*set, &kinds.stateful_sets, &kinds.pods, claim).await?;

        let plan = plan(&set, &pods, self.clock.now());
        let mut outcome = Ok(());
        for pod in &plan.delete {
            let pod_key = Key::of(&**pod);
            let answer = kinds.pods.delete(&pod_key, pod.uid(), Grace::Default).await;
            outcome = outcome.and(self.tell(&set, "delete", pod.name(), answer));
        }
        if !kinds.is_ending(&key.namespace) {
            for pod in &plan.create {
                let answer = kinds.pods.create(pod).await.map(drop);
                outcome = outcome.and(self.tell(&set, "create", pod.name(), answer));
            }
        }
        kinds.stateful_sets.set_status(&*set, set.status.as_ref(), &plan.status).await?;
        outcome.map(|()| plan.next)
    }
}
