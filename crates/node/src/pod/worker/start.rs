//! Starting containers: back-off, the specification, the postStart hook, and what failed.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::setup::hostname;
use super::{Busy, Done, Worker, sooner};
use crate::node::Node;
use crate::pod::action::{self, Target};
use crate::pod::env::{self, References};
use crate::pod::fields::Facts;
use crate::pod::launch::{self, Place, PortsBy, Program, Refusal, Start};
use crate::pod::record::{self, Role, State, Terminated};
use crate::pod::volumes;
use crate::recorder::Severity;
use crate::runtime::sandbox::Sandbox;
use crate::runtime::{ContainerPhase, StartError};
use crate::shim::protocol::FailureKind;

/// How long a container whose start was refused waits for the next try.
const RETRY: Duration = Duration::from_secs(10);
/// The last words that a status may carry.
const LAST_WORDS: usize = 4096;
/// As many lines of the log stand in for them (FallbackToLogsOnError).
const LAST_LINES: usize = 80;
const LAST_LINES_BYTES: usize = 2048;

/// Why a container did not start.
pub(crate) enum StartFailure {
    /// Its configuration does not allow it.
    Config(String),
    /// The node cannot put it together.
    Create(String),
    /// Its command cannot be run.
    Command(String),
}

impl From<Refusal> for StartFailure {
    fn from(refusal: Refusal) -> StartFailure {
        match refusal {
            Refusal::Config(message) => StartFailure::Config(message),
            Refusal::Create(message) => StartFailure::Create(message),
        }
    }
}

