//! A Pod's status from what the agent knows: phase, conditions, container statuses. Pure.
//!
//! Upstream rule: kubelet's getPhase, GeneratePodReadyCondition and friends.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::quantity;
use super::record::{Record, Role, State, container_id, containers};
use crate::Addresses;

/// The image identity of every container: the host's own files.
const IMAGE_ID: &str = "portolan://host";

/// What the status is made of beside the Pod.
pub(crate) struct Facts<'a> {
    /// The containers, in [`containers`]' order.
    pub(crate) records: &'a [Record],
    /// The pod's addresses.
    pub(crate) ips: Option<&'a Addresses>,
    /// The node's addresses.
    pub(crate) host_ips: &'a Addresses,
    /// Whether the pod's namespaces and network are there.
    pub(crate) has_sandbox: bool,
    /// When the agent first saw the pod.
    pub(crate) start_time: Timestamp,
    /// Whether the pod has been stopped for good, so that a phase that is not final has to end.
    pub(crate) is_stopped: bool,
    /// Why the pod failed as a whole: reason, message.
    pub(crate) failure: Option<&'a (String, String)>,
    /// The time of changes.
    pub(crate) now: Timestamp,
}

/// The Pod's status. `previous` is the one before, for the times of transitions and for what
/// others wrote.
pub(crate) fn status(pod: &Pod, facts: &Facts<'_>, previous: &PodStatus) -> PodStatus {
    let Some(spec) = &pod.spec else { return previous.clone() };
    let phase = phase(spec, facts);
    let of = |wanted: fn(Role) -> bool| -> Option<Vec<ContainerStatus>> {
        let pairs = containers(spec).zip(facts.records);
        let list: Vec<_> = pairs
            .filter(|((_, role), _)| wanted(*role))
            .map(|((container, _), record)| container_status(container, record, facts))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let mut conditions: Vec<PodCondition> = previous
        .conditions
        .iter()
        .flatten()
        .filter(|old| !OURS.contains(&old.type_.as_str()))
        .cloned()
        .collect();
    if !conditions.iter().any(|condition| condition.type_ == "PodScheduled") {
        conditions.push(condition("PodScheduled", Truth::yes()));
    }
    for (type_, truth) in our_conditions(spec, facts, phase, previous) {
        conditions.push(condition(type_, truth));
    }
    for condition in &mut conditions {
        if OURS.contains(&condition.type_.as_str()) || condition.last_transition_time.is_none() {
            let old = previous.conditions.iter().flatten();
            let old =
                old.filter(|old| old.type_ == condition.type_ && old.status == condition.status);
            let since = old.filter_map(|old| old.last_transition_time.clone()).next();
            condition.last_transition_time = Some(since.unwrap_or(Time(facts.now)));
            condition.observed_generation = pod.metadata.generation;
        }
    }
    PodStatus {
        conditions: Some(conditions),
        container_statuses: of(|role| role == Role::Main),
        init_container_statuses: of(|role| role != Role::Main),
        host_ip: Some(facts.host_ips.primary().to_string()),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        message: facts.failure.map(|(_, message)| message.clone()),
        reason: facts.failure.map(|(reason, _)| reason.clone()),
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        pod_ips: facts.ips.map(|ips| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        pod_ip: facts.ips.map(|ips| ips.primary().to_string()),
        qos_class: Some(qos_class(spec).to_owned()),
        start_time: Some(Time(facts.start_time)),
        ..PodStatus::default()
    }
}

/// Puts others' conditions in the place of those that `status` has of them.
pub(crate) fn take_foreign(status: &mut PodStatus, theirs: Vec<PodCondition>) {
    let is_ours = |condition: &PodCondition| OURS.contains(&condition.type_.as_str());
    let own = status.conditions.take().unwrap_or_default();
    let own = own.into_iter().filter(is_ours);
    status.conditions = Some(theirs.into_iter().filter(|one| !is_ours(one)).chain(own).collect());
}

/// Conditions that the agent owns.
const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

struct Truth {
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Truth {
    fn yes() -> Truth {
        Truth { holds: true, reason: None, message: None }
    }

    fn no(reason: &str, message: Option<String>) -> Truth {
        Truth { holds: false, reason: Some(reason.to_owned()), message }
    }

    fn because(mut self, reason: &str) -> Truth {
        self.reason = Some(reason.to_owned());
        self
    }

    fn copy(&self) -> Truth {
        Truth { holds: self.holds, reason: self.reason.clone(), message: self.message.clone() }
    }
}

fn condition(type_: &str, truth: Truth) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: if truth.holds { "True" } else { "False" }.to_owned(),
        reason: truth.reason,
        message: truth.message,
        ..PodCondition::default()
    }
}

fn our_conditions(
    spec: &PodSpec,
    facts: &Facts<'_>,
    phase: &str,
    previous: &PodStatus,
) -> [(&'static str, Truth); 4] {
    let names = |wanted: &dyn Fn(&Record) -> bool| -> Vec<&str> {
        facts.records.iter().filter(|one| wanted(one)).map(|one| one.name.as_str()).collect()
    };
    let sandbox = Truth { holds: facts.has_sandbox, reason: None, message: None };

    let initialized_before = facts
        .records
        .iter()
        .any(|one| one.role == Role::Main && (one.is_running() || one.last_end().is_some()));
    let incomplete = names(&|one| match one.role {
        Role::Init => !initialized_before && one.terminated().is_none_or(|end| end.code != 0),
        Role::Sidecar => !initialized_before && !one.started,
        Role::Main => false,
    });
    let initialized = if phase == "Succeeded" {
        Truth::yes().because("PodCompleted")
    } else if incomplete.is_empty() {
        Truth::yes()
    } else {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        Truth::no("ContainersNotInitialized", Some(message))
    };

    let unready = names(&|one| one.role != Role::Init && !is_ready(one));
    let containers_ready = match phase {
        "Succeeded" => Truth::no("PodCompleted", None),
        "Failed" => Truth::no("PodFailed", None),
        _ if unready.is_empty() => Truth::yes(),
        _ => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            Truth::no("ContainersNotReady", Some(message))
        }
    };

    let gates = spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.as_str());
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let found = previous.conditions.iter().flatten().find(|one| one.type_ == gate);
            match found {
                Some(found) if found.status == "True" => None,
                Some(_) => Some(format!(
                    "the status of pod readiness gate {gate:?} is not \"True\", but False"
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate {gate:?} does not exist."
                )),
            }
        })
        .collect();
    let ready = if containers_ready.holds && !closed.is_empty() {
        Truth::no("ReadinessGatesNotReady", Some(closed.join(", ")))
    } else {
        containers_ready.copy()
    };
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("ContainersReady", containers_ready),
        ("Ready", ready),
    ]
}

