//! Counters under CoreDNS's names, as text for Prometheus.
//!
//! Counting must not cost: there is one array of atomic numbers a server block.
//!
//! Upstream rule: coredns plugin/metrics/vars/vars.go, report.go, monitor.go; plugin/cache/metrics.go,
//! plugin/pkg/proxy/metrics.go, plugin/forward/metrics.go, plugin/kubernetes/metrics.go.

mod text;

pub use text::render;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::engine::Arrival;
use crate::forward::Transport;

/// Types that are counted by name; the last stands for all others.
pub(crate) const TYPES: [(&str, u16); 20] = [
    ("A", 1),
    ("AAAA", 28),
    ("MX", 15),
    ("SOA", 6),
    ("CNAME", 5),
    ("PTR", 12),
    ("TXT", 16),
    ("NS", 2),
    ("SRV", 33),
    ("DS", 43),
    ("DNSKEY", 48),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("NSEC3", 50),
    ("HTTPS", 65),
    ("IXFR", 251),
    ("AXFR", 252),
    ("ANY", 255),
    ("HINFO", 13),
    ("other", 0),
];

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Nobody: the query was refused.
    None,
    /// The names of the cluster.
    Kubernetes,
    /// The cache.
    Cache,
    /// An upstream.
    Forward,
}

/// Their names.
pub(crate) const PLUGINS: [&str; 4] = ["", "kubernetes", "cache", "forward"];
/// How many codes of responses are counted apart.
pub(crate) const CODES: usize = 17;

/// A histogram: how many fell into each bucket, and the sum of all.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    fn add(&self, bucket: usize, value: u64) {
        self.buckets[bucket.min(N - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }
}

/// The first bound of durations, in microseconds; each next one is twice as much.
pub(crate) const FIRST_MICROS: u64 = 250;
/// How many bounds of durations there are.
pub(crate) const DURATIONS: usize = 16;
/// How long something took.
pub type Durations = Histogram<{ DURATIONS + 1 }>;

impl Durations {
    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let firsts = nanos.div_ceil(1000).div_ceil(FIRST_MICROS).max(1);
        // Past the largest power of two there is nothing but the last bucket.
        let bucket = firsts.checked_next_power_of_two().map_or(64, u64::trailing_zeros);
        self.add(bucket as usize, nanos);
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// The bounds of sizes, in bytes.
pub(crate) const SIZES: [u64; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// What a server block counts.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// `dns://:53`, and the zone.
    pub(crate) labels: (String, String),
    /// By protocol, family and type.
    requests: [[[AtomicU64; TYPES.len()]; 2]; 2],
    /// By plugin and code.
    responses: [[AtomicU64; CODES]; PLUGINS.len()],
    durations: Durations,
    /// By protocol.
    request_sizes: [Histogram<{ SIZES.len() + 1 }>; 2],
    response_sizes: [Histogram<{ SIZES.len() + 1 }>; 2],
}

fn size_bucket(size: usize) -> usize {
    SIZES.partition_point(|bound| *bound < size as u64)
}

impl BlockMetrics {
    pub(crate) fn request(&self, arrival: Arrival, qtype: u16, size: usize) {
        let named = TYPES.iter().position(|(_, number)| *number == qtype);
        let type_at = named.unwrap_or(TYPES.len() - 1);
        let by_protocol = &self.requests[protocol(arrival)][usize::from(arrival.is_ipv6)];
        by_protocol[type_at].fetch_add(1, Ordering::Relaxed);
        self.request_sizes[protocol(arrival)].add(size_bucket(size), size as u64);
    }

    pub(crate) fn response(
        &self,
        arrival: Arrival,
        plugin: Plugin,
        code: u16,
        took: Duration,
        size: usize,
    ) {
        let code = usize::from(code).min(CODES - 1);
        self.responses[plugin as usize][code].fetch_add(1, Ordering::Relaxed);
        self.durations.observe(took);
        self.response_sizes[protocol(arrival)].add(size_bucket(size), size as u64);
    }
}

fn protocol(arrival: Arrival) -> usize {
    usize::from(arrival.transport == Transport::Tcp)
}

/// What the process counts.
#[derive(Debug, Default)]
pub struct Metrics {
    blocks: Mutex<Vec<Arc<BlockMetrics>>>,
    /// Queries that no block answers.
    pub(crate) dropped: BlockMetrics,
    /// How long a change took from its beginning to being answered, by kind of Service.
    pub(crate) programming: [Histogram<{ PROGRAMMING + 1 }>; 2],
    /// Corefiles that were refused.
    pub(crate) reload_failed: AtomicU64,
    /// The hash of the Corefile.
    pub(crate) corefile: ArcSwapOption<String>,
    /// Crashes that were survived.
    pub(crate) panics: AtomicU64,
    runtime: std::sync::OnceLock<Handle>,
}

/// How many bounds the time of changes has: from 1 ms on, each twice as much.
pub(crate) const PROGRAMMING: usize = 20;
/// The kinds of Services whose changes are timed apart.
pub(crate) const SERVICE_KINDS: [&str; 2] = ["cluster_ip", "headless_with_selector"];

impl Metrics {
    /// The counters of a block, the same ones as long as it has the same labels.
    pub(crate) fn block(&self, server: &str, zone: &str) -> Arc<BlockMetrics> {
        let mut blocks = self.blocks.lock();
        let known = blocks.iter().find(|known| known.labels.0 == server && known.labels.1 == zone);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let labels = (server.to_owned(), zone.to_owned());
        let block = Arc::new(BlockMetrics { labels, ..BlockMetrics::default() });
        blocks.push(Arc::clone(&block));
        block
    }

    /// Notes how long a change took.
    pub(crate) fn programmed(&self, kind: usize, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let millis = millis.clamp(1, 1 << PROGRAMMING);
        let bucket = millis.next_power_of_two().trailing_zeros() as usize;
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.programming[kind.min(1)].add(bucket, nanos);
    }

    /// Where what takes time runs, for threads that are not the runtime's.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.runtime.get().cloned().or_else(|| Handle::try_current().ok())
    }

    /// Says where what takes time runs.
    pub fn set_runtime(&self, handle: Handle) {
        // The first one stays.
        let _ = self.runtime.set(handle);
    }
}
