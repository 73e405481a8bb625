//! The worker of one pod: the only owner of its state, level-triggered.
//!
//! Each turn it looks at what is (records, sandbox, volumes) and at what should be (the Pod), sets
//! off what is missing, and hands the status to the reporter. What takes time runs as a job that
//! reports back; a turn itself never waits.
//!
//! ```text
//!   Run ──deletionTimestamp──▶ Stop(Deleted) ──all ended──▶ sandbox gone ──▶ status, DELETE
//!    │                                                                           │
//!    ├──deadline──▶ Stop(Failed) ──all ended──▶ sandbox gone, status stays       ▼
//!    └──work done─▶ sandbox gone, status stays                        Gone ──▶ files, then network removed
//! ```

mod probing;
mod report;
mod setup;
mod start;
mod stop;
mod tokens;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::env::References;
use super::probe::{Kind, Verdict};
use super::record::{self, Record, State, Terminated};
use super::tokens::{Purpose, Token, Tokens};
use crate::Addresses;
use crate::node::{Node, Services};
use crate::objects::Followed;
use crate::recorder::Severity;
use crate::runtime::sandbox::Sandbox;
use crate::runtime::{ContainerInfo, ContainerPhase, PodEntry, PodKey};
use crate::shim::protocol::ContainerState;
use report::Reporter;
use start::StartFailure;
pub(crate) use stop::remove_directory;

/// What the manager tells a worker.
pub(crate) enum Message {
    /// The Pod is there, like this.
    Pod(Arc<Pod>),
    /// The Pod is gone from the API: everything ends now.
    Gone,
}

/// The result of a job.
enum Done {
    Sandbox(Result<(Arc<Sandbox>, Addresses), String>),
    Started {
        index: usize,
        attempt: u32,
        result: Result<u64, StartFailure>,
    },
    Hooked {
        index: usize,
        attempt: u32,
        result: Result<(), String>,
    },
    /// A stop has done all it could; the container's end comes from the shim.
    Stopped,
    SandboxGone,
    Token {
        purpose: Purpose,
        answer: Result<Token, String>,
    },
    Deleted(Result<(), kube::Error>),
}

/// What a verdict is about.
struct News {
    index: usize,
    attempt: u32,
    kind: Kind,
    verdict: Verdict,
}

/// What is going on with a container beside running or not.
enum Busy {
    Idle,
    Starting,
    Stopping(AbortHandle),
}

/// A container's state that is the worker's own.
struct Slot {
    busy: Busy,
    backoff: Backoff,
    /// When its last instance ended, on this agent's clock.
    ended: Option<Instant>,
    /// Not before this, after a start that failed.
    retry: Option<Instant>,
    /// When it started, while its postStart hook runs.
    since: Option<Timestamp>,
    /// An end that came before the answer to the start.
    early: Option<ContainerState>,
    probes: JoinSet<()>,
}

#[derive(Clone)]
enum SandboxState {
    None,
    Making,
    Ready(Arc<Sandbox>),
    Stopping,
}

/// What the worker is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Run,
    /// Everything ends; then the Pod is deleted if its deletion was asked for.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletion {
    None,
    UnderWay,
    Done,
}

/// A pod's worker.
pub(crate) struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    spec: Arc<PodSpec>,
    key: PodKey,
    uid: String,
    directory: PathBuf,
    inbox: mpsc::UnboundedReceiver<Message>,
    jobs: JoinSet<Done>,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    records: Vec<Record>,
    slots: Vec<Slot>,
    entry: Arc<PodEntry>,
    sandbox: SandboxState,
    /// The network of a pod that goes, see [`Worker::keep_link`].
    link: Option<OwnedFd>,
    sandbox_failures: u32,
    sandbox_retry: Option<Instant>,
    /// The init containers have done their work in this sandbox.
    initialized: bool,
    ips: Option<Addresses>,
    services: watch::Receiver<Option<Arc<Services>>>,
    followed: Followed,
    references: Arc<References>,
    volumes: setup::Volumes,
    tokens: Tokens,
    goal: Goal,
    /// Until when a stopping container may take; shared with the jobs that stop.
    deadline: watch::Sender<Instant>,
    failure: Option<(String, String)>,
    /// Nothing runs and nothing will.
    is_stopped: bool,
    deletion: Deletion,
    delete_retry: Option<Instant>,
    start_time: Timestamp,
    status: PodStatus,
    reporter: Reporter,
}

