//! Why the store refuses. The first five variants are answers to the caller's request, the next
//! three are about the storage as it was found, the rest are the machine's fault.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Revision;

/// Why the store refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A create met an existing key.
    #[error("key {key} exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// An update or delete met no such key.
    #[error("key {key} not found")]
    NotFound {
        /// The key.
        key: String,
    },
    /// Someone else wrote in between.
    #[error("key {key} is at revision {actual}, expected {expected}")]
    Conflict {
        /// The key.
        key: String,
        /// Revision that the caller expected.
        expected: Revision,
        /// Revision that the store has.
        actual: Revision,
    },
    /// The revision is older than the history kept.
    #[error("revision {requested} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// Revision asked for.
        requested: Revision,
        /// Oldest revision that can still be answered.
        oldest: Revision,
    },
    /// The revision has not been reached.
    #[error("revision {requested} is in the future, the current one is {current}")]
    Future {
        /// Revision asked for.
        requested: Revision,
        /// Current revision.
        current: Revision,
    },
    /// Another process has the file open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The file is not a store, or is damaged.
    #[error(
        "{path} is damaged or not a Portolan store: {reason}\n\
         hint: nothing in it was changed; restore it from a copy, move it away to start empty, or \
         keep what can still be read of it as docs/storage.md says",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is of another format version.
    #[error(
        "{} has store format {found}, this program reads format {supported}",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Version this program reads.
        supported: u64,
    },
    /// There is no room for the write. Nothing of it is stored; reads go on, and writes do when
    /// there is room again.
    #[error("no space left to write {path}: {reason}", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The disk or the file system refused. Nothing of the write is stored.
    #[error("cannot write the store: {0}")]
    Disk(Arc<dyn std::error::Error + Send + Sync>),
    /// A write failed and the storage cannot be read to tell whether it is in. It will show, after
    /// all, or not, once the storage is readable; until then nothing is written.
    #[error("it is not known whether the write is stored: {0}")]
    Unsettled(Arc<StoreError>),
    /// The storage holds another revision than this process wrote there: somebody replaced it.
    /// Nothing more is written.
    #[error("the storage was changed by somebody else: it is at revision {found}, not {expected}")]
    Diverged {
        /// Revision found.
        found: Revision,
        /// Revision of the last durable write.
        expected: Revision,
    },
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// An error of the machine below the store.
    pub fn disk(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Disk(Arc::new(error))
    }
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was too slow; it must list anew.
    #[error("the watcher fell behind")]
    Lagged,
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
}
