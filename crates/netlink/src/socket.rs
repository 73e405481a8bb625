//! A netlink socket of one protocol: send, receive, and how large a message may be.
//!
//! The kernel works a request off while it is sent, so answers wait in the receive buffer when
//! `send` returns; [`Netlink::drain`] reads them without waiting. A dump is read piece by piece.
//! The socket belongs to the network namespace of the thread that opened it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};

use crate::wire::{
    self, Malformed, Message, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, SUBHEADER_LEN, Writer, flag,
};

/// The send buffer to ask for: above every plan, below where the kernel's doubling overflows.
const SEND_BUFFER: usize = 512 << 20;
/// The receive buffer to ask for, so that many errors at once fit.
const RECEIVE_BUFFER: usize = 8 << 20;
/// One receive; the kernel makes pieces of at most 32 KiB.
const PIECE: usize = 128 << 10;
/// What the kernel keeps of the send buffer for itself (`netlink_sendmsg`).
const SEND_RESERVE: usize = 32;

/// What the kernel said about one request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) seq: u32,
    /// Nought when all is well.
    pub(crate) errno: i32,
    /// The kernel's own words, if it had any.
    pub(crate) text: Option<String>,
}

/// Why a request got no proper answer.
#[derive(Debug)]
pub(crate) enum RequestError {
    Send(Errno),
    Receive(Errno),
    Refused(Answer),
    Malformed(Malformed),
    /// What is dumped changed meanwhile; ask again.
    Interrupted,
}

impl From<Malformed> for RequestError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

/// What a netlink socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// nf_tables, connection tracking.
    Netfilter,
    /// Whatever registers a family by name.
    Generic,
    /// Links, addresses and routes.
    Route,
}

/// How many requests go in one send. Should all of them fail, their answers (less than 1.3 KiB of the
/// receive buffer each) fit into the smallest buffer that a system without privileges has.
const AT_ONCE: usize = 256;

