//! Frames on the wire: cutting a byte stream into them, and writing them.
//!
//! ```text
//!   control: 1 | version 15 | type 16 | flags 8 | length 24 | payload
//!   data:    0 | stream 31            | flags 8 | length 24 | payload
//! ```
//!
//! The payload of a DATA frame is handed on in pieces as it comes, so a frame of 16 MiB costs no
//! more than the reader's buffer. Control frames are collected, up to a limit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 0x01;
const FLAG_UNIDIRECTIONAL: u8 = 0x02;
const STREAM_MASK: u32 = 0x7fff_ffff;
/// The id of SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Whether a frame is the last that its sender sends on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    /// More may follow.
    More,
    /// The sender's side of the stream is finished.
    Last,
}

/// Why a stream is reset (SPDY/3 draft, 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetStatus {
    /// A rule of the protocol was broken.
    ProtocolError,
    /// A frame came for a stream that is not open.
    InvalidStream,
    /// The stream was refused before anything was done for it.
    RefusedStream,
    /// The stream's creator no longer needs it.
    Cancel,
    /// The peer failed in itself.
    InternalError,
    /// The flow control window was exceeded.
    FlowControlError,
    /// A second SYN_REPLY came.
    StreamInUse,
    /// Data came on a half-closed stream.
    StreamAlreadyClosed,
    /// Any other number.
    Other(u32),
}

impl ResetStatus {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::ProtocolError => 1,
            Self::InvalidStream => 2,
            Self::RefusedStream => 3,
            Self::Cancel => 5,
            Self::InternalError => 6,
            Self::FlowControlError => 7,
            Self::StreamInUse => 8,
            Self::StreamAlreadyClosed => 9,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ProtocolError,
            2 => Self::InvalidStream,
            3 => Self::RefusedStream,
            5 => Self::Cancel,
            6 => Self::InternalError,
            7 => Self::FlowControlError,
            8 => Self::StreamInUse,
            9 => Self::StreamAlreadyClosed,
            other => Self::Other(other),
        }
    }
}

/// Why the connection is being left (SPDY/3 draft, 2.6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoAwayStatus {
    /// An orderly end.
    Ok,
    /// A rule of the protocol was broken.
    ProtocolError,
    /// The sender failed in itself.
    InternalError,
}

impl GoAwayStatus {
    fn code(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::ProtocolError => 1,
            Self::InternalError => 2,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::ProtocolError,
            _ => Self::InternalError,
        }
    }
}

/// A frame as it came; headers are still deflated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        unidirectional: bool,
        fin: Fin,
        deflated: Bytes,
    },
    SynReply {
        stream: u32,
        fin: Fin,
        deflated: Bytes,
    },
    RstStream {
        stream: u32,
        status: ResetStatus,
    },
    /// Only the initial window is of interest to us.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last_good: u32,
        status: GoAwayStatus,
    },
    Headers {
        stream: u32,
        fin: Fin,
        deflated: Bytes,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A piece of a DATA frame; `fin` comes with its last piece.
    Data {
        stream: u32,
        fin: Fin,
        piece: Bytes,
    },
    /// A control frame of a type that we do not know, to be ignored.
    Unknown,
}

/// Cuts a byte stream into frames; holds at most one control frame.
pub(super) struct Decoder {
    state: State,
    held: BytesMut,
    control_limit: usize,
}

enum State {
    Head,
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: u32, fin: Fin, left: usize },
}

impl Decoder {
    pub(super) fn new(control_limit: usize) -> Self {
        Self { state: State::Head, held: BytesMut::new(), control_limit }
    }

