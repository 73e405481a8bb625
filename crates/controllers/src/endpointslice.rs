//! EndpointSlices: where a Service's pods are.
//!
//! A change is written at once; nothing waits for a batch to fill, since one machine has no fleet
//! of watchers to spare. What was found at the last look at a Service is kept, so that a change of
//! one pod among thousands costs that pod and its slice.

pub(crate) mod endpoint;
#[cfg(test)]
mod golden;
mod hinted;
pub(crate) mod index;
pub(crate) mod memory;
mod pack;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
pub(crate) mod topology;
pub(crate) mod trigger;
#[cfg(test)]
mod upstream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use parking_lot::Mutex;

use self::endpoint::ZONE;
use self::hinted::Hinted;
use self::memory::Memory;
pub(crate) use self::pack::held;
use self::plan::{Input, MANAGED_BY, MANAGER, Plan, SERVICE_NAME, plan};
use self::trigger::TriggerTimes;
use crate::cache::{Cache, Change};
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::metrics::Metrics;
use crate::object::{Key, Meta};
use crate::pod::{is_finished, is_ready, node_name};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::selector::Selector;
use crate::{Error, Result};

/// The EndpointSlice controller.
pub(crate) struct EndpointSlices {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    queue: Arc<WorkQueue<Key>>,
    times: Mutex<TriggerTimes>,
    memories: Mutex<HashMap<Key, Memory>>,
    /// Counts the changes of nodes' zones, and of nodes.
    nodes: Arc<AtomicU64>,
    hinted: Arc<Mutex<Hinted>>,
    metrics: Arc<Metrics>,
    max: usize,
}

impl EndpointSlices {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        metrics: &Arc<Metrics>,
        max: usize,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        watch_services(kinds, &queue);
        let added = Arc::clone(&queue);
        kinds.endpoint_slices.cache.subscribe(move |change| {
            for slice in change.sides() {
                if slice.label(MANAGED_BY) == Some(MANAGER)
                    && let Some(service) = slice.label(SERVICE_NAME)
                {
                    added.add(Key::new(slice.namespace(), service));
                }
            }
        });
        let nodes = Arc::new(AtomicU64::new(0));
        let hinted = Arc::new(Mutex::new(Hinted::default()));
        watch_nodes(kinds, &queue, &nodes, &hinted);
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("endpoint-slice-controller"),
            queue,
            times: Mutex::new(TriggerTimes::default()),
            memories: Mutex::new(HashMap::new()),
            nodes,
            hinted,
            metrics: Arc::clone(metrics),
            max,
        })
    }

    fn forget(&self, key: &Key) {
        self.times.lock().forget(key);
        self.memories.lock().remove(key);
        self.hinted.lock().forget(key);
        self.metrics.slices.forget(key);
    }
}

fn watch_nodes(
    kinds: &Arc<Kinds>,
    queue: &Arc<WorkQueue<Key>>,
    count: &Arc<AtomicU64>,
    hinted: &Arc<Mutex<Hinted>>,
) {
    let (all, added) = (Arc::clone(&kinds.nodes), Arc::clone(queue));
    let (count, hinted) = (Arc::clone(count), Arc::clone(hinted));
    kinds.nodes.cache.subscribe(move |change| {
        let zone = |node: Option<&Arc<Node>>| node.map(|n| n.label(ZONE).map(str::to_owned));
        if zone(change.old) != zone(change.new) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if hinted::matters(change) {
            for key in hinted.lock().nodes_changed(|| all.cache.all()) {
                added.add(key);
            }
        }
    });
}

/// Adds a Service's key when it or a pod that it selects changes.
pub(crate) fn watch_services(kinds: &Kinds, queue: &Arc<WorkQueue<Key>>) {
    let added = Arc::clone(queue);
    kinds.services.cache.subscribe(move |change| added.add(Key::of(&**change.latest())));
    let (added, services) = (Arc::clone(queue), Arc::clone(&kinds.services));
    kinds.pods.cache.subscribe(move |change| {
        if matters(change) {
            affected(&services.cache, change).into_iter().for_each(|key| added.add(key));
        }
    });
}

