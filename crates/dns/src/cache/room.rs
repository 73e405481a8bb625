//! Entries up to a number.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CacheKey, Freshness, Hit, Stored};
use crate::corefile;

#[derive(Debug)]
struct Entry {
    key: Arc<CacheKey>,
    stored: Arc<Stored>,
    /// When it was stored, in milliseconds.
    since: u64,
    /// How often it was asked for without a longer pause.
    asked: u32,
    /// When it was asked for, in milliseconds.
    last: u64,
    is_awaited: bool,
}

/// A part of a cache.
#[derive(Debug)]
pub(super) struct Room {
    capacity: usize,
    places: HashMap<Arc<CacheKey>, usize>,
    entries: Vec<Entry>,
}

impl Room {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, places: HashMap::new(), entries: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(
        &mut self,
        key: &CacheKey,
        now: u64,
        settings: &corefile::Cache,
    ) -> Option<Hit> {
        let entry = &mut self.entries[*self.places.get(key)?];
        let age = now.saturating_sub(entry.since);
        let life = u64::from(entry.stored.ttl) * 1000;
        if millis(settings.prefetch_pause) < now.saturating_sub(entry.last) {
            entry.asked = 0;
        }
        entry.asked = entry.asked.saturating_add(1);
        entry.last = now;
        let freshness = if age < life {
            let is_near = (life - age) * 100 <= life * u64::from(settings.prefetch_percent);
            let is_wanted = settings.prefetch > 0 && entry.asked >= settings.prefetch;
            if is_near && is_wanted && !entry.is_awaited {
                entry.is_awaited = true;
                Freshness::Prefetch
            } else {
                Freshness::Fresh
            }
        } else {
            let stale = settings.serve_stale.filter(|_| !entry.stored.is_failure)?;
            if age - life >= millis(stale) {
                return None;
            }
            if std::mem::replace(&mut entry.is_awaited, true) {
                Freshness::StaleAwaited
            } else {
                Freshness::Stale
            }
        };
        let age = u32::try_from(age / 1000).unwrap_or(u32::MAX);
        Some(Hit { stored: Arc::clone(&entry.stored), freshness, age })
    }

    /// True when another entry had to go.
    pub(super) fn put(&mut self, key: CacheKey, stored: Arc<Stored>, now: u64) -> bool {
        if self.capacity == 0 {
            return false;
        }
        if let Some(place) = self.places.get(&key) {
            let entry = &mut self.entries[*place];
            (entry.stored, entry.since, entry.is_awaited) = (stored, now, false);
            return false;
        }
        let is_full = self.entries.len() >= self.capacity;
        if is_full {
            let place = crate::random::below(self.entries.len());
            self.remove_at(place);
        }
        let key = Arc::new(key);
        self.places.insert(Arc::clone(&key), self.entries.len());
        self.entries.push(Entry {
            key,
            stored,
            since: now,
            asked: 0,
            last: now,
            is_awaited: false,
        });
        is_full
    }

    pub(super) fn give_up(&mut self, key: &CacheKey) {
        if let Some(place) = self.places.get(key) {
            self.entries[*place].is_awaited = false;
        }
    }

    pub(super) fn remove(&mut self, key: &CacheKey) {
        if let Some(place) = self.places.get(key).copied() {
            self.remove_at(place);
        }
    }

    fn remove_at(&mut self, place: usize) {
        let entry = self.entries.swap_remove(place);
        self.places.remove(&entry.key);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(Arc::clone(&moved.key), place);
        }
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
