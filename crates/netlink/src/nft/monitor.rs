//! Word of changes to tables by others, as they happen.
//!
//! The kernel tells every listener of nf_tables about each object that a transaction changed. What
//! our own sockets changed is dropped by a socket filter before it is queued, so that a large commit
//! of ours does not overflow the queue. When it overflows all the same (somebody else changed a lot),
//! that is [`Touched::Unknown`]: anything may have changed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::attr::{self, msg};
use super::commit::NftError;
use super::object::{Family, TableRef};
use crate::socket::netlink_number;
use crate::wire::{self, Message, Table as Attrs};

/// `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;
const RECEIVE_BUFFER: usize = 4 << 20;
const PIECE: usize = 64 << 10;

/// What another changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// One of the tables that are watched, or something in it.
    Table,
    /// More than could be told.
    Unknown,
}

/// Listens for changes to some tables by others. Needs a tokio runtime.
#[derive(Debug)]
pub struct Monitor {
    fd: AsyncFd<OwnedFd>,
    tables: Vec<TableRef>,
    own_ports: Vec<u32>,
    piece: Vec<u8>,
}

impl Monitor {
    /// Listens in the calling thread's network namespace for changes to these tables, but for those
    /// made by the sockets with these ports ([`super::Socket::port`]).
    ///
    /// # Errors
    /// [`NftError::Open`]; EPERM without CAP_NET_ADMIN.
    pub fn open(tables: Vec<TableRef>, own_ports: Vec<u32>) -> Result<Self, NftError> {
        let fd = Self::socket(&own_ports).map_err(NftError::Open)?;
        // SAFETY: an OwnedFd keeps its descriptor, the same one, open until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.map_err(|e| {
            let code = std::io::Error::from(e).raw_os_error();
            NftError::Open(code.map_or(Errno::UnknownErrno, Errno::from_raw))
        })?;
        Ok(Self { fd, tables, own_ports, piece: vec![0; PIECE] })
    }

    fn socket(own_ports: &[u32]) -> Result<OwnedFd, Errno> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        drop_own(fd.as_fd(), own_ports)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        netlink_number(&fd, libc::NETLINK_ADD_MEMBERSHIP, GROUP)?;
        Ok(fd)
    }

    /// Waits until another changes one of the tables. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`NftError::Receive`] when the socket is of no more use.
    pub async fn touched(&mut self) -> Result<Touched, NftError> {
        loop {
            let ready = self.fd.readable().await;
            let mut ready = ready.map_err(|_| NftError::Receive(Errno::EBADF))?;
            match recv(self.fd.as_raw_fd(), &mut self.piece, MsgFlags::MSG_DONTWAIT) {
                Ok(read) => {
                    let mut messages = wire::messages(&self.piece[..read]);
                    if messages.any(|message| self.concerns(message)) {
                        return Ok(Touched::Table);
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(Touched::Unknown),
                Err(e) => return Err(NftError::Receive(e)),
            }
        }
    }

    /// Forgets what is queued: it was before what the caller is about to read anyway.
    pub fn discard(&mut self) {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.piece, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn concerns(&self, message: Result<Message<'_>, wire::Malformed>) -> bool {
        let Ok(message) = message else { return true };
        if self.own_ports.contains(&message.port) || message.kind & 0xff == msg::NEW_GEN {
            return false;
        }
        let Ok((family, attrs)) = message.netfilter() else { return true };
        // Every object's message has its table's name as its first attribute.
        let Ok(found) = Attrs::<2>::parse(attrs) else { return true };
        let Ok(name) = found.text(attr::table::NAME) else { return false };
        let family = Family::from_code(family);
        self.tables.iter().any(|t| Some(t.family) == family && t.name.as_str() == name)
    }
}

/// Keeps messages about what these ports did out of the queue.
fn drop_own(fd: BorrowedFd<'_>, own_ports: &[u32]) -> Result<(), Errno> {
    const NLMSG_PID: u32 = 12;
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K of linux/bpf_common.h.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut program = vec![step(LOAD_WORD, NLMSG_PID)];
    for port in own_ports {
        // The filter's machine reads words in network order.
        let k = u32::from_be_bytes(port.to_ne_bytes());
        program.push(libc::sock_filter { jf: 1, ..step(JUMP_EQUAL, k) });
        program.push(step(RETURN, 0));
    }
    program.push(step(RETURN, u32::MAX));
    let len = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("sixteen fits");
    // SAFETY: the descriptor is open; the pointer is to a live sock_fprog of the length given,
    // which points to `len` live instructions. The kernel copies both and checks the program.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    Errno::result(done).map(|_| ())
}