impl Worker {
    /// Starts a container, unless it has to wait.
    pub(super) fn start(
        &mut self,
        index: usize,
        sandbox: &Arc<Sandbox>,
        wake: &mut Option<Instant>,
    ) {
        let now = Instant::now();
        let slot = &mut self.slots[index];
        if !matches!(slot.busy, Busy::Idle) {
            return;
        }
        if let Some(retry) = slot.retry.filter(|retry| *retry > now) {
            sooner(wake, retry);
            return;
        }
        let has_run = self.records[index].last_end().is_some();
        if has_run && let Some(until) = slot.backoff.until(slot.ended.unwrap_or(now), now) {
            sooner(wake, until);
            self.back_off(index);
            return;
        }
        if has_run {
            let record = &mut self.records[index];
            record.last = record.last_end().cloned();
            record.restarts += 1;
            let reason = "ContainerCreating".to_owned();
            record.state = State::Waiting { reason, message: None };
            slot.backoff.restart(now);
        }
        let record = &mut self.records[index];
        record.id = Some(identity());
        slot.busy = Busy::Starting;
        slot.retry = None;
        slot.early = None;
        if record.role == Role::Main {
            self.initialized = true;
        }
        let Some(container) = self.container(index).cloned() else { return };
        let record = &self.records[index];
        let attempt = record.restarts;
        let job = Launch {
            node: self.node.clone(),
            pod: self.pod.clone(),
            container,
            references: self.references.clone(),
            facts: self.facts(),
            ip: self.ips.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ips| ips.primary()),
            attempt,
            id: record.id.clone().unwrap_or_default(),
            sandbox: sandbox.clone(),
            directory: self.directory.clone(),
        };
        self.jobs.spawn(async move {
            let result = job.run().await;
            Done::Started { index, attempt, result }
        });
    }

    /// A Service is another: built-in servers that listen where Services point hear of it.
    pub(super) fn services_changed(&mut self) {
        let services = self.services.borrow_and_update().clone().unwrap_or_default();
        for (container, _) in record::containers(&self.spec) {
            if !launch::ports_directory(&self.directory, &container.name).exists() {
                continue;
            }
            let services = services.values().map(AsRef::as_ref);
            if let Program::BuiltIn { tcp, udp, by: PortsBy::Services } =
                launch::program(&self.pod, container, &[], services)
                && let Err(error) =
                    launch::write_ports(&self.directory, &container.name, &tcp, &udp)
            {
                tracing::warn!(pod = %self.key.name, "cannot write the ports to serve: {error}");
            }
        }
    }

    fn back_off(&mut self, index: usize) {
        let State::Terminated(end) = &self.records[index].state else { return };
        let end = end.clone();
        let record = &mut self.records[index];
        record.last = Some(end);
        let delay = self.slots[index].backoff.delay();
        let shown = match delay.as_secs() {
            seconds if seconds >= 60 => format!("{}m{}s", seconds / 60, seconds % 60),
            seconds => format!("{seconds}s"),
        };
        let pod = format!("{}_{}({})", self.key.name, self.key.namespace, self.uid);
        let message =
            format!("back-off {shown} restarting failed container={} pod={pod}", record.name);
        let reason = "CrashLoopBackOff".to_owned();
        record.state = State::Waiting { reason, message: Some(message) };
        let name = record.name.clone();
        let message = format!("Back-off restarting failed container {name} in pod {pod}");
        self.event(Some(&name), Severity::Warning, "BackOff", message);
    }

    pub(super) fn started(
        &mut self,
        index: usize,
        attempt: u32,
        result: Result<u64, StartFailure>,
    ) {
        if attempt != self.records[index].restarts
            || !matches!(self.slots[index].busy, Busy::Starting)
        {
            return;
        }
        match result {
            Ok(at) => {
                let name = self.records[index].name.clone();
                self.event(Some(&name), Severity::Normal, "Created", "Container created");
                self.event(Some(&name), Severity::Normal, "Started", "Container started");
                self.show(index, ContainerPhase::Running);
                let hook = self.container(index).and_then(|container| {
                    container.lifecycle.as_ref().and_then(|all| all.post_start.clone())
                });
                let since = Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default();
                match (hook, self.target(index)) {
                    (Some(hook), Some(target)) => {
                        // It counts as running only when its hook is done.
                        self.records[index].state = State::Waiting {
                            reason: "ContainerCreating".to_owned(),
                            message: None,
                        };
                        self.hook_since(index, since);
                        self.jobs.spawn(async move {
                            let limit = Duration::from_secs(u64::from(u32::MAX));
                            let result = action::hook(&target, &hook, limit).await;
                            Done::Hooked { index, attempt, result }
                        });
                    }
                    _ => self.run_from(index, since),
                }
            }
            Err(failure) => self.start_failed(index, failure),
        }
    }

    /// Keeps the start for when the hook is done.
    fn hook_since(&mut self, index: usize, since: Timestamp) {
        self.slots[index].since = Some(since);
    }

    pub(super) fn hooked(&mut self, index: usize, attempt: u32, result: Result<(), String>) {
        if attempt != self.records[index].restarts
            || !matches!(self.slots[index].busy, Busy::Starting)
        {
            return;
        }
        let since = self.slots[index].since.take().unwrap_or_else(Timestamp::now);
        self.run_from(index, since);
        if let Err(message) = result
            && self.records[index].is_running()
        {
            let name = self.records[index].name.clone();
            let message = format!("PostStartHook failed: {message}");
            self.event(Some(&name), Severity::Warning, "FailedPostStartHook", message);
            self.stop(index, Some("FailedPostStartHook".to_owned()));
        }
    }

    fn run_from(&mut self, index: usize, since: Timestamp) {
        self.slots[index].busy = Busy::Idle;
        let record = &mut self.records[index];
        record.state = State::Running { since };
        record.started = false;
        record.ready = false;
        self.watch(index);
        if let Some(state) = self.slots[index].early.take() {
            self.ended(state);
        }
    }

    fn start_failed(&mut self, index: usize, failure: StartFailure) {
        let slot = &mut self.slots[index];
        slot.busy = Busy::Idle;
        let name = self.records[index].name.clone();
        let (reason, message) = match failure {
            StartFailure::Command(message) => {
                // As the CRI has it: an instance that was created and could not be started.
                let now = Timestamp::now();
                let id = self.records[index].id.clone();
                let event = format!("Error: {message}");
                self.event(Some(&name), Severity::Warning, "Failed", event);
                return self.terminate(
                    index,
                    Terminated {
                        code: 128,
                        signal: None,
                        reason: "StartError".to_owned(),
                        message: Some(message),
                        started: Some(now),
                        finished: Some(now),
                        id,
                    },
                );
            }
            StartFailure::Config(message) => ("CreateContainerConfigError", message),
            StartFailure::Create(message) => ("CreateContainerError", message),
        };
        slot.retry = Some(Instant::now() + RETRY);
        self.event(Some(&name), Severity::Warning, "Failed", format!("Error: {message}"));
        let record = &mut self.records[index];
        record.id = None;
        record.state = State::Waiting { reason: reason.to_owned(), message: Some(message) };
    }

    pub(super) fn target(&self, index: usize) -> Option<Target> {
        Some(Target {
            runtime: self.node.runtime.clone(),
            pod: self.key.clone(),
            container: self.container(index)?.clone(),
            ip: self.ips?.primary(),
        })
    }

    /// What a container left to say in its termination message.
    pub(super) fn last_words(&self, index: usize, attempt: u32, code: i32) -> Option<String> {
        let container = self.container(index)?;
        let path = launch::termination_path(&self.directory, &container.name, attempt);
        let bytes = std::fs::read(path).unwrap_or_default();
        let bytes = bytes.get(..LAST_WORDS.min(bytes.len())).unwrap_or_default();
        if !bytes.is_empty() {
            return Some(String::from_utf8_lossy(bytes).into_owned());
        }
        let policy = container.termination_message_policy.as_deref();
        if code == 0 || policy != Some("FallbackToLogsOnError") {
            return None;
        }
        let log = crate::runtime::log_path(&self.directory, &container.name, attempt);
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        let tail = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        let mut text = tail.join("\n");
        if text.len() > LAST_LINES_BYTES {
            let from = text.len() - LAST_LINES_BYTES;
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(from);
            text = text.split_off(from);
        }
        (!text.is_empty()).then_some(text)
    }
}

