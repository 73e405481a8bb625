//! One client of the shim, and what it is there for.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use super::channel;
use super::protocol::{OnClose, Reply};

/// A client's connection.
pub(crate) struct Connection {
    /// Names the connection; never used twice.
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
    /// Whether it is told of every container's end.
    pub(crate) watches: bool,
    /// The command it runs.
    pub(crate) exec: Option<Exec>,
}

/// A command under way.
pub(crate) struct Exec {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started_at: u64,
    pub(crate) on_close: OnClose,
}

impl Connection {
    /// Sends a reply; `false` when the client is gone, or so slow that it counts as gone (it may
    /// connect again and ask for the state).
    pub(crate) fn reply(&self, reply: &Reply) -> bool {
        channel::send(&self.socket, reply, &[]).is_ok()
    }
}