/// A request that only changes something, but for its sequence number and its attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// The type of the message.
    pub(crate) kind: u16,
    /// Its flags, without those that every request has.
    pub(crate) flags: u16,
    pub(crate) subheader: [u8; SUBHEADER_LEN],
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
    max_send: usize,
    piece: Vec<u8>,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netlink {
    /// Opens a socket in the thread's network namespace. A larger send buffer than `wmem_max` is
    /// refused in a user namespace; then the limit is what [`Netlink::max_send`] says.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, Errno> {
        let protocol = match protocol {
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
            Protocol::Generic => SockProtocol::NetlinkGeneric,
            Protocol::Route => SockProtocol::NetlinkRoute,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER)?;
        }
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        // Both are conveniences of newer kernels: short errors, and errors in words.
        let _ = netlink_option(&fd, libc::NETLINK_CAP_ACK);
        let _ = netlink_option(&fd, libc::NETLINK_EXT_ACK);
        let max_send = nix::sys::socket::getsockopt(&fd, sockopt::SndBuf)?;
        Ok(Self {
            fd,
            seq: 1,
            max_send: max_send.saturating_sub(SEND_RESERVE),
            piece: vec![0; PIECE],
        })
    }

    /// The most bytes that one send may have.
    pub(crate) fn max_send(&self) -> usize {
        self.max_send
    }

    /// The number by which the kernel knows this socket.
    pub(crate) fn port(&self) -> Result<u32, Errno> {
        getsockname::<NetlinkAddr>(self.fd.as_raw_fd()).map(|address| address.pid())
    }

    /// Lowers the bound of one send.
    pub(crate) fn limit_send(&mut self, bytes: usize) {
        self.max_send = self.max_send.min(bytes);
    }

    /// Numbers for `count` messages; the first of them.
    pub(crate) fn sequence(&mut self, count: u32) -> u32 {
        let first = self.seq;
        self.seq = self.seq.wrapping_add(count);
        first
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Reads what already waits and gives every answer of error or acknowledgement.
    pub(crate) fn drain(&mut self) -> Result<Vec<Answer>, RequestError> {
        let mut answers = Vec::new();
        loop {
            let read = match recv(self.fd.as_raw_fd(), &mut self.piece, MsgFlags::MSG_DONTWAIT) {
                Ok(read) => read,
                Err(Errno::EAGAIN) => return Ok(answers),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(RequestError::Receive(e)),
            };
            for message in wire::messages(&self.piece[..read]) {
                let message = message?;
                if message.kind == NLMSG_ERROR {
                    answers.push(answer(&message)?);
                }
            }
        }
    }

    /// Sends requests one behind the other, each whatever became of those before it. Gives the
    /// answers of those that were refused, with their places. After an error it is not known which of
    /// them were carried out.
    ///
    /// The kernel works them off in order before the send returns, answers each that failed, and the
    /// last one in any case: that answer tells that all are done.
    pub(crate) fn request_all<B: FnOnce(&mut Writer)>(
        &mut self,
        requests: impl Iterator<Item = (Request, B)>,
    ) -> Result<Vec<(usize, Answer)>, RequestError> {
        let (mut refused, mut done) = (Vec::new(), 0);
        let mut requests = requests.peekable();
        while requests.peek().is_some() {
            let first = self.sequence(0);
            let mut w = Writer::default();
            let mut last = first;
            for place in 0..AT_ONCE {
                let Some((request, body)) = requests.next() else { break };
                let is_last = place + 1 == AT_ONCE || requests.peek().is_none();
                let ack = if is_last { flag::ACK } else { 0 };
                last = self.sequence(1);
                let flags = flag::REQUEST | ack | request.flags;
                w.message(request.kind, flags, last, request.subheader, body);
            }
            let bytes = w.finish().ok_or(RequestError::Send(Errno::EMSGSIZE))?;
            self.send(&bytes).map_err(RequestError::Send)?;
            let mut is_done = false;
            for answer in self.drain()? {
                let place = answer.seq.wrapping_sub(first);
                if place > last.wrapping_sub(first) {
                    // Of an exchange before this one that broke off.
                    continue;
                }
                is_done |= answer.seq == last;
                if answer.errno != 0 {
                    refused.push((done + place as usize, answer));
                }
            }
            if !is_done {
                return Err(Malformed("the last request was not answered").into());
            }
            done += last.wrapping_sub(first) as usize + 1;
        }
        Ok(refused)
    }

    /// Sends a request numbered `seq` and gives every message of its answer to `each`.
    pub(crate) fn request(
        &mut self,
        seq: u32,
        bytes: &[u8],
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), RequestError> {
        self.send(bytes).map_err(RequestError::Send)?;
        let mut outcome = Ok(());
        loop {
            let read = match recv(self.fd.as_raw_fd(), &mut self.piece, MsgFlags::empty()) {
                Ok(read) => read,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(RequestError::Receive(e)),
            };
            for message in wire::messages(&self.piece[..read]) {
                let message = message?;
                if message.seq != seq {
                    continue;
                }
                if message.flags & flag::DUMP_INTR != 0 {
                    outcome = Err(RequestError::Interrupted);
                }
                match message.kind {
                    NLMSG_DONE => return outcome,
                    NLMSG_OVERRUN => return Err(RequestError::Interrupted),
                    NLMSG_ERROR => {
                        let answer = answer(&message)?;
                        return if answer.errno == 0 {
                            outcome
                        } else {
                            Err(RequestError::Refused(answer))
                        };
                    }
                    // After a fault the rest is still read, so that the socket stays usable.
                    _ if outcome.is_ok() => outcome = each(&message).map_err(Into::into),
                    _ => {}
                }
            }
        }
    }
}

/// Reads `struct nlmsgerr` and the words behind it.
fn answer(message: &Message<'_>) -> Result<Answer, Malformed> {
    const NLMSGERR_LEN: usize = 4 + wire::HEADER_LEN;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = message.body.get(..4).ok_or(Malformed("error without a code"))?;
    let errno = i32::from_ne_bytes(code.try_into().map_err(|_| Malformed("error code"))?);
    let mut behind = NLMSGERR_LEN;
    if message.flags & flag::CAPPED == 0 {
        let len = message.body.get(4..8).map(wire::ne32).transpose()?.unwrap_or(0) as usize;
        behind += len.saturating_sub(wire::HEADER_LEN).next_multiple_of(4);
    }
    let mut text = None;
    if message.flags & flag::ACK_TLVS != 0 {
        for attr in wire::attrs(message.body.get(behind..).unwrap_or(&[])) {
            let (kind, bytes) = attr?;
            if kind == NLMSGERR_ATTR_MSG {
                text = Some(wire::text(bytes)?.to_owned());
            }
        }
    }
    Ok(Answer { seq: message.seq, errno: errno.saturating_neg(), text })
}

/// Turns a boolean option of the netlink level on.
pub(crate) fn netlink_option(fd: &OwnedFd, option: i32) -> Result<(), Errno> {
    netlink_number(fd, option, 1)
}

/// Sets a number at the netlink level.
pub(crate) fn netlink_number(fd: &OwnedFd, option: i32, value: i32) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).expect("four fits");
    // SAFETY: the descriptor is open, and the pointer is to a live i32 of the length given.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), len)
    };
    Errno::result(done).map(|_| ())
}
