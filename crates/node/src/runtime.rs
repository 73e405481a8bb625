//! The seam between pods' processes and those who talk to them (the agent's HTTPS server, probes,
//! hooks): exec, attach, logs, connections into a pod's network namespace.
//!
//! [`Runtime`] is cheap to clone. It knows the pods of this node by namespace and name; the pods'
//! workers write that table, everyone else reads it.

mod link;
pub(crate) mod sandbox;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::network;
use crate::shim::protocol::{End, FailureKind, OnClose, Reply, Request};
use link::Link;
pub(crate) use link::{StartError, register};

/// What clients name a pod by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
}

/// Why the runtime refused or failed. The HTTPS server maps these to HTTP status codes.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such pod on this node (404).
    #[error("pod {:?} not found", format!("{}/{}", .0.namespace, .0.name))]
    NoPod(PodKey),
    /// The pod has no container of that name (404).
    #[error("container {container} not found in pod {}/{}", pod.namespace, pod.name)]
    NoContainer {
        /// The pod.
        pod: PodKey,
        /// The container asked for.
        container: String,
    },
    /// The container is not running (400): message for the client.
    #[error("container not running ({0})")]
    NotRunning(String),
    /// The container has not written a log yet (400).
    #[error("container {container:?} in pod {:?} is waiting to start: ContainerCreating", pod.name)]
    NotStarted {
        /// The pod.
        pod: PodKey,
        /// The container asked for.
        container: String,
    },
    /// There is no earlier instance of the container, so no `--previous` log (400).
    #[error("previous terminated container {container:?} in pod {:?} not found", pod.name)]
    NoPrevious {
        /// The pod.
        pod: PodKey,
        /// The container asked for.
        container: String,
    },
    /// The command could not be started: exit code 126 or 127 by custom, and the reason.
    #[error("{message}")]
    CannotStart {
        /// What the client sees as the command's exit code.
        code: i32,
        /// Why.
        message: String,
    },
    /// Anything the operating system refused (500).
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// What a container does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Never started in this sandbox, or between two instances.
    Waiting,
    /// Its main process runs.
    Running,
    /// Its last instance ended.
    Terminated,
}

/// A container as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Its name in the Pod.
    pub name: String,
    /// What it does at the moment.
    pub phase: ContainerPhase,
    /// Number of the present (or last) instance: 0 for the first. The log file's number.
    pub attempt: u32,
    /// Whether the spec asks for a terminal.
    pub tty: bool,
    /// Whether the spec asks for a standard input.
    pub stdin: bool,
}

/// A byte stream from a process.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// A byte stream to a process; closing it (shutdown or drop) is the process's end of file.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Which standard streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal, whose output has both.
    pub stderr: bool,
}

/// Whether a command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Pipes.
    None,
    /// A pseudo terminal.
    Pty,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The shell's and the CRI's one number: the code, or 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}

/// A command running in a container beside its main process.
pub struct Exec {
    /// The command's standard input, when asked for.
    pub stdin: Option<Input>,
    /// Its standard output, or the terminal's output.
    pub stdout: Option<Output>,
    /// Its standard error, without a terminal.
    pub stderr: Option<Output>,
    /// Its end and its terminal's size.
    pub control: ExecControl,
}

/// Waits for, resizes, or kills an [`Exec`]. Dropping it leaves the command running, but closes
/// its terminal if it has one.
pub struct ExecControl {
    link: Arc<Link>,
    terminal: Option<OwnedFd>,
}

impl ExecControl {
    /// Waits for the command to end; cancel safe.
    ///
    /// # Errors
    /// The pod's first process is gone, and the command with it.
    pub async fn wait(&mut self) -> Result<ExitStatus, RuntimeError> {
        loop {
            let received = self.link.receive().await;
            let (reply, _) = received.map_err(|source| io_error("wait for the process", source))?;
            if let Reply::Exited(state) = reply
                && let Some(end) = state.end
            {
                return Ok(ExitStatus::from(end));
            }
        }
    }

    /// Sets the terminal's size in characters. No effect without one.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|error| io_error("resize the terminal", error.into()))
    }

    /// Sends SIGKILL to the command (not to an attached container).
    ///
    /// # Errors
    /// The pod's first process is gone.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        let sent = self.link.send_now(&Request::Kill);
        sent.map_err(|source| io_error("kill the process", source))
    }
}

impl From<End> for ExitStatus {
    fn from(end: End) -> ExitStatus {
        end.signal.map_or(ExitStatus::Code(end.code), ExitStatus::Signal)
    }
}

pub(crate) fn io_error(what: &'static str, source: io::Error) -> RuntimeError {
    RuntimeError::Io { what, source }
}

