//! The agent's side of a connection to a pod's first process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shim::channel;
use crate::shim::protocol::{FailureKind, Reply, Request};

/// Registers a descriptor that is nonblocking with the reactor.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and the same, until it is dropped with the registration.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// One connection. Its requests are answered in order.
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
}

/// A start that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The shim tried and could not.
    #[error("{message}")]
    Refused {
        /// What kind of failure.
        kind: FailureKind,
        /// Why.
        message: String,
    },
    /// The shim is gone or does not answer.
    #[error("the pod's first process does not answer: {0}")]
    Lost(#[from] io::Error),
}

impl Link {
    /// Connects to the shim of the pod in `directory`.
    pub(crate) fn connect(directory: &Path) -> io::Result<Link> {
        Ok(Link { socket: register(channel::connect(directory)?)? })
    }

    /// Sends a request.
    pub(crate) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, |socket| channel::send(socket, request, fds)).await
    }

    /// Sends a request that needs no waiting; the socket's buffer has room for many.
    pub(crate) fn send_now(&self, request: &Request) -> io::Result<()> {
        channel::send(self.socket.get_ref(), request, &[])
    }

    /// Receives a reply; an error when the shim closed. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| channel::receive(socket.as_fd()))
            .await?;
        received.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Receives the answer to a start: when, and the terminal's master if there is one.
    pub(crate) async fn started(&self) -> Result<(u64, Option<OwnedFd>), StartError> {
        match self.receive().await? {
            (Reply::Started { at }, fds) => Ok((at, fds.into_iter().next())),
            (Reply::Failed { kind, message }, _) => Err(StartError::Refused { kind, message }),
            _ => Err(StartError::Lost(io::ErrorKind::InvalidData.into())),
        }
    }
}
