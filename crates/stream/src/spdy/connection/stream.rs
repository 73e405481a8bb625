//! One stream as a reader and a writer.
//!
//! Reading ends with the peer's FIN; a reset is `ConnectionReset`. Shutting the writer down sends
//! our FIN; dropping it without that resets the stream, so that the peer never mistakes a cut
//! stream for a whole one. Dropping the reader alone throws away what still comes, so that it
//! cannot hold the connection up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Answer, End, Half, Headers, Phase, ResetStatus, Shared, StreamId};
use crate::StreamError;

/// A stream, both ways.
pub struct Stream {
    receive: ReceiveHalf,
    send: SendHalf,
}

/// The reading half of a [`Stream`].
pub struct ReceiveHalf {
    shared: Arc<Shared>,
    id: StreamId,
}

/// The writing half of a [`Stream`].
pub struct SendHalf {
    shared: Arc<Shared>,
    id: StreamId,
    fin: Fin,
}

/// Whether our FIN has been sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    Owed,
    Sent,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> Self {
        let receive = ReceiveHalf { shared: shared.clone(), id };
        Self { receive, send: SendHalf { shared, id, fin: Fin::Owed } }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.send.id
    }

    /// The halves, to be used and dropped apart.
    #[must_use]
    pub fn into_split(self) -> (ReceiveHalf, SendHalf) {
        (self.receive, self.send)
    }

    /// Ends the stream at once, both ways.
    pub fn reset(self, status: ResetStatus) {
        let mut state = self.send.shared.state.lock();
        state.session.reset(self.send.id, status);
        state.wake_driver();
    }

    pub(super) fn reply(&self) {
        let mut state = self.send.shared.state.lock();
        state.session.reply(self.send.id, &Headers::new());
        state.wake_driver();
    }

    pub(super) async fn answered(&self) -> Result<(), StreamError> {
        std::future::poll_fn(|cx| {
            let mut state = self.receive.shared.state.lock();
            let Some(slot) = state.slots.get_mut(&self.send.id) else {
                return Poll::Ready(Err(StreamError::Closed));
            };
            match (slot.answer, slot.end) {
                (Answer::Given, _) => Poll::Ready(Ok(())),
                (_, End::Reset(status)) => Poll::Ready(Err(StreamError::Reset(status))),
                (_, End::Lost) => Poll::Ready(Err(StreamError::Closed)),
                _ => {
                    slot.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl AsyncRead for ReceiveHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        let Some(slot) = state.slots.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        let size = slot.buffer.len().min(out.remaining());
        if size > 0 {
            out.put_slice(&slot.buffer[..size]);
            state.take(self.id, size, &self.shared.limits);
            return Poll::Ready(Ok(()));
        }
        match slot.end {
            End::Open if out.remaining() > 0 => {
                slot.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Open | End::Finished | End::FinishedAndCut => Poll::Ready(Ok(())),
            End::Reset(_) | End::Lost => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.fin == Fin::Sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut state = self.shared.state.lock();
        let ended = state.phase == Phase::Ended;
        let Some(slot) = state.slots.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if ended || !matches!(slot.end, End::Open | End::Finished) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if state.session.outgoing_len() >= self.shared.limits.send_buffer {
            state.writers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let sent = state.session.send(self.id, data);
        if sent == 0 {
            if let Some(slot) = state.slots.get_mut(&self.id) {
                slot.writer = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        state.wake_driver();
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver sends whatever is queued as soon as the connection takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fin == Fin::Owed {
            self.fin = Fin::Sent;
            let mut state = self.shared.state.lock();
            state.session.finish(self.id);
            state.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for ReceiveHalf {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let Some(slot) = state.slots.get_mut(&self.id) else { return };
        slot.receiving = Half::Dropped;
        let (left, gone) = (slot.buffer.len(), slot.sending == Half::Dropped);
        if left > 0 {
            state.take(self.id, left, &self.shared.limits);
        }
        if gone {
            state.forget(self.id);
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if self.fin == Fin::Owed {
            state.session.reset(self.id, ResetStatus::Cancel);
            state.wake_driver();
        }
        let Some(slot) = state.slots.get_mut(&self.id) else { return };
        slot.sending = Half::Dropped;
        if self.fin == Fin::Owed {
            // Nothing more can come on a stream that we reset.
            slot.cut(End::Reset(ResetStatus::Cancel));
            slot.wake();
        }
        if slot.receiving == Half::Dropped {
            state.forget(self.id);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receive).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}