/// The streams of a container's main process.
pub struct Attachment {
    /// Its standard input, when the container has one and it was asked for.
    pub stdin: Option<Input>,
    /// Its output from now on; ends with the container.
    pub stdout: Option<Output>,
    /// Its standard error from now on.
    pub stderr: Option<Output>,
    /// Sizes its terminal and tells its end.
    pub control: ExecControl,
}

/// The files of one container instance's log, oldest first, in the CRI log format
/// (`<RFC 3339 nano> stdout|stderr P|F <text>\n`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    /// The file that rotation moved away; may be missing.
    pub rotated: PathBuf,
    /// The file being written. Rotation renames it: a follower at its end that sees another inode
    /// under this path reads on there from the start.
    pub current: PathBuf,
}

/// The handle on all pods of this node.
#[derive(Clone, Default)]
pub struct Runtime {
    pods: Arc<RwLock<HashMap<PodKey, Arc<PodEntry>>>>,
}

/// A pod's line in the table, written by its worker.
pub(crate) struct PodEntry {
    /// The pod's directory: socket, logs, volumes.
    pub(crate) directory: PathBuf,
    /// The Pod's uid.
    pub(crate) uid: String,
    /// Its network namespace, while it has a sandbox.
    pub(crate) netns: RwLock<Option<OwnedFd>>,
    /// Its containers, in the Pod's order, init containers first.
    pub(crate) containers: Vec<watch::Sender<ContainerInfo>>,
}

impl PodEntry {
    fn container(&self, name: &str) -> Option<&watch::Sender<ContainerInfo>> {
        self.containers.iter().find(|container| container.borrow().name == name)
    }
}

/// Where the log of one instance of a container is.
pub(crate) fn log_path(directory: &std::path::Path, container: &str, attempt: u32) -> PathBuf {
    directory.join("containers").join(container).join(format!("{attempt}.log"))
}

impl Runtime {
    pub(crate) fn insert(&self, pod: PodKey, entry: Arc<PodEntry>) {
        self.pods.write().insert(pod, entry);
    }

    /// Takes a pod out, unless another of the same name has taken its place.
    pub(crate) fn remove(&self, pod: &PodKey, uid: &str) {
        let mut pods = self.pods.write();
        if pods.get(pod).is_some_and(|entry| entry.uid == uid) {
            pods.remove(pod);
        }
    }

    fn pod(&self, pod: &PodKey) -> Result<Arc<PodEntry>, RuntimeError> {
        self.pods.read().get(pod).cloned().ok_or_else(|| RuntimeError::NoPod(pod.clone()))
    }

    fn find(
        &self,
        pod: &PodKey,
        container: &str,
    ) -> Result<(Arc<PodEntry>, ContainerInfo), RuntimeError> {
        let entry = self.pod(pod)?;
        let found = entry.container(container).map(|sender| sender.borrow().clone());
        let info = found.ok_or_else(|| RuntimeError::NoContainer {
            pod: pod.clone(),
            container: container.to_owned(),
        })?;
        Ok((entry, info))
    }

    /// The pod's containers, init containers first, in the Pod's order.
    ///
    /// # Errors
    /// No such pod here.
    pub fn containers(&self, pod: &PodKey) -> Result<Vec<ContainerInfo>, RuntimeError> {
        Ok(self.pod(pod)?.containers.iter().map(|sender| sender.borrow().clone()).collect())
    }

    /// One container's state now and each change to it; closed when the pod goes away. A log
    /// follower stops when this leaves `Running` (or its attempt changes) and it has read all.
    ///
    /// # Errors
    /// No such pod or container here.
    pub fn watch_container(
        &self,
        pod: &PodKey,
        container: &str,
    ) -> Result<watch::Receiver<ContainerInfo>, RuntimeError> {
        let entry = self.pod(pod)?;
        let found = entry.container(container).map(watch::Sender::subscribe);
        found.ok_or_else(|| RuntimeError::NoContainer {
            pod: pod.clone(),
            container: container.to_owned(),
        })
    }

    /// Where the log of the container's present (or last) instance is, or of the one before.
    ///
    /// # Errors
    /// No such pod or container here; it has not started yet; there was none before it.
    pub fn log_files(
        &self,
        pod: &PodKey,
        container: &str,
        instance: Instance,
    ) -> Result<LogFiles, RuntimeError> {
        let (entry, info) = self.find(pod, container)?;
        let previous =
            || RuntimeError::NoPrevious { pod: pod.clone(), container: container.to_owned() };
        let attempt = match instance {
            Instance::Present => info.attempt,
            Instance::Previous => info.attempt.checked_sub(1).ok_or_else(previous)?,
        };
        let current = log_path(&entry.directory, container, attempt);
        let rotated = crate::shim::rotated_log(&current);
        if current.exists() {
            return Ok(LogFiles { rotated, current });
        }
        match instance {
            Instance::Previous => Err(previous()),
            Instance::Present => {
                Err(RuntimeError::NotStarted { pod: pod.clone(), container: container.to_owned() })
            }
        }
    }

