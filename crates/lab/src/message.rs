//! What is said over the channels: `up` ⇄ lab, and `status`, `down`, `shell` → lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Failure;
use crate::host::Attachment;
use crate::nets::Family;
use crate::privilege::Privilege;
use crate::status::Status;

/// From `up` to the lab's first process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToLab {
    /// The first message. Beside it: the lock, the API listener, the control listener.
    Boot(Box<Boot>),
    /// Answers [`ToHost::Bind`]; beside it the socket, unless `error` says why there is none.
    Bound { id: u64, error: Option<String> },
    /// Stop in order.
    Stop,
}

/// What the lab is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) config: Config,
    pub(crate) privilege: Privilege,
    /// The data directory's path on the host, for what is shown to people.
    pub(crate) data_dir: PathBuf,
    /// The API server's port on the host's loopback.
    pub(crate) api_port: u16,
    /// `up`'s process number on the host.
    pub(crate) up_pid: u32,
    /// Whether somebody waits for the lab to be up.
    pub(crate) attachment: Attachment,
    /// Whether the proxy's mode was asked for or is the default.
    pub(crate) proxy_mode_given: bool,
}

/// From the lab's first process to `up`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToHost {
    /// For the person who looks.
    Event(Event),
    /// Bind a socket on the host's loopback and pass it.
    Bind { id: u64, port: Port },
    /// The start failed; the lab is about to end.
    Failed(Failure),
    /// `portolan down` asks: answer with [`ToLab::Stop`].
    StopRequested,
    /// Everything is stopped and written; the lab is about to end.
    Stopped { millis: u64 },
}

/// A port's protocol, of those that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// A port on the host's loopback, and the same port on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    /// Of both the host's loopback address and the node's.
    pub(crate) family: Family,
}

impl Port {
    /// The host's loopback address.
    pub(crate) fn loopback(self) -> IpAddr {
        match self.family {
            Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
            Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// As a Service's event tells of it.
impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = SocketAddr::new(self.loopback(), self.number);
        write!(f, "{} port {} at {address}", self.protocol, self.number)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

/// What happens in a lab, as `up` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A part begins to start.
    Starting {
        /// Its name.
        part: String,
    },
    /// A part is ready.
    Ready {
        /// Its name.
        part: String,
        /// How long it took, in milliseconds.
        millis: u64,
        /// Where it is to be found, or how many.
        detail: String,
    },
    /// Something is wrong, and the lab goes on.
    Warning {
        /// What and where.
        message: String,
    },
    /// Everything is ready.
    Up(Summary),
    /// The lab begins to stop, or goes on to stop the next part.
    Stopping {
        /// What stops now.
        part: String,
    },
    /// The lab has stopped.
    Stopped {
        /// How long it took, in milliseconds.
        millis: u64,
    },
}

/// How to reach a lab that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The API server on the host.
    pub server: String,
    /// From the start of `up` inside the lab to everything ready, in milliseconds.
    pub millis: u64,
}

/// A question over the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Status,
    Down,
    Shell(Target),
}

/// Where `shell` goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A node, by name.
    Node(String),
    /// A pod, by namespace and name.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
    /// The outside client.
    Client,
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Status(Box<Status>),
    /// The lab stops; the socket closes when it has.
    Stopping,
    /// Beside it: the namespaces in the order of `namespaces`.
    Shell(Entry),
    /// No such node or pod; those there are.
    NoTarget {
        known: Vec<String>,
    },
    Failed(Failure),
}

/// How to enter a target.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) namespaces: Vec<Namespace>,
    /// Variables to set.
    pub(crate) environment: Vec<(String, String)>,
}

/// The kinds of namespaces that are entered, in the order of entering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Namespace {
    User,
    Pid,
    Net,
    Uts,
    Ipc,
    Mount,
}
