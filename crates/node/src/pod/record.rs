//! What the agent knows of a container beyond its spec, and the restart decision. Pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// When a container starts in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// One after the other, before all else.
    Init,
    /// In the init order, then for as long as the pod (restartPolicy Always).
    Sidecar,
    /// The pod's work.
    Main,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// It does not run, and why.
    Waiting {
        /// The reason in CamelCase.
        reason: String,
        /// More about it.
        message: Option<String>,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It ended.
    Terminated(Terminated),
}

/// The end of an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terminated {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    pub(crate) id: Option<String>,
}

impl Terminated {
    /// As the API has it.
    pub(crate) fn to_api(&self) -> ContainerStateTerminated {
        ContainerStateTerminated {
            container_id: self.id.as_deref().map(container_id),
            exit_code: self.code,
            finished_at: self.finished.map(Time),
            message: self.message.clone(),
            reason: Some(self.reason.clone()),
            signal: None,
            started_at: self.started.map(Time),
        }
    }

    fn from_api(state: &ContainerStateTerminated) -> Terminated {
        let id = state.container_id.as_deref();
        Terminated {
            code: state.exit_code,
            signal: state.signal,
            reason: state.reason.clone().unwrap_or_default(),
            message: state.message.clone(),
            started: state.started_at.as_ref().map(|time| time.0),
            finished: state.finished_at.as_ref().map(|time| time.0),
            id: id.and_then(|id| id.strip_prefix(SCHEME)).map(str::to_owned),
        }
    }
}

const SCHEME: &str = "portolan://";

/// An instance's identity as the API has it.
pub(crate) fn container_id(id: &str) -> String {
    format!("{SCHEME}{id}")
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Its name.
    pub(crate) name: String,
    /// Its place in the pod.
    pub(crate) role: Role,
    /// What it does.
    pub(crate) state: State,
    /// The instance before.
    pub(crate) last: Option<Terminated>,
    /// How often it was started again. Also the number of the present instance.
    pub(crate) restarts: u32,
    /// Identity of the present instance.
    pub(crate) id: Option<String>,
    /// Whether its startup probe, if it has one, has succeeded; false before it runs.
    pub(crate) started: bool,
    /// Whether its readiness probe, if it has one, succeeds.
    pub(crate) ready: bool,
}

impl Record {
    fn new(name: &str, role: Role, reason: &str) -> Record {
        Record {
            name: name.to_owned(),
            role,
            state: State::Waiting { reason: reason.to_owned(), message: None },
            last: None,
            restarts: 0,
            id: None,
            started: false,
            ready: false,
        }
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Its end, if it has ended and not been started since.
    pub(crate) fn terminated(&self) -> Option<&Terminated> {
        match &self.state {
            State::Terminated(end) => Some(end),
            _ => None,
        }
    }

    /// Its end, also while it waits to be started again.
    pub(crate) fn last_end(&self) -> Option<&Terminated> {
        match &self.state {
            State::Terminated(end) => Some(end),
            State::Waiting { .. } => self.last.as_ref(),
            State::Running { .. } => None,
        }
    }
}

/// The spec's containers with their roles, init containers first.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, Role)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (container, if sidecar { Role::Sidecar } else { Role::Init })
    });
    init.chain(spec.containers.iter().map(|container| (container, Role::Main)))
}

/// Records of a pod that this agent sees for the first time; restart counts and ends come from
/// the status that an earlier agent wrote.
pub(crate) fn records(pod: &Pod) -> Vec<Record> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let status = pod.status.as_ref();
    let has_init = spec.init_containers.as_ref().is_some_and(|init| !init.is_empty());
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    containers(spec)
        .map(|(container, role)| {
            let list = status.and_then(|status| match role {
                Role::Main => status.container_statuses.as_ref(),
                Role::Init | Role::Sidecar => status.init_container_statuses.as_ref(),
            });
            let old = list.into_iter().flatten().find(|old| old.name == container.name);
            let mut record = Record::new(&container.name, role, reason);
            if let Some(old) = old {
                restore(&mut record, old);
            }
            record
        })
        .collect()
}

/// What ran when the earlier agent last wrote, but is in no shim now, ended without witness.
fn restore(record: &mut Record, old: &ContainerStatus) {
    record.restarts = u32::try_from(old.restart_count).unwrap_or(0);
    let id = old.container_id.as_deref().and_then(|id| id.strip_prefix(SCHEME));
    record.id = id.map(str::to_owned);
    let last = old.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    record.last = last.map(Terminated::from_api);
    let Some(state) = &old.state else { return };
    if let Some(end) = &state.terminated {
        record.state = State::Terminated(Terminated::from_api(end));
    } else if let Some(running) = &state.running {
        record.state = State::Terminated(lost(
            record.id.clone(),
            running.started_at.as_ref().map(|time| time.0),
        ));
    }
}

/// The end of an instance that nobody saw end.
pub(crate) fn lost(id: Option<String>, started: Option<Timestamp>) -> Terminated {
    Terminated {
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some(
            "The container could not be located when the pod was terminated or restarted"
                .to_owned(),
        ),
        started,
        finished: None,
        id,
    }
}

/// What the spec's restart policy says of a container that ended so.
pub(crate) fn restarts(spec: &PodSpec, role: Role, end: &Terminated) -> bool {
    match (role, spec.restart_policy.as_deref().unwrap_or("Always")) {
        (Role::Sidecar, _) => true,
        // An init container that has done its work is done, whatever the policy.
        (Role::Init, "Never") => false,
        (Role::Init, _) => end.code != 0,
        (Role::Main, "Always") => true,
        (Role::Main, "OnFailure") => end.code != 0,
        (Role::Main, _) => false,
    }
}

