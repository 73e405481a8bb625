//! The next step of a StatefulSet. Pure.
//!
//! ```text
//!   ordinals start … start+replicas−1, in order:   missing ─▶ create     finished ─▶ delete
//!   OrderedReady: each waits until the one before is running and available
//!   ordinals beyond, from the highest: delete;  OrderedReady: one at a time, the rest being well
//!   RollingUpdate, from the highest ordinal down to the partition: outdated ─▶ delete,
//!   never more than maxUnavailable out at a time
//! ```
//! Without ControllerRevisions a pod is always made from the present template; the revision is the
//! template's hash, in the label `controller-revision-hash`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use crate::deployment::{Round, scaled};
use crate::object::{Meta, controller_ref};
use crate::pod::{self, Availability, Phase};
use crate::replicaset::nonzero;
use crate::template;

const HASH_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The writes and the status.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) create: Vec<Pod>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: StatefulSetStatus,
    pub(super) next: Option<Duration>,
}

/// Whether pods come and go one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OneByOne,
    Parallel,
}

/// Plans for `set`, which owns `pods`.
pub(super) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let first = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let wanted = first..first.saturating_add(spec.replicas.unwrap_or(1).max(0));
    let revision = revision(set);
    let mut placed: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    let mut condemned: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in pods {
        let Some(ordinal) = ordinal(set.name(), pod.name()) else { continue };
        if wanted.contains(&ordinal) {
            placed.insert(ordinal, pod);
        } else {
            condemned.insert(ordinal, pod);
        }
    }
    let mut look = Look { spec: &spec, now, next: None };
    let (create, delete) = if set.is_terminating() {
        Default::default()
    } else {
        steps(set, &mut look, wanted, &placed, &condemned, &revision)
    };
    let status = status(set, &mut look, pods, &revision);
    Plan { create, delete, status, next: look.next }
}

fn steps(
    set: &StatefulSet,
    look: &mut Look<'_>,
    wanted: std::ops::Range<i32>,
    placed: &BTreeMap<i32, &Arc<Pod>>,
    condemned: &BTreeMap<i32, &Arc<Pod>>,
    revision: &str,
) -> (Vec<Pod>, Vec<Arc<Pod>>) {
    let order = match look.spec.pod_management_policy.as_deref() {
        Some("Parallel") => Order::Parallel,
        _ => Order::OneByOne,
    };
    let (mut create, mut delete) = (Vec::new(), Vec::new());
    for ordinal in wanted.clone() {
        let well = match placed.get(&ordinal) {
            None => {
                create.push(new_pod(set, ordinal, revision));
                false
            }
            Some(pod) if pod::is_finished(pod) => {
                if !pod.is_terminating() {
                    delete.push(Arc::clone(pod));
                }
                false
            }
            Some(pod) => !pod.is_terminating() && look.is_available(pod),
        };
        if !well && order == Order::OneByOne {
            return (create, delete);
        }
    }
    // The first that is not well may go although it is not well: it is what blocks.
    let unwell = condemned.values().find(|p| !look.is_running_and_ready(p));
    let unwell = unwell.map(|p| p.uid().to_owned());
    for pod in condemned.values().rev() {
        if pod.is_terminating() {
            if order == Order::OneByOne {
                return (create, delete);
            }
            continue;
        }
        let ready = look.is_running_and_ready(pod);
        if order == Order::OneByOne && !ready && unwell.as_deref() != Some(pod.uid()) {
            return (create, delete);
        }
        delete.push(Arc::clone(pod));
        if order == Order::OneByOne {
            return (create, delete);
        }
    }
    roll(look, wanted, placed, revision, &mut delete);
    (create, delete)
}

