//! What upstreams said, remembered within bounds.
//!
//! Times come in as arguments, in milliseconds since any beginning. Answers and denials have rooms of
//! their own, so that a flood of names that do not exist drives out no answer; a full room gives up
//! an entry by chance.
//!
//! Upstream rule: coredns plugin/cache: cache.go, item.go, handler.go; plugin/pkg/response/typify.go;
//! RFC 2308 (negative), RFC 8767 (stale).

mod room;
mod stored;

pub use stored::Stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::answer::Query;
use crate::corefile::{self, Denial};
use crate::wire::Name;
use room::Room;

/// Into how many parts a room is divided, so that threads seldom meet.
const PARTS: usize = 16;

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// The name in lower case, in wire form.
    name: Box<[u8]>,
    qtype: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl CacheKey {
    /// Of a query.
    #[must_use]
    pub fn of(query: &Query<'_>) -> Self {
        Self {
            name: query.lower().into(),
            qtype: query.qtype,
            dnssec_ok: query.opt.is_some_and(|opt| opt.dnssec_ok),
            checking_disabled: query.header.flags & crate::wire::Header::CD != 0,
        }
    }
}

/// How fresh a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Fresh.
    Fresh,
    /// Fresh, but asked for often and about to end: the caller fetches it anew.
    Prefetch,
    /// Ended. The caller fetches it anew, and gives this one where that fails.
    Stale,
    /// Ended, and somebody fetches it already.
    StaleAwaited,
}

/// A remembered answer.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The response.
    pub stored: Arc<Stored>,
    /// How fresh it is.
    pub freshness: Freshness,
    /// For how long it is there, in seconds.
    pub age: u32,
}

/// Counts for `coredns_cache_…`.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names are those of the metrics")]
pub struct Counts {
    pub hits_success: AtomicU64,
    pub hits_denial: AtomicU64,
    pub misses: AtomicU64,
    pub prefetch: AtomicU64,
    pub served_stale: AtomicU64,
    pub evictions_success: AtomicU64,
    pub evictions_denial: AtomicU64,
    pub drops: AtomicU64,
}

/// The cache of a server block.
#[derive(Debug)]
pub struct Cache {
    /// What it was made by.
    pub settings: corefile::Cache,
    /// What happened.
    pub counts: Counts,
    success: Box<[Mutex<Room>]>,
    denial: Box<[Mutex<Room>]>,
    hasher: std::hash::RandomState,
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(settings: corefile::Cache) -> Self {
        let rooms = |capacity: usize| {
            let part = capacity.div_ceil(PARTS);
            (0..PARTS).map(|_| Mutex::new(Room::new(part))).collect()
        };
        Self {
            success: rooms(settings.success.capacity),
            denial: rooms(settings.denial.capacity),
            settings,
            counts: Counts::default(),
            hasher: std::hash::RandomState::new(),
        }
    }

    fn room(&self, kind: Denial, key: &CacheKey) -> &Mutex<Room> {
        use std::hash::BuildHasher as _;
        let part = crate::random::place(self.hasher.hash_one(key), PARTS);
        match kind {
            Denial::Success => &self.success[part],
            Denial::Denial => &self.denial[part],
        }
    }

    /// Whether names like this are remembered at all.
    fn covers(&self, name: &[u8]) -> bool {
        let zones = &self.settings.zones;
        zones.is_empty()
            || zones.iter().any(|zone| crate::wire::is_suffix(name, zone.wire()).is_some())
    }

    /// Looks an answer up. Who gets one to be fetched anew is the only one who does, until it is
    /// stored or [`Self::give_up`] is called.
    pub fn get(&self, key: &CacheKey, now: u64) -> Option<Hit> {
        if !self.covers(&key.name) {
            return None;
        }
        for kind in [Denial::Denial, Denial::Success] {
            let Some(hit) = self.room(kind, key).lock().get(key, now, &self.settings) else {
                continue;
            };
            let count = match kind {
                Denial::Success => &self.counts.hits_success,
                Denial::Denial => &self.counts.hits_denial,
            };
            count.fetch_add(1, Ordering::Relaxed);
            return Some(hit);
        }
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Remembers a response to a query, if it is one to be remembered.
    pub fn put(&self, key: CacheKey, response: &[u8], now: u64) -> Option<Arc<Stored>> {
        if !self.covers(&key.name) {
            return None;
        }
        let Some(stored) = Stored::new(response, &self.settings) else {
            self.counts.drops.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let kind = stored.kind;
        let is_off = |(off, zone): &(Denial, Name)| {
            *off == kind && crate::wire::is_suffix(&key.name, zone.wire()).is_some()
        };
        if self.settings.disabled.iter().any(is_off) {
            return None;
        }
        let other = match kind {
            Denial::Success => Denial::Denial,
            Denial::Denial => Denial::Success,
        };
        // A failure says nothing about what was there before; that may still be given.
        if !stored.is_failure {
            self.room(other, &key).lock().remove(&key);
        }
        let stored = Arc::new(stored);
        let is_evicted = self.room(kind, &key).lock().put(key, Arc::clone(&stored), now);
        if is_evicted {
            let count = match kind {
                Denial::Success => &self.counts.evictions_success,
                Denial::Denial => &self.counts.evictions_denial,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(stored)
    }

    /// Says that a fetch failed: the next who asks may try again.
    pub fn give_up(&self, key: &CacheKey) {
        for kind in [Denial::Denial, Denial::Success] {
            self.room(kind, key).lock().give_up(key);
        }
    }

    /// How many entries there are: answers and denials.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        let count = |rooms: &[Mutex<Room>]| rooms.iter().map(|room| room.lock().len()).sum();
        (count(&self.success), count(&self.denial))
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests;
