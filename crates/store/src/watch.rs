//! Watches: a backlog out of the history, then a bounded queue fed at each publication.
//!
//! A watcher that lets its queue fill up is dropped by the publisher, which never waits. It still
//! gets what was queued, then [`WatchError::Lagged`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::error::WatchError;
use crate::memory::Memory;
use crate::store::{Revision, Stored};

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
    backlog: VecDeque<Event>,
    queue: mpsc::Receiver<Event>,
    lagged: Arc<AtomicBool>,
    memory: Arc<Memory>,
    /// The greatest revision that [`Watch::progress`] may name.
    from: Revision,
}

impl Watch {
    /// The next change. Cancel safe.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] when this watcher was too slow, [`WatchError::Closed`] at shutdown.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        if let Some(event) = self.backlog.pop_front() {
            return Ok(event);
        }
        match self.queue.recv().await {
            Some(event) => Ok(event),
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

/// The publisher's end of a watch.
#[derive(Debug)]
pub(crate) struct Subscriber {
    prefix: Box<str>,
    queue: mpsc::Sender<Event>,
    lagged: Arc<AtomicBool>,
}

impl Subscriber {
    pub(crate) fn new(
        prefix: &str,
        from: Revision,
        backlog: VecDeque<Event>,
        capacity: usize,
        memory: Arc<Memory>,
    ) -> (Self, Watch) {
        let (sender, queue) = mpsc::channel(capacity.max(1));
        let lagged = Arc::new(AtomicBool::new(false));
        let watch = Watch { backlog, queue, lagged: Arc::clone(&lagged), memory, from };
        (Self { prefix: prefix.into(), queue: sender, lagged }, watch)
    }

    /// Queues an event that is below the prefix; false when this watcher is to be dropped.
    pub(crate) fn offer(&mut self, event: &Event) -> bool {
        if !event.key().starts_with(&*self.prefix) {
            return !self.queue.is_closed();
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
        }
    }
}
