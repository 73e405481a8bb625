//! The pod garbage collector: pods that nobody else will end.
//!
//! Pods of nodes that are gone (after a quarantine, and asked for once more), pods deleted before
//! they were ever scheduled, and the oldest finished pods past the threshold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::clock::{Clock, elapsed};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::pod::{is_finished, node_name};
use crate::reconcile::describe;

/// How long a node must have been absent before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);

/// When each absent node was first missed.
type Missed = HashMap<String, Timestamp>;

/// The pods to remove. Pure.
#[derive(Debug, Default)]
struct Plan {
    /// Pods of nodes absent for long enough.
    orphaned: Vec<Arc<Pod>>,
    unscheduled: Vec<Arc<Pod>>,
    finished: Vec<Arc<Pod>>,
}

fn plan(
    pods: &[Arc<Pod>],
    nodes: &HashSet<String>,
    missed: &mut Missed,
    threshold: usize,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let named: HashSet<&str> = pods.iter().filter_map(|p| node_name(p)).collect();
    missed.retain(|node, _| named.contains(node.as_str()) && !nodes.contains(node));
    for pod in pods {
        match node_name(pod) {
            Some(node) if !nodes.contains(node) => {
                let since = *missed.entry(node.to_owned()).or_insert(now);
                if elapsed(since, now) >= QUARANTINE {
                    plan.orphaned.push(Arc::clone(pod));
                }
            }
            None if pod.is_terminating() => plan.unscheduled.push(Arc::clone(pod)),
            _ => {}
        }
    }
    let mut finished: Vec<_> =
        pods.iter().filter(|p| is_finished(p) && !p.is_terminating()).cloned().collect();
    if threshold > 0 && finished.len() > threshold {
        let surplus = finished.len() - threshold;
        finished.sort_by_key(|p| {
            (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.name().to_owned())
        });
        finished.truncate(surplus);
        plan.finished = finished;
    }
    plan
}

/// Looks every `period` until `shutdown`.
pub(crate) async fn collect(
    kinds: Arc<Kinds>,
    clock: Arc<dyn Clock>,
    period: Duration,
    threshold: usize,
    shutdown: CancellationToken,
) {
    let mut missed = Missed::new();
    let mut ticks = tokio::time::interval(period.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let nodes = kinds.nodes.cache.all().iter().map(|n| n.name().to_owned()).collect();
        let plan = plan(&kinds.pods.cache.all(), &nodes, &mut missed, threshold, clock.now());
        if let Some(Err(error)) = shutdown.run_until_cancelled(perform(&kinds, &plan)).await {
            tracing::warn!(error = describe(&error), "pod garbage collection; trying again later");
        }
    }
}

async fn perform(kinds: &Kinds, plan: &Plan) -> Result<()> {
    let mut gone: HashMap<&str, bool> = HashMap::new();
    for pod in &plan.orphaned {
        let Some(node) = node_name(pod) else { continue };
        if !gone.contains_key(node) {
            let absent = kinds.nodes.read(&Key::cluster(node)).await?.is_none();
            gone.insert(node, absent);
        }
        if gone[node] {
            let key = Key::of(&**pod);
            if !is_finished(pod) {
                let patch = json!({
                    "metadata": { "uid": pod.uid() },
                    "status": { "phase": "Failed" },
                });
                kinds.pods.strategic(&key, pod.uid(), Some("status"), &patch).await?;
            }
            kinds.pods.delete(&key, pod.uid(), Grace::None).await?;
        }
    }
    for pod in plan.unscheduled.iter().chain(&plan.finished) {
        kinds.pods.delete(&Key::of(&**pod), pod.uid(), Grace::None).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, on_node, pod, terminating};

    fn look(pods: Vec<Pod>, missed: &mut Missed, threshold: usize, now: i64) -> Plan {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        plan(&pods, &HashSet::from(["here".to_owned()]), missed, threshold, at(now))
    }

    #[test]
    fn pods_of_an_absent_node_go_after_the_quarantine() {
        let mut missed = Missed::new();
        let pods = || vec![on_node(pod("ns", "a"), "gone"), on_node(pod("ns", "b"), "here")];
        assert!(look(pods(), &mut missed, 0, 100).orphaned.is_empty());
        assert!(look(pods(), &mut missed, 0, 139).orphaned.is_empty());
        let plan = look(pods(), &mut missed, 0, 140);
        assert_eq!(plan.orphaned.iter().map(|p| p.name()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_pod_deleted_before_it_was_scheduled_goes() {
        let plan = look(vec![terminating(pod("ns", "a"))], &mut Missed::new(), 0, 1);
        assert_eq!(plan.unscheduled.len(), 1);
    }

    #[test]
    fn only_finished_pods_past_the_threshold_go_oldest_first() {
        let finished = |name: &str, created: i64| {
            let mut pod = on_node(pod("ns", name), "here");
            pod.metadata.creation_timestamp.as_mut().unwrap().0 = at(created);
            pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
            pod
        };
        let pods = vec![finished("new", 9), finished("old", 1), finished("mid", 5)];
        let plan = look(pods, &mut Missed::new(), 2, 10);
        assert_eq!(plan.finished.iter().map(|p| p.name()).collect::<Vec<_>>(), ["old"]);
    }
}
