//! EndpointSlices: where a Service's pods are.
//!
//! A change is written at once; nothing waits for a batch to fill, since one machine has no fleet
//! of watchers to spare.

pub(crate) mod endpoint;
#[cfg(test)]
mod golden;
mod pack;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
pub(crate) mod trigger;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;

use self::plan::{Input, MANAGED_BY, MANAGER, SERVICE_NAME, plan};
use self::trigger::TriggerTimes;
use crate::cache::{Cache, Change};
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
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
    max: usize,
}

impl EndpointSlices {
    pub(crate) fn new(kinds: &Arc<Kinds>, recorder: &Recorder, max: usize) -> Arc<Self> {
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
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("endpoint-slice-controller"),
            queue,
            times: Mutex::new(TriggerTimes::default()),
            max,
        })
    }
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
    let namespace = change.latest().namespace();
    services
        .in_namespace(namespace)
        .iter()
        .filter(|service| {
            selector(service)
                .is_some_and(|s| change.sides().any(|p| s.matches(p.metadata.labels.as_ref())))
        })
        .map(|service| Key::of(&**service))
        .collect()
}

/// What the Service selects; none for a Service whose endpoints are not ours to make.
pub(crate) fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let labels = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    Some(Selector::equal(labels))
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
            self.times.lock().forget(key);
            return Ok(None);
        };
        let Some(selector) = selector(&service) else { return Ok(None) };
        if service.is_terminating() {
            return Ok(None);
        }
        let mut pods = kinds.pods.cache.in_namespace(&key.namespace);
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        let mut slices = kinds.endpoint_slices.cache.in_namespace(&key.namespace);
        slices.retain(|s| {
            s.label(SERVICE_NAME) == Some(&key.name)
                && s.label(MANAGED_BY) == Some(MANAGER)
                && !s.is_terminating()
        });
        let trigger = self.times.lock().observe(key, &service, &pods);
        let mut plan = plan(Input {
            service: &service,
            pods: &pods,
            slices: &slices,
            node: |name: &str| kinds.nodes.cache.find(&Key::cluster(name)),
            trigger,
            max: self.max,
        });
        if kinds.is_ending(&key.namespace) {
            // What is there still follows the pods, so that connections drain.
            plan.create.clear();
        }
        let outcome = self.perform(&plan).await;
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
    async fn perform(&self, plan: &plan::Plan) -> Result<()> {
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
