//! Packets with descriptors over a Unix socket, and specifications in memfds.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest packet: requests and replies are small, a pod has tens of containers.
const PACKET: usize = 64 * 1024;
/// Most descriptors on one packet: a memfd and three streams.
const DESCRIPTORS: usize = 4;
/// Largest specification read from a memfd.
const SPECIFICATION: u64 = 8 << 20;

/// Sends one message. `WouldBlock` when the socket is full, at once.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut control, flags)
    })?;
    Ok(())
}

/// Receives one message; `None` when the other side closed. `WouldBlock` when none is there.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let bytes = bytes.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(bytes)?, descriptors)))
}

/// Puts a specification into a memfd.
pub(crate) fn enclose<T: Serialize>(specification: &T) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("specification", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(&serde_json::to_vec(specification)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a specification from a memfd.
pub(crate) fn unclose<T: DeserializeOwned>(memfd: OwnedFd) -> io::Result<T> {
    let mut bytes = Vec::new();
    std::fs::File::from(memfd).take(SPECIFICATION).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The address of `directory/shim.sock` by way of an open directory, since a socket's path is
/// limited to 107 bytes and a data directory's is not.
fn address(directory: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    use std::os::fd::AsRawFd as _;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let open = rustix::fs::open(
        directory,
        flags | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/shim.sock", open.as_raw_fd()))?;
    Ok((open, address))
}

/// Listens on `directory/shim.sock`, in place of what was there.
pub(crate) fn listen(directory: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(directory.join("shim.sock")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_open, address) = address(directory)?;
    let socket = socket()?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Connects to `directory/shim.sock`.
pub(crate) fn connect(directory: &Path) -> io::Result<OwnedFd> {
    let (_open, address) = address(directory)?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Takes a waiting connection; `WouldBlock` when there is none.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::accept_with(listener, flags)?)
}
