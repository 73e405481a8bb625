//! Revisions, watches and durable storage of objects.
//!
//! All live objects are in memory (as JSON, see [`Object`]) and are read from there; a [`Backend`]
//! holds the same objects for the next start: one redb file. A single writer thread owns it: it
//! takes every transaction that is waiting, writes them as one group with one sync (group commit),
//! then publishes them to readers and watchers, then answers the callers. So nothing is visible
//! before it is durable, and revisions appear in order.
//!
//! ```text
//! commit() ──queue──▶ writer thread: check → backend → publish → answer
//!                                                         │
//!                        get, list ◀── objects ◀──────────┤
//!                        watch     ◀── history, queues ◀──┘
//! ```
//!
//! **What survives.** Each group ends with a sync, so an acknowledged write survives a kill of the
//! process at any instant, and a loss of power as far as the disk keeps its promise. The history
//! does not survive: after a reopen, watches can start at the current revision and everything older
//! is [`StoreError::Compacted`].
//!
//! **What fails.** A write that fails is refused or, if it turns out to be stored after all, stands;
//! the file is opened anew and the store goes on. A full disk is [`StoreError::Full`] until there is
//! room. A damaged file is [`StoreError::Corrupt`] at the start and left as it is; [`salvage`] writes
//! what can be read of it to a new file. Reads never fail with the storage.

mod backend;
mod error;
mod fact;
mod file;
mod medium;
mod memory;
mod object;
mod salvage;
mod store;
mod tree;
mod watch;
mod writer;

pub use backend::{Backend, Change, Image};
pub use error::{StoreError, WatchError};
pub use file::File;
pub use medium::{Disk, Medium};
pub use object::{Object, Record, Stored};
pub use salvage::{Salvaged, salvage};
pub use store::{ListOptions, Op, Options, Page, Revision, Store, WriteCounts};
pub use watch::{Event, Watch};
