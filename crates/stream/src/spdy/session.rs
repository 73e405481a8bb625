//! The state of one SPDY connection, without I/O: bytes and calls in, events and bytes out.
//!
//! ```text
//!             open / SYN_STREAM
//!                    │
//!                    ▼      FIN sent           FIN received
//!                  open ───────────▶ half ◀─────────────── open
//!                    │               closed
//!          RST_STREAM│                 │ the other FIN
//!                    ▼                 ▼
//!                  gone              gone        (forgotten; late frames are dropped)
//! ```
//!
//! Invariants: headers are inflated and deflated in the order of the wire, even those of refused
//! streams; nothing is sent on a peer's stream before its SYN_REPLY (Go drops such data); one
//! call of [`Session::receive`] makes events and answers in proportion to its input only.
//!
//! Windows. Received data is acknowledged as it is consumed, always. The peer's windows bind us
//! only once it has shown to have any, by SETTINGS or WINDOW_UPDATE: Go's spdystream never
//! opens a window again, and waiting for it would stall every transfer at 64 KiB. Until then
//! TCP's own flow control is what holds us back, as it does Go. For the same reason a peer is
//! held to our windows only if we have announced them ([`Session::announce_windows`]).

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::frame::{Decoder, Fin, Frame, encode, encode_data};
use super::headers::{Deflater, Inflater};
use super::{GoAwayStatus, Headers, Limits, ResetStatus, Role, SpdyError, StreamId};

/// The window that every stream, and the connection, has at first.
pub const INITIAL_WINDOW: u32 = 64 << 10;
/// The most that goes into one DATA frame of ours.
pub const DATA_FRAME: usize = 32 << 10;

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream; answer by [`Session::reply`] or [`Session::reset`].
    Opened(StreamId, Headers),
    /// It accepted a stream of ours.
    Replied(StreamId, Headers),
    /// Data of a stream, never empty; give it back to the window by [`Session::consumed`].
    Data(StreamId, Bytes),
    /// It will send no more on this stream.
    Finished(StreamId),
    /// It reset the stream, which is gone.
    Reset(StreamId, ResetStatus),
    /// More may be sent, on this stream or on all.
    Writable(Option<StreamId>),
    /// It answered a ping of ours.
    Pong(u32),
    /// It will accept no further streams.
    GoAway(GoAwayStatus),
}

/// One end of a connection.
pub struct Session {
    role: Role,
    limits: Limits,
    decoder: Decoder,
    inflater: Inflater,
    deflater: Deflater,
    streams: HashMap<u32, State>,
    next_local: u32,
    last_remote: u32,
    next_ping: u32,
    send_window: Window,
    receive_window: Received,
    initial_window: i64,
    windows: Windows,
    /// Whether the peer has been told of our windows, and so is held to them.
    announced: Windows,
    leaving: Leaving,
    outgoing: BytesMut,
    events: VecDeque<Event>,
    broken: Option<SpdyError>,
}

/// Whether windows have been heard of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    Unspoken,
    Spoken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    Yes,
}

/// What one side of a stream may still send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A peer's stream that waits for our SYN_REPLY.
    Unanswered,
    Open,
    Finished,
}

struct State {
    local: Side,
    remote: Side,
    send_window: i64,
    received: Received,
}

/// The window for sending on the connection as a whole, once the peer has one.
struct Window {
    left: i64,
    windows: Windows,
}

/// The window that we give, and how much of it awaits acknowledgement.
struct Received {
    left: i64,
    unacknowledged: u32,
}

impl Received {
    fn new() -> Self {
        Self { left: i64::from(INITIAL_WINDOW), unacknowledged: 0 }
    }

    /// Counts consumed bytes; some when it is time to open the window again.
    fn consumed(&mut self, count: u32) -> Option<u32> {
        self.unacknowledged = self.unacknowledged.saturating_add(count);
        if self.unacknowledged < INITIAL_WINDOW / 2 {
            return None;
        }
        let delta = std::mem::take(&mut self.unacknowledged);
        self.left += i64::from(delta);
        Some(delta)
    }
}

