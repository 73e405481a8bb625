//! An object as the store keeps it: its JSON in one piece, and the tree of values only on demand.
//!
//! The tree of a Service of 1.4 kB takes 13.7 kB (each map is a block of eleven slots, each string an
//! allocation). So the store keeps [`Record`]s, which are JSON, and hands out
//! [`Stored`]s, whose [`Object`] parses itself when somebody looks inside, and forgets the tree with
//! the handle. Whoever only passes the object on takes [`Object::json`] and parses nothing.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::Revision;

/// One object as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Key of the object.
    pub key: Arc<str>,
    /// Revision at which this incarnation of the key was created.
    pub create_revision: Revision,
    /// Revision at which this value was written.
    pub revision: Revision,
    /// The object, without `metadata.resourceVersion`.
    pub value: Object,
}

/// A JSON value: the text, and the tree once it has been looked at. Reads like a [`Value`]; clones
/// share both.
#[derive(Clone)]
pub struct Object(Arc<Lazy>);

struct Lazy {
    json: Arc<[u8]>,
    tree: OnceLock<Value>,
}

impl Object {
    /// The text: compact JSON in UTF-8.
    pub fn json(&self) -> &[u8] {
        &self.0.json
    }

    pub(crate) fn shared_json(&self) -> Arc<[u8]> {
        Arc::clone(&self.0.json)
    }

    fn of_json(json: Arc<[u8]>) -> Self {
        Self(Arc::new(Lazy { json, tree: OnceLock::new() }))
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        let json = serde_json::to_vec(&value).expect("a Value has string keys and no NaN");
        Self(Arc::new(Lazy { json: json.into(), tree: OnceLock::from(value) }))
    }
}

impl std::ops::Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.0.tree.get_or_init(|| {
            serde_json::from_slice(&self.0.json).unwrap_or_else(|error| {
                // Only a file that another program wrote can hold such text (for one, deeper
                // nesting than the parser follows): the request must not take the server down.
                tracing::error!(%error, "an object in the store cannot be parsed");
                Value::Null
            })
        })
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.json))
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json || **self == **other
    }
}

/// What the store keeps of an object, in memory and in its backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Key of the object.
    pub key: Arc<str>,
    /// Revision at which this incarnation of the key was created.
    pub create_revision: Revision,
    /// Revision at which this value was written.
    pub revision: Revision,
    /// The object as JSON.
    pub json: Arc<[u8]>,
}

impl Record {
    pub(crate) fn stored(&self) -> Stored {
        self.stored_as(Object::of_json(Arc::clone(&self.json)))
    }

    /// With an object whose tree is there already.
    pub(crate) fn stored_as(&self, value: Object) -> Stored {
        Stored {
            key: Arc::clone(&self.key),
            create_revision: self.create_revision,
            revision: self.revision,
            value,
        }
    }
}

/// Whether bytes are JSON in UTF-8, without building anything of them.
pub(crate) fn check_json(json: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(json).map_err(|error| error.to_string())?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_reads_like_its_value_and_keeps_its_text() {
        let value = json!({"metadata": {"name": "a"}, "list": [1, 2.5, null]});
        let made = Object::from(value.clone());
        let read = Object::of_json(made.json().into());
        assert_eq!(read["metadata"]["name"], "a");
        assert_eq!(*read, value);
        assert_eq!(read, made);
        assert_ne!(read, Object::from(json!({})));
    }

    #[test]
    fn text_that_is_no_json_is_found() {
        check_json(br#"{"a":[1,"b"]}"#).unwrap();
        for bad in [&b"{"[..], b"{}x", b"", b"\"\xff\""] {
            check_json(bad).unwrap_err();
        }
    }

    #[test]
    fn text_nested_too_deep_to_parse_reads_as_null() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        check_json(deep.as_bytes()).unwrap();
        assert_eq!(*Object::of_json(deep.as_bytes().into()), Value::Null);
    }
}