/// An instance's identity: 64 random hexadecimal digits, as clients expect of a container.
fn identity() -> String {
    let mut bytes = [0_u8; 32];
    // The kernel gives up to 256 bytes whole.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All that a start needs, taken along by its job.
struct Launch {
    node: Arc<Node>,
    pod: Arc<Pod>,
    container: Container,
    references: Arc<References>,
    facts: Facts,
    ip: IpAddr,
    attempt: u32,
    id: String,
    sandbox: Arc<Sandbox>,
    directory: std::path::PathBuf,
}

impl Launch {
    async fn run(self) -> Result<u64, StartFailure> {
        let Launch { node, pod, container, directory, .. } = &self;
        let services = node.services().await;
        let services = || services.values().map(AsRef::as_ref);
        let links = env::service_links(pod, services());
        let env = env::environment(pod, container, &self.facts, &self.references, &links)
            .map_err(StartFailure::Config)?;
        let spec = pod.spec.clone().unwrap_or_default();
        let private = &node.options.private_dirs;
        let mounts = volumes::mounts(&spec, container, directory, private, &env)
            .map_err(StartFailure::Config)?;
        let program = launch::program(pod, container, &env, services());
        if let Program::BuiltIn { tcp, udp, .. } = &program {
            launch::write_ports(directory, &container.name, tcp, udp)
                .map_err(|error| StartFailure::Create(error.to_string()))?;
            let message = format!(
                "The container has no command: it runs Portolan's built-in server on TCP {tcp:?} and UDP {udp:?}"
            );
            let name = Some(container.name.as_str());
            node.recorder.pod(pod, name, Severity::Normal, "BuiltInServer", message);
        }
        let hostname = if spec.host_network.unwrap_or(false) {
            node.options.name.clone()
        } else {
            hostname(pod)
        };
        let place = Place {
            directory,
            portolan: &node.options.portolan,
            hidden: &node.hidden,
            node: &node.options.name,
            ip: self.ip,
            hostname: &hostname,
            ids: &node.ids,
        };
        let start = Start { attempt: self.attempt, id: &self.id };
        let spec = launch::specification(pod, container, &place, &start, &program, env, mounts)?;
        self.files().map_err(|error| StartFailure::Create(error.to_string()))?;
        match self.sandbox.start(&spec).await {
            Ok(at) => Ok(at),
            Err(StartError::Refused { kind, message }) => Err(match kind {
                FailureKind::NotFound | FailureKind::NotExecutable => {
                    StartFailure::Command(message)
                }
                FailureKind::Create | FailureKind::NotRunning => StartFailure::Create(message),
            }),
            Err(error @ StartError::Lost(_)) => Err(StartFailure::Create(error.to_string())),
        }
    }

    /// The file for its last words; and of its logs, only the one before is kept.
    fn files(&self) -> std::io::Result<()> {
        let name = &self.container.name;
        let path = launch::termination_path(&self.directory, name, self.attempt);
        std::fs::write(&path, "")?;
        // Whoever the container runs as.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        if let Some(stale) = self.attempt.checked_sub(2) {
            let log = crate::runtime::log_path(&self.directory, name, stale);
            let _ = std::fs::remove_file(crate::shim::rotated_log(&log));
            let _ = std::fs::remove_file(log);
            let _ = std::fs::remove_file(launch::termination_path(&self.directory, name, stale));
        }
        Ok(())
    }
}
