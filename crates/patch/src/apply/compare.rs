//! What a write changes, as sets of fields (upstream: structured-merge-diff `typed/compare.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{self, FieldSet};
use super::{FieldSchema, Shape, child, element, is_empty};

/// The fields in which two objects differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Added or changed.
    pub taken: FieldSet,
    /// In the old object only.
    pub removed: FieldSet,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.removed.is_empty()
    }
}

/// Compares two objects. Items of a list that have no key are nobody's and are passed over; items
/// that share a key are owned together.
pub fn compare<S: FieldSchema>(schema: S, old: &Value, new: &Value) -> Difference {
    let found = differ(schema, Some(old), Some(new));
    Difference { taken: found.taken.below, removed: found.removed.below }
}

#[derive(Default)]
struct Node {
    owned: bool,
    below: FieldSet,
}

#[derive(Default)]
struct Found {
    taken: Node,
    removed: Node,
}

impl Found {
    fn add(&mut self, element: &str, inner: Found) {
        self.taken.below.push(element.into(), inner.taken.owned, inner.taken.below);
        self.removed.below.push(element.into(), inner.removed.owned, inner.removed.below);
    }
}

fn differ<S: FieldSchema>(schema: S, old: Option<&Value>, new: Option<&Value>) -> Found {
    let shape = schema.shape();
    let nothing = |value: Option<&Value>| value.is_none_or(is_empty);
    let mut found = Found::default();
    if shape == Shape::Leaf || (nothing(old) && nothing(new)) {
        return leaf(old, new);
    }
    match shape {
        Shape::Leaf => {}
        Shape::Struct | Shape::Map => fields(schema, old, new, &mut found),
        Shape::Set | Shape::Keyed(_) => items(schema, old, new, &mut found),
    }
    found.taken.owned = old.is_none();
    found.removed.owned = new.is_none();
    found
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Found {
    let mut found = Found::default();
    match (old, new) {
        (Some(_), None) => found.removed.owned = true,
        (old, new) => found.taken.owned = old != new,
    }
    found
}

fn fields<S: FieldSchema>(schema: S, old: Option<&Value>, new: Option<&Value>, found: &mut Found) {
    // Neither allocates.
    let (none, empty) = (Map::new(), Value::Object(Map::new()));
    let old_fields = old.and_then(Value::as_object).unwrap_or(&none);
    let new_fields = new.and_then(Value::as_object).unwrap_or(&none);
    // Both are sorted by name; so is what is found.
    let (mut left, mut right) = (old_fields.iter().peekable(), new_fields.iter().peekable());
    loop {
        let name = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some((name, _)), None) | (None, Some((name, _))) => *name,
            (Some((a, _)), Some((b, _))) => *a.min(b),
        };
        let mut before = left.next_if(|(other, _)| *other == name).map(|(_, value)| value);
        let mut after = right.next_if(|(other, _)| *other == name).map(|(_, value)| value);
        if before == after {
            continue;
        }
        let inner = match child(schema, name) {
            None => leaf(before, after),
            Some(field) => {
                if field.always {
                    before = before.or(old.map(|_| &empty));
                    after = after.or(new.map(|_| &empty));
                }
                differ(field.schema, before, after)
            }
        };
        found.add(&set::field(name), inner);
    }
}

fn items<S: FieldSchema>(schema: S, old: Option<&Value>, new: Option<&Value>, found: &mut Found) {
    let mut by_element: BTreeMap<Box<str>, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for item in list.and_then(Value::as_array).into_iter().flatten() {
            if let Ok(element) = element(schema.shape(), item) {
                by_element.entry(element).or_default()[side].push(item);
            }
        }
    }
    for (element, [before, after]) in &by_element {
        let inner = match (before.as_slice(), after.as_slice(), schema.item()) {
            (before @ ([] | [_]), after @ ([] | [_]), Some(item)) => {
                differ(item, before.first().copied(), after.first().copied())
            }
            (before, after, _) => {
                let mut inner = Found::default();
                inner.removed.owned = after.is_empty();
                inner.taken.owned = !after.is_empty() && before != after;
                inner
            }
        };
        found.add(element, inner);
    }
}
