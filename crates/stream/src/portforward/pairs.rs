//! Pairs of SPDY streams, one pair for each connection.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Dial, complaint};
use crate::StreamError;
use crate::spdy::{Connection, Incoming, ReceiveHalf, SendHalf, Stream};

/// How long one half of a pair waits for the other; upstream's `streamCreationTimeout`.
const CREATION: Duration = Duration::from_secs(30);
/// How often halves that have waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// What is copied at once.
const COPY_SIZE: usize = 32 << 10;

/// Runs until the client closes the connection.
pub(super) async fn serve<D: Dial>(
    connection: Connection,
    driver: impl Future<Output = Result<(), StreamError>>,
    dial: D,
) -> Result<(), StreamError> {
    // Dropped with this future, so that no connection to the pod outlives the client's.
    let mut forwards = JoinSet::new();
    let mut waiting: HashMap<String, Half> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    tokio::pin!(driver);
    loop {
        tokio::select! {
            ended = &mut driver => return ended,
            incoming = connection.accept() => {
                let Some(incoming) = incoming else { continue };
                if let Some(pair) = pair_up(incoming, &mut waiting) {
                    forwards.spawn(forward(pair, dial.clone()));
                }
            }
            Some(_) = forwards.join_next() => {}
            now = sweep.tick() => expire(&mut waiting, now),
        }
    }
}

struct Half {
    stream: Stream,
    kind: Kind,
    since: Instant,
}

struct Pair {
    data: Stream,
    error: Stream,
    port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Keeps a stream until its other half comes. A stream that says nothing useful is refused.
fn pair_up(incoming: Incoming, waiting: &mut HashMap<String, Half>) -> Option<Pair> {
    let port = incoming.headers().value("port").and_then(|port| port.parse().ok());
    let kind = match incoming.headers().value("streamType") {
        Some("data") => Some(Kind::Data),
        Some("error") => Some(Kind::Error),
        _ => None,
    };
    let (Some(port @ 1u16..), Some(kind)) = (port, kind) else {
        incoming.refuse();
        return None;
    };
    let request = request_id(&incoming, kind);
    let other = waiting.remove(&request);
    if other.as_ref().is_some_and(|other| other.kind == kind) {
        waiting.extend(other.map(|other| (request, other)));
        incoming.refuse();
        return None;
    }
    let stream = incoming.accept();
    let Some(other) = other else {
        waiting.insert(request, Half { stream, kind, since: Instant::now() });
        return None;
    };
    let (data, error) = match kind {
        Kind::Data => (stream, other.stream),
        Kind::Error => (other.stream, stream),
    };
    Some(Pair { data, error, port })
}

/// Very old clients give no request id, but open the error stream right before the data stream.
fn request_id(incoming: &Incoming, kind: Kind) -> String {
    if let Some(id) = incoming.headers().value("requestID") {
        return id.to_owned();
    }
    let id = incoming.id().get();
    match kind {
        Kind::Error => id.to_string(),
        Kind::Data => id.saturating_sub(2).to_string(),
    }
}

fn expire(waiting: &mut HashMap<String, Half>, now: Instant) {
    // A dropped stream is reset, which tells the client.
    waiting.retain(|_, half| now.duration_since(half.since) < CREATION);
}

async fn forward<D: Dial>(pair: Pair, dial: D) {
    let Pair { mut data, error, port } = pair;
    let error = error.into_split().1;
    let pod = match dial.dial(port).await {
        Ok(pod) => pod,
        Err(failure) => {
            let target = dial.target();
            let _ = data.shutdown().await;
            end(error, Some(format!("error forwarding port {port} to {target}: {failure}"))).await;
            return;
        }
    };
    let (from_client, to_client) = data.into_split();
    let (from_pod, to_pod) = tokio::io::split(pod);
    let complain = |failure: &io::Error| complaint(port, &dial.target(), failure);
    let downward = downward(from_pod, to_client, error, complain);
    let upward = upward(from_client, to_pod);
    tokio::pin!(downward, upward);
    tokio::select! {
        () = &mut downward => {
            upward.await;
        }
        how = &mut upward => if how == Upward::Finished {
            downward.await;
        }
    }
}

/// From the pod to the client. When the pod has finished, both streams end at once: kubectl waits
/// for the end of the error stream before it lets go of its own connection, so waiting for the
/// client to finish first would be waiting for each other.
async fn downward(
    from_pod: impl AsyncRead + Unpin,
    mut to_client: SendHalf,
    error: SendHalf,
    complain: impl Fn(&io::Error) -> Option<String>,
) {
    let message = match copy(from_pod, &mut to_client).await {
        Ok(()) | Err(CopyError::Write) => None,
        Err(CopyError::Read(failure)) => complain(&failure),
    };
    let _ = to_client.shutdown().await;
    end(error, message).await;
}

#[derive(PartialEq, Eq)]
enum Upward {
    /// The client has sent all, or the pod takes no more: the pod may still answer.
    Finished,
    /// The client reset the stream: it wants no more of this.
    Reset,
}

/// From the client to the pod. Returning drops the client's half, so that data which the pod
/// will not take is thrown away and does not hold up the connection's other streams.
async fn upward(from_client: ReceiveHalf, mut to_pod: impl AsyncWrite + Unpin) -> Upward {
    match copy(from_client, &mut to_pod).await {
        Ok(()) => {
            let _ = to_pod.shutdown().await;
            Upward::Finished
        }
        Err(CopyError::Write) => Upward::Finished,
        Err(CopyError::Read(_)) => Upward::Reset,
    }
}

async fn end(mut error: SendHalf, message: Option<String>) {
    if let Some(message) = message {
        let _ = error.write_all(message.as_bytes()).await;
    }
    let _ = error.shutdown().await;
}

/// Which side ended a copy before its time.
enum CopyError {
    Read(io::Error),
    Write,
}

/// Copies to the end. Unlike `tokio::io::copy` it tells which side failed.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), CopyError> {
    let mut buffer = vec![0; COPY_SIZE];
    loop {
        let size = from.read(&mut buffer).await.map_err(CopyError::Read)?;
        if size == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..size]).await.map_err(|_| CopyError::Write)?;
    }
}
