//! Drives a [`Session`] over a connection, and gives each stream out as reader and writer.
//!
//! One task polls the [`Driver`], which alone touches the connection; [`Stream`]s share the
//! session's state with it under one short lock, never held across an await. A stream that is
//! read too slowly fills its buffer, and then the connection is read no further: Go's peers keep
//! no windows, so there is no other way to hold one stream back. Writing goes on meanwhile.

mod stream;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{Event, Headers, Limits, ResetStatus, Role, Session, StreamId};
use crate::StreamError;

pub use stream::{ReceiveHalf, SendHalf, Stream};

/// What one read of the connection takes at most.
const READ_SIZE: usize = 32 << 10;

/// Starts a connection. Nothing moves until the [`Driver`] is polled.
pub fn connect<IO>(io: IO, role: Role, limits: Limits) -> (Connection, Driver<IO>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Arc::new(Shared {
        limits,
        state: Mutex::new(State {
            session: Session::new(role, limits),
            slots: HashMap::new(),
            opened: VecDeque::new(),
            buffered: 0,
            full: 0,
            phase: Phase::Open,
            driver: None,
            acceptor: None,
            writers: Vec::new(),
        }),
    });
    let (input, out) = (BytesMut::new(), BytesMut::new());
    let driver = Driver { io, shared: shared.clone(), input, out, flush: Flush::Done };
    (Connection { shared }, driver)
}

/// A handle on a connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

impl Connection {
    /// The next stream that the peer opens; `None` once the connection has ended.
    pub async fn accept(&self) -> Option<Incoming> {
        std::future::poll_fn(|cx| {
            let mut state = self.shared.state.lock();
            if let Some((id, headers)) = state.opened.pop_front() {
                let stream = Stream::new(self.shared.clone(), id);
                return Poll::Ready(Some(Incoming { headers, stream }));
            }
            if state.phase == Phase::Ended {
                return Poll::Ready(None);
            }
            state.acceptor = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Opens a stream and waits until the peer has accepted it.
    ///
    /// # Errors
    /// When the peer refuses it, or the connection is or becomes closed.
    pub async fn open(&self, headers: &Headers) -> Result<Stream, StreamError> {
        let id = {
            let mut state = self.shared.state.lock();
            if state.phase != Phase::Open {
                return Err(StreamError::Closed);
            }
            let id = state.session.open(headers)?;
            state.slots.insert(id, Slot::new(Answer::Awaited));
            state.wake_driver();
            id
        };
        let stream = Stream::new(self.shared.clone(), id);
        stream.answered().await?;
        Ok(stream)
    }

    /// Tells the peer of our flow control windows, and holds it to them; for peers that are known
    /// to keep any.
    pub fn announce_windows(&self) {
        let mut state = self.shared.state.lock();
        state.session.announce_windows();
        state.wake_driver();
    }

    /// Says that no further streams are accepted; once the open ones are gone and everything is
    /// sent, the [`Driver`] closes its side and waits for the peer to close.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            state.session.go_away();
        }
        state.wake_driver();
    }
}

/// A stream that the peer wants to open. Dropping it refuses it.
pub struct Incoming {
    headers: Headers,
    stream: Stream,
}

impl Incoming {
    /// The headers that it comes with.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.stream.id()
    }

    /// Accepts it.
    #[must_use]
    pub fn accept(self) -> Stream {
        self.stream.reply();
        self.stream
    }

    /// Refuses it.
    pub fn refuse(self) {
        self.stream.reset(ResetStatus::RefusedStream);
    }
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    session: Session,
    slots: HashMap<StreamId, Slot>,
    opened: VecDeque<(StreamId, Headers)>,
    /// Received bytes that no stream has read yet.
    buffered: usize,
    /// How many streams are at their limit.
    full: usize,
    phase: Phase,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
    /// Writers that wait for room in the send buffer.
    writers: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// We go away; streams may still finish.
    Closing,
    /// The connection is gone.
    Ended,
}

/// What a stream's two halves and the driver share.
struct Slot {
    buffer: BytesMut,
    end: End,
    answer: Answer,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The receiving half was dropped: what comes is thrown away.
    receiving: Half,
    sending: Half,
}

/// Whether the peer is done with the stream.
#[derive(Clone, Copy)]
enum End {
    Open,
    Finished,
    /// Finished, and later reset or lost: all was received, nothing can be sent.
    FinishedAndCut,
    Reset(ResetStatus),
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Given,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Held,
    Dropped,
}

impl Slot {
    fn new(answer: Answer) -> Self {
        Self {
            buffer: BytesMut::new(),
            end: End::Open,
            answer,
            reader: None,
            writer: None,
            receiving: Half::Held,
            sending: Half::Held,
        }
    }

    /// The stream ended without, or after, the peer's FIN.
    fn cut(&mut self, how: End) {
        self.end = match self.end {
            End::Open => how,
            End::Finished => End::FinishedAndCut,
            ended => ended,
        };
    }

    fn wake(&mut self) {
        [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }
}

impl State {
    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    fn wake_writers(&mut self) {
        self.writers.drain(..).for_each(Waker::wake);
    }

    fn may_read(&self, limits: &Limits) -> bool {
        self.full == 0
            && self.buffered < limits.connection_buffer
            // Data of ours fills the send buffer at most once; the rest is answers to the peer's
            // control frames. Reading must not wait for our data to go, for the peer may be
            // waiting for us in the same way.
            && self.session.outgoing_len() <= 2 * limits.send_buffer
    }