    fn running(
        &self,
        pod: &PodKey,
        container: &str,
    ) -> Result<(Arc<PodEntry>, ContainerInfo), RuntimeError> {
        let (entry, info) = self.find(pod, container)?;
        if info.phase == ContainerPhase::Running {
            Ok((entry, info))
        } else {
            Err(RuntimeError::NotRunning(container.to_owned()))
        }
    }

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// No such pod or container here, it does not run, or the command cannot be started.
    pub async fn exec(
        &self,
        pod: &PodKey,
        container: &str,
        command: &[String],
        terminal: Terminal,
        streams: Streams,
    ) -> Result<Exec, RuntimeError> {
        self.exec_until(pod, container, command, terminal, streams, OnClose::Leave).await
    }

    /// As [`Runtime::exec`], with a choice of what becomes of the command when its
    /// [`ExecControl`] is dropped.
    pub(crate) async fn exec_until(
        &self,
        pod: &PodKey,
        container: &str,
        command: &[String],
        terminal: Terminal,
        streams: Streams,
        on_close: OnClose,
    ) -> Result<Exec, RuntimeError> {
        let (entry, _) = self.running(pod, container)?;
        let directory = &entry.directory;
        let streamed =
            sandbox::exec(directory, container, command, terminal, streams, on_close).await;
        let streamed = streamed.map_err(|error| refused(error, container))?;
        let (stdin, stdout, stderr, control) = stream::open(streamed)
            .map_err(|source| io_error("open the command's streams", source))?;
        Ok(Exec { stdin, stdout, stderr, control })
    }

    /// Joins the streams of a running container's main process.
    ///
    /// # Errors
    /// No such pod or container here, or it does not run.
    pub async fn attach(
        &self,
        pod: &PodKey,
        container: &str,
        streams: Streams,
    ) -> Result<Attachment, RuntimeError> {
        let (entry, info) = self.running(pod, container)?;
        let streams = Streams {
            stdin: streams.stdin && info.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr && !info.tty,
        };
        let streamed = sandbox::attach(&entry.directory, container, streams).await;
        let streamed = streamed.map_err(|error| refused(error, container))?;
        let (stdin, stdout, stderr, control) = stream::open_attached(streamed)
            .map_err(|source| io_error("open the container's streams", source))?;
        Ok(Attachment { stdin, stdout, stderr, control })
    }

    /// Connects to a port on the pod's own loopback, from within its network namespace.
    ///
    /// # Errors
    /// No such pod here, it has no sandbox at the moment, or nothing listens there.
    pub async fn connect(&self, pod: &PodKey, port: u16) -> Result<TcpStream, RuntimeError> {
        let entry = self.pod(pod)?;
        let netns = entry.netns.read().as_ref().map(OwnedFd::try_clone);
        let netns = netns.ok_or_else(|| RuntimeError::NotRunning(pod.name.clone()))?;
        let netns = Arc::new(netns.map_err(|source| io_error("open the pod's network", source))?);
        let four = connect(&netns, (Ipv4Addr::LOCALHOST, port).into()).await;
        let stream = match four {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Some listen on ::1 only; what is told is what IPv4 said.
                connect(&netns, (Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| error)
            }
            other => other,
        };
        stream.map_err(|source| io_error("connect to the pod", source))
    }
}

async fn connect(netns: &Arc<OwnedFd>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = network::within(netns.as_fd(), move || match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    });
    socket?.connect(address).await
}

fn refused(error: StartError, container: &str) -> RuntimeError {
    match error {
        StartError::Refused { kind: FailureKind::NotFound, message } => {
            RuntimeError::CannotStart { code: 127, message }
        }
        StartError::Refused { kind: FailureKind::NotExecutable, message } => {
            RuntimeError::CannotStart { code: 126, message }
        }
        StartError::Refused { kind: FailureKind::NotRunning, .. } => {
            RuntimeError::NotRunning(container.to_owned())
        }
        StartError::Refused { kind: FailureKind::Create, message } => {
            io_error("start the command", io::Error::other(message))
        }
        StartError::Lost(source) => io_error("reach the pod's first process", source),
    }
}

/// Which instance of a container a log is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instance {
    /// The running one, or the last.
    Present,
    /// The one before it (`kubectl logs --previous`).
    Previous,
}
