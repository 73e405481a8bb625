//! Taint-based eviction: pods leave nodes whose `NoExecute` taints they do not tolerate, at once
//! or after the shortest of their tolerations.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::jiff::Timestamp;

use crate::Result;
use crate::clock::{Clock, elapsed};
use crate::event::{EventType, Recorder};
use crate::kind::Grace;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::pod::{is_active, node_name};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::scheduler::fit::tolerates;

/// When a pod has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Never,
    Now,
    After(Duration),
}

/// When the node's taints drive the pod away. Pure.
fn leave(pod: &Pod, node: &Node, now: Timestamp) -> Leave {
    let taints = no_execute(node);
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut soonest: Option<Duration> = None;
    for taint in taints {
        let covering: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if covering.is_empty() {
            return Leave::Now;
        }
        let Some(seconds) = covering.iter().filter_map(|t| t.toleration_seconds).min() else {
            continue;
        };
        let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let rest = stay.saturating_sub(elapsed(since, now));
        soonest = Some(soonest.map_or(rest, |s| s.min(rest)));
    }
    match soonest {
        None => Leave::Never,
        Some(Duration::ZERO) => Leave::Now,
        Some(rest) => Leave::After(rest),
    }
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|t| t.effect == "NoExecute")
}

/// The taint eviction controller.
pub(crate) struct TaintEviction {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
}

impl TaintEviction {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let (added, nodes) = (Arc::clone(&queue), Arc::clone(&kinds.nodes));
        kinds.pods.cache.subscribe(move |change| {
            if let Some(node) = change.new.and_then(|p| node_name(p))
                && change.old.is_none_or(|p| node_name(p).is_none())
                && nodes
                    .cache
                    .find(&Key::cluster(node))
                    .is_some_and(|n| no_execute(&n).next().is_some())
            {
                added.add(Key::of(&**change.latest()));
            }
        });
        let (added, pods) = (Arc::clone(&queue), Arc::clone(&kinds.pods));
        kinds.nodes.cache.subscribe(move |change| {
            let Some(node) = change.new.filter(|n| no_execute(n).next().is_some()) else { return };
            if change.old.is_some_and(|old| no_execute(old).eq(no_execute(node))) {
                return;
            }
            for pod in pods.cache.all().iter().filter(|p| node_name(p) == Some(node.name())) {
                added.add(Key::of(&**pod));
            }
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("taint-eviction-controller"),
            clock: Arc::clone(clock),
            queue,
        })
    }
}

impl Reconcile for TaintEviction {
    type Key = Key;
    const NAME: &'static str = "taint-eviction";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let Some(pod) = kinds.pods.cache.find(key).filter(|p| is_active(p)) else {
            return Ok(None);
        };
        let node = node_name(&pod).and_then(|n| kinds.nodes.cache.find(&Key::cluster(n)));
        let Some(node) = node else { return Ok(None) };
        match leave(&pod, &node, self.clock.now()) {
            Leave::Never => Ok(None),
            Leave::After(rest) => Ok(Some(rest)),
            Leave::Now => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.about(&*pod, EventType::Normal, "TaintManagerEviction", message);
                kinds.pods.delete(key, pod.uid(), Grace::Default).await?;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, Toleration};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::testing::{at, node, pod};

    fn tainted(since: i64) -> Node {
        let mut node = node("n");
        node.spec = Some(NodeSpec {
            taints: Some(vec![Taint {
                key: "k".into(),
                effect: "NoExecute".into(),
                time_added: Some(Time(at(since))),
                value: None,
            }]),
            ..NodeSpec::default()
        });
        node
    }

    fn tolerating(seconds: &[Option<i64>]) -> Pod {
        let mut pod = pod("ns", "p");
        let toleration = |seconds: &Option<i64>| Toleration {
            key: Some("k".into()),
            operator: Some("Exists".into()),
            toleration_seconds: *seconds,
            ..Toleration::default()
        };
        pod.spec.as_mut().unwrap().tolerations = Some(seconds.iter().map(toleration).collect());
        pod
    }

    #[test]
    fn a_pod_without_toleration_leaves_at_once() {
        assert_eq!(leave(&tolerating(&[]), &tainted(0), at(0)), Leave::Now);
    }

    #[test]
    fn a_toleration_without_end_keeps_the_pod() {
        assert_eq!(leave(&tolerating(&[None]), &tainted(0), at(1 << 30)), Leave::Never);
    }

    #[test]
    fn the_shortest_toleration_counts_from_the_taints_time() {
        let pod = tolerating(&[Some(300), Some(60)]);
        let rest = Duration::from_secs(50);
        assert_eq!(leave(&pod, &tainted(100), at(110)), Leave::After(rest));
        assert_eq!(leave(&pod, &tainted(100), at(160)), Leave::Now);
    }
}
