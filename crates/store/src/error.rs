//! Why the store refuses. The first five variants are answers to the caller's request, the next
//! three are about the file as it was found, [`StoreError::Disk`] is the machine's fault.

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
    #[error("{} is damaged or not a Portolan store: {reason}", path.display())]
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
    /// The disk or the file system refused.
    #[error("cannot write the store")]
    Disk(#[source] Arc<redb::Error>),
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn disk(error: impl Into<redb::Error>) -> Self {
        Self::Disk(Arc::new(error.into()))
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
