//! The handle that callers hold, and the words of its interface.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::Stored;
use crate::backend::{Backend, Image};
use crate::error::StoreError;
use crate::file::File;
use crate::medium::Disk;
use crate::memory::Memory;
use crate::watch::Watch;
use crate::writer::{self, Counts, Request};

/// Transactions that may wait for the writer before [`Store::commit`] makes its callers wait.
const QUEUE: usize = 1024;

/// The version of the whole store: each committed transaction takes the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Tunables of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events kept for watches that start in the past and for lists at an older revision.
    pub history: usize,
    /// Bytes (as JSON) of replaced and deleted objects that the history may keep alive. The newest
    /// event is kept whatever its size.
    pub history_bytes: usize,
    /// Events a watcher may be behind before it is closed as lagged.
    pub watch_queue: usize,
    /// Bytes of redb's page cache.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: 16_384, history_bytes: 8 << 20, watch_queue: 4_096, cache_bytes: 4 << 20 }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a key that must not exist.
    Create {
        /// Key to write.
        key: String,
        /// Object.
        value: Value,
    },
    /// Replaces a key whose last write must be `expected`.
    Update {
        /// Key to write.
        key: String,
        /// Revision that the caller has read.
        expected: Revision,
        /// Object.
        value: Value,
    },
    /// Removes a key whose last write must be `expected`.
    Delete {
        /// Key to remove.
        key: String,
        /// Revision that the caller has read.
        expected: Revision,
    },
}

/// How much has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Transactions that are durable.
    pub transactions: u64,
    /// Groups that they were written in; each is one sync of the file.
    pub groups: u64,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// At most this many items; zero means all.
    pub limit: usize,
    /// Only keys after this one (exclusive).
    pub after: Option<String>,
    /// As the store was at this revision; now when none.
    pub at: Option<Revision>,
}

/// A consistent part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Revision that the items belong to.
    pub revision: Revision,
    /// Items in key order.
    pub items: Vec<Stored>,
    /// How many more items follow.
    pub remaining: u64,
}

/// A handle on the store; cheap to clone. When the last one is dropped, the writer finishes what
/// is queued, the file is closed and its lock released.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: Arc<Memory>,
    counts: Arc<Counts>,
    /// None only while being dropped.
    requests: Option<mpsc::Sender<Request>>,
    /// None only while being dropped.
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the file. Its writer is a thread of its own, so no runtime is needed.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Corrupt`], [`StoreError::Format`],
    /// [`StoreError::Full`], [`StoreError::Disk`].
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let file = File::open(Disk::new(path), options.cache_bytes)?;
        Self::open_on(Box::new(file), options)
    }

    /// As [`Store::open`], on another backend.
    ///
    /// # Errors
    /// Those of [`Backend::load`].
    pub fn open_on(mut backend: Box<dyn Backend>, options: Options) -> Result<Self, StoreError> {
        let Image { revision, records } = backend.load()?;
        let memory = Arc::new(Memory::new(revision, records, options));
        let counts = Arc::new(Counts::default());
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let (memory, counts) = (Arc::clone(&memory), Arc::clone(&counts));
                move || writer::run(backend, &memory, &counts, queue)
            })
            .map_err(StoreError::disk)?;
        let inner = Inner { memory, counts, requests: Some(requests), writer: Some(writer) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Applies all operations or none, as one revision; returns when they survive a kill of this
    /// process. One result per operation (for a delete the last value, at the delete's revision).
    /// Once queued, a transaction happens even if the caller stops waiting.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::NotFound`], [`StoreError::Conflict`]: nothing changed.
    /// [`StoreError::Full`], [`StoreError::Disk`], [`StoreError::Diverged`], [`StoreError::Closed`]:
    /// nothing changed. [`StoreError::Unsettled`]: nothing changed yet, and it may.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Vec<Stored>, StoreError> {
        let (answer, result) = oneshot::channel();
        let request = Request::new(ops, answer);
        let requests = self.inner.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// The object at a key.
    pub fn get(&self, key: &str) -> Option<Stored> {
        self.inner.memory.get(key)
    }

    /// Objects whose keys start with a prefix, in key order, all as of one revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] or [`StoreError::Future`] for `at`.
    pub fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, StoreError> {
        self.inner.memory.list(prefix, &options)
    }

    /// Changes after a revision (exclusive) to keys that start with a prefix.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the history no longer reaches back that far,
    /// [`StoreError::Future`] when `from` has not been reached.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        Memory::watch(&self.inner.memory, prefix, from)
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        self.inner.memory.revision()
    }

    /// How much has been written since the store was opened.
    pub fn written(&self) -> WriteCounts {
        self.inner.counts.read()
    }

    /// Forgets the history up to and including a revision.
    ///
    /// # Errors
    /// [`StoreError::Future`] beyond the current revision.
    pub fn compact(&self, until: Revision) -> Result<(), StoreError> {
        self.inner.memory.compact(until)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.requests.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}