/// Whether a pod's change can change an endpoint.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let spec = |p: &Pod| p.spec.as_ref().map(|s| (s.hostname.clone(), s.subdomain.clone()));
    let state = |p: &Pod| (is_ready(p), is_finished(p), p.is_terminating());
    old.metadata.labels != new.metadata.labels
        || state(old) != state(new)
        || node_name(old) != node_name(new)
        || !endpoint::ips(old).eq(endpoint::ips(new))
        || spec(old) != spec(new)
}

fn affected(services: &Cache<Service>, change: &Change<'_, Pod>) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for pod in change.sides() {
        for service in index::candidates(services, pod) {
            if selector(&service).is_some_and(|s| s.matches(pod.metadata.labels.as_ref())) {
                keys.insert(Key::of(&*service));
            }
        }
    }
    keys
}

/// What the Service selects; none for a Service whose endpoints are not ours to make.
pub(crate) fn selector(service: &Service) -> Option<Selector> {
    selected_labels(service).map(Selector::equal)
}

fn selected_labels(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

impl Reconcile for EndpointSlices {
    type Key = Key;
    const NAME: &'static str = "endpointslice";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let Some(service) = kinds.services.cache.find(key) else {
            // Its slices go with it by their owner reference.
            self.forget(key);
            return Ok(None);
        };
        if selected_labels(&service).is_none() || service.is_terminating() {
            self.forget(key);
            return Ok(None);
        }
        let mut plan = self.plan(key, &service);
        if kinds.is_ending(&key.namespace) {
            // What is there still follows the pods, so that connections drain.
            plan.create.clear();
        }
        for (family, hints) in &plan.hints {
            let told = self.hinted.lock().observe(key, *family, hints);
            if let Some((kind, reason, message)) = told {
                self.recorder.about(&*service, kind, reason, message);
            }
        }
        let outcome = self.perform(&plan).await;
        self.metrics.slices.observe(key, &service, &plan, outcome.is_ok());
        if let Err(error) = &outcome
            && !matches!(error, Error::Api(api) if crate::kind::is_conflict(api))
        {
            let message = format!(
                "Error updating Endpoint Slices for Service {key}: {}",
                crate::reconcile::describe(error)
            );
            let reason = "FailedToUpdateEndpointSlices";
            self.recorder.about(&*service, EventType::Warning, reason, message);
        }
        outcome?;
        match plan.missing_node {
            None => Ok(None),
            Some(node) => Err(Error::Object {
                kind: "Service",
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                problem: format!("a pod is on node {node}, which is not known"),
            }),
        }
    }
}

impl EndpointSlices {
    fn plan(&self, key: &Key, service: &Service) -> Plan {
        let kinds = &self.kinds;
        // Before the pods are read: what changes later brings the key back.
        let nodes = self.nodes.load(Ordering::Relaxed);
        let pods = index::pods(&kinds.pods.cache, service);
        let slices = index::slices(&kinds.endpoint_slices.cache, key, MANAGER);
        let trigger = self.times.lock().observe(key, service, &pods);
        // Nobody else works on this key meanwhile.
        let mut memory = self.memories.lock().remove(key).unwrap_or_default();
        let shares = topology::is_auto(service)
            .then(|| self.hinted.lock().shares(key, || kinds.nodes.cache.all()))
            .flatten();
        let plan = plan(
            &mut memory,
            Input {
                service,
                pods: &pods,
                slices: &slices,
                node: |name: &str| kinds.nodes.cache.find(&Key::cluster(name)),
                nodes,
                shares: shares.as_deref(),
                trigger,
                max: self.max,
            },
        );
        self.memories.lock().insert(key.clone(), memory);
        plan
    }

    async fn perform(&self, plan: &Plan) -> Result<()> {
        let slices = &self.kinds.endpoint_slices;
        try_join_all(plan.create.iter().map(|s| slices.create(s))).await?;
        try_join_all(plan.update.iter().map(|s| slices.replace(s))).await?;
        let deletes = plan.delete.iter().map(|slice| async move {
            slices.delete(&Key::of(&**slice), slice.uid(), Grace::Default).await
        });
        try_join_all(deletes).await?;
        Ok(())
    }
}
