//! A DaemonSet's pods, node by node. Pure.
//!
//! ```text
//!   node wants a pod, has none ──▶ create        node has several ──▶ the oldest ready one stays
//!   node wants none, has some ───▶ delete        a pod failed ──────▶ delete, then create anew
//!   RollingUpdate: outdated pods go while fewer than maxUnavailable nodes lack an available pod
//! ```
//! As upstream: a node where the pod may not *start* (a NoSchedule taint that came later) keeps
//! the pod it has; only NoExecute drives it away. maxSurge is not used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use crate::deployment::{Round, scaled};
use crate::object::{Meta, controller_ref};
use crate::pod::{self, Availability, Phase};
use crate::replicaset::nonzero;
use crate::scheduler::fit::{matches_affinity, taints, tolerates, untolerated};
use crate::template;

pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// The writes and the status.
#[derive(Debug)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended; their successors come once they are deleted.
    pub(super) ended: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
    pub(super) next: Option<Duration>,
}

/// Whether a node should have the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Run,
    /// It may stay but not start.
    Stay,
    No,
}

/// Plans for `set`, which owns `pods`.
pub(super) fn plan(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let hash = hash(set);
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    let mut delete: Vec<Arc<Pod>> = Vec::new();
    let mut ended: Vec<Arc<Pod>> = Vec::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let spec = specification(set, "");
    let mut create = Vec::new();
    let mut kept: Vec<(&str, &Arc<Pod>)> = Vec::new();
    let mut wanted: Vec<&str> = Vec::new();
    let (mut scheduled, mut misscheduled) = (0, 0);
    for node in nodes {
        let here = by_node.remove(node.name()).unwrap_or_default();
        let fit = fit(&spec, node);
        if fit != Fit::No && !set.is_terminating() {
            wanted.push(node.name());
        }
        let present = here.iter().any(|p| !pod::is_finished(p));
        match fit {
            Fit::No if present => misscheduled += 1,
            Fit::No => {}
            Fit::Run | Fit::Stay if present => scheduled += 1,
            Fit::Run | Fit::Stay => {}
        }
        if set.is_terminating() {
            continue;
        }
        let mut live = Vec::new();
        for pod in here {
            match pod::phase(pod) {
                _ if pod.is_terminating() => live.push(pod),
                Phase::Failed | Phase::Succeeded => ended.push(Arc::clone(pod)),
                _ if fit == Fit::No => delete.push(Arc::clone(pod)),
                _ => live.push(pod),
            }
        }
        // A pod on its way out still holds its place: its successor waits.
        if live.is_empty() {
            if fit == Fit::Run && !ended.iter().any(|p| target(p) == Some(node.name())) {
                create.push(node.name().to_owned());
            }
            continue;
        }
        live.sort_by_key(|p| (p.is_terminating(), !pod::is_ready(p), created(p), p.name()));
        let extra = live.split_off(1);
        delete.extend(extra.into_iter().filter(|p| !p.is_terminating()).cloned());
        kept.extend(live.first().map(|p| (node.name(), *p)));
    }
    // Pods of nodes that are gone; those bound are the pod garbage collector's.
    let unbound = |p: &&&Arc<Pod>| pod::node_name(p).is_none() && !p.is_terminating();
    delete.extend(by_node.values().flatten().filter(unbound).map(|p| Arc::clone(p)));

    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let mut next: Option<Duration> = None;
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    let kept: Vec<_> = kept.into_iter().filter(|(node, _)| wanted.contains(node)).collect();
    let mut outdated: Vec<(bool, &Arc<Pod>)> = Vec::new();
    for (_, pod) in &kept {
        let lasting = match pod::availability(pod, min_ready, now) {
            _ if pod.is_terminating() => false,
            Availability::Available => true,
            Availability::In(rest) => {
                next = Some(next.map_or(rest, |n| n.min(rest)));
                false
            }
            Availability::Unavailable => false,
        };
        available += i32::from(lasting);
        ready += i32::from(pod::is_ready(pod));
        let current = pod.label(HASH_LABEL) == Some(&hash);
        updated += i32::from(current);
        if !current && !pod.is_terminating() {
            outdated.push((lasting, pod));
        }
    }
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    if !set.is_terminating() && !is_on_delete(set) {
        // Pods that are not available cost nothing to replace.
        let mut room = max_unavailable(set, total) - (total - available);
        outdated.sort_by_key(|(lasting, pod)| (*lasting, pod.name().to_owned()));
        for (lasting, pod) in outdated {
            if lasting && room <= 0 {
                break;
            }
            room -= i32::from(lasting);
            delete.push(Arc::clone(pod));
        }
    }
    let status = DaemonSetStatus {
        current_number_scheduled: scheduled,
        desired_number_scheduled: total,
        number_misscheduled: misscheduled,
        number_ready: ready,
        number_available: nonzero(available),
        number_unavailable: nonzero(total - available),
        updated_number_scheduled: nonzero(updated),
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|s| s.collision_count),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    Plan { create, delete, ended, status, next }
}

fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name())
        || !matches_affinity(spec, node)
    {
        return Fit::No;
    }
    let taints = taints(node);
    if untolerated(tolerations, &taints).is_none() {
        return Fit::Run;
    }
    let driven = |t: &&_| !tolerations.iter().any(|toleration| tolerates(toleration, t));
    if taints.iter().filter(|t| t.effect == "NoExecute").any(|t| driven(&t)) {
        Fit::No
    } else {
        Fit::Stay
    }
}

fn is_on_delete(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete")
}

fn max_unavailable(set: &DaemonSet, total: i32) -> i32 {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let value = strategy.and_then(|s| s.rolling_update.as_ref()?.max_unavailable.clone());
    scaled(&value.unwrap_or(IntOrString::Int(1)), total, Round::Up).max(1)
}

fn hash(set: &DaemonSet) -> String {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    template::hash(&template, set.status.as_ref().and_then(|s| s.collision_count))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// The node a pod is on or made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields
        .filter(|f| f.key == "metadata.name" && f.operator == "In")
        .find_map(|f| f.values.as_ref()?.first().map(String::as_str))
}

/// The pod for a node: bound to it by affinity, so that the scheduler does the binding.
pub(super) fn new_pod(set: &DaemonSet, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pod::from_template(&template, set.namespace(), controller_ref(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash(set));
    pod.metadata =
        ObjectMeta { generate_name: Some(pod::generate_name(set.name())), ..pod.metadata };
    pod.spec = Some(specification(set, node));
    pod
}

/// The template's pod spec with what daemons tolerate, and bound to `node` unless it is empty.
fn specification(set: &DaemonSet, node: &str) -> PodSpec {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule"),
    ] {
        if key.ends_with("network-unavailable") && !host_network {
            continue;
        }
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    if !node.is_empty() {
        pin(spec.affinity.get_or_insert_default(), node);
    }
    spec
}

/// Requires the node by name; other required terms have been checked against it already.
fn pin(affinity: &mut Affinity, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let required = &mut affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution;
    match required {
        Some(NodeSelector { node_selector_terms: terms }) if !terms.is_empty() => {
            terms.iter_mut().for_each(|t| t.match_fields = Some(vec![by_name.clone()]));
        }
        _ => {
            *required = Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_expressions: None,
                    match_fields: Some(vec![by_name]),
                }],
            });
        }
    }
}
