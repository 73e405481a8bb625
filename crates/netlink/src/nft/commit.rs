//! Carrying a batch out, and saying which operation the kernel refused.
//!
//! A batch goes in one send, and the kernel applies all of it or nothing. It reports every
//! operation that it refuses by the sequence number of its message; the first one decides the
//! kind of [`NftError`].

use std::fmt;

use nix::errno::Errno;
use thiserror::Error;

use super::batch::{Batch, Op};
use super::encode;
use crate::socket::{Answer, Netlink, Protocol, RequestError};
use crate::wire::Malformed;

/// An operation that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the batch; none when the kernel refused the batch as a whole.
    pub op: Option<usize>,
    /// What it was, in short.
    pub what: String,
    /// The kernel's error.
    pub errno: Errno,
    /// The kernel's own words, if it had any.
    pub text: Option<String>,
    /// How many more operations it refused in the same batch.
    pub others: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.errno.desc())?;
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        if self.others > 0 {
            write!(f, ", and {} more", self.others)?;
        }
        Ok(())
    }
}

/// Why nf_tables did not do what was asked. Nothing of a refused batch is applied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NftError {
    /// No netlink socket.
    #[error("cannot open a netfilter socket: {0}")]
    Open(#[source] Errno),
    /// The batch could not be handed over.
    #[error("cannot send to nf_tables: {0}")]
    Send(#[source] Errno),
    /// The answer could not be read; ENOBUFS when it was too long for the receive buffer.
    #[error("cannot read the answer of nf_tables: {0}")]
    Receive(#[source] Errno),
    /// Something that an operation needs is not there (ENOENT): what is in the kernel is not what
    /// the plan was made from.
    #[error("nf_tables: {0}")]
    NotFound(Refusal),
    /// Something is already there (EEXIST): what is in the kernel is not what the plan was made
    /// from.
    #[error("nf_tables: {0}")]
    Exists(Refusal),
    /// Something is still referred to (EBUSY).
    #[error("nf_tables: {0}")]
    Busy(Refusal),
    /// Not allowed (EPERM).
    #[error(
        "nf_tables: {0}; hint: changing the ruleset needs CAP_NET_ADMIN in this network namespace"
    )]
    NotPermitted(Refusal),
    /// Refused for another reason.
    #[error("nf_tables: {0}")]
    Refused(Refusal),
    /// The batch is larger than one send may be (EMSGSIZE); split it.
    #[error("a batch of {bytes} bytes is above the {max} bytes that one transaction may have here")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        max: usize,
    },
    /// A rule or name that no message can carry.
    #[error("a rule or name is longer than a netlink attribute can be")]
    TooLong,
    /// The kernel's answer makes no sense.
    #[error("nf_tables answered oddly: {0}")]
    Malformed(#[from] Malformed),
    /// The ruleset changed again and again while it was read.
    #[error("the ruleset kept changing while it was read")]
    Unsteady,
}

impl NftError {
    /// Whether the kernel's table is not what the plan was made from, so that it must be rebuilt.
    #[must_use]
    pub const fn is_drift(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Exists(_))
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        match refusal.errno {
            Errno::ENOENT => Self::NotFound(refusal),
            Errno::EEXIST => Self::Exists(refusal),
            Errno::EBUSY => Self::Busy(refusal),
            Errno::EPERM | Errno::EACCES => Self::NotPermitted(refusal),
            _ => Self::Refused(refusal),
        }
    }
}

impl From<RequestError> for NftError {
    fn from(e: RequestError) -> Self {
        match e {
            RequestError::Send(e) => Self::Send(e),
            RequestError::Receive(e) => Self::Receive(e),
            RequestError::Malformed(e) => Self::Malformed(e),
            RequestError::Interrupted => Self::Unsteady,
            RequestError::Refused(answer) => {
                Self::refused(Refusal::new(None, "reading the ruleset".into(), answer, 0))
            }
        }
    }
}

impl Refusal {
    fn new(op: Option<usize>, what: String, answer: Answer, others: usize) -> Self {
        Self { op, what, errno: Errno::from_raw(answer.errno), text: answer.text, others }
    }
}

/// A way to nf_tables of the network namespace in which it was opened.
///
/// Calls block for as long as the kernel works: run them on a thread that may.
#[derive(Debug)]
pub struct Socket {
    pub(super) netfilter: Netlink,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NftError::Open`].
    pub fn open() -> Result<Self, NftError> {
        let opened = Netlink::open(Protocol::Netfilter);
        opened.map(|netfilter| Self { netfilter }).map_err(NftError::Open)
    }

    /// The number by which the kernel names this socket when it tells others of changes.
    ///
    /// # Errors
    /// [`NftError::Open`] when the socket is of no use.
    pub fn port(&self) -> Result<u32, NftError> {
        self.netfilter.port().map_err(NftError::Open)
    }

    /// The most bytes that one batch may have. In a user namespace that is bounded by
    /// `net.core.wmem_max`, and a larger plan must go in several batches.
    #[must_use]
    pub fn max_batch_bytes(&self) -> usize {
        self.netfilter.max_send()
    }

    /// Lowers [`Socket::max_batch_bytes`], to try what a plan does where less is allowed.
    pub fn limit_batch_bytes(&mut self, bytes: usize) {
        self.netfilter.limit_send(bytes);
    }

    /// Carries out all operations of the batch, or none.
    ///
    /// # Errors
    /// The first operation that the kernel refused, by the kind of its error.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.netfilter.sequence(0);
        let encoded = encode::batch(batch, first).ok_or(NftError::TooLong)?;
        let (bytes, max) = (encoded.bytes.len(), self.netfilter.max_send());
        if bytes > max {
            return Err(NftError::TooLarge { bytes, max });
        }
        let count = u32::try_from(encoded.owners.len()).map_err(|_| NftError::TooLong)?;
        self.netfilter.sequence(count);
        match self.netfilter.send(&encoded.bytes) {
            Ok(()) => {}
            Err(Errno::EMSGSIZE) => return Err(NftError::TooLarge { bytes, max }),
            Err(e) => return Err(NftError::Send(e)),
        }
        let mut refused = self.netfilter.drain()?;
        refused.retain(|answer| answer.errno != 0);
        let others = refused.len().saturating_sub(1);
        let Some(answer) = refused.into_iter().next() else { return Ok(()) };
        let message = answer.seq.wrapping_sub(first) as usize;
        let op = encoded.owners.get(message).copied().flatten();
        let what = op.and_then(|i| batch.ops.get(i)).map_or_else(|| "the batch".into(), summary);
        Err(NftError::refused(Refusal::new(op, what, answer, others)))
    }
}

/// The first line of an operation's text, cut to a readable length.
fn summary(op: &Op) -> String {
    let text = op.to_string();
    let line = text.lines().next().unwrap_or_default();
    let end = line.floor_char_boundary(200);
    if end < text.len() { format!("{}…", &line[..end]) } else { text }
}

impl Op {
    /// How many bytes this operation takes of [`Socket::max_batch_bytes`].
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        encode::op_len(self)
    }
}

impl Batch {
    /// What a batch takes besides its operations, in bytes.
    pub const OVERHEAD: usize = 2 * (crate::wire::HEADER_LEN + crate::wire::SUBHEADER_LEN);
}
