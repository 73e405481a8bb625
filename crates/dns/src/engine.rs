//! Who answers a query: the cluster's names, the cache, or an upstream.
//!
//! ```text
//!   bytes ─▶ Query ─▶ block of the zone ─▶ kubernetes ─▶ cache ─▶ forward
//!                                             │            │         │
//!                                             ▼            ▼         ▼
//!                                  at once (Step::Reply)       later (Step::Wait → Engine::wait)
//! ```
//!
//! [`Engine::step`] never waits, so that whoever reads sockets answers what can be answered on the
//! spot. Readers see the settings and the snapshot of one moment; both are swapped whole.
//!
//! Upstream rule: coredns core/dnsserver/server.go and the order of plugins in plugin.cfg.

mod block;
mod wait;

pub use block::{Block, Setup};

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::task::TaskTracker;

use crate::answer::{self, Follow, Limits, Outcome, Query, Refusal, Shuffle};
use crate::cache::{CacheKey, Freshness, Stored};
use crate::forward::{Forwarder, PROBE_TYPE, Transport};
use crate::metrics::{BlockMetrics, Metrics, Plugin};
use crate::wire::{Name, rtype};
use crate::zone::Snapshot;

/// What a process answers by.
#[derive(Debug, Default)]
pub struct Config {
    /// The blocks by their port.
    pub ports: HashMap<u16, Vec<Arc<Block>>>,
}

/// Answers queries.
#[derive(Debug)]
pub struct Engine {
    /// The settings.
    pub config: ArcSwap<Config>,
    /// The names of the cluster.
    pub snapshot: ArcSwap<Snapshot>,
    /// What was counted.
    pub metrics: Metrics,
    /// The name of the probe that must not come back, and how often it did.
    pub(crate) probe: ArcSwapOption<(Name, AtomicU64)>,
    pub(crate) tasks: TaskTracker,
    began: Instant,
}

/// How a query came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// At which port of ours.
    pub port: u16,
    /// By which protocol.
    pub transport: Transport,
    /// Whether over IPv6.
    pub is_ipv6: bool,
}

/// What one thread keeps from query to query.
#[derive(Debug)]
pub struct Scratch {
    /// Chance for the order of addresses.
    pub shuffle: Shuffle,
    /// The response.
    pub out: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        let seed = crate::random::unguessable();
        Self {
            shuffle: Shuffle::new(answer::LoadBalance::Off, seed),
            out: Vec::with_capacity(4096),
        }
    }
}

/// What becomes of a query.
#[derive(Debug)]
pub enum Step {
    /// The response is in [`Scratch::out`].
    Reply,
    /// Nothing is said.
    Drop,
    /// It takes time: [`Engine::wait`].
    Wait(Box<Waiting>),
}

/// A query that takes time.
#[derive(Debug)]
pub struct Waiting {
    bytes: Vec<u8>,
    arrival: Arrival,
    block: Arc<Block>,
    kind: Later,
    began: Instant,
}

#[derive(Debug)]
enum Later {
    /// An upstream is asked.
    Forward(Arc<Forwarder>),
    /// The rest of an ExternalName's answer is looked up.
    Follow(Follow),
}

impl Engine {
    /// One without settings and names.
    #[must_use]
    pub fn new(tasks: TaskTracker) -> Self {
        Self {
            config: ArcSwap::default(),
            snapshot: ArcSwap::default(),
            metrics: Metrics::default(),
            probe: ArcSwapOption::empty(),
            tasks,
            began: Instant::now(),
        }
    }

    /// Notes a crash that was survived.
    pub(crate) fn note_panic(&self) {
        self.metrics.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Milliseconds since the start: the cache's clock.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers a message at once, or says that it takes time.
    pub fn step(self: &Arc<Self>, bytes: &[u8], arrival: Arrival, scratch: &mut Scratch) -> Step {
        let began = Instant::now();
        let config = self.config.load();
        let blocks = config.ports.get(&arrival.port).map(Vec::as_slice).unwrap_or_default();
        let limits = limits(arrival.transport, blocks);
        let query = match Query::read(bytes, limits) {
            Ok(query) => query,
            Err(refusal) => {
                let code = answer::error(bytes, refusal, &mut scratch.out);
                let Some(code) = code else { return Step::Drop };
                self.metrics.dropped.response(
                    arrival,
                    Plugin::None,
                    code,
                    began.elapsed(),
                    scratch.out.len(),
                );
                return Step::Reply;
            }
        };
        let Some(block) = block_of(blocks, query.lower()) else {
            let code = answer::refuse(&query, Refusal::Refused, &mut scratch.out);
            self.metrics.dropped.request(arrival, query.qtype, bytes.len());
            self.metrics.dropped.response(
                arrival,
                Plugin::None,
                code,
                began.elapsed(),
                scratch.out.len(),
            );
            return Step::Reply;
        };
        block.metrics.request(arrival, query.qtype, bytes.len());
        match self.answer(&query, arrival, block, scratch) {
            Answer::Now(plugin, code) => {
                self.note(block, &query, arrival, (plugin, code), began, &scratch.out);
                Step::Reply
            }
            Answer::Later(kind) => Step::Wait(Box::new(Waiting {
                bytes: bytes.to_vec(),
                arrival,
                block: Arc::clone(block),
                kind,
                began,
            })),
        }
    }

    fn answer(
        self: &Arc<Self>,
        query: &Query<'_>,
        arrival: Arrival,
        block: &Arc<Block>,
        scratch: &mut Scratch,
    ) -> Answer {
        if self.is_probe(query) {
            // Going on would send it round again.
            return Answer::refused(query, Refusal::Refused, scratch);
        }
        if let Some(authority) = &block.authority {
            let snapshot = self.snapshot.load();
            scratch.shuffle.set(block.load_balance);
            let Scratch { shuffle, out } = scratch;
            match answer::answer(query, &snapshot, authority, shuffle, out) {
                Outcome::Written(code) => return Answer::Now(Plugin::Kubernetes, code),
                Outcome::Follow(follow) => return Answer::Later(Later::Follow(follow)),
                Outcome::NotOurs => {}
            }
        }
        let Some(forwarder) = block.forwards.iter().find(|forward| forward.takes(query.lower()))
        else {
            return Answer::refused(query, Refusal::Refused, scratch);
        };
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            return Answer::refused(query, Refusal::Refused, scratch);
        }
        if query.qtype == rtype::ANY {
            let code = answer::minimal_any(query, &mut scratch.out);
            return Answer::Now(Plugin::None, code);
        }
        self.cached(query, arrival, block, forwarder, scratch)
            .unwrap_or_else(|| Answer::Later(Later::Forward(Arc::clone(forwarder))))
    }

