//! One pod per node, through taints and rollouts.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::plan::{Plan, new_pod, plan, target};
use crate::object::Meta;
use crate::pod::{is_active, is_ready};
use crate::testing::{at, labels, meta, node, on_node, ready, template, terminating};

fn set(max_unavailable: i32) -> DaemonSet {
    DaemonSet {
        metadata: meta("ns", "ds"),
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(labels(&[("app", "web")])),
                match_expressions: None,
            },
            template: template("v1"),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: None,
                    max_unavailable: Some(IntOrString::Int(max_unavailable)),
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn tainted(name: &str, effect: &str) -> Node {
    let mut node = node(name);
    node.spec = Some(NodeSpec {
        taints: Some(vec![Taint { key: "k".into(), effect: effect.into(), ..Taint::default() }]),
        ..NodeSpec::default()
    });
    node
}

fn made(set: &DaemonSet, node: &str, name: &str) -> Pod {
    let mut pod = new_pod(set, node);
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    ready(on_node(pod, node), 1)
}

fn look(set: &DaemonSet, nodes: &[Node], pods: &[Pod]) -> Plan {
    let nodes: Vec<_> = nodes.iter().cloned().map(Arc::new).collect();
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    plan(set, &nodes, &pods, at(100))
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|p| p.name()).collect()
}

#[test]
fn every_node_gets_one_pod_pinned_to_it() {
    let set = set(1);
    let plan = look(&set, &[node("a"), node("b")], &[]);
    assert_eq!(plan.create, ["a", "b"]);
    assert_eq!(target(&new_pod(&set, "a")), Some("a"));
    assert_eq!(plan.status.desired_number_scheduled, 2);
}

#[test]
fn a_cordoned_node_gets_its_daemon_nonetheless() {
    let mut cordoned = node("a");
    cordoned.spec = Some(NodeSpec { unschedulable: Some(true), ..NodeSpec::default() });
    assert_eq!(look(&set(1), &[cordoned], &[]).create, ["a"]);
}

#[test]
fn a_taint_keeps_new_pods_away_and_only_no_execute_drives_old_ones_out() {
    let set = set(1);
    assert!(look(&set, &[tainted("a", "NoSchedule")], &[]).create.is_empty());
    let pods = [made(&set, "a", "p")];
    assert!(look(&set, &[tainted("a", "NoSchedule")], &pods).delete.is_empty());
    let driven = look(&set, &[tainted("a", "NoExecute")], &pods);
    assert_eq!(names(&driven.delete), ["p"]);
    assert_eq!(driven.status.number_misscheduled, 1);
}

#[test]
fn a_surplus_pod_goes_and_a_terminating_one_holds_the_place() {
    let set = set(1);
    let pods = [made(&set, "a", "p1"), made(&set, "a", "p2")];
    assert_eq!(names(&look(&set, &[node("a")], &pods).delete), ["p2"]);
    let going = [terminating(made(&set, "a", "p1"))];
    let plan = look(&set, &[node("a")], &going);
    assert!(plan.create.is_empty() && plan.delete.is_empty());
}

#[test]
fn a_failed_pod_is_deleted_first_and_replaced_after() {
    let set = set(1);
    let mut failed = made(&set, "a", "p");
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let plan = look(&set, &[node("a")], &[failed]);
    assert_eq!((names(&plan.ended), plan.create.len()), (vec!["p"], 0));
}

#[test]
fn an_unbound_pod_of_a_node_that_is_gone_goes() {
    let set = set(1);
    let mut pod = made(&set, "gone", "p");
    pod.spec.as_mut().unwrap().node_name = None;
    assert_eq!(names(&look(&set, &[], &[pod]).delete), ["p"]);
}

proptest! {
    /// A rollout never takes more available pods down than allowed, and ends.
    #[test]
    fn a_rollout_stays_within_max_unavailable(
        count in 1..8usize,
        max in 1..4i32,
        chance in prop::collection::vec(any::<[bool; 8]>(), 0..30),
    ) {
        let nodes: Vec<_> = (0..count).map(|i| node(&format!("n{i}"))).collect();
        let mut set = set(max);
        let mut serial = 0;
        let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
        for node in &nodes {
            pods.insert(node.name().into(), made(&set, node.name(), node.name()));
        }
        set.spec.as_mut().unwrap().template = template("v2");
        let rounds = chance.into_iter().chain(std::iter::repeat_n([true; 8], 40));
        let mut last = None;
        for luck in rounds {
            let list: Vec<_> = pods.values().cloned().collect();
            let plan = look(&set, &nodes, &list);
            for gone in &plan.delete {
                pods.retain(|_, p| p.name() != gone.name());
            }
            for node in &plan.create {
                serial += 1;
                let pod = made(&set, node, &format!("new{serial}"));
                pods.insert(node.clone(), crate::testing::unready(pod));
            }
            let up = pods.values().filter(|p| is_active(p) && is_ready(p)).count();
            prop_assert!(i32::try_from(count - up).unwrap() <= max);
            for (pod, lucky) in pods.values_mut().zip(luck) {
                if lucky {
                    *pod = ready(pod.clone(), 1);
                }
            }
            last = Some(plan.status);
        }
        prop_assert_eq!(last.unwrap().updated_number_scheduled, Some(i32::try_from(count).unwrap()));
    }
}
