//! Asking upstreams.
//!
//! Every query goes out from a socket of its own, with a port and an id that nobody can guess (RFC
//! 5452), and takes the response only that fits it. What is truncated is asked for again over TCP.
//! An upstream that fails is looked after until it answers; one that failed too often is passed over,
//! unless all of them did.
//!
//! Upstream rule: coredns plugin/forward/forward.go, plugin/pkg/proxy.

mod exchange;
mod upstream;

pub(crate) use exchange::{PROBE_TYPE, probe_name, query_for};
pub use upstream::{RCODES, Upstream};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Shuffle;
use crate::corefile::{self, Policy};

/// How long a client is kept waiting.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one upstream is waited for.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How a query came, since it goes on the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// As many queries wait as may.
    #[error("too many queries wait for upstreams")]
    Full,
    /// No upstream answered in time.
    #[error("no upstream answered")]
    NoAnswer,
}

/// What one `forward` does.
#[derive(Debug)]
pub struct Forwarder {
    /// What it was made by.
    pub settings: corefile::Forward,
    /// Whom it asks.
    pub upstreams: Vec<Arc<Upstream>>,
    /// How many queries were refused since as many waited as may.
    pub rejects: AtomicU64,
    /// How often every upstream was down.
    pub all_down: AtomicU64,
    waiting: Semaphore,
    next: AtomicUsize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Forwarder {
    /// Makes one. `most` is how many queries may wait at once where the settings do not say.
    #[must_use]
    pub fn new(settings: corefile::Forward, most: usize, tasks: TaskTracker) -> Self {
        let waiting = match settings.max_concurrent {
            0 => most,
            some => some.min(most),
        };
        Self {
            upstreams: settings.to.iter().map(|to| Arc::new(Upstream::new(*to))).collect(),
            settings,
            rejects: AtomicU64::new(0),
            all_down: AtomicU64::new(0),
            waiting: Semaphore::new(waiting.min(Semaphore::MAX_PERMITS)),
            next: AtomicUsize::new(0),
            tasks,
            stop: CancellationToken::new(),
        }
    }

    /// Whether a name in lower case, in wire form, is its business.
    #[must_use]
    pub fn takes(&self, lower: &[u8]) -> bool {
        let is_under =
            |zone: &crate::wire::Name| crate::wire::is_suffix(lower, zone.wire()).is_some();
        is_under(&self.settings.from) && !self.settings.except.iter().any(is_under)
    }

    /// Asks, and gives the response as it came but for its id. `query` is a whole message.
    ///
    /// # Errors
    /// When nobody answers, or too many wait.
    pub async fn ask(&self, query: &[u8], transport: Transport) -> Result<Vec<u8>, ForwardError> {
        let Ok(_permit) = self.waiting.try_acquire() else {
            self.rejects.fetch_add(1, Ordering::Relaxed);
            return Err(ForwardError::Full);
        };
        let deadline = Instant::now() + DEADLINE;
        let over_tcp =
            self.settings.force_tcp || (transport == Transport::Tcp && !self.settings.prefer_udp);
        let order = self.order();
        // Round and round: a lost packet must not cost the answer where there is one upstream only.
        for upstream in order.iter().cycle().take(order.len().max(2) * 2) {
            if Instant::now() >= deadline {
                break;
            }
            let attempt = deadline.min(Instant::now() + ATTEMPT);
            let began = Instant::now();
            let asked = exchange::exchange(upstream.address, query, over_tcp);
            match timeout_at(attempt, asked).await {
                Ok(Ok(response)) => {
                    let code = usize::from(response.get(3).copied().unwrap_or_default() & 0xF);
                    upstream.answered(code, began.elapsed());
                    return Ok(response);
                }
                Ok(Err(e)) => {
                    tracing::debug!(upstream = %upstream.address, "cannot ask: {e}");
                    self.look_after(upstream);
                    // A refused connection comes at once; asking again at once would help nobody.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(_) => self.look_after(upstream),
            }
        }
        Err(ForwardError::NoAnswer)
    }

    /// The upstreams in the order in which they are asked: those that are down come last.
    fn order(&self) -> Vec<Arc<Upstream>> {
        let count = self.upstreams.len();
        let mut order: Vec<Arc<Upstream>> = match self.settings.policy {
            Policy::Sequential => self.upstreams.clone(),
            Policy::RoundRobin => {
                let first = self.next.fetch_add(1, Ordering::Relaxed);
                (0..count).map(|i| Arc::clone(&self.upstreams[(first + i) % count])).collect()
            }
            Policy::Random => {
                let mut order = self.upstreams.clone();
                let seed = crate::random::unguessable();
                Shuffle::new(crate::answer::LoadBalance::RoundRobin, seed).shuffle(&mut order);
                order
            }
        };
        let most = self.settings.max_fails;
        if order.iter().all(|upstream| upstream.is_down(most)) {
            self.all_down.fetch_add(1, Ordering::Relaxed);
        }
        order.sort_by_key(|upstream| upstream.is_down(most));
        order
    }

    /// Checks an upstream until it answers, unless somebody does already.
    fn look_after(&self, upstream: &Arc<Upstream>) {
        if !upstream.begin_checks() {
            return;
        }
        let upstream = Arc::clone(upstream);
        let check = self.settings.health_check;
        let over_tcp = self.settings.force_tcp;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let checks = async {
                loop {
                    let probe = exchange::probe(check.recursion);
                    let asked = exchange::exchange(upstream.address, &probe, over_tcp);
                    let is_well = matches!(
                        tokio::time::timeout(Duration::from_secs(1), asked).await,
                        Ok(Ok(_))
                    );
                    if upstream.checked(is_well) {
                        return;
                    }
                    tokio::time::sleep(check.interval).await;
                }
            };
            stop.run_until_cancelled(checks).await;
            upstream.end_checks();
        });
    }
}

/// Asks one address once, without regard to its health.
///
/// # Errors
/// When it cannot be asked, or answers nothing in time.
pub async fn ask_once(address: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let asked = exchange::exchange(address, query, false);
    tokio::time::timeout(ATTEMPT, asked).await.map_err(std::io::Error::from)?
}
