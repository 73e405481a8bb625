//! Node heartbeats.
//!
//! ```text
//!   Lease renewed or status posted ──▶ heard from (by our monotonic clock, never the
//!   node's: a machine that slept has lost no node)
//!   not heard from for the grace period ──▶ Ready=Unknown ──▶ taints unreachable (NoSchedule,
//!   NoExecute), the node's pods Ready=False ──▶ eviction after their toleration
//! ```
//! Taints always follow the conditions and `spec.unschedulable`; other taints are left alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Result;
use crate::clock::{Clock, whole_seconds};
use crate::event::{EventType, Recorder};
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::pod::{is_ready, node_name};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::scheduler::fit::{NOT_READY, UNREACHABLE, UNSCHEDULABLE};

/// Conditions other than Ready, the status that taints, and the taint.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What to do about a node.
#[derive(Debug, PartialEq)]
struct Plan {
    /// Conditions to post in the node's place.
    conditions: Vec<Value>,
    /// The taints it should have, if it has others.
    taints: Option<Vec<Taint>>,
    /// When to look again.
    next: Option<Duration>,
}

/// Plans for a node not heard from for so long. Pure.
fn plan(node: &Node, silent: Duration, grace: Duration, now: Timestamp) -> Plan {
    let lost = silent >= grace;
    let mut conditions = Vec::new();
    if lost {
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let known = condition(node, kind);
            if known == Some("Unknown") {
                continue;
            }
            let (reason, message) = match known {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            conditions.push(json!({
                "type": kind,
                "status": "Unknown",
                "reason": reason,
                "message": message,
                "lastTransitionTime": Time(whole_seconds(now)),
            }));
        }
    }
    let ready = if lost { Some("Unknown") } else { condition(node, "Ready") };
    let wanted = taints(node, ready, lost, now);
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    Plan {
        conditions,
        taints: (wanted != present).then_some(wanted),
        next: (!lost).then(|| grace.saturating_sub(silent)),
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

fn taints(node: &Node, ready: Option<&str>, lost: bool, now: Timestamp) -> Vec<Taint> {
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        // A node without status has just registered: it posts one in a moment, and until then the
        // scheduler keeps away by itself.
        None | Some("True") => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some(_) => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    if !lost {
        let pressed = PRESSURE.iter().filter(|(kind, _)| condition(node, kind) == Some("True"));
        wanted.extend(pressed.map(|(_, taint)| (*taint, "NoSchedule")));
    }
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&t.key.as_str())
            || PRESSURE.iter().any(|(_, key)| *key == t.key)
    };
    let is = |t: &Taint, (key, effect): (&str, &str)| t.key == key && t.effect == effect;
    let mut taints: Vec<Taint> =
        present.into_iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, *w))).collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| is(t, (key, effect))) {
            taints.push(Taint {
                key: key.to_owned(),
                value: None,
                effect: effect.to_owned(),
                time_added: Some(Time(whole_seconds(now))),
            });
        }
    }
    taints
}

/// The node lifecycle controller.
pub(crate) struct NodeLifecycle {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    grace: Duration,
}

impl NodeLifecycle {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
        grace: Duration,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let heard: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let times = Arc::clone(&heard);
        kinds.leases.cache.subscribe(move |change| {
            if let Some(lease) = change.new {
                times.lock().insert(lease.name().to_owned(), Instant::now());
            }
        });
        let (added, times) = (Arc::clone(&queue), Arc::clone(&heard));
        kinds.nodes.cache.subscribe(move |change| {
            let name = change.latest().name();
            match change.new {
                Some(node) if heartbeat(change.old) != heartbeat(Some(node)) => {
                    times.lock().insert(name.to_owned(), Instant::now());
                }
                Some(_) => {}
                None => {
                    times.lock().remove(name);
                }
            }
            added.add(Key::cluster(name));
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("node-controller"),
            clock: Arc::clone(clock),
            queue,
            heard,
            grace,
        })
    }

    /// The pods of a node that nobody hears from cannot be ready.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in self.kinds.pods.cache.all() {
            if node_name(&pod) != Some(node) || !is_ready(&pod) {
                continue;
            }
            self.recorder.about(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
            let patch = unready(&pod, self.clock.now());
            let key = Key::of(&*pod);
            self.kinds.pods.strategic(&key, pod.uid(), Some("status"), &patch).await?;
        }
        Ok(())
    }
}

fn unready(pod: &Pod, now: Timestamp) -> Value {
    json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [{
        "type": "Ready",
        "status": "False",
        "reason": "NodeNotReady",
        "lastTransitionTime": Time(whole_seconds(now)),
    }]}})
}