fn is_ready(record: &Record) -> bool {
    record.is_running() && record.started && record.ready
}

fn container_status(container: &Container, record: &Record, facts: &Facts<'_>) -> ContainerStatus {
    let state = match &record.state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ContainerState::default()
        },
        State::Terminated(end) => {
            ContainerState { terminated: Some(end.to_api()), ..ContainerState::default() }
        }
    };
    let last = record
        .last
        .as_ref()
        .map(|end| ContainerState { terminated: Some(end.to_api()), ..ContainerState::default() });
    let ready = match record.role {
        Role::Init => record.terminated().is_some_and(|end| end.code == 0),
        Role::Sidecar | Role::Main => is_ready(record) && !facts.is_stopped,
    };
    ContainerStatus {
        container_id: record.id.as_deref().map(container_id),
        image: container.image.clone().unwrap_or_default(),
        image_id: record.id.as_ref().map_or(String::new(), |_| IMAGE_ID.to_owned()),
        last_state: Some(last.unwrap_or_default()),
        name: record.name.clone(),
        ready,
        resources: container.resources.clone(),
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        started: Some(record.is_running() && record.started),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

fn phase(spec: &PodSpec, facts: &Facts<'_>) -> &'static str {
    if facts.failure.is_some() {
        return "Failed";
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    let (mut pending_init, mut failed_init) = (false, false);
    let mains = facts.records.iter().filter(|record| record.role == Role::Main);
    let initialized = mains.clone().any(|one| one.is_running() || one.last_end().is_some());
    for record in facts.records {
        match record.role {
            Role::Init => match record.last_end() {
                Some(end) if end.code == 0 => {}
                Some(_) => {
                    failed_init = true;
                    pending_init = true;
                }
                None => pending_init |= !initialized,
            },
            Role::Sidecar => pending_init |= !initialized && !record.started,
            Role::Main => match &record.state {
                State::Running { .. } => running += 1,
                State::Terminated(end) => {
                    stopped += 1;
                    succeeded += usize::from(end.code == 0);
                }
                State::Waiting { .. } if record.last.is_some() => stopped += 1,
                State::Waiting { .. } => waiting += 1,
            },
        }
    }
    if failed_init && policy == "Never" {
        return "Failed";
    }
    if facts.is_stopped {
        // A stopped pod's phase is final, whatever its restart policy.
        let all = facts.records.iter().filter(|record| record.role != Role::Sidecar);
        let well = all.clone().count() > 0
            && all.clone().all(|one| one.terminated().is_some_and(|end| end.code == 0));
        return if well { "Succeeded" } else { "Failed" };
    }
    if (pending_init && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    match policy {
        _ if stopped == 0 => "Pending",
        "Always" => "Running",
        _ if stopped == succeeded => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

/// The class by which a kubelet would evict the pod.
fn qos_class(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for (container, _) in containers(spec) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let limit = resources.and_then(|all| all.limits.as_ref()?.get(name));
            let request = resources.and_then(|all| all.requests.as_ref()?.get(name)).or(limit);
            let limit = limit.filter(|quantity| quantity::positive(&quantity.0));
            let request = request.filter(|quantity| quantity::positive(&quantity.0));
            any |= limit.is_some() || request.is_some();
            guaranteed &= match (limit, request) {
                (Some(limit), Some(request)) => quantity::equal(&limit.0, &request.0),
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
