//! When what an EndpointSlice tells came to be: the earliest change since the last look.
//!
//! A pod's time is the last transition of its Ready condition, a Service's its creation; both as
//! upstream's `TriggerTimeTracker`. kube-proxy reckons its programming latency from it.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Key, Meta};
use crate::pod::ready_condition;

/// The times last seen, by Service.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes(HashMap<Key, Times>);

#[derive(Debug, Default)]
struct Times {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The earliest change that was not there at the last call for this Service.
    pub(crate) fn observe(
        &mut self,
        key: &Key,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Option<Timestamp> {
        let last = self.0.entry(key.clone()).or_default();
        let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let times: HashMap<String, Timestamp> = pods
            .iter()
            .filter_map(|pod| {
                let changed = ready_condition(pod)?.last_transition_time.as_ref()?.0;
                Some((pod.name().to_owned(), changed))
            })
            .collect();
        let fresh = times
            .iter()
            .filter(|(name, at)| last.pods.get(*name).is_none_or(|before| *at > before))
            .map(|(_, at)| *at);
        let earliest = fresh.chain(created.filter(|at| last.service.is_none_or(|s| *at > s))).min();
        *last = Times { service: created, pods: times };
        earliest
    }

    /// The Service is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, meta, pod, ready};

    #[test]
    fn only_what_has_changed_since_counts() {
        let mut service = Service { metadata: meta("ns", "web"), ..Service::default() };
        service.metadata.creation_timestamp.as_mut().unwrap().0 = at(50);
        let key = Key::of(&service);
        let mut times = TriggerTimes::default();
        let first = Arc::new(ready(pod("ns", "a"), 60));
        let second = Arc::new(ready(pod("ns", "b"), 70));
        assert_eq!(times.observe(&key, &service, std::slice::from_ref(&first)), Some(at(50)));
        assert_eq!(times.observe(&key, &service, std::slice::from_ref(&first)), None);
        assert_eq!(times.observe(&key, &service, &[first, second]), Some(at(70)));
    }
}
