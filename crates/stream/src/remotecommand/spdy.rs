//! A session over SPDY streams, which the client opens, each saying by a header what it is.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::{LINGER, Options, Protocol, ResizeStream, Resizes, Streams};
use crate::spdy::{Connection, Limits, Role, SendHalf, Stream, connect};
use crate::{ExitStatus, StreamError};

/// How long a client may take to open its streams; upstream's `DefaultStreamCreationTimeout`.
const CREATION: Duration = Duration::from_secs(30);

pub(super) async fn serve<IO, Handler, Ended>(
    io: IO,
    protocol: Protocol,
    resize: ResizeStream,
    options: Options,
    handler: Handler,
) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    Handler: FnOnce(Streams) -> Ended,
    Ended: Future<Output = ExitStatus>,
{
    let (connection, driver) = connect(io, Role::Server, Limits::default());
    let gone = CancellationToken::new();
    let token = gone.clone();
    let closed = CancellationToken::new();
    let finished = closed.clone();
    let session = async move {
        let opened = tokio::time::timeout(CREATION, gather(&connection, resize, options)).await;
        let Ok(Ok(opened)) = opened else {
            connection.close();
            finished.cancel();
            return Err(StreamError::MissingStreams);
        };
        let (streams, error) = opened.into_streams(token);
        let status = handler(streams).await;
        if let Some(mut error) = error {
            // A client that is gone needs no status.
            let _ = error.write_all(&protocol.put(&status)).await;
            let _ = error.shutdown().await;
        }
        connection.close();
        finished.cancel();
        Ok(())
    };
    let driving = async {
        let _gone = gone.drop_guard();
        tokio::pin!(driver);
        tokio::select! {
            ended = &mut driver => return ended,
            () = closed.cancelled() => {}
        }
        // Everything is said; what is left is to send it and to see the client close.
        let _ = tokio::time::timeout(LINGER, driver).await;
        Ok(())
    };
    let (driven, ended) = tokio::join!(driving, session);
    ended.and(driven)
}

#[derive(Default)]
struct Opened {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

/// Accepts streams until all are there that the request announced.
async fn gather(
    connection: &Connection,
    resize: ResizeStream,
    options: Options,
) -> Result<Opened, StreamError> {
    let mut opened = Opened::default();
    let resizes = options.tty && resize == ResizeStream::Expected;
    loop {
        let complete = opened.error.is_some()
            && (opened.stdin.is_some() || !options.stdin)
            && (opened.stdout.is_some() || !options.stdout)
            && (opened.stderr.is_some() || !options.stderr)
            && (opened.resize.is_some() || !resizes);
        if complete {
            return Ok(opened);
        }
        let incoming = connection.accept().await.ok_or(StreamError::Closed)?;
        let place = match incoming.headers().value("streamType") {
            Some("stdin") => &mut opened.stdin,
            Some("stdout") => &mut opened.stdout,
            Some("stderr") => &mut opened.stderr,
            Some("error") => &mut opened.error,
            Some("resize") => &mut opened.resize,
            _ => {
                incoming.refuse();
                continue;
            }
        };
        if place.is_some() {
            incoming.refuse();
        } else {
            *place = Some(incoming.accept());
        }
    }
}

impl Opened {
    fn into_streams(self, gone: CancellationToken) -> (Streams, Option<SendHalf>) {
        // Whoever only writes still reads: dropping that half is what discards the client's FIN.
        let writer = |stream: Stream| Box::new(stream.into_split().1) as super::Writer;
        let reader = |stream: Stream| Box::new(stream) as super::Reader;
        let streams = Streams {
            stdin: self.stdin.map(reader),
            stdout: self.stdout.map(writer),
            stderr: self.stderr.map(writer),
            resizes: self.resize.map(Resizes::new),
            gone,
        };
        (streams, self.error.map(|stream| stream.into_split().1))
    }
}