    /// Bytes held between calls.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next frame or piece of data in `input`, which is advanced; `None` when it is used up.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, SpdyError> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.collect(8, input) else { return Ok(None) };
                    self.state = self.head(head)?;
                }
                State::Control { kind, flags, length } => {
                    let Some(payload) = self.collect(length, input) else { return Ok(None) };
                    self.state = State::Head;
                    return control(kind, flags, payload).map(Some);
                }
                State::Data { stream, fin, left } => {
                    if input.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let piece = input.split_to(left.min(input.len()));
                    let left = left - piece.len();
                    if left > 0 {
                        self.state = State::Data { stream, fin, left };
                        return Ok(Some(Frame::Data { stream, fin: Fin::More, piece }));
                    }
                    self.state = State::Head;
                    return Ok(Some(Frame::Data { stream, fin, piece }));
                }
            }
        }
    }

    fn head(&self, mut head: Bytes) -> Result<State, SpdyError> {
        let word = head.get_u32();
        let flags = head.get_u8();
        let length = usize::try_from(head.get_uint(3)).expect("24 bits fit");
        if word & !STREAM_MASK == 0 {
            if word == 0 {
                return Err(SpdyError::Malformed("DATA"));
            }
            return Ok(State::Data { stream: word, fin: fin(flags), left: length });
        }
        let version = u16::try_from((word >> 16) & 0x7fff).expect("15 bits fit");
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > self.control_limit {
            return Err(SpdyError::FrameTooLarge(length));
        }
        let kind = u16::try_from(word & 0xffff).expect("16 bits fit");
        Ok(State::Control { kind, flags, length })
    }

    /// `want` bytes in one piece, once they are all there.
    fn collect(&mut self, want: usize, input: &mut Bytes) -> Option<Bytes> {
        if self.held.is_empty() && input.len() >= want {
            return Some(input.split_to(want));
        }
        let missing = want - self.held.len();
        self.held.extend_from_slice(&input.split_to(missing.min(input.len())));
        (self.held.len() == want).then(|| std::mem::take(&mut self.held).freeze())
    }
}

fn fin(flags: u8) -> Fin {
    if flags & FLAG_FIN == 0 { Fin::More } else { Fin::Last }
}

fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, SpdyError> {
    let need = |name, least| {
        if payload.len() < least { Err(SpdyError::Malformed(name)) } else { Ok(()) }
    };
    let exact = |name, size| {
        if payload.len() == size { Ok(()) } else { Err(SpdyError::Malformed(name)) }
    };
    Ok(match kind {
        1 => {
            need("SYN_STREAM", 10)?;
            let stream = payload.get_u32() & STREAM_MASK;
            // Associated stream, priority and slot say nothing to us.
            payload.advance(6);
            let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
            Frame::SynStream { stream, unidirectional, fin: fin(flags), deflated: payload }
        }
        2 => {
            need("SYN_REPLY", 4)?;
            let stream = payload.get_u32() & STREAM_MASK;
            Frame::SynReply { stream, fin: fin(flags), deflated: payload }
        }
        3 => {
            exact("RST_STREAM", 8)?;
            let stream = payload.get_u32() & STREAM_MASK;
            Frame::RstStream { stream, status: ResetStatus::from_code(payload.get_u32()) }
        }
        4 => settings(payload)?,
        6 => {
            exact("PING", 4)?;
            Frame::Ping(payload.get_u32())
        }
        7 => {
            exact("GOAWAY", 8)?;
            let last_good = payload.get_u32() & STREAM_MASK;
            Frame::GoAway { last_good, status: GoAwayStatus::from_code(payload.get_u32()) }
        }
        8 => {
            need("HEADERS", 4)?;
            let stream = payload.get_u32() & STREAM_MASK;
            Frame::Headers { stream, fin: fin(flags), deflated: payload }
        }
        9 => {
            exact("WINDOW_UPDATE", 8)?;
            let stream = payload.get_u32() & STREAM_MASK;
            Frame::WindowUpdate { stream, delta: payload.get_u32() & STREAM_MASK }
        }
        _ => Frame::Unknown,
    })
}

fn settings(mut payload: Bytes) -> Result<Frame, SpdyError> {
    let malformed = SpdyError::Malformed("SETTINGS");
    if payload.len() < 4 {
        return Err(malformed);
    }
    let count = payload.get_u32() as usize;
    if count.checked_mul(8) != Some(payload.len()) {
        return Err(malformed);
    }
    let mut initial_window = None;
    for _ in 0..count {
        let id = payload.get_u32() & 0x00ff_ffff;
        let value = payload.get_u32();
        if id == INITIAL_WINDOW_SIZE {
            initial_window = Some(value);
        }
    }
    if initial_window.is_some_and(|window| window > STREAM_MASK) {
        return Err(malformed);
    }
    Ok(Frame::Settings { initial_window })
}

