//! Endpoints: the older form of where a Service's pods are, for `kubectl get endpoints`.

mod plan;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::plan::{MANAGED_BY, MANAGER, Write, plan};
use crate::Result;
use crate::endpointslice::trigger::TriggerTimes;
use crate::endpointslice::{index, selector, watch_services};
use crate::kind::{Grace, is_already_exists};
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

/// The Endpoints controller.
pub(crate) struct EndpointsController {
    kinds: Arc<Kinds>,
    queue: Arc<WorkQueue<Key>>,
    times: Mutex<TriggerTimes>,
}

impl EndpointsController {
    pub(crate) fn new(kinds: &Arc<Kinds>) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        watch_services(kinds, &queue);
        let added = Arc::clone(&queue);
        let services = Arc::clone(&kinds.services);
        kinds.endpoints.cache.subscribe(move |change| {
            let latest = change.latest();
            let key = Key::of(&**latest);
            // What somebody wrote by hand may come before its Service; only what we made, or what
            // a Service leaves behind, goes for want of one.
            let ours = latest.label(MANAGED_BY) == Some(MANAGER);
            if ours || change.new.is_none() || services.cache.find(&key).is_some() {
                added.add(key);
            }
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            queue,
            times: Mutex::new(TriggerTimes::default()),
        })
    }
}

impl Reconcile for EndpointsController {
    type Key = Key;
    const NAME: &'static str = "endpoints";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let present = kinds.endpoints.cache.find(key);
        let Some(service) = kinds.services.cache.find(key) else {
            self.times.lock().forget(key);
            if let Some(left) = present {
                kinds.endpoints.delete(key, left.uid(), Grace::Default).await?;
            }
            return Ok(None);
        };
        if selector(&service).is_none() || service.is_terminating() {
            self.times.lock().forget(key);
            return Ok(None);
        }
        let pods = index::pods(&kinds.pods.cache, &service);
        let trigger = self.times.lock().observe(key, &service, &pods);
        match plan(&service, &pods, present.as_deref(), trigger) {
            None => {}
            Some(Write::Replace(endpoints)) => kinds.endpoints.replace(&endpoints).await?,
            Some(Write::Create(_)) if kinds.is_ending(&key.namespace) => {}
            Some(Write::Create(endpoints)) => match kinds.endpoints.create(&endpoints).await {
                Ok(_) => {}
                // The watch will bring it, and with it another look.
                Err(crate::Error::Api(error)) if is_already_exists(&error) => {}
                Err(error) => return Err(error),
            },
        }
        Ok(None)
    }
}
