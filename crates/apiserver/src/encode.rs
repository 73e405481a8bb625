//! From stored objects to bytes, without copying them: the resource version and the version's form are put in while
//! writing. What a watch sends is encoded once per event and shared by all its watchers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use portolan_api::Kind;
use portolan_store::Stored;
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::{Map, Value, json};

use crate::convert;

/// An object as it is written: the stored value with its resource version.
pub(crate) struct Versioned<'a> {
    value: Cow<'a, Value>,
    revision: u64,
}

impl<'a> Versioned<'a> {
    /// `revision` zero (a dry run) leaves the resource version out.
    pub(crate) fn new(kind: &Kind, value: &'a Value, revision: u64) -> Versioned<'a> {
        Versioned { value: convert::from_stored(kind, value), revision }
    }

    pub(crate) fn of(kind: &Kind, stored: &'a Stored) -> Versioned<'a> {
        Versioned::new(kind, &stored.value, stored.revision.0)
    }

    pub(crate) fn into_value(self) -> Value {
        let mut value = self.value.into_owned();
        if self.revision != 0 {
            value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        }
        value
    }

    /// The object's metadata alone, as PartialObjectMetadata.
    pub(crate) fn into_partial(self) -> Value {
        let value = self.into_value();
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": value["metadata"],
        })
    }
}

impl Serialize for Versioned<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(object) = self.value.as_object().filter(|_| self.revision != 0) else {
            return self.value.serialize(serializer);
        };
        let mut map = serializer.serialize_map(Some(object.len()))?;
        for (key, value) in object {
            match value.as_object().filter(|_| key == "metadata") {
                Some(metadata) => {
                    map.serialize_entry(key, &Metadata(metadata, self.revision))?;
                }
                None => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

struct Metadata<'a>(&'a Map<String, Value>, u64);

impl Serialize for Metadata<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len() + 1))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("resourceVersion", &self.1.to_string())?;
        map.end()
    }
}

/// The type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }
}

/// One line of a watch.
pub(crate) fn event_line(event: EventType, object: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Line<'a, T> {
        r#type: &'static str,
        object: &'a T,
    }
    let mut line = to_json(&Line { r#type: event.as_str(), object });
    line.push(b'\n');
    line.into()
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("objects have string keys and finite numbers")
}

/// The most recent watch lines, so that many watchers of one change encode it once.
///
/// A line is a function of the object's revision, the served kind and the event's type.
#[derive(Default)]
pub(crate) struct LineCache {
    recent: Mutex<VecDeque<(LineKey, Bytes)>>,
}

#[derive(Clone, PartialEq, Eq)]
struct LineKey {
    revision: u64,
    event: EventType,
    schema: &'static str,
    key: Arc<str>,
}

impl LineCache {
    /// Enough for the watchers that wake together; a miss only costs encoding again.
    const LINES: usize = 32;

    pub(crate) fn line(
        &self,
        kind: &'static Kind,
        event: EventType,
        stored: &Stored,
        revision: u64,
    ) -> Bytes {
        let key = LineKey { revision, event, schema: kind.schema, key: stored.key.clone() };
        if let Some((_, line)) = self.recent.lock().iter().rev().find(|(k, _)| *k == key) {
            return line.clone();
        }
        let line = event_line(event, &Versioned::new(kind, &stored.value, revision));
        let mut recent = self.recent.lock();
        if recent.len() == Self::LINES {
            recent.pop_front();
        }
        recent.push_back((key, line.clone()));
        line
    }
}
