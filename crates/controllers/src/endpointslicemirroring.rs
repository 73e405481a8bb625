//! EndpointSlices for Endpoints that somebody wrote by hand: a Service without a selector.
//!
//! As upstream's controller of this name: an object is mirrored while there is a Service of its
//! name without a selector, unless it says itself that it is not to be.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Endpoints, Service};

use self::plan::{MANAGER, Plan, is_mirrored, plan};
use crate::Result;
use crate::endpointslice::index;
use crate::endpointslice::plan::{MANAGED_BY, SERVICE_NAME};
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

/// The EndpointSliceMirroring controller.
pub(crate) struct Mirroring {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    queue: Arc<WorkQueue<Key>>,
    max: usize,
}

impl Mirroring {
    pub(crate) fn new(kinds: &Arc<Kinds>, recorder: &Recorder, max: usize) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.endpoints.cache.subscribe(move |change| {
            if change.sides().any(|e| is_mirrored(e)) {
                added.add(Key::of(&**change.latest()));
            }
        });
        let added = Arc::clone(&queue);
        kinds.services.cache.subscribe(move |change| {
            let selects = |s: Option<&Arc<Service>>| s.map(|s| has_selector(s));
            if selects(change.old) != selects(change.new) {
                added.add(Key::of(&**change.latest()));
            }
        });
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
        let recorder = recorder.component("endpoint-slice-mirroring-controller");
        Arc::new(Self { kinds: Arc::clone(kinds), recorder, queue, max })
    }

    /// The object to mirror, if there is one.
    fn source(&self, key: &Key) -> Option<Arc<Endpoints>> {
        let endpoints = self.kinds.endpoints.cache.find(key).filter(|e| is_mirrored(e))?;
        let service = self.kinds.services.cache.find(key)?;
        (!has_selector(&service)).then_some(endpoints)
    }

    fn tell(&self, endpoints: &Endpoints, plan: &Plan) {
        if plan.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                plan.invalid
            );
            self.recorder.about(endpoints, EventType::Warning, "InvalidIPAddress", message);
        }
        if plan.skipped > plan.invalid {
            let message = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. \
                 {} addresses were skipped",
                self.max, plan.skipped
            );
            let reason = "TooManyAddressesToMirror";
            self.recorder.about(endpoints, EventType::Warning, reason, message);
        }
    }
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty())
}

impl Reconcile for Mirroring {
    type Key = Key;
    const NAME: &'static str = "endpointslicemirroring";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let slices = index::slices(&kinds.endpoint_slices.cache, key, MANAGER);
        let mut plan = match self.source(key) {
            Some(endpoints) => {
                let mut plan = plan(&endpoints, &slices, self.max);
                self.tell(&endpoints, &plan);
                if endpoints.is_terminating() || kinds.is_ending(&key.namespace) {
                    plan.create.clear();
                }
                plan
            }
            None => Plan { delete: slices, ..Plan::default() },
        };
        let kind = &kinds.endpoint_slices;
        try_join_all(plan.create.iter().map(|s| kind.create(s))).await?;
        try_join_all(plan.update.iter().map(|s| kind.replace(s))).await?;
        let deletes = plan.delete.drain(..).map(|slice| async move {
            kind.delete(&Key::of(&*slice), slice.uid(), Grace::Default).await
        });
        try_join_all(deletes).await?;
        Ok(None)
    }
}
