//! What has happened, as the history keeps it: a change with what was there before.

use std::sync::Arc;

use crate::object::{Object, Record};
use crate::tree::Tree;
use crate::watch::Event;
use crate::{Revision, Stored};

/// One change of one key.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    Put { record: Arc<Record>, previous: Option<Arc<Record>> },
    Delete { record: Arc<Record>, revision: Revision },
}

impl Fact {
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Put { record, .. } => record.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { record, .. } | Self::Delete { record, .. } => &record.key,
        }
    }

    /// Bytes of the value that only the history keeps alive.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { previous, .. } => previous.as_ref().map_or(0, |record| record.json.len()),
            Self::Delete { record, .. } => record.json.len(),
        }
    }

    pub(crate) fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Put { record, .. } => tree.insert(Arc::clone(record)),
            Self::Delete { record, .. } => tree.remove(&record.key),
        };
    }

    /// The inverse of [`Fact::apply`].
    pub(crate) fn undo(&self, tree: &mut Tree) {
        match self {
            Self::Put { previous: Some(before), .. } | Self::Delete { record: before, .. } => {
                tree.insert(Arc::clone(before))
            }
            Self::Put { record, previous: None } => tree.remove(&record.key),
        };
    }

    /// For watchers; `written` is what was put, if it is still at hand with its tree.
    pub(crate) fn event(&self, written: Option<&Object>) -> Event {
        match self {
            Self::Put { record, previous } => Event::Put {
                stored: match written {
                    Some(object) => record.stored_as(object.clone()),
                    None => record.stored(),
                },
                previous: previous.as_ref().map(|record| record.stored()),
            },
            Self::Delete { record, revision } => {
                Event::Delete { stored: record.stored(), revision: *revision }
            }
        }
    }
}

/// A fact on its way from the writer to the readers, with the object as its caller gave it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) fact: Fact,
    /// None for a delete.
    pub(crate) object: Option<Object>,
}

impl Written {
    /// What the caller gets: a delete is answered with the last value at the delete's revision.
    pub(crate) fn answer(&self) -> Stored {
        match (&self.fact, &self.object) {
            (Fact::Put { record, .. }, Some(object)) => record.stored_as(object.clone()),
            (Fact::Put { record, .. }, None) => record.stored(),
            (Fact::Delete { record, revision }, _) => {
                Stored { revision: *revision, ..record.stored() }
            }
        }
    }
}
