//! The scheduler: unbound pods get nodes.
//!
//! Choosing happens in memory under one short lock; only the binding goes to the API server. Pods
//! that fit nowhere wait for a node to change or a pod to leave.

mod board;
pub(crate) mod fit;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::core::Request;
use kube::core::Resource;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::board::Board;
use crate::Result;
use crate::clock::{Clock, whole_seconds};
use crate::event::{EventType, Recorder};
use crate::kind::status_code;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::pod::{is_finished, node_name};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

const NAME: &str = "default-scheduler";

/// The scheduler.
pub(crate) struct Scheduler {
    kinds: Arc<Kinds>,
    /// As whom pods are bound.
    client: kube::Client,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    board: Board,
    /// Pods that fit nowhere as things are.
    stranded: HashSet<Key>,
}

impl Scheduler {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        client: kube::Client,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let state = Arc::new(Mutex::new(State::default()));
        let (added, shared) = (Arc::clone(&queue), Arc::clone(&state));
        kinds.nodes.cache.subscribe(move |change| {
            let mut state = shared.lock();
            match change.new {
                Some(node) => state.board.set_node(Arc::clone(node)),
                None => state.board.remove_node(change.latest().name()),
            }
            state.stranded.drain().for_each(|key| added.add(key));
        });
        let (added, shared) = (Arc::clone(&queue), Arc::clone(&state));
        kinds.pods.cache.subscribe(move |change| {
            let pod = change.latest();
            let live = change.new.filter(|p| !is_finished(p));
            match (live, live.and_then(|p| node_name(p))) {
                (Some(pod), Some(node)) => shared.lock().board.place(pod, node),
                (Some(pod), None) if is_ours(pod) => added.add(Key::of(&**pod)),
                (Some(_), None) => {}
                (None, _) => {
                    let mut state = shared.lock();
                    if state.board.holds(pod.uid()) {
                        state.board.remove(pod.uid());
                        state.stranded.drain().for_each(|key| added.add(key));
                    }
                    state.stranded.remove(&Key::of(&**pod));
                }
            }
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            client,
            recorder: recorder.component(NAME),
            clock: Arc::clone(clock),
            queue,
            state,
        })
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
        let request = Request::new(Pod::url_path(&(), Some(pod.namespace())))
            .create_subresource("binding", pod.name(), &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request::<Value>(request).await?;
        Ok(())
    }

    async fn strand(&self, pod: &Pod, message: String) -> Result<()> {
        self.recorder.about(pod, EventType::Warning, "FailedScheduling", message.clone());
        let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let known = known.into_iter().flatten().find(|c| c.type_ == "PodScheduled");
        if known.is_some_and(|c| c.status == "False" && c.message.as_ref() == Some(&message)) {
            return Ok(());
        }
        let now = Time(whole_seconds(self.clock.now()));
        let since =
            known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": since.unwrap_or(now),
        }]}});
        let (pods, key) = (&self.kinds.pods, Key::of(pod));
        pods.strategic_as(&self.client, &key, pod.uid(), Some("status"), &patch).await
    }
}

/// Whether a pod asks this scheduler for a node.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_name(pod).is_none()
        && !pod.is_terminating()
        && !is_finished(pod)
        && spec.scheduler_name.as_deref().is_none_or(|n| n == NAME || n.is_empty())
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

impl Reconcile for Scheduler {
    type Key = Key;
    const NAME: &'static str = "scheduler";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.kinds.pods.cache.find(key).filter(|p| is_ours(p)) else {
            return Ok(None);
        };
        let choice = {
            let mut state = self.state.lock();
            if state.board.holds(pod.uid()) {
                return Ok(None);
            }
            match state.board.choose(&pod) {
                Ok(node) => {
                    state.board.place(&pod, &node);
                    Ok(node)
                }
                Err(refusal) => {
                    state.stranded.insert(key.clone());
                    Err(refusal)
                }
            }
        };
        let node = match choice {
            Ok(node) => node,
            Err(refusal) => {
                self.strand(&pod, refusal.to_string()).await?;
                return Ok(None);
            }
        };
        match self.bind(&pod, &node).await {
            Ok(()) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.about(&*pod, EventType::Normal, "Scheduled", message);
                Ok(None)
            }
            Err(error) => {
                {
                    let mut state = self.state.lock();
                    // Another may have bound it, as the cache may know by now.
                    match self.kinds.pods.cache.find(key).as_deref().and_then(node_name) {
                        Some(node) => state.board.place(&pod, node),
                        None => state.board.remove(pod.uid()),
                    }
                }
                match &error {
                    // It is gone, and so is the need for a node.
                    crate::Error::Api(api) if matches!(status_code(api), Some(404)) => Ok(None),
                    _ => Err(error),
                }
            }
        }
    }
}
