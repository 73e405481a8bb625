//! Channels of a WebSocket, two for each port of the request.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;

use super::{Dial, complaint};
use crate::StreamError;
use crate::websocket::channels::{self, Channel, Codec, Direction, HalfClose};

/// How long a finished session waits for the client to close.
const LINGER: std::time::Duration = std::time::Duration::from_secs(10);

pub(super) async fn serve<IO, D>(
    socket: WebSocketStream<IO>,
    codec: Codec,
    ports: &[u16],
    dial: D,
) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Dial,
{
    let directions = [Direction::Both, Direction::Out].repeat(ports.len());
    let (mut channels, mux) = channels::open(socket, codec, HalfClose::Unknown, &directions);
    let mut forwards = tokio::task::JoinSet::new();
    for port in ports.iter().rev() {
        if let (Some(error), Some(data)) = (channels.pop(), channels.pop()) {
            forwards.spawn(forward(data, error, *port, dial.clone()));
        }
    }
    // The connections' tasks are dropped with the session, or end it by ending all.
    let gone = CancellationToken::new();
    mux.run(gone, LINGER).await
}

async fn forward<D: Dial>(data: Channel, error: Channel, port: u16, dial: D) {
    let (Some(mut from_client), Some(mut to_client), Some(mut error)) =
        (data.reader, data.writer, error.writer)
    else {
        return;
    };
    let head = port.to_le_bytes();
    if to_client.write_all(&head).await.is_err() || error.write_all(&head).await.is_err() {
        return;
    }
    let outcome = match dial.dial(port).await {
        Ok(pod) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(pod);
            // No client can close one channel of this protocol, so its end is the session's; the
            // pod's end is ours.
            let upward = async {
                let _ = tokio::io::copy(&mut from_client, &mut to_pod).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                copied = tokio::io::copy(&mut from_pod, &mut to_client) => copied.map(drop),
                () = upward => Ok(()),
            }
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = outcome
        && let Some(message) = complaint(port, &dial.target(), &failure)
    {
        let _ = error.write_all(message.as_bytes()).await;
    }
}
