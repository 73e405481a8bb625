//! The seam to durable storage: what the writer needs of it, and nothing else.
//!
//! A backend is a durable image of the objects with one revision, changed by groups. It knows no
//! readers, watches or history; those live in memory above it. See
//! `docs/decisions/005-the-seam-of-the-store.md`.

use crate::error::StoreError;
use crate::{Record, Revision};

/// Durable storage below a [`Store`](crate::Store). One writer owns it.
pub trait Backend: std::fmt::Debug + Send {
    /// Everything that is stored. Called once, before the first write.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Disk`].
    fn load(&mut self) -> Result<Image, StoreError>;

    /// Makes the changes and the revision they lead to durable, all of it or nothing.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Disk`]. It is then unknown whether the group is stored,
    /// and nothing may be written before [`Backend::recover`] has told.
    fn write(&mut self, revision: Revision, changes: &[Change<'_>]) -> Result<(), StoreError>;

    /// After a failed write: opens the storage anew, without trust in anything that was in memory,
    /// and tells which revision is durable there.
    ///
    /// # Errors
    /// As [`Backend::load`]; the state stays unknown, and the call may be repeated.
    fn recover(&mut self) -> Result<Revision, StoreError>;
}

/// What a backend holds when it is opened.
#[derive(Debug)]
pub struct Image {
    /// Revision of the last group.
    pub revision: Revision,
    /// All objects, in key order.
    pub records: Vec<Record>,
}

/// One step of a group.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Writes a key.
    Put(&'a Record),
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a str,
    },
}