    fn dispatch(&mut self, limits: &Limits) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened(id, headers) => {
                    self.slots.insert(id, Slot::new(Answer::Given));
                    self.opened.push_back((id, headers));
                    if let Some(waker) = self.acceptor.take() {
                        waker.wake();
                    }
                }
                Event::Replied(id, _) => self.update(id, |slot| slot.answer = Answer::Given),
                Event::Data(id, piece) => self.received(id, &piece, limits),
                Event::Finished(id) => self.update(id, |slot| slot.end = End::Finished),
                Event::Reset(id, status) => self.update(id, |slot| slot.cut(End::Reset(status))),
                Event::Writable(Some(id)) => self.update(id, |_| {}),
                Event::Writable(None) => {
                    self.slots.values_mut().filter_map(|s| s.writer.take()).for_each(Waker::wake);
                }
                Event::Pong(_) => {}
                Event::GoAway(_) => {
                    if self.phase == Phase::Open {
                        self.phase = Phase::Closing;
                    }
                }
            }
        }
    }

    fn update(&mut self, id: StreamId, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get_mut(&id) {
            change(slot);
            slot.wake();
        }
    }

    fn received(&mut self, id: StreamId, piece: &[u8], limits: &Limits) {
        let held = self.slots.get_mut(&id).filter(|slot| slot.receiving == Half::Held);
        let Some(slot) = held else {
            self.session.consumed(id, piece.len());
            return;
        };
        let before = slot.buffer.len();
        slot.buffer.extend_from_slice(piece);
        self.buffered += piece.len();
        if before < limits.stream_buffer && slot.buffer.len() >= limits.stream_buffer {
            self.full += 1;
        }
        if let Some(waker) = slot.reader.take() {
            waker.wake();
        }
    }

    /// Forgets a stream whose halves are both gone; one that the peer still feeds is reset.
    fn forget(&mut self, id: StreamId) {
        self.slots.remove(&id);
        self.session.reset(id, ResetStatus::Cancel);
        self.wake_driver();
    }

    /// Takes bytes out of a stream's buffer; wakes the driver if it had stopped reading.
    fn take(&mut self, id: StreamId, count: usize, limits: &Limits) {
        let could = self.may_read(limits);
        if let Some(slot) = self.slots.get_mut(&id) {
            let before = slot.buffer.len();
            slot.buffer.advance(count);
            if before >= limits.stream_buffer && before - count < limits.stream_buffer {
                self.full -= 1;
            }
            if slot.buffer.is_empty() {
                // An idle stream holds no memory.
                slot.buffer = BytesMut::new();
            }
            self.buffered -= count;
        }
        self.session.consumed(id, count);
        if !could || self.session.outgoing_len() > 0 {
            self.wake_driver();
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.opened.clear();
        for slot in self.slots.values_mut() {
            slot.cut(End::Lost);
            slot.wake();
        }
        self.wake_writers();
        if let Some(waker) = self.acceptor.take() {
            waker.wake();
        }
    }
}

/// The future that moves the bytes; it ends with the connection.
pub struct Driver<IO> {
    io: IO,
    shared: Arc<Shared>,
    input: BytesMut,
    out: BytesMut,
    flush: Flush,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Done,
    Due,
    /// Our side of the connection is shut; what is left is to wait for the peer's.
    Shut,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.out.is_empty() {
                let mut state = self.shared.state.lock();
                self.out = state.session.take_outgoing();
                if !self.out.is_empty() {
                    state.wake_writers();
                }
            }
            if self.out.is_empty() {
                if self.flush == Flush::Due {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                    self.flush = Flush::Done;
                }
                return self.poll_shut(cx);
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.flush = Flush::Due;
        }
    }

    /// Shuts our side once we are closing and no stream is left.
    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = {
            let state = self.shared.state.lock();
            state.phase == Phase::Closing
                && state.session.stream_count() == 0
                && state.session.outgoing_len() == 0
        };
        if done && self.flush == Flush::Done {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.flush = Flush::Shut;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; `Some(())` at the end of the peer's bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<()>, StreamError>> {
        if !self.shared.state.lock().may_read(&self.shared.limits) {
            return Poll::Pending;
        }
        self.input.reserve(READ_SIZE);
        if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))? == 0 {
            return Poll::Ready(Ok(Some(())));
        }
        let mut state = self.shared.state.lock();
        let outcome = state.session.receive(self.input.split().freeze());
        state.dispatch(&self.shared.limits);
        outcome?;
        Poll::Ready(Ok(None))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Result<(), StreamError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Registered before anything is looked at, so that no change after it is missed.
        this.shared.state.lock().driver = Some(cx.waker().clone());
        let outcome = loop {
            if let Poll::Ready(Err(error)) = this.poll_write(cx) {
                break Err(error.into());
            }
            match this.poll_read(cx) {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(()))) => break Ok(()),
                Poll::Ready(Err(error)) => {
                    // The peer may still learn why, if it takes it at once.
                    let _ = this.poll_write(cx);
                    break Err(error);
                }
                Poll::Pending => {
                    // Reading may have left answers to be sent.
                    if this.out.is_empty() && this.shared.state.lock().session.outgoing_len() > 0 {
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        };
        this.shared.state.lock().end();
        Poll::Ready(outcome)
    }
}

impl<IO> Drop for Driver<IO> {
    /// Streams must not wait for a driver that is no more.
    fn drop(&mut self) {
        self.shared.state.lock().end();
    }
}

#[cfg(test)]
mod tests;
