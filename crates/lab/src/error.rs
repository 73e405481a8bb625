//! What can go wrong around a lab: each variant says what and where, and [`LabError::hint`] what to do.
//!
//! A failure inside the lab travels to `portolan up` as a [`Failure`], which keeps the words and the
//! hint but not the types.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{privilege, routes};

/// Why a lab cannot start, go on, be asked, or be entered.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// An argument's value is wrong: the user's mistake, exit code 2.
    #[error("wrong value {value:?} for {flag}: {problem}")]
    Argument {
        /// The flag, with its dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        hint: String,
    },
    /// No data directory was given and none can be derived.
    #[error("no data directory: neither HOME nor XDG_STATE_HOME is set")]
    NoDataDir,
    /// Another `up` holds the data directory.
    #[error("the data directory {} is in use by `portolan up`{}", dir.display(), by(*.pid))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, when its number could be read.
        pid: Option<u32>,
    },
    /// Nothing runs on the data directory.
    #[error("no lab is running on the data directory {}", dir.display())]
    NotRunning {
        /// The data directory.
        dir: PathBuf,
    },
    /// The API port on the host's loopback is taken or refused.
    #[error("cannot listen on {address}: {source}")]
    ApiPort {
        /// The address on the host.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refuses something that a lab cannot do without.
    #[error("the kernel refuses to {action}: {source}")]
    Kernel {
        /// What was tried, as a verb with its object.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting of a network namespace cannot be written.
    #[error(transparent)]
    Setting(#[from] portolan_netlink::sysctl::SysctlError),
    /// Links, addresses or routes of the fabric cannot be made.
    #[error("cannot {action}: {source}")]
    Fabric {
        /// What was tried, as a verb with its object.
        action: String,
        /// The system's answer.
        source: rtnetlink::Error,
    },
    /// A route that cannot be: its addresses are of two families.
    #[error("cannot {action}: {problem}")]
    Route {
        /// What was tried, as a verb with its object.
        action: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The channel between `up` and the lab broke.
    #[error("the channel to the lab: {0}")]
    Channel(#[source] io::Error),
    /// The lab's first process ended without being asked.
    #[error("the lab's first process ended unexpectedly ({status}); its log is {}", log.display())]
    LabDied {
        /// How it ended.
        status: String,
        /// Where its last words are.
        log: PathBuf,
    },
    /// The lab did not stop in order in time, or was not given the time.
    #[error("the lab was killed before it had stopped in order")]
    Killed,
    /// Not everything got ready.
    #[error("not ready after {seconds} s: {}", missing.join(", "))]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What is not ready, and why.
        missing: Vec<String>,
        /// The data directory.
        logs: PathBuf,
    },
    /// Something failed inside the lab, in its own words.
    #[error("{}", .0.message)]
    Inside(Failure),
    /// The API server cannot be started.
    #[error("the API server: {0}")]
    ApiServer(#[source] portolan_apiserver::Error),
    /// An object of the lab's own cannot be written through the API.
    #[error("cannot apply {what}: {source}")]
    Api {
        /// Which object.
        what: String,
        /// The API's answer.
        source: Box<kube::Error>,
    },
    /// The objects' file cannot be used.
    #[error("the store of objects: {0}")]
    Store(#[source] portolan_store::StoreError),
    /// `shell` was asked for a pod that has no processes.
    #[error("the pod {pod:?} does not run")]
    PodNotRunning {
        /// The pod, as namespace/name.
        pod: String,
    },
    /// `shell` was asked for something that is not there.
    #[error("there is no {kind} {name:?} in this lab")]
    NoTarget {
        /// `node` or `pod`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Which there are.
        known: Vec<String>,
    },
    /// The command of `shell` cannot be started.
    #[error("cannot run {command:?}: {source}")]
    Command {
        /// The command.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What failed inside the lab, and what to do: what `up` and `shell` print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What and where.
    pub message: String,
    /// What to do, when something is known to help.
    pub hint: Option<String>,
}

impl From<&LabError> for Failure {
    fn from(error: &LabError) -> Failure {
        Failure { message: error.to_string(), hint: error.hint() }
    }
}

impl LabError {
    /// A closure for `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::File { action, path, source }
    }

    /// A closure for `map_err` on system calls.
    pub(crate) fn kernel<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> LabError {
        move |source| LabError::Kernel { action, source: source.into() }
    }

    /// Whether the user's arguments are at fault: exit code 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, LabError::Argument { .. })
    }

    /// What the user can do about it, when something is known to help.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            LabError::Argument { hint, .. } => hint.clone(),
            LabError::NoDataDir => "give one with --data-dir DIR".into(),
            LabError::Locked { dir, .. } => format!(
                "stop it with `portolan down --data-dir {0}`, look at it with `portolan status \
                 --data-dir {0}`, or start a second lab with another --data-dir and --api-port 0",
                dir.display()
            ),
            LabError::NotRunning { dir } => {
                format!("start one with `portolan up --data-dir {}`", dir.display())
            }
            LabError::ApiPort { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "something else listens there (`ss -ltnp 'sport = :{}'` names it); choose \
                     another port with --api-port N, or any free one with --api-port 0",
                    address.port()
                ),
                _ => "choose another port with --api-port N, or any free one with --api-port 0"
                    .into(),
            },
            LabError::File { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "choose a directory of your own with --data-dir DIR".into()
                }
                io::ErrorKind::StorageFull => "free some space on that file system".into(),
                _ => return None,
            },
            LabError::Kernel { source, .. } => return privilege::hint(source),
            LabError::Inside(failure) => return failure.hint.clone(),
            LabError::Killed => {
                "nothing is lost: what the API server acknowledged is on disk".into()
            }
            LabError::NotReady { logs, .. } => {
                let logs = logs.display();
                format!("{logs}/portolan.log and {logs}/nodes/*/agent.log say more")
            }
            LabError::PodNotRunning { pod } => match pod.split_once('/') {
                Some((namespace, name)) => {
                    format!("`kubectl --namespace {namespace} describe pod {name}` says why")
                }
                None => return None,
            },
            LabError::NoTarget { known, .. } if !known.is_empty() => {
                format!("there are: {}", known.join(", "))
            }
            LabError::NoTarget { .. } => "`portolan status` shows what there is".into(),
            LabError::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "commands are the host's own programs; install it on the host, or give its path"
                    .into()
            }
            LabError::Fabric { source, .. } => {
                return routes::io_error(source).and_then(|refusal| privilege::hint(&refusal));
            }
            LabError::LabDied { log, .. } => {
                format!("`tail {}` shows its last words", log.display())
            }
            LabError::Channel(_)
            | LabError::Setting(_)
            | LabError::Route { .. }
            | LabError::ApiServer(_)
            | LabError::Store(_)
            | LabError::Api { .. }
            | LabError::Command { .. } => return None,
        })
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
