//! Server-side apply: who owns which field, and what an applied configuration makes of an object.
//!
//! Pure: values, a schema and sets of fields in; values and sets out. The semantics are those of
//! upstream's structured-merge-diff: a leaf is a scalar, an atomic value or an empty object; maps and
//! structs are merged by field, lists by key or by value.
//!
//! ```text
//! update:  live, new ──compare──▶ taken, removed ──▶ taken leaves the others and joins the writer
//! apply:   live, config ──merge──▶ ──prune (last − owned)──▶ new ──compare──▶ conflicts ∩ others
//! ```

mod compare;
mod merge;
mod set;

pub use compare::{Difference, compare};
pub use merge::{merge, prune};
pub use set::{FieldSet, SetError};

use serde_json::{Map, Value};

use crate::MergeKey;

/// How a type is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A scalar, or anything that is owned whole.
    Leaf,
    /// Fields of their own types.
    Struct,
    /// Entries of one type.
    Map,
    /// A list of values, each owned on its own.
    Set,
    /// A list of structs, told apart by keys.
    Keyed(&'static [MergeKey]),
}

/// A type, as far as ownership needs it. Cheap to copy: an index or a reference.
pub trait FieldSchema: Copy {
    /// How values of the type are owned.
    fn shape(self) -> Shape;
    /// The type of a field of a struct, none when it is not declared.
    fn field(self, name: &str) -> Option<Field<Self>>;
    /// The type of a map's entries or a list's items.
    fn item(self) -> Option<Self>;
}

/// A declared field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field<S> {
    /// Its type.
    pub schema: S,
    /// Go writes it even when nothing is in it, so that nobody gets to own its being there: a struct
    /// that is no pointer, a list that is not `omitempty`.
    pub always: bool,
}

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ApplyError {
    /// Where, e.g. `.spec.ports`.
    pub path: String,
    /// What, in upstream's words.
    pub reason: String,
}

/// The fields that a configuration sets.
///
/// # Errors
/// Two items of a list with one key, or an item without its key.
pub fn field_set<S: FieldSchema>(schema: S, config: &Value) -> Result<FieldSet, ApplyError> {
    let mut path = String::new();
    Ok(below(schema, config, &mut path)?.unwrap_or_default())
}

/// The set below a value; none when the value is a leaf.
fn below<S: FieldSchema>(
    schema: S,
    value: &Value,
    path: &mut String,
) -> Result<Option<FieldSet>, ApplyError> {
    let mut set = FieldSet::default();
    match (schema.shape(), value) {
        (Shape::Struct | Shape::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                let field = child(schema, name);
                let inner = match field {
                    Some(field) => {
                        within(path, &format!(".{name}"), |path| below(field.schema, value, path))?
                    }
                    None => None,
                };
                let declared = schema.shape() == Shape::Struct;
                let owned = inner.is_none() || !declared || is_empty_object(value);
                set.push(set::field(name), owned, inner.unwrap_or_default());
            }
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(items)) => {
            let mut seen = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let element = element(schema.shape(), item).map_err(|reason| ApplyError {
                    path: path.clone(),
                    reason: format!("element {index}: {reason}"),
                })?;
                let inner = match schema.item() {
                    Some(schema) => {
                        let step = set::display(&element);
                        within(path, &step, |path| below(schema, item, path))?
                    }
                    None => None,
                };
                seen.push((element, inner.unwrap_or_default()));
            }
            seen.sort_by(|(a, _), (b, _)| a.cmp(b));
            if let Some([(twice, _), _]) = seen.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let reason = format!("duplicate entries for key {}", set::display(twice));
                return Err(ApplyError { path: path.clone(), reason });
            }
            for (element, inner) in seen {
                set.push(element, true, inner);
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(set))
}

fn within<T>(path: &mut String, step: &str, inner: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push_str(step);
    let result = inner(path);
    path.truncate(length);
    result
}

/// What a field of a struct or an entry of a map is.
fn child<S: FieldSchema>(schema: S, name: &str) -> Option<Field<S>> {
    match schema.shape() {
        Shape::Struct => schema.field(name),
        Shape::Map => schema.item().map(|schema| Field { schema, always: false }),
        _ => None,
    }
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The name of an item of a list in a field set.
fn element(shape: Shape, item: &Value) -> Result<Box<str>, String> {
    let Shape::Keyed(keys) = shape else { return Ok(set::value(item)) };
    let mut named = Map::new();
    for key in keys {
        let value = match (item.get(key.field), key.default) {
            (Some(value), _) if !value.is_null() => value.clone(),
            (_, Some(default)) => default.into(),
            _ => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {:?} (and \
                     doesn't have default value)",
                    key.field
                ));
            }
        };
        named.insert(key.field.to_owned(), value);
    }
    Ok(set::key(named))
}

#[cfg(test)]
mod tests;
