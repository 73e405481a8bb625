//! What the node agent and a pod's first process say to each other.
//!
//! One message is one `SOCK_SEQPACKET` packet of JSON; descriptors ride on it. A specification
//! that can be large (environment) comes in a memfd, never in the packet.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the pod's first process sets up before it listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    /// Host name of the UTS namespace; none with hostNetwork, which shares the node's.
    pub(crate) hostname: Option<String>,
    /// Directories to mount a tmpfs on (emptyDir with medium Memory) and their sizes in bytes.
    pub(crate) tmpfs: Vec<(PathBuf, Option<u64>)>,
    /// Kernel parameters of the pod's own network namespace: name with slashes, value.
    pub(crate) sysctls: Vec<(String, String)>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    /// Its name in the Pod.
    pub(crate) name: String,
    /// Number of this instance, 0 for the first.
    pub(crate) attempt: u32,
    /// Identity of this instance, without the scheme.
    pub(crate) id: String,
    /// Whether it gets a terminal.
    pub(crate) tty: bool,
    /// Whether it has a standard input at all.
    pub(crate) stdin: bool,
    /// Whether the first client to detach closes standard input.
    pub(crate) stdin_once: bool,
    /// The log file, in the CRI log format.
    pub(crate) log: PathBuf,
    /// How many bytes a log file may grow to before it is rotated.
    pub(crate) log_limit: u64,
    /// Whether it shares the pod's PID namespace (`shareProcessNamespace`).
    pub(crate) share_pid: bool,
    /// Its file system.
    pub(crate) root: RootSpec,
    /// What runs.
    pub(crate) process: ProcessSpec,
}

/// The file system a container sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RootSpec {
    /// Existing empty directory on which the root is put together.
    pub(crate) staging: PathBuf,
    /// Whether the container may write to its root at all (`readOnlyRootFilesystem`).
    pub(crate) read_only: bool,
    /// Whether /proc/sys/net and /sys may be written.
    pub(crate) privileged: bool,
    /// The binary to show in /run/portolan/bin.
    pub(crate) portolan: PathBuf,
    /// Host paths that no pod may see: directories are covered by empty ones.
    pub(crate) hidden: Vec<PathBuf>,
    /// What is mounted into the root, by the Pod's volumeMounts and by the agent.
    pub(crate) mounts: Vec<MountSpec>,
}

/// One mount into a container's root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MountSpec {
    /// File or directory on the node.
    pub(crate) source: PathBuf,
    /// Path below `source`, resolved without ever leaving it; created as a directory if missing.
    pub(crate) sub_path: Option<PathBuf>,
    /// Path in the container.
    pub(crate) target: PathBuf,
    /// Whether writes are refused.
    pub(crate) read_only: bool,
    /// Whether device nodes may be opened and mounts below the source come along.
    pub(crate) kind: MountKind,
}

/// Where a mount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountKind {
    /// A directory of ours: no devices, no set-user-id.
    Volume,
    /// The node's own files (hostPath).
    Host,
    /// A file the agent manages (/etc/hosts): a symbolic link in its place is replaced.
    Managed,
}

/// What a container or an exec runs, and as whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    /// Command and arguments; never empty.
    pub(crate) argv: Vec<String>,
    /// Environment, in order.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory in the container; created if missing.
    pub(crate) cwd: PathBuf,
    /// User, group and supplementary groups.
    pub(crate) user: UserSpec,
    /// Capabilities as a bit set; bounding, permitted and effective alike.
    pub(crate) capabilities: u64,
    /// Whether set-user-id files may raise privileges.
    pub(crate) new_privileges: bool,
}

/// Who a process runs as; ids of the lab's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserSpec {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// A command to run in a container beside its main process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    /// The running container.
    pub(crate) container: String,
    /// Whether the command gets a terminal; its master side is sent back.
    pub(crate) tty: bool,
    /// Command and arguments; everything else is as for the container's main process.
    pub(crate) argv: Vec<String>,
    /// What happens to the command when the connection closes.
    pub(crate) on_close: OnClose,
}

/// What becomes of an exec whose client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnClose {
    /// SIGKILL (probes, hooks).
    Kill,
    /// It goes on.
    Leave,
}

/// Agent to shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered by `State`, then `Exited` as containers end.
    Watch,
    /// Start the container whose [`ContainerSpec`] is in the attached memfd: `Started` or `Failed`.
    Start,
    /// Send a signal to a container's main process. No answer; a finished container ignores it.
    Signal {
        /// The container.
        container: String,
        /// The instance meant, so that a late signal cannot hit its successor.
        attempt: u32,
        /// Signal number.
        signal: i32,
    },
    /// Run the [`ExecSpec`] in the first attached memfd with the three descriptors after it as
    /// standard streams (none with a terminal): `Started` (with the terminal's master) or
    /// `Failed`, then `Exited`.
    Exec,
    /// SIGKILL to this connection's exec.
    Kill,
    /// Join a container's streams; attached are a pipe to read its input from, then pipes for
    /// output and error, for those flags that are set: `Started` (with a terminal's master), then
    /// `Exited`.
    Attach {
        /// The container.
        container: String,
        /// Whether a descriptor for input is attached.
        stdin: bool,
        /// Whether one for output is attached.
        stdout: bool,
        /// Whether one for error is attached.
        stderr: bool,
    },
    /// Kill everything in the pod and exit.
    Stop,
}

/// Shim to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Every container this shim has started, its last instance.
    State(Vec<ContainerState>),
    /// It runs.
    Started {
        /// When, in nanoseconds since the Unix epoch.
        at: u64,
    },
    /// It could not be started.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// Why, for the event and the status.
        message: String,
    },
    /// A container, or this connection's exec, ended.
    Exited(ContainerState),
}

/// Kinds of a failed start, by what clients show for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// The container could not be put together (mounts, users): CreateContainerError.
    Create,
    /// The command does not exist: exit code 127.
    NotFound,
    /// The command cannot be executed: exit code 126.
    NotExecutable,
    /// Nothing runs there.
    NotRunning,
}

/// A container's last instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerState {
    /// Its name; empty for an exec.
    pub(crate) name: String,
    /// Number of the instance.
    pub(crate) attempt: u32,
    /// Identity of the instance.
    pub(crate) id: String,
    /// When it started, nanoseconds since the Unix epoch.
    pub(crate) started_at: u64,
    /// How and when it ended.
    pub(crate) end: Option<End>,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// When, nanoseconds since the Unix epoch.
    pub(crate) at: u64,
    /// Exit code; 128 + signal when killed.
    pub(crate) code: i32,
    /// The signal that killed it, if one did.
    pub(crate) signal: Option<i32>,
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let elapsed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
