//! TCP: clients within bounds, their queries answered as they come, in any order (RFC 7766).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Arrival, Engine, Scratch, Step};
use crate::forward::Transport;

/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How long a query may take to arrive once it began, and a response to leave.
const SLOW: Duration = Duration::from_secs(5);
/// How many queries of one client may wait at once.
const MOST_WAITING: usize = 32;

/// Serves clients until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    port: u16,
    engine: Arc<Engine>,
    clients: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        // Whoever comes when there are too many waits in the kernel's queue.
        let accepted = async {
            let permit = Arc::clone(&clients).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = stop.run_until_cancelled(accepted).await else { return };
        let (Ok(permit), Ok((stream, peer))) = (permit, accepted) else {
            // Out of descriptors, most likely: a moment later some may be free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let is_ipv6 = match peer.ip() {
            std::net::IpAddr::V4(_) => false,
            std::net::IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
        };
        let arrival = Arrival { port, transport: Transport::Tcp, is_ipv6 };
        let (engine, stop, inner) = (Arc::clone(&engine), stop.clone(), tasks.clone());
        tasks.spawn(async move {
            let _permit = permit;
            // A client that breaks off is its own affair.
            let _ = client(stream, arrival, &engine, &inner, &stop).await;
        });
    }
}

async fn client(
    stream: TcpStream,
    arrival: Arrival,
    engine: &Arc<Engine>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let waiting = Arc::new(Semaphore::new(MOST_WAITING));
    let mut scratch = Scratch::default();
    let mut query = Vec::new();
    loop {
        let Some(length) = stop.run_until_cancelled(timeout(IDLE, reader.read_u16())).await else {
            return Ok(());
        };
        query.resize(usize::from(length??), 0);
        timeout(SLOW, reader.read_exact(&mut query)).await??;
        match engine.step(&query, arrival, &mut scratch) {
            Step::Reply => send(&writer, &scratch.out).await?,
            // Whoever sends what is no query over TCP is done.
            Step::Drop => return Ok(()),
            Step::Wait(later) => {
                let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else { return Ok(()) };
                let (engine, writer) = (Arc::clone(engine), Arc::clone(&writer));
                tasks.spawn(async move {
                    let _permit = permit;
                    let mut scratch = Scratch::default();
                    engine.wait(*later, &mut scratch).await;
                    if !scratch.out.is_empty() {
                        let _ = send(&writer, &scratch.out).await;
                    }
                });
            }
        }
    }
}

async fn send(writer: &Mutex<OwnedWriteHalf>, response: &[u8]) -> io::Result<()> {
    let Ok(length) = u16::try_from(response.len()) else { return Ok(()) };
    let mut framed = Vec::with_capacity(response.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(response);
    // One client's queries are written one after the other; nothing else waits for this.
    timeout(SLOW, async { writer.lock().await.write_all(&framed).await }).await?
}
