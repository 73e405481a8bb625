//! exec and attach: a command's standard streams, terminal sizes and exit status over a
//! connection.
//!
//! | channel or stream | who writes | what |
//! |---|---|---|
//! | 0 stdin | client | bytes |
//! | 1 stdout, 2 stderr | server | bytes; no stderr with a terminal |
//! | 3 error | server | how it ended, once, last |
//! | 4 resize | client | JSON objects `{"Width":80,"Height":24}` |
//!
//! The caller's handler sees only [`Streams`], and returns how the command ended.

mod resize;
mod spdy;
mod websocket;

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::upgrade;
use crate::websocket::channels::{Codec, HalfClose};
use crate::{ExitStatus, StreamError};

pub use resize::{Resizes, TerminalSize};

/// How long a finished session waits for the client to read to the end and close.
const LINGER: Duration = Duration::from_secs(60);

/// Which streams a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the query's own four switches, by name")]
pub struct Options {
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error.
    pub stderr: bool,
    /// The command runs on a terminal.
    pub tty: bool,
}

impl Options {
    /// As upstream reads them: a terminal has no standard error of its own, and a session
    /// without any stream is a mistake.
    ///
    /// # Errors
    /// The text of the 400 answer.
    pub fn check(mut self) -> Result<Self, &'static str> {
        if self.tty {
            self.stderr = false;
        }
        if self.stdin || self.stdout || self.stderr {
            Ok(self)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// What was negotiated for exec or attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    transport: Transport,
    words: StatusWords,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    WebSocket(Codec, HalfClose),
    Spdy(ResizeStream),
}

/// Whether the SPDY protocol has a stream of terminal sizes (from v3 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResizeStream {
    Expected,
    Absent,
}

/// How the exit status is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusWords {
    /// A `metav1.Status` (from v4 on).
    Json,
    /// The error's text, or nothing.
    Plain,
}

impl Protocol {
    const fn websocket(codec: Codec, half_close: HalfClose, words: StatusWords) -> Self {
        Self { transport: Transport::WebSocket(codec, half_close), words }
    }

    const fn spdy(resize: ResizeStream, words: StatusWords) -> Self {
        Self { transport: Transport::Spdy(resize), words }
    }

    fn put(self, status: &ExitStatus) -> Vec<u8> {
        match self.words {
            StatusWords::Json => status.to_json(),
            StatusWords::Plain => status.message().into_bytes(),
        }
    }
}

impl upgrade::Protocol for Protocol {
    const WEBSOCKET: &'static [(&'static str, Self)] = &[
        (
            "v5.channel.k8s.io",
            Self::websocket(Codec::Binary, HalfClose::Signalled, StatusWords::Json),
        ),
        (
            "v4.channel.k8s.io",
            Self::websocket(Codec::Binary, HalfClose::Unknown, StatusWords::Json),
        ),
        (
            "v4.base64.channel.k8s.io",
            Self::websocket(Codec::Base64, HalfClose::Unknown, StatusWords::Json),
        ),
        ("channel.k8s.io", Self::websocket(Codec::Binary, HalfClose::Unknown, StatusWords::Plain)),
        (
            "base64.channel.k8s.io",
            Self::websocket(Codec::Base64, HalfClose::Unknown, StatusWords::Plain),
        ),
        ("", Self::websocket(Codec::Binary, HalfClose::Unknown, StatusWords::Plain)),
    ];
    const SPDY: &'static [(&'static str, Self)] = &[
        ("v5.channel.k8s.io", Self::spdy(ResizeStream::Expected, StatusWords::Json)),
        ("v4.channel.k8s.io", Self::spdy(ResizeStream::Expected, StatusWords::Json)),
        ("v3.channel.k8s.io", Self::spdy(ResizeStream::Expected, StatusWords::Plain)),
        ("v2.channel.k8s.io", Self::spdy(ResizeStream::Absent, StatusWords::Plain)),
        ("channel.k8s.io", Self::spdy(ResizeStream::Absent, StatusWords::Plain)),
        ("", Self::spdy(ResizeStream::Absent, StatusWords::Plain)),
    ];
}

/// A reader of either transport.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// A writer of either transport. Shut it down when its source has ended.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A session's streams, those that its [`Options`] name.
pub struct Streams {
    /// Standard input; ends when the client closes it.
    pub stdin: Option<Reader>,
    /// Standard output.
    pub stdout: Option<Writer>,
    /// Standard error.
    pub stderr: Option<Writer>,
    /// The sizes that the client's terminal takes.
    pub resizes: Option<Resizes>,
    /// Cancelled when the client is gone; the handler should then end the command and return.
    pub gone: CancellationToken,
}

/// Runs a session on an upgraded connection: opens its streams, runs `handler` on them, and
/// tells the client how it ended.
///
/// # Errors
/// When the connection fails, or the client does not open the streams that it announced.
pub async fn serve<IO, Handler, Ended>(
    io: IO,
    protocol: Protocol,
    options: Options,
    handler: Handler,
) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    Handler: FnOnce(Streams) -> Ended,
    Ended: Future<Output = ExitStatus>,
{
    match protocol.transport {
        Transport::WebSocket(codec, half_close) => {
            websocket::serve(io, protocol, (codec, half_close), options, handler).await
        }
        Transport::Spdy(resize) => spdy::serve(io, protocol, resize, options, handler).await,
    }
}

#[cfg(test)]
mod tests;