impl Worker {
    /// A worker for a pod that this agent has not seen before, and where to send to it.
    pub(crate) fn new(node: Arc<Node>, pod: Arc<Pod>) -> (Worker, mpsc::UnboundedSender<Message>) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let key = PodKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let directory = node.pod_directory(&uid);
        let spec = Arc::new(pod.spec.clone().unwrap_or_default());
        let records = record::records(&pod);
        let entry = Arc::new(PodEntry {
            directory: directory.clone(),
            uid: uid.clone(),
            netns: RwLock::new(None),
            containers: record::containers(&spec)
                .map(|(container, _)| {
                    let info = ContainerInfo {
                        name: container.name.clone(),
                        phase: ContainerPhase::Waiting,
                        attempt: 0,
                        tty: container.tty.unwrap_or(false),
                        stdin: container.stdin.unwrap_or(false),
                    };
                    watch::Sender::new(info)
                })
                .collect(),
        });
        node.runtime.insert(key.clone(), entry.clone());
        let status = pod.status.clone().unwrap_or_default();
        let start_time = status.start_time.as_ref().map_or_else(Timestamp::now, |time| time.0);
        let slot = |_: &Record| Slot {
            busy: Busy::Idle,
            backoff: Backoff::default(),
            ended: None,
            retry: None,
            since: None,
            early: None,
            probes: JoinSet::new(),
        };
        let worker = Worker {
            services: node.services.subscribe(),
            followed: node.objects.follow(&key.namespace, &spec),
            reporter: Reporter::start(node.client.clone(), &key, &uid, status.clone()),
            slots: records.iter().map(slot).collect(),
            tokens: Tokens::new(&spec),
            node,
            pod,
            spec,
            key,
            uid,
            directory,
            inbox,
            jobs: JoinSet::new(),
            news: mpsc::unbounded_channel(),
            records,
            entry,
            sandbox: SandboxState::None,
            link: None,
            sandbox_failures: 0,
            sandbox_retry: None,
            initialized: false,
            ips: None,
            references: Arc::default(),
            volumes: setup::Volumes::default(),
            goal: Goal::Run,
            deadline: watch::Sender::new(Instant::now()),
            failure: None,
            is_stopped: false,
            deletion: Deletion::None,
            delete_retry: None,
            start_time,
            status,
        };
        (worker, sender)
    }

    /// Works until the Pod is gone.
    pub(crate) async fn run(mut self) {
        self.adopt().await;
        let pod = self.pod.clone();
        self.update(pod);
        loop {
            let wake = self.reconcile();
            self.report();
            let sandbox = match &self.sandbox {
                SandboxState::Ready(sandbox) => Some(sandbox.clone()),
                _ => None,
            };
            let end = async {
                match sandbox {
                    Some(sandbox) => sandbox.next_end().await,
                    None => std::future::pending().await,
                }
            };
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Pod(pod)) => self.update(pod),
                    Some(Message::Gone) => return self.clear_away().await,
                    // The agent ends; the pod stays for the next one.
                    None => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_panic() => tracing::error!(pod = %self.key.name, "{error}"),
                    Err(_) => {}
                },
                Some(news) = self.news.1.recv() => self.verdict(&news),
                end = end => match end {
                    Ok(state) => self.ended(state),
                    Err(_) => self.sandbox_lost(),
                },
                () = self.followed.changed() => self.references_changed(),
                Ok(()) = self.services.changed() => self.services_changed(),
                () = timer => {}
            }
        }
    }

    /// A ConfigMap or Secret is another: volumes follow, and a start that it held up may succeed.
    fn references_changed(&mut self) {
        self.volumes.is_stale = true;
        for slot in &mut self.slots {
            slot.retry = None;
        }
    }

    fn container(&self, index: usize) -> Option<&Container> {
        record::containers(&self.spec).nth(index).map(|(container, _)| container)
    }

    /// A new version of the Pod.
    fn update(&mut self, pod: Arc<Pod>) {
        if pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations
        {
            self.volumes.is_stale = true;
        }
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_some() {
            let grace = self.pod.metadata.deletion_grace_period_seconds;
            let grace = grace.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
            let until = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            if self.goal == Goal::Run {
                self.goal = Goal::Stop;
                self.deadline.send_replace(until);
            } else {
                // A second delete may shorten the grace period, never lengthen it.
                self.deadline.send_if_modified(|old| {
                    until < *old && {
                        *old = until;
                        true
                    }
                });
            }
        }
    }

    /// Sets off what is missing; when to look again if nothing happens before.
    fn reconcile(&mut self) -> Option<Instant> {
        let mut wake = self.check_deadline();
        if self.goal == Goal::Run && !self.is_stopped {
            let todo = record::todo(&self.spec, &self.records, self.initialized);
            if todo.is_over {
                self.goal = Goal::Stop;
            } else {
                self.prepare_volumes(&mut wake);
                self.ensure_sandbox(&mut wake);
                if self.volumes.is_ready
                    && let SandboxState::Ready(sandbox) = self.sandbox.clone()
                {
                    for index in todo.start {
                        self.start(index, &sandbox, &mut wake);
                    }
                }
                for index in todo.stop {
                    self.stop(index, None);
                }
            }
        }
        if self.goal == Goal::Stop {
            self.wind_down(&mut wake);
        }
        wake
    }

    /// activeDeadlineSeconds.
    fn check_deadline(&mut self) -> Option<Instant> {
        let seconds = self.spec.active_deadline_seconds?;
        if self.goal != Goal::Run || self.is_stopped {
            return None;
        }
        let passed = Timestamp::now().as_second() - self.start_time.as_second();
        let Ok(left @ 1..) = u64::try_from(seconds - passed) else {
            let message = "Pod was active on the node longer than the specified deadline";
            self.failure = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
            self.goal = Goal::Stop;
            let grace = self.spec.termination_grace_period_seconds.unwrap_or(30);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            self.deadline.send_replace(Instant::now() + grace);
            self.event(None, Severity::Normal, "DeadlineExceeded", message);
            return None;
        };
        Some(Instant::now() + Duration::from_secs(left))
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Sandbox(result) => self.sandbox_made(result),
            Done::Started { index, attempt, result } => self.started(index, attempt, result),
            Done::Hooked { index, attempt, result } => self.hooked(index, attempt, result),
            Done::Stopped => {}
            Done::SandboxGone => {
                self.sandbox = SandboxState::None;
                self.is_stopped = true;
            }
            Done::Token { purpose, answer } => self.token_answered(&purpose, answer),
            Done::Deleted(Ok(())) => self.deletion = Deletion::Done,
            Done::Deleted(Err(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {
                // Gone already, or another Pod of the same name.
                self.deletion = Deletion::Done;
            }
            Done::Deleted(Err(error)) => {
                tracing::warn!(pod = %self.key.name, "cannot delete the pod: {error}");
                self.deletion = Deletion::None;
                self.delete_retry = Some(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// A container ended.
    fn ended(&mut self, state: ContainerState) {
        let Some(index) = self.records.iter().position(|one| one.name == state.name) else {
            return;
        };
        if state.attempt != self.records[index].restarts {
            return;
        }
        if matches!(self.slots[index].busy, Busy::Starting) && !self.records[index].is_running() {
            self.slots[index].early = Some(state);
            return;
        }
        let Some(end) = state.end else { return };
        let message = self.last_words(index, state.attempt, end.code);
        let time = |nanoseconds: u64| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok();
        self.terminate(
            index,
            Terminated {
                code: end.code,
                signal: end.signal,
                reason: if end.code == 0 { "Completed" } else { "Error" }.to_owned(),
                message,
                started: time(state.started_at),
                finished: time(end.at),
                id: Some(state.id),
            },
        );
    }

    fn terminate(&mut self, index: usize, end: Terminated) {
        let slot = &mut self.slots[index];
        if let Busy::Stopping(job) = &slot.busy {
            job.abort();
        }
        slot.busy = Busy::Idle;
        slot.probes.abort_all();
        slot.ended = Some(Instant::now());
        let record = &mut self.records[index];
        record.state = State::Terminated(end);
        record.started = false;
        record.ready = false;
        self.show(index, ContainerPhase::Terminated);
    }

    /// Tells those who read the runtime's table.
    fn show(&self, index: usize, phase: ContainerPhase) {
        if let Some(info) = self.entry.containers.get(index) {
            let attempt = self.records[index].restarts;
            info.send_modify(|info| {
                info.phase = phase;
                info.attempt = attempt;
            });
        }
    }

    fn event(
        &self,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.node.recorder.pod(&self.pod, container, severity, reason, message);
    }
}

/// Looks again at `at`, if that is sooner.
fn sooner(wake: &mut Option<Instant>, at: Instant) {
    *wake = Some(wake.map_or(at, |old| old.min(at)));
}
