//! One message a datagram over a Unix SOCK_SEQPACKET pair: JSON, with file descriptors beside it.
//!
//! It joins `up` and the lab's first process, and `status`, `down` and `shell` to the lab. A closed
//! peer reads as the end (`None`), which is how either side learns of the other's death.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

/// The longest message; a kernel's default send buffer takes it whole.
const LONGEST: usize = 128 * 1024;

/// Descriptors that fit beside one message.
const MOST_FDS: usize = 8;

/// The blocking end, for single-threaded moments.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Two ends, both closed on exec.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel(a), Channel(b)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.as_fd(), &encode(message)?, fds)
    }

    /// The next message, or `None` when the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        receive(self.0.as_fd())?.map(decode).transpose()
    }

    /// From now on [`Channel::receive`] fails after this long.
    pub(crate) fn limit(&self, limit: Duration) -> io::Result<()> {
        let timeout = rustix::net::sockopt::Timeout::Recv;
        Ok(rustix::net::sockopt::set_socket_timeout(&self.0, timeout, Some(limit))?)
    }

    /// The same end for a tokio runtime.
    pub(crate) fn into_async(self) -> io::Result<AsyncChannel> {
        rustix::io::ioctl_fionbio(&self.0, true)?;
        Ok(AsyncChannel(register(self.0)?))
    }
}

/// The end of a channel in a tokio runtime; any number of tasks may send, one receives.
#[derive(Debug)]
pub(crate) struct AsyncChannel(AsyncFd<OwnedFd>);

impl AsyncChannel {
    pub(crate) async fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = encode(message)?;
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|fd| send(fd.as_fd(), &bytes, fds)) {
                return result;
            }
        }
    }

    /// The next message, or `None` when the other end is gone. Cancel safe.
    pub(crate) async fn receive<T: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| receive(fd.as_fd())) {
                return result?.map(decode).transpose();
            }
        }
    }
}

/// Lets the current runtime watch a descriptor, for as long as it is held.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open until it is dropped, and is never exchanged inside the AsyncFd.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes is too long for the channel", bytes.len()),
        ));
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(
    (bytes, fds): (Vec<u8>, Vec<OwnedFd>),
) -> io::Result<(T, Vec<OwnedFd>)> {
    Ok((serde_json::from_slice(&bytes)?, fds))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors at once"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; LONGEST];
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // A peer that died with unread messages resets the socket: that is an end as well.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(message.bytes);
    let fds = beside
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(Some((bytes, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        file.rewind().unwrap();
        let long = "x".repeat(100_000);
        a.send(&long, &[file.as_fd(), file.as_fd()]).unwrap();
        a.send(&"second", &[]).unwrap();
        let (got, fds) = b.receive::<String>().unwrap().unwrap();
        assert_eq!(got, long);
        assert_eq!(fds.len(), 2);
        let mut text = String::new();
        File::from(fds.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        let (got, fds) = b.receive::<String>().unwrap().unwrap();
        assert_eq!((got.as_str(), fds.len()), ("second", 0));
    }

    #[test]
    fn a_closed_end_reads_as_the_end() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn a_message_too_long_for_the_channel_is_refused_by_the_sender() {
        let (a, _b) = Channel::pair().unwrap();
        assert!(a.send(&"x".repeat(LONGEST), &[]).is_err());
    }
}
