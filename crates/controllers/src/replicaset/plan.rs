//! What a ReplicaSet lacks or has too much of. Pure.
//!
//! At most 500 pods are created or deleted in one step (upstream's burst); the rest follows when
//! the first have been seen.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::rank::first_to_go;
use crate::clock::whole_seconds;
use crate::object::{Meta, controller_ref};
use crate::pod::{self, Availability};

const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

/// The pods to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
}

/// Why pods could not be made or deleted.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Plans the pods of `set`. `pods` are all it owns; `siblings` are those of every ReplicaSet of the
/// same Deployment.
pub(super) fn plan(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    siblings: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    if set.is_terminating() {
        return Plan::default();
    }
    let active: Vec<_> = pods.iter().filter(|p| pod::is_active(p)).cloned().collect();
    let wanted = wanted(set);
    if active.len() < wanted {
        Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() }
    } else {
        let surplus = (active.len() - wanted).min(BURST);
        Plan { create: 0, delete: first_to_go(active, siblings, surplus, now) }
    }
}

/// The pod that `set` makes.
pub(super) fn new_pod(set: &ReplicaSet) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    let mut pod = pod::from_template(template, set.namespace(), controller_ref(set));
    pod.metadata =
        ObjectMeta { generate_name: Some(pod::generate_name(set.name())), ..pod.metadata };
    Some(pod)
}

/// The status that follows from the pods, and when it will change with time alone.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref());
    let template_labels = template.and_then(|m| m.labels.as_ref());
    let (mut replicas, mut labelled, mut ready, mut available, mut going) = (0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in pods {
        if pod.is_terminating() && !pod::is_finished(pod) {
            going += 1;
        }
        if !pod::is_active(pod) {
            continue;
        }
        replicas += 1;
        let has = |(key, value): (&String, &String)| pod.label(key) == Some(value);
        if template_labels.into_iter().flatten().all(has) {
            labelled += 1;
        }
        if pod::is_ready(pod) {
            ready += 1;
        }
        match pod::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Available => available += 1,
            Availability::In(rest) => next = Some(next.map_or(rest, |n| n.min(rest))),
            Availability::Unavailable => {}
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: nonzero(labelled),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        terminating_replicas: Some(going),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, failure, now),
    };
    (status, next)
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    match failure {
        None => conditions.retain(|c| c.type_ != FAILURE),
        Some(_) if conditions.iter().any(|c| c.type_ == FAILURE) => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(whole_seconds(now))),
        }),
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// Upstream leaves counts of zero out.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, labelled, pod, ready, replica_set, terminating};

    fn arcs(pods: Vec<Pod>) -> Vec<Arc<Pod>> {
        pods.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn finished_and_terminating_pods_are_replaced() {
        let mut failed = pod("ns", "failed");
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        let pods = arcs(vec![failed, terminating(pod("ns", "going")), pod("ns", "live")]);
        let plan = plan(&replica_set("ns", "rs", 3), &pods, &pods, at(9));
        assert_eq!((plan.create, plan.delete.len()), (2, 0));
    }

    #[test]
    fn a_set_that_is_being_deleted_makes_nothing() {
        let mut set = replica_set("ns", "rs", 3);
        set.metadata.deletion_timestamp = Some(Time(at(1)));
        assert_eq!(plan(&set, &[], &[], at(9)).create, 0);
    }

    #[test]
    fn a_new_pod_carries_the_template_and_its_controller() {
        let pod = new_pod(&replica_set("ns", "rs", 1)).unwrap();
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("rs-"));
        assert_eq!(pod.label("app"), Some("web"));
        assert_eq!(pod.controller().unwrap().uid, "uid-ns-rs");
        assert_eq!(pod.controller().unwrap().api_version, "apps/v1");
    }

    #[test]
    fn the_status_counts_ready_and_available_apart() {
        let mut set = replica_set("ns", "rs", 3);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        let web = [("app", "web")];
        let pods = arcs(vec![
            labelled(ready(pod("ns", "old"), 0), &web),
            ready(pod("ns", "new"), 95),
            terminating(pod("ns", "going")),
        ]);
        let (status, next) = status(&set, &pods, None, at(100));
        assert_eq!(status.replicas, 2);
        assert_eq!(status.fully_labeled_replicas, Some(1));
        assert_eq!(status.ready_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.terminating_replicas, Some(1));
        assert_eq!(next, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_failure_is_a_condition_until_it_passes() {
        let mut set = replica_set("ns", "rs", 1);
        let failure = Failure { reason: "FailedCreate", message: "no".into() };
        let (failed, _) = status(&set, &[], Some(&failure), at(1));
        assert_eq!(failed.conditions.as_ref().unwrap()[0].type_, FAILURE);
        set.status = Some(failed);
        assert_eq!(status(&set, &[], None, at(2)).0.conditions, None);
    }

    proptest! {
        /// Carrying the plan out always gives the wanted number, in one step below the burst.
        #[test]
        fn the_plan_meets_the_wanted_count(wanted in 0..40i32, present in 0..40usize, gone in 0..9usize) {
            let set = replica_set("ns", "rs", wanted);
            let mut pods: Vec<_> = (0..present).map(|i| pod("ns", &format!("p{i}"))).collect();
            pods.extend((0..gone).map(|i| terminating(pod("ns", &format!("t{i}")))));
            let pods = arcs(pods);
            let plan = plan(&set, &pods, &pods, at(9));
            prop_assert!(plan.create == 0 || plan.delete.is_empty());
            prop_assert!(plan.delete.iter().all(|p| pod::is_active(p)));
            prop_assert_eq!(present + plan.create - plan.delete.len(), usize::try_from(wanted).unwrap());
        }
    }
}
