//! What is published: the live objects, the history, and the watchers' queues.
//!
//! One lock guards all three, so a list's revision, a watch's first event and the order of events
//! always agree. It is held for the length of a lookup, of taking a reference to the objects' tree,
//! or of handing a group to its watchers; never for the length of a list, across I/O or an await.
//!
//! What each operation costs: a page its items and a descent, an event its own watchers, a list of
//! the past at most [`history`]'s step of undone events the first time, and no more than any other
//! list when it is continued.

mod history;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::error::StoreError;
use crate::fact::Written;
use crate::object::Record;
use crate::store::{ListOptions, Options, Page};
use crate::tree::Tree;
use crate::watch::{Subscriber, Watch};
use crate::{Revision, Stored};
use history::History;
use watchers::Watchers;

/// Past states that lists have asked for and may ask for again, to go on.
const REMEMBERED: usize = 32;

#[derive(Debug)]
pub(crate) struct Memory {
    options: Options,
    state: RwLock<State>,
    /// Taken after `state` where both are needed. Newest use last.
    remembered: Mutex<VecDeque<(Revision, Tree)>>,
}

#[derive(Debug)]
struct State {
    revision: Revision,
    objects: Tree,
    history: History,
    watchers: Watchers,
    closed: bool,
}

impl Memory {
    /// The records come in key order.
    pub(crate) fn new(revision: Revision, records: Vec<Record>, options: Options) -> Self {
        let state = State {
            revision,
            objects: Tree::from_sorted(records.into_iter().map(Arc::new).collect()),
            history: History::new(revision, options.history, options.history_bytes),
            watchers: Watchers::default(),
            closed: false,
        };
        Self { options, state: RwLock::new(state), remembered: Mutex::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Stored> {
        self.record(key).map(|record| record.stored())
    }

    pub(crate) fn record(&self, key: &str) -> Option<Arc<Record>> {
        self.state.read().objects.get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page, StoreError> {
        let (revision, objects) = self.objects_at(options.at)?;
        let places = objects.places(prefix, options.after.as_deref());
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let page = places.start..places.end.min(places.start.saturating_add(limit));
        let remaining = places.end - page.end;
        let mut items = Vec::with_capacity(page.len());
        objects.visit(page, &mut |record| items.push(record.stored()));
        if remaining > 0 {
            self.remember(revision, objects);
        }
        Ok(Page { revision, items, remaining: remaining as u64 })
    }

    /// The objects as they were, for as long as the caller keeps them.
    fn objects_at(&self, at: Option<Revision>) -> Result<(Revision, Tree), StoreError> {
        let (revision, mut objects, undo) = {
            let state = self.state.read();
            let revision = at.unwrap_or(state.revision);
            if revision > state.revision {
                return Err(StoreError::Future { requested: revision, current: state.revision });
            }
            state.history.check_kept(revision)?;
            let known = self.recall(revision);
            let known = known.into_iter().chain(state.history.nearest(revision));
            let (from, objects) = known
                .chain([(state.revision, state.objects.clone())])
                .min_by_key(|(known, _)| *known)
                .expect("the present is always known");
            (revision, objects, state.history.between(revision, from))
        };
        if !undo.is_empty() {
            undo.iter().rev().for_each(|fact| fact.undo(&mut objects));
            self.remember(revision, objects.clone());
        }
        Ok((revision, objects))
    }

    /// The remembered state that is least far after a revision.
    fn recall(&self, revision: Revision) -> Option<(Revision, Tree)> {
        let remembered = self.remembered.lock();
        let later = remembered.iter().filter(|(known, _)| *known >= revision);
        later.min_by_key(|(known, _)| *known).cloned()
    }

    fn remember(&self, revision: Revision, objects: Tree) {
        let mut remembered = self.remembered.lock();
        remembered.retain(|(known, _)| *known != revision);
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back((revision, objects));
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
        if from > state.revision {
            return Err(StoreError::Future { requested: from, current: state.revision });
        }
        state.history.check_kept(from)?;
        let backlog = state.history.between(from, state.revision).into_iter();
        let backlog = backlog.filter(|fact| fact.key().starts_with(prefix)).collect();
        let (subscriber, queue) = Subscriber::new(memory.options.watch_queue);
        let id = state.watchers.add(prefix, subscriber);
        Ok(Watch::new(Arc::clone(memory), prefix, id, from, backlog, queue))
    }

    /// Forgets a watcher; it may be gone already.
    pub(crate) fn unwatch(&self, prefix: &str, id: u64) {
        self.state.write().watchers.remove(prefix, id);
    }

    pub(crate) fn compact(&self, until: Revision) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if until > state.revision {
            return Err(StoreError::Future { requested: until, current: state.revision });
        }
        state.history.compact(until);
        self.forget_before(state.history.oldest());
        Ok(())
    }

    /// Makes a committed group visible, to readers and watchers at once.
    pub(crate) fn publish(&self, revision: Revision, group: Vec<Written>) {
        let mut state = self.state.write();
        let state = &mut *state;
        for Written { fact, object } in group {
            fact.apply(&mut state.objects);
            state.watchers.offer(fact.key(), || fact.event(object.as_ref()));
            state.history.push(fact);
        }
        state.revision = revision;
        state.history.trim(revision, &state.objects);
        self.forget_before(state.history.oldest());
    }

    /// What no list can ask for any more is not to hold memory.
    fn forget_before(&self, oldest: Revision) {
        self.remembered.lock().retain(|(known, _)| *known >= oldest);
    }

    /// Ends all watches; there will be no more events.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.watchers = Watchers::default();
    }
}
