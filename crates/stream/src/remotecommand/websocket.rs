//! A session over WebSocket channels.

use std::future::Future;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::{LINGER, Options, Protocol, Resizes, Streams};
use crate::websocket::channels::{self, Channel, Codec, Direction, HalfClose};
use crate::{ExitStatus, StreamError};

pub(super) async fn serve<IO, Handler, Ended>(
    io: IO,
    protocol: Protocol,
    (codec, half_close): (Codec, HalfClose),
    options: Options,
    handler: Handler,
) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    Handler: FnOnce(Streams) -> Ended,
    Ended: Future<Output = ExitStatus>,
{
    let when = |wanted, direction| if wanted { direction } else { Direction::Unused };
    let directions = [
        when(options.stdin, Direction::In),
        when(options.stdout, Direction::Out),
        when(options.stderr, Direction::Out),
        Direction::Out,
        when(options.tty, Direction::In),
    ];
    let socket = crate::websocket::server(io).await;
    let (channels, mux) = channels::open(socket, codec, half_close, &directions);
    let [stdin, stdout, stderr, error, resize] =
        <[Channel; 5]>::try_from(channels).map_err(|_| StreamError::Closed)?;
    let gone = CancellationToken::new();
    let token = gone.clone();
    let (mut stdout, mut stderr, mut error) = (stdout.writer, stderr.writer, error.writer);
    let session = async move {
        // Upstream's sign that the session is established: an empty message on the first channel.
        if let Some(first) = [&mut stdout, &mut stderr, &mut error].into_iter().flatten().next() {
            let _ = first.announce().await;
        }
        let streams = Streams {
            stdin: stdin.reader.map(|reader| Box::new(reader) as _),
            stdout: stdout.map(|writer| Box::new(writer) as _),
            stderr: stderr.map(|writer| Box::new(writer) as _),
            resizes: resize.reader.map(Resizes::new),
            gone: token,
        };
        let status = handler(streams).await;
        if let Some(error) = &mut error {
            // A client that is gone needs no status.
            let _ = error.write_all(&protocol.put(&status)).await;
        }
    };
    let (moved, ()) = tokio::join!(mux.run(gone, LINGER), session);
    moved
}
