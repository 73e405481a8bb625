//! Numbered channels over one WebSocket: the first byte of each message is the channel.
//!
//! ```text
//!   binary:  | channel | payload …          |      v5 only: | 255 | channel |  closes it
//!   base64:  | '0' + channel | base64 payload |
//! ```
//!
//! Channels that the peer writes are read through a pipe of bounded size; while one is full the
//! connection is read no further. All that we write goes through one bounded queue, so what is
//! written first arrives first, over all channels. (Upstream: `wsstream.Conn`.)

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::{CancellationToken, PollSender};

use crate::StreamError;

/// What one message of ours carries at most: kubectl reads into a buffer of this size.
const MESSAGE_SIZE: usize = 32 << 10;
/// Messages of ours that wait to be sent.
const QUEUE: usize = 8;
/// Bytes of one channel that wait to be read.
const PIPE_SIZE: usize = 64 << 10;
/// A dead peer is noticed by the failing of these, even when it is not being read.
const PING_PERIOD: Duration = Duration::from_secs(15);
/// The channel of v5's half close.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are, in binary messages.
    Binary,
    /// As base64, in text messages.
    Base64,
}

/// Whether a client can close a single channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// By a message on channel 255 (v5).
    Signalled,
    /// Not at all (v4 and before).
    Unknown,
}

/// Who writes a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer.
    In,
    /// We.
    Out,
    /// Both.
    Both,
    /// Nobody: what comes is dropped.
    Unused,
}

/// Our ends of one channel.
#[derive(Default)]
pub struct Channel {
    /// What the peer writes; ends when it closes the channel or the connection.
    pub reader: Option<DuplexStream>,
    /// What we write.
    pub writer: Option<ChannelWriter>,
}

/// Writes one channel. Flushing and shutting down do nothing: the queue is always on its way.
pub struct ChannelWriter {
    channel: u8,
    queue: PollSender<(u8, Bytes)>,
}

/// Opens channels over a WebSocket. Nothing moves until [`Mux::run`] is polled.
pub fn open<IO>(
    socket: WebSocketStream<IO>,
    codec: Codec,
    half_close: HalfClose,
    directions: &[Direction],
) -> (Vec<Channel>, Mux<IO>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, queue) = mpsc::channel(QUEUE);
    let mut channels = Vec::with_capacity(directions.len());
    let mut pipes = Vec::with_capacity(directions.len());
    for (number, direction) in directions.iter().enumerate() {
        let mut channel = Channel::default();
        let mut pipe = None;
        if matches!(direction, Direction::In | Direction::Both) {
            let (ours, theirs) = tokio::io::duplex(PIPE_SIZE);
            channel.reader = Some(ours);
            pipe = Some(theirs);
        }
        if matches!(direction, Direction::Out | Direction::Both) {
            let number = u8::try_from(number).expect("a session has few channels");
            let queue = PollSender::new(sender.clone());
            channel.writer = Some(ChannelWriter { channel: number, queue });
        }
        channels.push(channel);
        pipes.push(pipe);
    }
    (channels, Mux { socket, codec, half_close, pipes, queue })
}

