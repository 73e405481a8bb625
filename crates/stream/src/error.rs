//! What can go wrong between us and the peer of an upgraded connection.

use std::io;

use crate::spdy::{ResetStatus, SpdyError};

/// Why a streaming session ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection itself failed, or the peer closed it in the midst of things.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the rules of WebSocket framing.
    #[error("websocket: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The peer broke the rules of SPDY framing, or a bound of ours.
    #[error("spdy: {0}")]
    Spdy(#[from] SpdyError),
    /// The peer reset or refused a stream that we opened.
    #[error("stream reset by the peer: {0:?}")]
    Reset(ResetStatus),
    /// The peer did not open the streams that its request announced.
    #[error("timed out waiting for client to create streams")]
    MissingStreams,
    /// The connection is already closed.
    #[error("the connection is closed")]
    Closed,
}

impl From<tokio_tungstenite::tungstenite::Error> for StreamError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        match error {
            tokio_tungstenite::tungstenite::Error::Io(error) => Self::Io(error),
            error => Self::WebSocket(Box::new(error)),
        }
    }
}