/// What changes whenever the node itself posts its status.
fn heartbeat(node: Option<&Arc<Node>>) -> Option<(Option<Timestamp>, bool)> {
    let conditions = node?.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready")?;
    let ours =
        matches!(ready.reason.as_deref(), Some("NodeStatusUnknown" | "NodeStatusNeverUpdated"));
    let at = ready.last_heartbeat_time.as_ref().map(|t| t.0);
    Some((at, !ours && ready.status == "True"))
}

impl Reconcile for NodeLifecycle {
    type Key = Key;
    const NAME: &'static str = "node-lifecycle";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let nodes = &self.kinds.nodes;
        let Some(node) = nodes.cache.find(key) else { return Ok(None) };
        let now = self.clock.now();
        let heard = *self.heard.lock().entry(key.name.clone()).or_insert_with(Instant::now);
        let plan = plan(&node, heard.elapsed(), self.grace, now);
        if !plan.conditions.is_empty() {
            let patch = json!({
                "metadata": { "uid": node.uid() },
                "status": { "conditions": plan.conditions },
            });
            nodes.strategic(key, node.uid(), Some("status"), &patch).await?;
            let message = format!("Node {key} status is now: NodeNotReady");
            self.recorder.about(&*node, EventType::Normal, "NodeNotReady", message);
        }
        if let Some(taints) = plan.taints {
            // The status patch above has moved the version on.
            let version = nodes.cache.find(key).and_then(|n| n.metadata.resource_version.clone());
            let patch = json!({
                "metadata": { "uid": node.uid(), "resourceVersion": version },
                "spec": { "taints": taints },
            });
            nodes.merge(key, node.uid(), &patch).await?;
        }
        if plan.next.is_none() {
            self.mark_pods(&key.name).await?;
        }
        Ok(plan.next)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;

    use super::*;
    use crate::testing::{at, node};

    const GRACE: Duration = Duration::from_secs(40);

    fn keys(plan: &Plan) -> Vec<(String, String)> {
        let taints = plan.taints.clone().unwrap_or_default();
        taints.into_iter().map(|t| (t.key, t.effect)).collect()
    }

    #[test]
    fn a_node_heard_from_is_looked_at_when_its_grace_ends() {
        let plan = plan(&node("n"), Duration::from_secs(10), GRACE, at(110));
        assert_eq!(
            plan,
            Plan { conditions: vec![], taints: None, next: Some(Duration::from_secs(30)) }
        );
    }

    #[test]
    fn a_silent_node_turns_unknown_and_is_tainted() {
        let plan = plan(&node("n"), Duration::from_secs(40), GRACE, at(140));
        assert_eq!(plan.conditions[0]["type"], "Ready");
        assert_eq!(plan.conditions[0]["reason"], "NodeStatusUnknown");
        assert_eq!(
            keys(&plan),
            [(UNREACHABLE.into(), "NoSchedule".into()), (UNREACHABLE.into(), "NoExecute".into())]
        );
    }

    #[test]
    fn a_node_that_returns_loses_our_taints_and_keeps_the_users() {
        let mut back = node("n");
        let taint = |key: &str, effect: &str| Taint {
            key: key.into(),
            effect: effect.into(),
            ..Taint::default()
        };
        back.spec = Some(NodeSpec {
            taints: Some(vec![taint(UNREACHABLE, "NoExecute"), taint("gpu", "NoSchedule")]),
            ..NodeSpec::default()
        });
        let plan = plan(&back, Duration::from_secs(1), GRACE, at(101));
        assert_eq!(keys(&plan), [("gpu".into(), "NoSchedule".into())]);
    }

    #[test]
    fn cordoning_and_pressure_taint() {
        let mut node = node("n");
        node.spec = Some(NodeSpec { unschedulable: Some(true), ..NodeSpec::default() });
        let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
        let mut pressed = conditions[0].clone();
        pressed.type_ = "DiskPressure".into();
        conditions.push(pressed);
        let plan = plan(&node, Duration::from_secs(1), GRACE, at(101));
        let keys: Vec<_> = keys(&plan).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["node.kubernetes.io/disk-pressure", UNSCHEDULABLE]);
    }

    #[test]
    fn a_node_that_has_just_registered_is_not_tainted_before_its_first_status() {
        let mut fresh = node("n");
        fresh.status = None;
        let plan = plan(&fresh, Duration::from_secs(1), GRACE, at(101));
        assert_eq!(plan.taints, None);
        let mut failing = node("n");
        let conditions = failing.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].status = "False".into();
        let plan = super::plan(&failing, Duration::from_secs(1), GRACE, at(101));
        assert_eq!(
            keys(&plan),
            [(NOT_READY.into(), "NoSchedule".into()), (NOT_READY.into(), "NoExecute".into())]
        );
    }
}
