//! When what an EndpointSlice tells came to be: the earliest change since the last look.
//!
//! A pod's time is the last transition of its Ready condition, a Service's its creation; both as
//! upstream's `TriggerTimeTracker`. kube-proxy reckons its programming latency from it.

use std::collections::{HashMap, HashSet};
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
        let mut earliest = created.filter(|at| last.service.is_none_or(|s| *at > s));
        last.service = created;
        let mut timed = 0;
        for pod in pods {
            let Some(changed) = ready_condition(pod).and_then(|c| c.last_transition_time.as_ref())
            else {
                continue;
            };
            timed += 1;
            // In place: a Service of thousands of pods is looked at for each of them.
            match last.pods.get_mut(pod.name()) {
                Some(before) if changed.0 <= *before => {
                    *before = changed.0;
                    continue;
                }
                Some(before) => *before = changed.0,
                None => {
                    last.pods.insert(pod.name().to_owned(), changed.0);
                }
            }
            earliest = Some(earliest.map_or(changed.0, |e| e.min(changed.0)));
        }
        if last.pods.len() > timed {
            let names: HashSet<&str> = pods
                .iter()
                .filter(|p| ready_condition(p).is_some_and(|c| c.last_transition_time.is_some()))
                .map(|p| p.name())
                .collect();
            last.pods.retain(|name, _| names.contains(name.as_str()));
        }
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
        let both = [first, second];
        assert_eq!(times.observe(&key, &service, &both), Some(at(70)));
        // One that went and came back is new.
        assert_eq!(times.observe(&key, &service, &both[..1]), None);
        assert_eq!(times.observe(&key, &service, &both), Some(at(70)));
    }
}
