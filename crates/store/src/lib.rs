//! Revisions, watches and durable storage of objects in one file.
//!
//! All live objects are in memory and are read from there; one redb file holds the same objects for
//! the next start. A single writer thread owns the file: it takes every transaction that is waiting,
//! writes them in one redb commit (group commit), then publishes them to readers and watchers, then
//! answers the callers. So nothing is visible before it is durable, and revisions appear in order.
//!
//! ```text
//! commit() ──queue──▶ writer thread: check → redb commit → publish → answer
//!                                                            │
//!                        get, list ◀── objects ◀─────────────┤
//!                        watch     ◀── history ring, queues ◀┘
//! ```
//!
//! **What survives.** Each commit ends with fsync (redb's `Durability::Immediate`), so an
//! acknowledged write survives a kill of the process at any instant, and a loss of power as far as
//! the disk keeps its promise. The history does not survive: after a reopen, watches can start at
//! the current revision and everything older is [`StoreError::Compacted`].

mod error;
mod file;
mod memory;
mod store;
mod watch;
mod writer;

pub use error::{StoreError, WatchError};
pub use store::{ListOptions, Op, Options, Page, Revision, Store, Stored};
pub use watch::{Event, Watch};