    /// The answer that is remembered.
    fn cached(
        self: &Arc<Self>,
        query: &Query<'_>,
        arrival: Arrival,
        block: &Arc<Block>,
        forwarder: &Arc<Forwarder>,
        scratch: &mut Scratch,
    ) -> Option<Answer> {
        let cache = block.cache.as_ref()?;
        let key = CacheKey::of(query);
        let hit = cache.get(&key, self.now())?;
        let is_stale = matches!(hit.freshness, Freshness::Stale | Freshness::StaleAwaited);
        if is_stale && cache.settings.verify_stale {
            return None;
        }
        if is_stale {
            cache.counts.served_stale.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(hit.freshness, Freshness::Prefetch | Freshness::Stale) {
            cache.counts.prefetch.fetch_add(1, Ordering::Relaxed);
            let (engine, block) = (Arc::clone(self), Arc::clone(block));
            let (forwarder, bytes) = (Arc::clone(forwarder), query.bytes.to_vec());
            let handle = self.metrics.runtime();
            let refresh = async move {
                // Who fails says so by giving up; the next who asks tries again.
                let _ = engine.fetch(&bytes, arrival, &block, &forwarder).await;
            };
            match handle {
                Some(handle) => drop(self.tasks.spawn_on(refresh, &handle)),
                None => cache.give_up(&key),
            }
        }
        self.give(&hit.stored, query, (!is_stale).then_some(hit.age), block, scratch);
        Some(Answer::Now(Plugin::Cache, hit.stored.rcode))
    }

    /// Writes a response that came from an upstream, now or before.
    fn give(
        &self,
        stored: &Stored,
        query: &Query<'_>,
        age: Option<u32>,
        block: &Block,
        scratch: &mut Scratch,
    ) {
        scratch.shuffle.set(block.load_balance);
        stored.write(query, age, &mut scratch.shuffle, &mut scratch.out);
    }

    /// Whether only a loop can have brought a query back; if so, it is noted.
    fn is_probe(&self, query: &Query<'_>) -> bool {
        if query.qtype != PROBE_TYPE {
            return false;
        }
        let probe = self.probe.load();
        let known = probe.as_ref().filter(|probe| probe.0.wire() == query.lower());
        known.is_some_and(|probe| {
            probe.1.fetch_add(1, Ordering::Relaxed);
            true
        })
    }

    fn note(
        &self,
        block: &Block,
        query: &Query<'_>,
        arrival: Arrival,
        (plugin, code): (Plugin, u16),
        began: Instant,
        out: &[u8],
    ) {
        let took = began.elapsed();
        block.metrics.response(arrival, plugin, code, took, out.len());
        if block.log {
            let name = query.name();
            tracing::info!(
                "{name} type {} over {:?}: code {code}, {} bytes, {} us",
                query.qtype,
                arrival.transport,
                out.len(),
                took.as_micros()
            );
        }
    }
}

enum Answer {
    Now(Plugin, u16),
    Later(Later),
}

impl Answer {
    fn refused(query: &Query<'_>, refusal: Refusal, scratch: &mut Scratch) -> Self {
        Self::Now(Plugin::None, answer::refuse(query, refusal, &mut scratch.out))
    }
}

fn limits(transport: Transport, blocks: &[Arc<Block>]) -> Limits {
    match transport {
        Transport::Tcp => Limits::Tcp,
        Transport::Udp => {
            Limits::Udp { most: blocks.iter().map(|block| block.bufsize).min().unwrap_or(1232) }
        }
    }
}

/// The block with the longest zone that a name is in.
fn block_of<'a>(blocks: &'a [Arc<Block>], lower: &[u8]) -> Option<&'a Arc<Block>> {
    let matching = blocks.iter().filter_map(|block| {
        let start = crate::wire::is_suffix(lower, block.zone.wire())?;
        Some((start, block))
    });
    matching.min_by_key(|(start, _)| *start).map(|(_, block)| block)
}

/// What a block counts where it has no metrics of its own.
pub(crate) type Counted = Arc<BlockMetrics>;
