//! From stored objects to bytes: their text is sent as it is stored, with the resource version put in ([`splice`]);
//! only what has to change its form is taken apart. What a watch sends is encoded once per event and shared by all its
//! watchers.

mod splice;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use portolan_api::Kind;
use portolan_store::{Object, Stored};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::convert;

/// An object as it is written: the stored value with its resource version.
pub(crate) struct Versioned<'a> {
    shape: Shape<'a>,
    revision: u64,
}

enum Shape<'a> {
    Stored(&'a Object),
    Converted(Value),
}

impl<'a> Versioned<'a> {
    /// `revision` zero (a dry run) leaves the resource version out.
    pub(crate) fn new(kind: &Kind, object: &'a Object, revision: u64) -> Versioned<'a> {
        let shape = if convert::is_stored_form(kind) {
            Shape::Stored(object)
        } else {
            Shape::Converted(convert::from_stored(kind, object).into_owned())
        };
        Versioned { shape, revision }
    }

    pub(crate) fn of(kind: &Kind, stored: &'a Stored) -> Versioned<'a> {
        Versioned::new(kind, &stored.value, stored.revision.0)
    }

    pub(crate) fn into_value(self) -> Value {
        let mut value = match self.shape {
            Shape::Stored(object) => Value::clone(object),
            Shape::Converted(value) => value,
        };
        if self.revision != 0 {
            value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        }
        value
    }

    /// Appends the JSON text.
    pub(crate) fn append(&self, to: &mut Vec<u8>) {
        match &self.shape {
            Shape::Stored(object) => splice::append(object.json(), self.revision, to),
            Shape::Converted(value) => splice::append(&to_json(value), self.revision, to),
        }
    }
}

/// An object's metadata alone, as PartialObjectMetadata. No version of a kind changes its metadata.
pub(crate) struct Partial<'a> {
    metadata: &'a Value,
    revision: u64,
}

impl<'a> Partial<'a> {
    pub(crate) fn new(value: &'a Value, revision: u64) -> Partial<'a> {
        Partial { metadata: &value["metadata"], revision }
    }

    pub(crate) fn of(stored: &'a Stored) -> Partial<'a> {
        Partial::new(&stored.value, stored.revision.0)
    }
}

impl Serialize for Partial<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("kind", "PartialObjectMetadata")?;
        map.serialize_entry("apiVersion", "meta.k8s.io/v1")?;
        match self.metadata.as_object().filter(|_| self.revision != 0) {
            Some(metadata) => {
                map.serialize_entry("metadata", &Metadata(metadata, self.revision))?
            }
            None => map.serialize_entry("metadata", self.metadata)?,
        }
        map.end()
    }
}

impl Serialize for Versioned<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Vec::new();
        self.append(&mut text);
        let text = String::from_utf8(text).map_err(serde::ser::Error::custom)?;
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
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
/// A line is a function of the object's revision, the served form and the event's type. Watchers that ask at the same
/// moment wait for the one that encodes. What is kept is bounded in lines and in bytes; a miss only costs encoding again.
#[derive(Default)]
pub(crate) struct LineCache {
    recent: Mutex<Recent>,
    /// How often a line had to be encoded.
    encoded: AtomicU64,
}

#[derive(Default)]
struct Recent {
    lines: VecDeque<(LineKey, Arc<OnceLock<Bytes>>)>,
    bytes: usize,
}

/// In which form a watch shows objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Partial,
}

#[derive(Clone, PartialEq, Eq)]
struct LineKey {
    revision: u64,
    event: EventType,
    schema: &'static str,
    form: Form,
    key: Arc<str>,
}

impl LineCache {
    /// Enough for the watchers that wake together after a burst.
    const LINES: usize = 128;
    const BYTES: usize = 4 << 20;

    pub(crate) fn line(
        &self,
        kind: &'static Kind,
        form: Form,
        event: EventType,
        stored: &Stored,
        revision: u64,
    ) -> Bytes {
        let key = LineKey { revision, event, schema: kind.schema, form, key: stored.key.clone() };
        let slot = self.slot(key);
        let mut fresh = false;
        let line = slot.get_or_init(|| {
            fresh = true;
            match form {
                Form::Whole => event_line(event, &Versioned::new(kind, &stored.value, revision)),
                Form::Partial => event_line(event, &Partial::new(&stored.value, revision)),
            }
        });
        if fresh {
            self.encoded.fetch_add(1, Ordering::Relaxed);
            self.account(&slot, line.len());
        }
        line.clone()
    }

