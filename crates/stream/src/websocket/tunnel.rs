//! A byte stream carried in binary messages, as kubectl tunnels SPDY through a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// A byte stream inside a WebSocket.
pub struct Tunnel<IO> {
    socket: WebSocketStream<IO>,
    unread: Bytes,
}

impl<IO> Tunnel<IO> {
    /// Over an open WebSocket.
    pub fn new(socket: WebSocketStream<IO>) -> Self {
        Self { socket, unread: Bytes::new() }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                Some(Ok(Message::Text(text))) => this.unread = text.into(),
                // tungstenite answers pings and closes itself; a close is followed by the end.
                Some(Ok(_)) => {}
                Some(Err(error)) if is_end(&error) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = this.unread.len().min(out.remaining());
        out.put_slice(&this.unread[..size]);
        this.unread.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(to_io)?;
        // One message for each write: the peer reads messages whole into buffers of its own.
        let piece = &data[..data.len().min(32 << 10)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut this.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.get_mut().socket).poll_close(cx)) {
            Err(error) if !is_end(&error) => Poll::Ready(Err(to_io(error))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn is_end(error: &Error) -> bool {
    matches!(error, Error::ConnectionClosed | Error::AlreadyClosed)
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error if is_end(&error) => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
