//! What is published: the live objects, the history ring, and the watchers' queues.
//!
//! One lock guards all three, so a list's revision, a watch's first event and the order of events
//! always agree. It is held for the length of a lookup or of handing a group to the queues, never
//! across I/O or an await.
//!
//! A list at an older revision is today's list with the history's events undone, newest first.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::StoreError;
use crate::store::{ListOptions, Options, Page, Revision, Stored};
use crate::watch::{Event, Subscriber, Watch};
use crate::writer::Written;

#[derive(Debug)]
pub(crate) struct Memory {
    options: Options,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    revision: Revision,
    objects: BTreeMap<Arc<str>, Live>,
    history: VecDeque<Past>,
    history_bytes: usize,
    /// Events up to here are forgotten; this revision itself can still be listed.
    compacted: Revision,
    watchers: Vec<Subscriber>,
    closed: bool,
}

#[derive(Debug)]
struct Live {
    stored: Stored,
    /// Size as JSON, which counts against the history once the value is replaced.
    bytes: usize,
}

#[derive(Debug)]
struct Past {
    event: Event,
    /// Of the value that only the history keeps alive.
    bytes: usize,
}

impl Memory {
    /// The objects come with their sizes as JSON.
    pub(crate) fn new(revision: Revision, objects: Vec<(Stored, usize)>, options: Options) -> Self {
        let objects = objects
            .into_iter()
            .map(|(stored, bytes)| (Arc::clone(&stored.key), Live { stored, bytes }))
            .collect();
        let state = State {
            revision,
            objects,
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: revision,
            watchers: Vec::new(),
            closed: false,
        };
        Self { options, state: RwLock::new(state) }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Stored> {
        self.state.read().objects.get(key).map(|live| live.stored.clone())
    }

    pub(crate) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page, StoreError> {
        let state = self.state.read();
        let revision = options.at.unwrap_or(state.revision);
        state.check_reachable(revision)?;
        let past = state.differences_since(revision, prefix);
        let start = match options.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut items = merge(state.live(prefix, start), past, start);
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let page = items.by_ref().take(limit).cloned().collect();
        Ok(Page { revision, items: page, remaining: items.count() as u64 })
    }

    pub(crate) fn watch(
        memory: &Arc<Self>,
        prefix: &str,
        from: Revision,
    ) -> Result<Watch, StoreError> {
        let mut state = memory.state.write();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.check_reachable(from)?;
        let first = state.history.partition_point(|past| past.event.revision() <= from);
        let backlog = state.history.range(first..).map(|past| &past.event);
        let backlog = backlog.filter(|e| e.key().starts_with(prefix)).cloned().collect();
        let (subscriber, watch) =
            Subscriber::new(prefix, from, backlog, memory.options.watch_queue, Arc::clone(memory));
        state.watchers.push(subscriber);
        Ok(watch)
    }

    pub(crate) fn compact(&self, until: Revision) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if until > state.revision {
            return Err(StoreError::Future { requested: until, current: state.revision });
        }
        while state.history.front().is_some_and(|past| past.event.revision() <= until) {
            state.forget_oldest();
        }
        state.compacted = state.compacted.max(until);
        Ok(())
    }

    /// Makes a committed group visible, to readers and watchers at once.
    pub(crate) fn publish(&self, revision: Revision, group: Vec<Written>) {
        let mut state = self.state.write();
        for Written { event, json } in group {
            let bytes = state.apply(&event, json.len());
            state.watchers.retain_mut(|watcher| watcher.offer(&event));
            state.history_bytes += bytes;
            state.history.push_back(Past { event, bytes });
        }
        state.revision = revision;
        while state.history.len() > self.options.history.max(1)
            || (state.history_bytes > self.options.history_bytes && state.history.len() > 1)
        {
            state.forget_oldest();
        }
    }

    /// Ends all watches; there will be no more events.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.watchers.clear();
    }
}

impl State {
    fn check_reachable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { requested: revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(StoreError::Compacted { requested: revision, oldest: self.compacted });
        }
        Ok(())
    }

    fn live<'a>(&'a self, prefix: &'a str, start: Bound<&str>) -> impl Iterator<Item = &'a Stored> {
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, live)| &live.stored)
            .take_while(move |stored| stored.key.starts_with(prefix))
    }

    /// Keys that have changed since, with what they held then (none: they did not exist).
    fn differences_since<'a>(
        &'a self,
        revision: Revision,
        prefix: &str,
    ) -> BTreeMap<&'a str, Option<&'a Stored>> {
        let newest_first = self.history.iter().rev().map(|past| &past.event);
        newest_first
            .take_while(|event| event.revision() > revision)
            .filter(|event| event.key().starts_with(prefix))
            .map(|event| match event {
                Event::Put { stored, previous } => (&*stored.key, previous.as_ref()),
                Event::Delete { stored, .. } => (&*stored.key, Some(stored)),
            })
            .collect()
    }

    /// Returns the size of the value that is no longer live.
    fn apply(&mut self, event: &Event, bytes: usize) -> usize {
        let gone = match event {
            Event::Put { stored, .. } => {
                let live = Live { stored: stored.clone(), bytes };
                self.objects.insert(Arc::clone(&stored.key), live)
            }
            Event::Delete { stored, .. } => self.objects.remove(&stored.key),
        };
        gone.map_or(0, |live| live.bytes)
    }

    /// Drops the oldest event, and with it every other event of its revision: a revision is in the
    /// history whole or not at all.
    fn forget_oldest(&mut self) {
        let Some(oldest) = self.history.front().map(|past| past.event.revision()) else { return };
        while self.history.front().is_some_and(|past| past.event.revision() == oldest) {
            let past = self.history.pop_front().expect("the loop has just seen it");
            self.history_bytes -= past.bytes;
        }
        self.compacted = self.compacted.max(oldest);
    }
}

/// Live objects with differences laid over them, in key order.
fn merge<'a>(
    live: impl Iterator<Item = &'a Stored>,
    mut past: BTreeMap<&'a str, Option<&'a Stored>>,
    start: Bound<&str>,
) -> impl Iterator<Item = &'a Stored> {
    past.retain(|key, _| match start {
        Bound::Excluded(after) => *key > after,
        Bound::Included(first) => *key >= first,
        Bound::Unbounded => true,
    });
    let mut live = live.peekable();
    let mut past = past.into_iter().peekable();
    std::iter::from_fn(move || {
        loop {
            let order = match (live.peek(), past.peek()) {
                (None, None) => return None,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(now), Some((key, _))) => (*now.key).cmp(key),
            };
            if order.is_lt() {
                return live.next();
            }
            if order.is_eq() {
                live.next();
            }
            if let Some((_, Some(then))) = past.next() {
                return Some(then);
            }
        }
    })
}
