//! DNS messages on the wire: names, headers, records; read with bounds, written within a limit.
//!
//! Invariants: reading never panics and never looks at a byte twice but for compression pointers,
//! which may only point backwards, so that every name ends after at most 127 labels.
//!
//! Upstream rule: RFC 1035 section 4, RFC 6891 (EDNS(0)), RFC 4343 (case).

mod message;
mod name;
mod write;

pub(crate) use message::check_name;
pub use message::{Header, Message, Opt, Question, Record, Section, class, opcode, rcode, rtype};
pub(crate) use name::is_suffix;
pub use name::{Labels, MAX_NAME, Name, label_eq};
pub use write::{Target, Writer};

use thiserror::Error;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message ends too early.
    #[error("the message is cut off")]
    Short,
    /// A name that is longer than 255 bytes, points forward, or has an unknown kind of label.
    #[error("a name is malformed")]
    Name,
    /// Other numbers of records than the header says, or a record of an impossible length.
    #[error("a record is malformed")]
    Record,
}
