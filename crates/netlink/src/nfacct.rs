//! Named counters of packets, which rules of iptables count in (`-m nfacct`).
//!
//! Upstream rule: include/uapi/linux/netfilter/nfnetlink_acct.h.

use nix::errno::Errno;
use thiserror::Error;

use crate::socket::{Netlink, Protocol, RequestError};
use crate::wire::{Malformed, Message, Table as Attrs, Writer, flag};

/// `NFNL_SUBSYS_ACCT`, shifted to its place.
const SUBSYSTEM: u16 = 7 << 8;
const MSG_NEW: u16 = 0;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 3;

const NAME: u16 = 1;
const PACKETS: u16 = 2;
const BYTES: u16 = 3;

/// `NFACCT_NAME_MAX`, without the NUL.
const NAME_MAX: usize = 31;

/// Why a counter cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NfacctError {
    /// No netlink socket.
    #[error("cannot open a netfilter socket: {0}")]
    Open(#[source] Errno),
    /// A name that no counter can have: too long, empty, or with a NUL.
    #[error("{0:?} cannot be a counter's name: it takes 1 to {NAME_MAX} bytes without a NUL")]
    Name(String),
    /// A request that was refused, or not answered. EINVAL: the kernel has no such counters; EBUSY:
    /// rules count in it.
    #[error("cannot {what} the counter {name}: {}", errno.desc())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The counter.
        name: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// An answer that makes no sense.
    #[error("the kernel answered oddly: {0}")]
    Malformed(#[from] Malformed),
}

/// What passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// So many packets.
    pub packets: u64,
    /// So many bytes.
    pub bytes: u64,
}

/// A way to the counters of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    netfilter: Netlink,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NfacctError::Open`].
    pub fn open() -> Result<Self, NfacctError> {
        let opened = Netlink::open(Protocol::Netfilter);
        opened.map(|netfilter| Self { netfilter }).map_err(NfacctError::Open)
    }

    /// Makes a counter; one that is there goes on counting.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN, EINVAL where the kernel has no such counters.
    pub fn ensure(&mut self, name: &str) -> Result<(), NfacctError> {
        let flags = flag::ACK | flag::CREATE | flag::EXCL;
        match self.request("make", MSG_NEW, flags, name, |_| Ok(())) {
            Err(NfacctError::Refused { errno: Errno::EEXIST | Errno::EBUSY, .. }) => Ok(()),
            done => done,
        }
    }

    /// What a counter has counted; nothing when there is none of that name.
    ///
    /// # Errors
    /// As [`Socket::ensure`].
    pub fn read(&mut self, name: &str) -> Result<Option<Counted>, NfacctError> {
        let mut found = None;
        let read = self.request("read", MSG_GET, flag::ACK, name, |message| {
            found = Some(counted(message)?);
            Ok(())
        });
        match read {
            Ok(()) => Ok(found),
            Err(NfacctError::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes a counter, if it is there.
    ///
    /// # Errors
    /// As [`Socket::ensure`]; EBUSY while rules count in it.
    pub fn delete(&mut self, name: &str) -> Result<(), NfacctError> {
        match self.request("remove", MSG_DELETE, flag::ACK, name, |_| Ok(())) {
            Err(NfacctError::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
            done => done,
        }
    }

    fn request(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        name: &str,
        each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NfacctError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(NfacctError::Name(name.to_owned()));
        }
        let seq = self.netfilter.sequence(1);
        let mut w = Writer::default();
        let body = |w: &mut Writer| w.text(NAME, name);
        w.message(SUBSYSTEM | kind, flag::REQUEST | flags, seq, [0; 4], body);
        let bytes = w.finish().expect("a name is shorter than an attribute can be");
        let refused = |errno| NfacctError::Refused { what, name: name.to_owned(), errno };
        self.netfilter.request(seq, &bytes, each).map_err(|e| match e {
            RequestError::Send(errno) | RequestError::Receive(errno) => refused(errno),
            RequestError::Refused(answer) => refused(Errno::from_raw(answer.errno)),
            RequestError::Interrupted => refused(Errno::EINTR),
            RequestError::Malformed(e) => NfacctError::Malformed(e),
        })
    }
}

fn counted(message: &Message<'_>) -> Result<Counted, Malformed> {
    let (_, rest) = message.netfilter()?;
    let found = Attrs::<4>::parse(rest)?;
    Ok(Counted { packets: found.be64(PACKETS)?, bytes: found.be64(BYTES)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in wire::messages(&bytes).flatten() {
                let _ = counted(&message);
            }
        }
    }
}
