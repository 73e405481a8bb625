//! Watches: a backlog out of the history, then a bounded queue fed at each publication.
//!
//! A watcher that lets its queue fill up is dropped by the publisher, which never waits. It still
//! gets what was queued, then [`WatchError::Lagged`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::error::WatchError;
use crate::fact::Fact;
use crate::memory::Memory;
use crate::{Revision, Stored};

/// What a watch reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A key was created (`previous` is none) or replaced.
    Put {
        /// What is stored now.
        stored: Stored,
        /// What was stored before.
        previous: Option<Stored>,
    },
    /// A key was removed.
    Delete {
        /// The last value, at the revision of its last write.
        stored: Stored,
        /// Revision of the removal.
        revision: Revision,
    },
}

impl Event {
    /// Revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { stored, .. } => stored.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// Key of the changed object.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { stored, .. } | Self::Delete { stored, .. } => &stored.key,
        }
    }
}

/// Changes below one prefix, in the order of their revisions.
#[derive(Debug)]
pub struct Watch {
    backlog: VecDeque<Fact>,
    queue: mpsc::Receiver<Arc<Event>>,
    lagged: Arc<AtomicBool>,
    memory: Arc<Memory>,
    prefix: Box<str>,
    id: u64,
    /// The greatest revision that [`Watch::progress`] may name.
    from: Revision,
}

impl Watch {
    pub(crate) fn new(
        memory: Arc<Memory>,
        prefix: &str,
        id: u64,
        from: Revision,
        backlog: VecDeque<Fact>,
        queue: mpsc::Receiver<Arc<Event>>,
        lagged: Arc<AtomicBool>,
    ) -> Self {
        Self { backlog, queue, lagged, memory, prefix: prefix.into(), id, from }
    }

    /// The next change. Cancel safe.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] when this watcher was too slow, [`WatchError::Closed`] at shutdown.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        if let Some(fact) = self.backlog.pop_front() {
            return Ok(fact.event(None));
        }
        match self.queue.recv().await {
            Some(event) => Ok(Arc::unwrap_or_clone(event)),
            None if self.lagged.load(Ordering::Acquire) => Err(WatchError::Lagged),
            None => Err(WatchError::Closed),
        }
    }

    /// Whether this watcher was too slow and has been dropped by the publisher, though what was queued is not taken yet.
    pub fn is_lagged(&self) -> bool {
        self.lagged.load(Ordering::Acquire)
    }

    /// The revision up to which everything has been handed out, for a bookmark; none while changes
    /// wait to be taken or after the watch has ended.
    pub fn progress(&mut self) -> Option<Revision> {
        // The revision is read first: whatever it covers is in the queue by then, since both
        // change under the same lock.
        let revision = self.memory.revision();
        let idle = self.backlog.is_empty() && self.queue.is_empty() && !self.queue.is_closed();
        if idle {
            self.from = self.from.max(revision);
        }
        idle.then_some(self.from)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.memory.unwatch(&self.prefix, self.id);
    }
}

/// The publisher's end of a watch.
#[derive(Debug)]
pub(crate) struct Subscriber {
    queue: mpsc::Sender<Arc<Event>>,
    lagged: Arc<AtomicBool>,
}

impl Subscriber {
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<Arc<Event>>) {
        let (sender, queue) = mpsc::channel(capacity.max(1));
        (Self { queue: sender, lagged: Arc::default() }, queue)
    }

    /// Set when the watcher is dropped for being slow.
    pub(crate) fn lagged(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lagged)
    }

    /// Queues an event; false when this watcher is to be dropped.
    pub(crate) fn offer(&self, event: &Arc<Event>) -> bool {
        match self.queue.try_send(Arc::clone(event)) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
        }
    }
}