    /// The place of a line, made when it is new.
    fn slot(&self, key: LineKey) -> Arc<OnceLock<Bytes>> {
        let mut recent = self.recent.lock();
        if let Some((_, slot)) = recent.lines.iter().rev().find(|(k, _)| *k == key) {
            return slot.clone();
        }
        let slot = Arc::new(OnceLock::new());
        recent.lines.push_back((key, slot.clone()));
        recent.trim();
        slot
    }

    fn account(&self, slot: &Arc<OnceLock<Bytes>>, bytes: usize) {
        let mut recent = self.recent.lock();
        // It may have been pushed out while it was being encoded.
        if recent.lines.iter().rev().any(|(_, s)| Arc::ptr_eq(s, slot)) {
            recent.bytes += bytes;
            recent.trim();
        }
    }
}

impl Recent {
    /// Forgets the oldest lines; the newest stays whatever its size.
    fn trim(&mut self) {
        while self.lines.len() > 1
            && (self.lines.len() > LineCache::LINES || self.bytes > LineCache::BYTES)
        {
            let Some((_, oldest)) = self.lines.pop_front() else { return };
            // A line that is still being encoded is not accounted yet, and will not be.
            self.bytes = self.bytes.saturating_sub(oldest.get().map_or(0, Bytes::len));
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_store::Revision;
    use serde_json::json;

    use super::*;

    fn stored(name: &str, size: usize) -> Stored {
        Stored {
            key: format!("/core/configmaps/default/{name}").into(),
            create_revision: Revision(1),
            revision: Revision(2),
            value: Object::from(json!({
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"text": "x".repeat(size)},
            })),
        }
    }

    fn config_map() -> &'static Kind {
        portolan_api::kinds::by_kind("v1", "ConfigMap").unwrap()
    }

    #[test]
    fn a_thousand_watchers_of_one_change_encode_it_once() {
        let lines = LineCache::default();
        let object = stored("a", 100);
        let line = || lines.line(config_map(), Form::Whole, EventType::Added, &object, 2);
        let first = line();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| assert_eq!(line(), first)));
            }
        });
        assert_eq!(lines.encoded.load(Ordering::Relaxed), 1);
        assert!(first.starts_with(br#"{"type":"ADDED","object":{"#));
        let deleted = lines.line(config_map(), Form::Whole, EventType::Deleted, &object, 3);
        assert!(String::from_utf8_lossy(&deleted).contains(r#""resourceVersion":"3""#));
        let partial = lines.line(config_map(), Form::Partial, EventType::Added, &object, 2);
        assert!(!String::from_utf8_lossy(&partial).contains("\"data\":"));
        assert_eq!(lines.encoded.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_lines_and_in_bytes() {
        let lines = LineCache::default();
        for i in 0..LineCache::LINES + 10 {
            let object = stored(&format!("small-{i}"), 10);
            lines.line(config_map(), Form::Whole, EventType::Added, &object, 2);
        }
        assert_eq!(lines.recent.lock().lines.len(), LineCache::LINES);
        for i in 0..20 {
            let object = stored(&format!("big-{i}"), 1 << 20);
            lines.line(config_map(), Form::Whole, EventType::Added, &object, 2);
        }
        let recent = lines.recent.lock();
        assert!(recent.bytes <= LineCache::BYTES, "{}", recent.bytes);
        let held: usize = recent.lines.iter().filter_map(|(_, l)| l.get()).map(Bytes::len).sum();
        assert_eq!(recent.bytes, held);
    }

    #[test]
    fn metadata_alone_has_its_version() {
        let object = stored("a", 1);
        let partial: Value = serde_json::to_value(Partial::of(&object)).unwrap();
        assert_eq!(
            partial,
            json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"name": "a", "resourceVersion": "2"},
            })
        );
    }
}