impl Session {
    /// A fresh connection.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        let first = match role {
            Role::Client => 1,
            Role::Server => 2,
        };
        Self {
            role,
            limits,
            decoder: Decoder::new(limits.control_frame),
            inflater: Inflater::new(limits.header_block),
            deflater: Deflater::new(),
            streams: HashMap::new(),
            next_local: first,
            last_remote: 0,
            next_ping: first,
            send_window: Window { left: i64::from(INITIAL_WINDOW), windows: Windows::Unspoken },
            receive_window: Received::new(),
            initial_window: i64::from(INITIAL_WINDOW),
            windows: Windows::Unspoken,
            announced: Windows::Unspoken,
            leaving: Leaving::No,
            outgoing: BytesMut::new(),
            events: VecDeque::new(),
            broken: None,
        }
    }

    /// Takes bytes of the peer. An error is final: a GOAWAY is left to be sent, no more.
    ///
    /// # Errors
    /// What the peer did that a connection cannot survive.
    pub fn receive(&mut self, mut input: Bytes) -> Result<(), SpdyError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let outcome = loop {
            match self.decoder.next(&mut input) {
                Ok(Some(frame)) => {
                    if let Err(error) = self.handle(frame) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &outcome {
            self.broken = Some(error.clone());
            self.send_go_away(GoAwayStatus::ProtocolError);
        }
        outcome
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes for the peer, all there are; empty when there are none.
    pub fn take_outgoing(&mut self) -> BytesMut {
        self.outgoing.split()
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn outgoing_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Bytes of unfinished frames and events not yet polled, for the keeping of bounds.
    #[must_use]
    pub fn held(&self) -> usize {
        let events: usize = self
            .events
            .iter()
            .map(|event| match event {
                Event::Data(_, piece) => piece.len(),
                Event::Opened(_, headers) | Event::Replied(_, headers) => {
                    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
                }
                _ => 0,
            })
            .sum();
        self.decoder.held() + events
    }

    /// Streams that are not yet gone.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`SpdyError::Exhausted`] when 2³⁰ streams have been opened.
    pub fn open(&mut self, headers: &Headers) -> Result<StreamId, SpdyError> {
        let stream = self.next_local;
        if stream >= 1 << 31 {
            return Err(SpdyError::Exhausted);
        }
        self.next_local += 2;
        self.insert(stream, Side::Open, Side::Open);
        let deflated = self.deflate(headers);
        let frame = Frame::SynStream { stream, unidirectional: false, fin: Fin::More, deflated };
        encode(&frame, &mut self.outgoing);
        Ok(StreamId(stream))
    }

    /// Accepts a stream that the peer opened.
    pub fn reply(&mut self, stream: StreamId, headers: &Headers) {
        let Some(state) = self.streams.get_mut(&stream.0) else { return };
        if state.local != Side::Unanswered {
            return;
        }
        state.local = Side::Open;
        let deflated = self.deflate(headers);
        let frame = Frame::SynReply { stream: stream.0, fin: Fin::More, deflated };
        encode(&frame, &mut self.outgoing);
    }

    /// How much may be sent on a stream now; 0 when it is closed or its window is.
    #[must_use]
    pub fn sendable(&self, stream: StreamId) -> usize {
        let Some(state) = self.streams.get(&stream.0) else { return 0 };
        if state.local != Side::Open {
            return 0;
        }
        let mut left = i64::try_from(DATA_FRAME).expect("a frame's size is small");
        if self.windows == Windows::Spoken {
            left = left.min(state.send_window);
        }
        if self.send_window.windows == Windows::Spoken {
            left = left.min(self.send_window.left);
        }
        usize::try_from(left).unwrap_or(0)
    }

    /// Sends the beginning of `data`, as much as may be sent now; how much that was.
    pub fn send(&mut self, stream: StreamId, data: &[u8]) -> usize {
        let size = data.len().min(self.sendable(stream));
        if size > 0 {
            self.write_data(stream, &data[..size], Fin::More);
        }
        size
    }

    /// Finishes our side of a stream.
    pub fn finish(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream.0) else { return };
        if state.local != Side::Open {
            return;
        }
        state.local = Side::Finished;
        self.write_data(stream, &[], Fin::Last);
        self.forget_if_closed(stream.0);
    }

    /// Ends a stream at once, in both directions.
    pub fn reset(&mut self, stream: StreamId, status: ResetStatus) {
        if self.streams.remove(&stream.0).is_some() {
            encode(&Frame::RstStream { stream: stream.0, status }, &mut self.outgoing);
        }
    }

    /// Gives consumed bytes back to the windows.
    pub fn consumed(&mut self, stream: StreamId, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(delta) = self.receive_window.consumed(count) {
            encode(&Frame::WindowUpdate { stream: 0, delta }, &mut self.outgoing);
        }
        let Some(state) = self.streams.get_mut(&stream.0) else { return };
        if state.remote == Side::Finished {
            return;
        }
        if let Some(delta) = state.received.consumed(count) {
            encode(&Frame::WindowUpdate { stream: stream.0, delta }, &mut self.outgoing);
        }
    }

    /// Announces that we keep windows: a peer that exceeds them from here on is at fault.
    pub fn announce_windows(&mut self) {
        let initial_window = Some(INITIAL_WINDOW);
        encode(&Frame::Settings { initial_window }, &mut self.outgoing);
        self.announced = Windows::Spoken;
    }

    /// Sends a ping; its number comes back in [`Event::Pong`].
    pub fn ping(&mut self) -> u32 {
        let id = self.next_ping;
        self.next_ping = if id > u32::MAX - 2 { id & 1 } else { id + 2 };
        if self.next_ping == 0 {
            self.next_ping = 2;
        }
        encode(&Frame::Ping(id), &mut self.outgoing);
        id
    }

    /// Accepts no further streams, and says so.
    pub fn go_away(&mut self) {
        self.send_go_away(GoAwayStatus::Ok);
    }

    fn send_go_away(&mut self, status: GoAwayStatus) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Yes;
            let last_good = self.last_remote;
            encode(&Frame::GoAway { last_good, status }, &mut self.outgoing);
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream { stream, unidirectional, fin, deflated } => {
                let headers = self.inflater.inflate(&deflated)?;
                self.opened(stream, unidirectional, fin, headers)
            }
            Frame::SynReply { stream, fin, deflated } => {
                let headers = self.inflater.inflate(&deflated)?;
                self.replied(stream, fin, headers);
                Ok(())
            }
            Frame::Headers { stream, fin, deflated } => {
                self.inflater.inflate(&deflated)?;
                self.finished(stream, fin);
                Ok(())
            }
            Frame::RstStream { stream, status } => {
                if self.streams.remove(&stream).is_some() {
                    self.events.push_back(Event::Reset(StreamId(stream), status));
                }
                Ok(())
            }
            Frame::Settings { initial_window } => {
                if let Some(window) = initial_window {
                    self.resize_windows(i64::from(window));
                }
                Ok(())
            }
            Frame::Ping(id) => {
                if (id % 2 == 1) == (self.role == Role::Client) {
                    self.events.push_back(Event::Pong(id));
                } else {
                    encode(&Frame::Ping(id), &mut self.outgoing);
                }
                Ok(())
            }
            Frame::GoAway { status, .. } => {
                self.leaving = Leaving::Yes;
                self.events.push_back(Event::GoAway(status));
                Ok(())
            }
            Frame::WindowUpdate { stream, delta } => {
                self.window_opened(stream, delta);
                Ok(())
            }
            Frame::Data { stream, fin, piece } => self.data(stream, fin, piece),
            Frame::Unknown => Ok(()),
        }
    }

    fn opened(
        &mut self,
        stream: u32,
        unidirectional: bool,
        fin: Fin,
        headers: Headers,
    ) -> Result<(), SpdyError> {
        let parity = match self.role {
            Role::Server => 1,
            Role::Client => 0,
        };
        if stream == 0 {
            return Err(SpdyError::Malformed("SYN_STREAM"));
        }
        if stream % 2 != parity || stream <= self.last_remote {
            // An open stream of that number dies with the second opening, as the draft demands.
            self.streams.remove(&stream);
            self.refuse(stream, ResetStatus::ProtocolError);
            return Ok(());
        }
        self.last_remote = stream;
        if self.leaving == Leaving::Yes || self.streams.len() >= self.limits.streams {
            self.refuse(stream, ResetStatus::RefusedStream);
            return Ok(());
        }
        let local = if unidirectional { Side::Finished } else { Side::Unanswered };
        self.insert(stream, local, Side::Open);
        self.events.push_back(Event::Opened(StreamId(stream), headers));
        self.finished(stream, fin);
        Ok(())
    }

    fn replied(&mut self, stream: u32, fin: Fin, headers: Headers) {
        if self.streams.contains_key(&stream) && self.is_local(stream) {
            self.events.push_back(Event::Replied(StreamId(stream), headers));
            self.finished(stream, fin);
        } else {
            self.refuse_unless_known(stream);
        }
    }

    fn data(&mut self, stream: u32, fin: Fin, piece: Bytes) -> Result<(), SpdyError> {
        let size = i64::try_from(piece.len()).expect("a piece is at most 16 MiB");
        self.receive_window.left -= size;
        if self.announced == Windows::Spoken && self.receive_window.left < 0 {
            return Err(SpdyError::FlowControl);
        }
        let Some(state) = self.streams.get_mut(&stream) else {
            // Nobody will consume it, but the connection's window must not shrink by it.
            self.consumed(StreamId(stream), piece.len());
            self.refuse_unless_known(stream);
            return Ok(());
        };
        if state.remote == Side::Finished {
            self.consumed(StreamId(stream), piece.len());
            self.break_stream(stream, ResetStatus::StreamAlreadyClosed);
            return Ok(());
        }
        state.received.left -= size;
        if self.announced == Windows::Spoken && state.received.left < 0 {
            self.consumed(StreamId(stream), piece.len());
            self.break_stream(stream, ResetStatus::FlowControlError);
            return Ok(());
        }
        if !piece.is_empty() {
            self.events.push_back(Event::Data(StreamId(stream), piece));
        }
        self.finished(stream, fin);
        Ok(())
    }

    fn window_opened(&mut self, stream: u32, delta: u32) {
        let delta = i64::from(delta);
        let most = i64::from(i32::MAX);
        if stream == 0 {
            self.send_window.windows = Windows::Spoken;
            self.send_window.left = (self.send_window.left + delta).min(most);
            self.events.push_back(Event::Writable(None));
            return;
        }
        if self.windows == Windows::Unspoken {
            self.windows = Windows::Spoken;
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            state.send_window += delta;
            if state.send_window > most {
                self.break_stream(stream, ResetStatus::FlowControlError);
            } else {
                self.events.push_back(Event::Writable(Some(StreamId(stream))));
            }
        }
    }

    /// A new initial window shifts those of all streams (SPDY/3 draft, 2.6.8).
    fn resize_windows(&mut self, window: i64) {
        self.windows = Windows::Spoken;
        let shift = window - self.initial_window;
        self.initial_window = window;
        for state in self.streams.values_mut() {
            state.send_window += shift;
        }
        self.events.push_back(Event::Writable(None));
    }

    fn finished(&mut self, stream: u32, fin: Fin) {
        if fin == Fin::More {
            return;
        }
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if state.remote != Side::Finished {
            state.remote = Side::Finished;
            self.events.push_back(Event::Finished(StreamId(stream)));
            self.forget_if_closed(stream);
        }
    }

    fn forget_if_closed(&mut self, stream: u32) {
        let closed =
            |state: &State| state.local == Side::Finished && state.remote == Side::Finished;
        if self.streams.get(&stream).is_some_and(closed) {
            self.streams.remove(&stream);
        }
    }

    /// Resets a stream for what the peer did on it, and tells our side.
    fn break_stream(&mut self, stream: u32, status: ResetStatus) {
        self.reset(StreamId(stream), status);
        self.events.push_back(Event::Reset(StreamId(stream), status));
    }

    /// Frames of a stream that is gone may still be on their way; any other is a mistake.
    fn refuse_unless_known(&mut self, stream: u32) {
        let known = if self.is_local(stream) {
            stream < self.next_local
        } else {
            stream <= self.last_remote
        };
        if !known {
            self.refuse(stream, ResetStatus::InvalidStream);
        }
    }

    fn refuse(&mut self, stream: u32, status: ResetStatus) {
        encode(&Frame::RstStream { stream, status }, &mut self.outgoing);
    }

    fn is_local(&self, stream: u32) -> bool {
        (stream % 2 == 1) == (self.role == Role::Client)
    }

    fn insert(&mut self, stream: u32, local: Side, remote: Side) {
        let send_window = self.initial_window;
        self.streams
            .insert(stream, State { local, remote, send_window, received: Received::new() });
    }

    fn write_data(&mut self, stream: StreamId, data: &[u8], fin: Fin) {
        let size = i64::try_from(data.len()).expect("a frame's size is small");
        self.send_window.left -= size;
        if let Some(state) = self.streams.get_mut(&stream.0) {
            state.send_window -= size;
        }
        encode_data(stream.0, fin, data, &mut self.outgoing);
    }

    fn deflate(&mut self, headers: &Headers) -> Bytes {
        let mut deflated = Vec::new();
        self.deflater.deflate(headers, &mut deflated);
        deflated.into()
    }
}

#[cfg(test)]
mod tests;