/// What has to be done next for the pod's containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Todo {
    /// Containers to start, by index.
    pub(crate) start: Vec<usize>,
    /// Sidecars to stop because the work is done, by index.
    pub(crate) stop: Vec<usize>,
    /// Nothing will ever run again.
    pub(crate) is_over: bool,
}

/// Whether a main container has run: init containers are history then.
pub(crate) fn has_initialized(records: &[Record]) -> bool {
    let mut mains = records.iter().filter(|record| record.role == Role::Main);
    mains.any(|record| record.is_running() || record.last_end().is_some())
}

/// Kubelet's computePodActions, for a pod that is not being deleted. `initialized`: the init
/// containers have done their work in this sandbox.
pub(crate) fn todo(spec: &PodSpec, records: &[Record], initialized: bool) -> Todo {
    let mut todo = Todo::default();
    let done =
        |record: &Record| record.terminated().is_some_and(|end| !restarts(spec, record.role, end));
    let mains = || records.iter().filter(|record| record.role == Role::Main);
    let failed_init = records.iter().any(|record| {
        record.role == Role::Init
            && done(record)
            && record.terminated().is_some_and(|e| e.code != 0)
    });
    if failed_init || mains().all(done) {
        let running =
            records.iter().enumerate().filter(|(_, record)| record.is_running()).map(|(at, _)| at);
        todo.stop = running.collect();
        todo.is_over = todo.stop.is_empty();
        return todo;
    }
    for (index, record) in records.iter().enumerate() {
        match record.role {
            Role::Init => {
                if initialized || record.terminated().is_some_and(|end| end.code == 0) {
                    continue;
                }
                if !record.is_running() {
                    todo.start.push(index);
                }
                return todo;
            }
            Role::Sidecar => {
                if !record.is_running() {
                    todo.start.push(index);
                }
                if !record.started && !initialized {
                    return todo;
                }
            }
            Role::Main => {
                if !record.is_running() && !done(record) {
                    todo.start.push(index);
                }
            }
        }
    }
    todo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(policy: &str) -> PodSpec {
        PodSpec { restart_policy: Some(policy.into()), ..PodSpec::default() }
    }

    fn ended(code: i32) -> State {
        let mut end = lost(None, None);
        end.code = code;
        State::Terminated(end)
    }

    fn running() -> State {
        State::Running { since: Timestamp::UNIX_EPOCH }
    }

    fn record(role: Role, state: Option<State>) -> Record {
        let mut record = Record::new("c", role, "ContainerCreating");
        if let Some(state) = state {
            record.started = state == running();
            record.state = state;
        }
        record
    }

    fn starts(policy: &str, records: &[Record]) -> Vec<usize> {
        todo(&spec(policy), records, has_initialized(records)).start
    }

    #[test]
    fn init_containers_run_one_after_the_other_and_then_all_the_rest() {
        let mut records = vec![
            record(Role::Init, None),
            record(Role::Init, None),
            record(Role::Main, None),
            record(Role::Main, None),
        ];
        assert_eq!(starts("Always", &records), [0]);
        records[0].state = running();
        assert_eq!(starts("Always", &records), [] as [usize; 0]);
        records[0].state = ended(0);
        assert_eq!(starts("Always", &records), [1]);
        records[1].state = ended(1);
        assert_eq!(starts("Always", &records), [1]);
        records[1].state = ended(0);
        assert_eq!(starts("Always", &records), [2, 3]);
    }

    #[test]
    fn a_sidecar_holds_the_rest_until_it_has_started() {
        let mut records =
            vec![record(Role::Sidecar, None), record(Role::Init, None), record(Role::Main, None)];
        assert_eq!(starts("Always", &records), [0]);
        records[0].state = running();
        assert_eq!(starts("Always", &records), [] as [usize; 0]);
        records[0].started = true;
        assert_eq!(starts("Always", &records), [1]);
        records[1].state = ended(0);
        assert_eq!(starts("Always", &records), [2]);
        records[2].state = running();
        records[0].state = ended(1);
        records[0].started = false;
        assert_eq!(starts("Never", &records), [0]);
    }

    #[test]
    fn restart_policies_decide_who_starts_again() {
        for (policy, code, again) in [
            ("Always", 0, true),
            ("Always", 1, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 0, false),
            ("Never", 1, false),
        ] {
            let records =
                [record(Role::Main, Some(ended(code))), record(Role::Main, Some(running()))];
            let todo = todo(&spec(policy), &records, true);
            assert_eq!(todo.start == [0], again, "{policy} {code}");
            assert!(!todo.is_over);
        }
    }

    #[test]
    fn a_pod_whose_work_is_done_stops_its_sidecars_and_is_over() {
        let mut records =
            vec![record(Role::Sidecar, Some(running())), record(Role::Main, Some(ended(0)))];
        assert_eq!(todo(&spec("Never"), &records, has_initialized(&records)).stop, [0]);
        records[0].state = ended(0);
        assert!(todo(&spec("Never"), &records, has_initialized(&records)).is_over);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let records = [record(Role::Init, Some(ended(1))), record(Role::Main, None)];
        assert!(todo(&spec("Never"), &records, has_initialized(&records)).is_over);
        assert_eq!(starts("OnFailure", &records), [0]);
    }

    #[test]
    fn a_restarted_main_container_does_not_run_the_init_containers_again() {
        let mut records = vec![record(Role::Init, None), record(Role::Main, Some(ended(1)))];
        assert_eq!(starts("Always", &records), [1]);
        records[1].state = State::Waiting { reason: "CrashLoopBackOff".into(), message: None };
        records[1].last = Some(lost(None, None));
        assert_eq!(starts("Always", &records), [1]);
    }
}
