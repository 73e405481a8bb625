//! SPDY/3.1, as much of it as Kubernetes' port-forward, exec and attach speak.
//!
//! ```text
//!   bytes ──▶ frame::Decoder ──▶ Session (no I/O, no clock) ──▶ events
//!   bytes ◀── frame::encode  ◀──    ▲
//!                                   └── connection::Driver: reads, writes, wakes the streams
//! ```
//!
//! The peers are Go's spdystream, which neither keeps nor sends windows, and whoever follows the
//! specification. So received data is always acknowledged by WINDOW_UPDATE (spdystream drops
//! it), while the peer's windows bind us only once it has shown that it has any; see [`session`].

mod connection;
mod frame;
mod headers;
pub mod session;

pub use connection::{Connection, Driver, Incoming, ReceiveHalf, SendHalf, Stream, connect};
pub use frame::{GoAwayStatus, ResetStatus};
pub use headers::Headers;
pub use session::{Event, Session};

/// A stream's number: odd for those that the client opened, even for the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number, in 1..2³¹.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that dialled; its streams are odd.
    Client,
    /// The end that was dialled; its streams are even.
    Server,
}

/// What a peer can make us hold, at most. All in bytes unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Payload of one control frame as it comes, compressed. Default 64 KiB.
    pub control_frame: usize,
    /// Headers of one frame after inflating. Default 64 KiB.
    pub header_block: usize,
    /// Streams open at once, in number. Default 4096.
    pub streams: usize,
    /// Received and not yet read, for one stream; the connection is read no further beyond it.
    /// Default 256 KiB.
    pub stream_buffer: usize,
    /// Received and not yet read, over all streams. Default 4 MiB.
    pub connection_buffer: usize,
    /// Written and not yet sent; writers wait beyond it. Default 256 KiB.
    pub send_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            control_frame: 64 << 10,
            header_block: 64 << 10,
            streams: 4096,
            stream_buffer: 256 << 10,
            connection_buffer: 4 << 20,
            send_buffer: 256 << 10,
        }
    }
}

/// What the peer did that ends the whole connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// A control frame of another protocol version than 3.
    #[error("control frame of version {0}, only 3 is spoken here")]
    Version(u16),
    /// A frame that its own length, flags or fields contradict.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// A control frame beyond [`Limits::control_frame`].
    #[error("control frame of {0} bytes is beyond the limit")]
    FrameTooLarge(usize),
    /// Headers that do not inflate, or are not a header block.
    #[error("header block: {0}")]
    Headers(&'static str),
    /// Headers that inflate beyond [`Limits::header_block`].
    #[error("header block inflates beyond the limit")]
    HeadersTooLarge,
    /// The peer sent more than the connection's window allowed.
    #[error("the connection's flow control window was exceeded")]
    FlowControl,
    /// The numbers of our own streams are used up.
    #[error("no stream numbers are left")]
    Exhausted,
}
