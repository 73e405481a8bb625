//! Watches: a backlog out of the history, then a bounded queue fed at each publication.
//!
//! A watcher that lets its queue fill up is dropped by the publisher, which never waits. It still
//! gets what was queued, then [`WatchError::Lagged`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;

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
    /// Ends with the publisher's end; none once somebody waits for it.
    followed: Option<oneshot::Receiver<Infallible>>,
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
        queue: Queue,
    ) -> Self {
        let Queue { events: queue, lagged, followed } = queue;
        let followed = Some(followed);
        Self { backlog, queue, lagged, followed, memory, prefix: prefix.into(), id, from }
    }

    /// The next change. Cancel safe.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] when this watcher was too slow, [`WatchError::Closed`] at shutdown.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Watch::next`], for those who are polled themselves.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, WatchError>> {
        if let Some(fact) = self.backlog.pop_front() {
            return Poll::Ready(Ok(fact.event(None)));
        }
        Poll::Ready(match ready!(self.queue.poll_recv(context)) {
            Some(event) => Ok(Arc::unwrap_or_clone(event)),
            None if self.lagged.load(Ordering::Acquire) => Err(WatchError::Lagged),
            None => Err(WatchError::Closed),
        })
    }

    /// Waits until nothing more is queued for this watch, because it was too slow or because the store is closed. It
    /// borrows nothing, so that somebody may wait who does not take the events. At once when asked for again.
    pub fn abandoned(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let followed = self.followed.take();
        async {
            if let Some(followed) = followed {
                // Nothing can be sent: it is the end that is waited for.
                let _ = followed.await;
            }
        }
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
    /// Set when the watcher is dropped for being slow.
    lagged: Arc<AtomicBool>,
    /// Nothing is ever sent; it goes with the rest.
    _following: oneshot::Sender<Infallible>,
}

/// The watcher's end of its queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) events: mpsc::Receiver<Arc<Event>>,
    lagged: Arc<AtomicBool>,
    followed: oneshot::Receiver<Infallible>,
}

impl Subscriber {
    pub(crate) fn new(capacity: usize) -> (Self, Queue) {
        let (sender, events) = mpsc::channel(capacity.max(1));
        let (following, followed) = oneshot::channel();
        let lagged = Arc::new(AtomicBool::new(false));
        let queue = Queue { events, lagged: Arc::clone(&lagged), followed };
        (Self { queue: sender, lagged, _following: following }, queue)
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
