//! Which pods go first when there are too many.
//!
//! Upstream's `ActivePodsWithRanks`: unassigned before assigned, pending before unknown before
//! running, not ready before ready, lower deletion cost, more siblings on the node, ready for a
//! shorter time, more restarts, created later, and last the uid. Times are compared by powers of two,
//! so that the choice does not always fall on the newest. (Upstream lets the uid decide within such
//! a bucket before the restarts count; that is no total order, so here it comes last.)

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::clock::elapsed;
use crate::object::Meta;
use crate::pod::{is_active, is_ready, max_restarts, node_name, phase, ready_since};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The first `count` pods to delete. `siblings` are all pods that share the pods' wider owner, the
/// pods themselves included.
pub(super) fn first_to_go(
    mut pods: Vec<Arc<Pod>>,
    siblings: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for node in siblings.iter().filter(|p| is_active(p)).filter_map(|p| node_name(p)) {
        *crowd.entry(node).or_default() += 1;
    }
    let rank = |pod: &Pod| node_name(pod).and_then(|n| crowd.get(n)).copied().unwrap_or(0);
    // None or all go: the order is of no interest.
    if count > 0 && count < pods.len() {
        pods.sort_by(|a, b| compare(a, b, (rank(a), rank(b)), now));
    }
    pods.truncate(count);
    pods
}

fn compare(a: &Pod, b: &Pod, rank: (usize, usize), now: Timestamp) -> Ordering {
    let assigned = |p: &Pod| node_name(p).is_some();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank.1.cmp(&rank.0))
        .then_with(|| bucket(ready_since(a), now).cmp(&bucket(ready_since(b), now)))
        .then_with(|| Reverse(max_restarts(a)).cmp(&Reverse(max_restarts(b))))
        .then_with(|| bucket(created(a), now).cmp(&bucket(created(b), now)))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// How long ago, in powers of two.
fn bucket(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    since.map(|at| elapsed(at, now).as_secs().checked_ilog2().map_or(0, |log| log + 1))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

fn cost(pod: &Pod) -> i32 {
    pod.annotation(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, on_node, pod, ready, unready};

    /// The order in which these pods go, when all but one of them do.
    fn order(pods: Vec<Pod>) -> Vec<String> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let count = pods.len() - 1;
        let gone = first_to_go(pods.clone(), &pods, count, at(1000));
        gone.iter().map(|p| p.name().to_owned()).collect()
    }

    #[test]
    fn pods_go_by_assignment_then_phase_then_readiness() {
        let order = order(vec![
            on_node(ready(pod("ns", "ready"), 10), "n1"),
            on_node(unready(pod("ns", "unready")), "n2"),
            on_node(pod("ns", "pending"), "n3"),
            pod("ns", "unassigned"),
        ]);
        assert_eq!(order, ["unassigned", "pending", "unready"]);
    }

    #[test]
    fn the_crowded_node_loses_first() {
        let order = order(vec![
            on_node(ready(pod("ns", "alone"), 10), "n1"),
            on_node(ready(pod("ns", "crowd-a"), 10), "n2"),
            on_node(ready(pod("ns", "crowd-b"), 10), "n2"),
        ]);
        assert!(order.iter().all(|n| n.starts_with("crowd")), "{order:?}");
    }

    #[test]
    fn deletion_cost_outweighs_crowding() {
        let mut cheap = on_node(ready(pod("ns", "cheap"), 10), "n1");
        cheap.metadata.annotations =
            Some([(DELETION_COST.to_owned(), "-5".to_owned())].into_iter().collect());
        let order = order(vec![
            on_node(ready(pod("ns", "a"), 10), "n2"),
            on_node(ready(pod("ns", "b"), 10), "n2"),
            cheap,
        ]);
        assert_eq!(order[0], "cheap");
    }

    #[test]
    fn the_order_is_total_however_times_and_restarts_mix() {
        let pods = (0..300i64).map(|n| {
            let mut pod =
                on_node(ready(pod("ns", &format!("p{}", n * 7919 % 300)), 900 + n % 90), "n1");
            pod.metadata.creation_timestamp.as_mut().unwrap().0 = at(n * 31 % 77);
            pod
        });
        assert_eq!(order(pods.collect()).len(), 299);
    }

    #[test]
    fn the_newly_ready_go_before_the_long_ready() {
        let order = order(vec![
            on_node(ready(pod("ns", "old"), 10), "n1"),
            on_node(ready(pod("ns", "new"), 990), "n2"),
        ]);
        assert_eq!(order, ["new"]);
    }
}