/// Deletes outdated pods; their places are filled at the next look.
fn roll(
    look: &mut Look<'_>,
    wanted: std::ops::Range<i32>,
    placed: &BTreeMap<i32, &Arc<Pod>>,
    revision: &str,
    delete: &mut Vec<Arc<Pod>>,
) {
    let strategy = look.spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let partition = rolling.partition.unwrap_or(0).max(wanted.start);
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let most = scaled(&rolling.max_unavailable.unwrap_or(IntOrString::Int(1)), total, Round::Up);
    // What is out of order below the partition counts as well.
    let mut out = 0;
    for ordinal in wanted.clone() {
        let up = placed.get(&ordinal).is_some_and(|p| !p.is_terminating() && look.is_available(p));
        out += i32::from(!up);
    }
    for ordinal in (partition..wanted.end).rev() {
        let Some(pod) = placed.get(&ordinal) else { continue };
        if pod.is_terminating() || pod.label(HASH_LABEL) == Some(revision) {
            continue;
        }
        let up = look.is_available(pod);
        if up && out >= most.max(1) {
            return;
        }
        if !delete.iter().any(|p| p.uid() == pod.uid()) {
            delete.push(Arc::clone(pod));
            out += i32::from(up);
        }
        if !up && out >= most.max(1) {
            return;
        }
    }
}

struct Look<'a> {
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    next: Option<Duration>,
}

impl Look<'_> {
    fn is_running_and_ready(&self, pod: &Pod) -> bool {
        pod::phase(pod) == Phase::Running && pod::is_ready(pod)
    }

    fn is_available(&mut self, pod: &Pod) -> bool {
        let wanted = self.spec.min_ready_seconds.unwrap_or(0);
        match pod::availability(pod, wanted, self.now) {
            Availability::Available => pod::phase(pod) == Phase::Running,
            Availability::In(rest) => {
                self.next = Some(self.next.map_or(rest, |n| n.min(rest)));
                false
            }
            Availability::Unavailable => false,
        }
    }
}

fn status(
    set: &StatefulSet,
    look: &mut Look<'_>,
    pods: &[Arc<Pod>],
    revision: &str,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let current = old.current_revision.unwrap_or_else(|| revision.to_owned());
    let (mut replicas, mut ready, mut available, mut on_current, mut on_update) = (0, 0, 0, 0, 0);
    for pod in pods {
        replicas += 1;
        if look.is_running_and_ready(pod) && !pod.is_terminating() {
            ready += 1;
            available += i32::from(look.is_available(pod));
        }
        if pod.is_terminating() || pod::is_finished(pod) {
            continue;
        }
        let label = pod.label(HASH_LABEL);
        on_current += i32::from(label == Some(&current));
        on_update += i32::from(label == Some(revision));
    }
    let wanted = look.spec.replicas.unwrap_or(1);
    let done = on_update == wanted && ready == wanted && replicas == wanted;
    let (current, on_current) =
        if done { (revision.to_owned(), on_update) } else { (current, on_current) };
    StatefulSetStatus {
        replicas,
        ready_replicas: nonzero(ready),
        // kubectl and others read it without asking whether it is there.
        available_replicas: Some(available),
        current_replicas: nonzero(on_current),
        updated_replicas: nonzero(on_update),
        current_revision: Some(current),
        update_revision: Some(revision.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

/// The name of the present template's revision.
fn revision(set: &StatefulSet) -> String {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    format!("{}-{}", set.name(), template::hash(&template, None))
}

/// The ordinal in a pod's name, if it is one of the set's names.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|n: &i32| canonical && *n >= 0)
}

fn new_pod(set: &StatefulSet, ordinal: i32, revision: &str) -> Pod {
    let spec = set.spec.clone().unwrap_or_default();
    let mut pod = pod::from_template(&spec.template, set.namespace(), controller_ref(set));
    let name = format!("{}-{ordinal}", set.name());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    pod.metadata = ObjectMeta { name: Some(name.clone()), ..pod.metadata };
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name);
    pod_spec.subdomain = spec.service_name.filter(|s| !s.is_empty());
    pod
}