/// The future that moves the messages.
pub struct Mux<IO> {
    socket: WebSocketStream<IO>,
    codec: Codec,
    half_close: HalfClose,
    pipes: Vec<Option<DuplexStream>>,
    queue: mpsc::Receiver<(u8, Bytes)>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Mux<IO> {
    /// Moves messages until every [`ChannelWriter`] is dropped and its messages are sent, then
    /// closes, and waits for the peer to close for as long as `linger`. If the peer goes first,
    /// `gone` is cancelled at once and the writers fail.
    ///
    /// # Errors
    /// When the connection fails or the peer breaks the rules of framing.
    pub async fn run(self, gone: CancellationToken, linger: Duration) -> Result<(), StreamError> {
        let _gone = gone.drop_guard();
        let (sink, stream) = self.socket.split();
        let mut inbound =
            Inbound { stream, codec: self.codec, half_close: self.half_close, pipes: self.pipes };
        let mut outbound = Outbound { sink, codec: self.codec, queue: self.queue };
        let mut reading = std::pin::pin!(inbound.run());
        tokio::select! {
            ended = &mut reading => return ended,
            sent = outbound.run() => sent?,
        }
        // Everything is sent. What the client still sends must be read, or the kernel would
        // answer it with a reset that overtakes our last words.
        let _ = tokio::time::timeout(linger, reading).await;
        Ok(())
    }
}

struct Inbound<IO> {
    stream: SplitStream<WebSocketStream<IO>>,
    codec: Codec,
    half_close: HalfClose,
    pipes: Vec<Option<DuplexStream>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Inbound<IO> {
    async fn run(&mut self) -> Result<(), StreamError> {
        while let Some(message) = self.stream.next().await {
            match message? {
                Message::Binary(bytes) => self.deliver(bytes).await,
                Message::Text(text) => self.deliver(text.into()).await,
                // The end follows once tungstenite has answered it.
                Message::Close(_) => self.pipes.clear(),
                _ => {}
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, mut message: Bytes) {
        if message.is_empty() {
            return;
        }
        let first = message.split_to(1)[0];
        let channel = match self.codec {
            Codec::Binary => first,
            Codec::Base64 => first.wrapping_sub(b'0'),
        };
        if channel == CLOSE && self.half_close == HalfClose::Signalled {
            if let [closed] = message[..] {
                self.close(closed);
            }
            return;
        }
        let Some(Some(pipe)) = self.pipes.get_mut(usize::from(channel)) else { return };
        let payload = match self.codec {
            Codec::Binary => message,
            Codec::Base64 => match STANDARD.decode(&message) {
                Ok(decoded) => decoded.into(),
                Err(_) => return,
            },
        };
        if pipe.write_all(&payload).await.is_err() {
            // Nobody reads it any more: drop what comes from here on.
            self.close(channel);
        }
    }

    /// Dropping our end of the pipe is its reader's end of file.
    fn close(&mut self, channel: u8) {
        if let Some(pipe) = self.pipes.get_mut(usize::from(channel)) {
            *pipe = None;
        }
    }
}

struct Outbound<IO> {
    sink: SplitSink<WebSocketStream<IO>, Message>,
    codec: Codec,
    queue: mpsc::Receiver<(u8, Bytes)>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Outbound<IO> {
    async fn run(&mut self) -> Result<(), StreamError> {
        let mut ping = tokio::time::interval(PING_PERIOD);
        ping.tick().await;
        loop {
            tokio::select! {
                next = self.queue.recv() => match next {
                    Some((channel, payload)) => {
                        self.sink.feed(self.message(channel, &payload)).await?;
                        if self.queue.is_empty() {
                            self.sink.flush().await?;
                        }
                    }
                    None => break,
                },
                _ = ping.tick() => self.sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.sink.send(Message::Close(Some(normal))).await?;
        Ok(())
    }

    fn message(&self, channel: u8, payload: &[u8]) -> Message {
        match self.codec {
            Codec::Binary => {
                let mut message = BytesMut::with_capacity(1 + payload.len());
                message.put_u8(channel);
                message.put_slice(payload);
                Message::Binary(message.freeze())
            }
            Codec::Base64 => {
                let mut text = String::from(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(payload, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

impl ChannelWriter {
    /// Sends an empty message: upstream's sign that the session is established.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn announce(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_send(cx, Bytes::new())).await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, payload: Bytes) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.queue.poll_reserve(cx)).map_err(gone)?;
        self.queue.send_item((self.channel, payload)).map_err(gone)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.queue.poll_reserve(cx)).map_err(gone)?;
        let piece = &data[..data.len().min(MESSAGE_SIZE)];
        this.queue.send_item((this.channel, Bytes::copy_from_slice(piece))).map_err(gone)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
