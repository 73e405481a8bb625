//! The lab's end of the channel to `up`: events out, bound sockets in, and the word to stop.
//!
//! When `up` is gone the process ends at once; the kernel takes the rest of the lab with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::channel::AsyncChannel;
use crate::message::{Event, Port, ToHost, ToLab};

type Answer = Result<OwnedFd, String>;

/// Asks `up` for what only a process in the host's namespaces can do.
#[derive(Debug, Clone)]
pub(super) struct Uplink {
    host: Arc<AsyncChannel>,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    next: Arc<AtomicU64>,
}

impl Uplink {
    /// Serves the channel: passes `events` on, cancels `stop` when `up` says so.
    pub(super) fn start(
        host: Arc<AsyncChannel>,
        mut events: mpsc::Receiver<Event>,
        stop: CancellationToken,
    ) -> Uplink {
        let uplink = Uplink { host, asked: Arc::default(), next: Arc::default() };
        let listener = uplink.clone();
        tokio::spawn(async move {
            loop {
                match listener.host.receive::<ToLab>().await {
                    Ok(Some((ToLab::Stop, _))) => stop.cancel(),
                    Ok(Some((ToLab::Bound { id, error }, fds))) => {
                        if let Some(tell) = listener.asked.lock().remove(&id) {
                            let socket = fds.into_iter().next();
                            let answer =
                                socket.ok_or(error.unwrap_or_else(|| "no socket came".into()));
                            // Whoever asked may have lost interest; then the socket closes.
                            let _ = tell.send(answer);
                        }
                    }
                    Ok(Some((ToLab::Boot(_), _))) => {}
                    Ok(None) | Err(_) => std::process::exit(1),
                }
            }
        });
        let teller = uplink.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if teller.host.send(&ToHost::Event(event), &[]).await.is_err() {
                    return;
                }
            }
        });
        uplink
    }

    /// Binds a port on the host's loopback.
    pub(super) async fn bind(&self, port: Port) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.asked.lock().insert(id, tell);
        let gone = |error: io::Error| error.to_string();
        self.host.send(&ToHost::Bind { id, port }, &[]).await.map_err(gone)?;
        answer.await.unwrap_or_else(|_| Err("the host's side is gone".into()))
    }

    /// Passes on that somebody asked for the lab's end.
    pub(super) async fn request_stop(&self) -> io::Result<()> {
        self.host.send(&ToHost::StopRequested, &[]).await
    }
}
