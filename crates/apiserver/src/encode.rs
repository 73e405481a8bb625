//! From stored objects to bytes: their text is sent as it is stored, with the resource version put in ([`splice`]);
//! only what has to change its form is taken apart. What a watch sends is encoded once per event and shared by all its watchers.

mod splice;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use portolan_api::Kind;
use portolan_store::{Object, Stored};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::convert;

/// An object as it is written: the stored value with its resource version.
pub(crate) struct Versioned<'a> {
    form: Form<'a>,
    revision: u64,
}

enum Form<'a> {
    Stored(&'a Object),
    Converted(Value),
}

impl<'a> Versioned<'a> {
    /// `revision` zero (a dry run) leaves the resource version out.
    pub(crate) fn new(kind: &Kind, object: &'a Object, revision: u64) -> Versioned<'a> {
        let form = if convert::is_stored_form(kind) {
            Form::Stored(object)
        } else {
            Form::Converted(convert::from_stored(kind, object).into_owned())
        };
        Versioned { form, revision }
    }

    pub(crate) fn of(kind: &Kind, stored: &'a Stored) -> Versioned<'a> {
        Versioned::new(kind, &stored.value, stored.revision.0)
    }

    pub(crate) fn into_value(self) -> Value {
        let mut value = match self.form {
            Form::Stored(object) => Value::clone(object),
            Form::Converted(value) => value,
        };
        if self.revision != 0 {
            value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        }
        value
    }

    /// The object's metadata alone, as PartialObjectMetadata.
    pub(crate) fn into_partial(self) -> Value {
        let mut value = self.into_value();
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": value["metadata"].take(),
        })
    }
}

impl Serialize for Versioned<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match &self.form {
            Form::Stored(object) => splice::with_version(object.json(), self.revision),
            Form::Converted(value) => splice::with_version(&to_json(value), self.revision),
        };
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
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