/// Writes a frame's bytes; the counterpart of [`Decoder`].
pub(super) fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::SynStream { stream, unidirectional, fin, deflated } => {
            let flags = flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
            control_head(out, 1, flags, 10 + deflated.len());
            out.put_u32(*stream);
            out.put_slice(&[0; 6]);
            out.put_slice(deflated);
        }
        Frame::SynReply { stream, fin, deflated } => {
            control_head(out, 2, flag(*fin), 4 + deflated.len());
            out.put_u32(*stream);
            out.put_slice(deflated);
        }
        Frame::RstStream { stream, status } => {
            control_head(out, 3, 0, 8);
            out.put_u32(*stream);
            out.put_u32(status.code());
        }
        Frame::Settings { initial_window } => {
            let count = u32::from(initial_window.is_some());
            control_head(out, 4, 0, 4 + 8 * count as usize);
            out.put_u32(count);
            if let Some(window) = initial_window {
                out.put_u32(INITIAL_WINDOW_SIZE);
                out.put_u32(*window);
            }
        }
        Frame::Ping(id) => {
            control_head(out, 6, 0, 4);
            out.put_u32(*id);
        }
        Frame::GoAway { last_good, status } => {
            control_head(out, 7, 0, 8);
            out.put_u32(*last_good);
            out.put_u32(status.code());
        }
        Frame::Headers { stream, fin, deflated } => {
            control_head(out, 8, flag(*fin), 4 + deflated.len());
            out.put_u32(*stream);
            out.put_slice(deflated);
        }
        Frame::WindowUpdate { stream, delta } => {
            control_head(out, 9, 0, 8);
            out.put_u32(*stream);
            out.put_u32(*delta);
        }
        Frame::Data { stream, fin, piece } => encode_data(*stream, *fin, piece, out),
        Frame::Unknown => {}
    }
}

/// Writes a DATA frame.
pub(super) fn encode_data(stream: u32, fin: Fin, piece: &[u8], out: &mut BytesMut) {
    out.put_u32(stream);
    flags_and_length(out, flag(fin), piece.len());
    out.put_slice(piece);
}

fn flag(fin: Fin) -> u8 {
    match fin {
        Fin::More => 0,
        Fin::Last => FLAG_FIN,
    }
}

fn control_head(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    flags_and_length(out, flags, length);
}

fn flags_and_length(out: &mut BytesMut, flags: u8, length: usize) {
    assert!(length < 1 << 24, "we never write a frame beyond 24 bits of length");
    out.put_u8(flags);
    out.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(mut input: Bytes) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::new(1024);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut input)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn samples() -> Vec<Frame> {
        let deflated = Bytes::from_static(b"deflated");
        vec![
            Frame::Settings { initial_window: Some(1 << 16) },
            Frame::SynStream {
                stream: 1,
                unidirectional: false,
                fin: Fin::More,
                deflated: deflated.clone(),
            },
            Frame::SynReply { stream: 1, fin: Fin::Last, deflated: deflated.clone() },
            Frame::Headers { stream: 1, fin: Fin::More, deflated },
            Frame::Data { stream: 1, fin: Fin::Last, piece: Bytes::from_static(b"hello") },
            Frame::Data { stream: 3, fin: Fin::Last, piece: Bytes::new() },
            Frame::RstStream { stream: 5, status: ResetStatus::Cancel },
            Frame::Ping(7),
            Frame::WindowUpdate { stream: 0, delta: 77 },
            Frame::GoAway { last_good: 9, status: GoAwayStatus::Ok },
        ]
    }

    #[test]
    fn frames_survive_the_wire() {
        let mut wire = BytesMut::new();
        samples().iter().for_each(|frame| encode(frame, &mut wire));
        assert_eq!(frames(wire.freeze()).unwrap(), samples());
    }

    #[test]
    fn frames_survive_being_cut_into_single_bytes() {
        let mut wire = BytesMut::new();
        samples().iter().for_each(|frame| encode(frame, &mut wire));
        let mut decoder = Decoder::new(1024);
        let mut control = Vec::new();
        let mut data = Vec::new();
        for byte in wire {
            let mut input = Bytes::copy_from_slice(&[byte]);
            while let Some(frame) = decoder.next(&mut input).unwrap() {
                match frame {
                    Frame::Data { piece, .. } => data.extend_from_slice(&piece),
                    frame => control.push(frame),
                }
            }
        }
        assert_eq!(data, b"hello");
        let expected: Vec<_> =
            samples().into_iter().filter(|f| !matches!(f, Frame::Data { .. })).collect();
        assert_eq!(control, expected);
    }

    #[test]
    fn a_control_frame_beyond_the_limit_is_refused_at_its_head() {
        let head = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
        assert_eq!(
            frames(Bytes::copy_from_slice(&head)),
            Err(SpdyError::FrameTooLarge(0x00ff_ffff))
        );
    }

    #[test]
    fn another_version_is_refused() {
        let head = [0x80, 2, 0, 6, 0, 0, 0, 4];
        assert_eq!(frames(Bytes::copy_from_slice(&head)), Err(SpdyError::Version(2)));
    }

    #[test]
    fn settings_that_lie_about_their_number_are_refused() {
        let frame = [0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(frames(Bytes::copy_from_slice(&frame)), Err(SpdyError::Malformed("SETTINGS")));
    }
}
