//! What the benches of this crate drive; no part of its interface.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::endpointslice::index;
use crate::endpointslice::memory::Memory;
use crate::endpointslice::plan::{Input, MANAGER, plan};
use crate::endpointslice::trigger::TriggerTimes;
use crate::object::{Key, Meta};

/// A Service of many ready pods, settled in its slices: the EndpointSlice controller's look at it
/// without the API server.
pub struct SlicesOf {
    key: Key,
    service: Service,
    node: Arc<Node>,
    pods: Cache<Pod>,
    slices: Cache<EndpointSlice>,
    memory: Memory,
    times: TriggerTimes,
    version: u64,
}

impl SlicesOf {
    /// A Service of so many pods among twice as many in its namespace.
    pub fn new(pods: u64) -> Self {
        let service = json!({
            "metadata": { "namespace": "ns", "name": "web", "uid": "web", "resourceVersion": "1" },
            "spec": {
                "selector": { "app": "web" }, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.7",
                "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
            },
        });
        let mut this = Self {
            key: Key::new("ns", "web"),
            service: typed(service),
            node: Arc::new(typed(json!({ "metadata": { "name": "n1" } }))),
            pods: Cache::indexed_by(index::of_pod),
            slices: Cache::indexed_by(index::of_slice),
            memory: Memory::default(),
            times: TriggerTimes::default(),
            version: 1,
        };
        for number in 0..pods * 2 {
            this.pod(number, if number < pods { "web" } else { "other" }, true);
        }
        while this.look() > 0 {}
        this
    }

    /// One pod changes its readiness: what the controller does until nothing is left to write.
    /// Returns the number of writes.
    pub fn one_pod_changes(&mut self, number: u64, ready: bool) -> usize {
        self.pod(number, "web", ready);
        self.look() + self.look()
    }

    /// The same without anything remembered.
    pub fn one_pod_changes_after_a_restart(&mut self, number: u64, ready: bool) -> usize {
        self.memory = Memory::default();
        self.one_pod_changes(number, ready)
    }

    fn pod(&mut self, number: u64, app: &str, ready: bool) {
        self.version += 1;
        let at = if ready { "2026-01-01T00:00:00Z" } else { "2026-01-01T00:00:01Z" };
        self.pods.seen(typed(json!({
            "metadata": {
                "namespace": "ns", "name": format!("{app}-{number:06}"), "uid": format!("uid-{number}"),
                "resourceVersion": self.version.to_string(),
                "labels": { "app": app, "pod-template-hash": "5d4f8c7b9" },
            },
            "spec": { "nodeName": "n1", "containers": [{
                "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }],
            }]},
            "status": {
                "phase": "Running",
                "podIPs": [{ "ip": format!("10.{}.{}.{}", 244 + number / 62500, number / 250 % 250, number % 250 + 1) }],
                "conditions": [{
                    "type": "Ready", "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": at,
                }],
            },
        })));
    }

    fn look(&mut self) -> usize {
        let pods = index::pods(&self.pods, &self.service);
        let slices = index::slices(&self.slices, &self.key, MANAGER);
        let trigger = self.times.observe(&self.key, &self.service, &pods);
        let node = &self.node;
        let plan = plan(
            &mut self.memory,
            Input {
                service: &self.service,
                pods: &pods,
                slices: &slices,
                node: |name: &str| (name == "n1").then(|| Arc::clone(node)),
                nodes: 0,
                shares: None,
                trigger,
                max: 100,
            },
        );
        let writes = plan.create.len() + plan.update.len() + plan.delete.len();
        for mut slice in plan.create.into_iter().chain(plan.update) {
            self.version += 1;
            slice.metadata.resource_version = Some(self.version.to_string());
            if let Some(prefix) = slice.metadata.generate_name.take() {
                slice.metadata.name = Some(format!("{prefix}{}", self.version));
                slice.metadata.uid.clone_from(&slice.metadata.name);
            }
            self.slices.written(slice);
        }
        for slice in plan.delete {
            self.slices.absent(&Key::of(&*slice), slice.uid());
        }
        writes
    }
}

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the object is written here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_among_many_is_one_write() {
        let mut slices = SlicesOf::new(350);
        assert_eq!(slices.one_pod_changes(120, false), 1);
        assert_eq!(slices.one_pod_changes(120, true), 1);
        assert_eq!(slices.one_pod_changes(120, true), 0);
        assert_eq!(slices.one_pod_changes_after_a_restart(7, false), 1);
    }
}
