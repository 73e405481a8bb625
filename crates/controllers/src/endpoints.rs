//! Endpoints: the older form of where a Service's pods are, for `kubectl get endpoints`.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::plan::{Write, plan};
use crate::Result;
use crate::endpointslice::trigger::TriggerTimes;
use crate::endpointslice::{selector, watch_services};
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
        kinds.endpoints.cache.subscribe(move |change| added.add(Key::of(&**change.latest())));
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
        let Some(selector) = selector(&service).filter(|_| !service.is_terminating()) else {
            return Ok(None);
        };
        let mut pods = kinds.pods.cache.in_namespace(&key.namespace);
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
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
