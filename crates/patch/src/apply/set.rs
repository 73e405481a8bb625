//! Sets of fields, in memory and in the fieldsV1 form (upstream: structured-merge-diff `fieldpath`).
//!
//! | element | means |
//! |---|---|
//! | `f:name` | a field or an entry of a map |
//! | `k:{"port":80,"protocol":"TCP"}` | the item with these keys |
//! | `v:"x"` | the item with this value |
//! | `i:0` | the item at this place |
//! | `.` | the thing itself, beside what is in it |
//!
//! Elements are kept in their written form, sorted; keys and values are canonical JSON, so that equal
//! elements are equal texts.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Levels that a field set from outside may have.
const MAX_DEPTH: usize = 128;

/// A set of fields of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) element: Box<str>,
    /// Whether the element itself is in the set; with nothing below it, it always is.
    pub(super) owned: bool,
    pub(super) below: FieldSet,
}

/// A malformed fieldsV1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed fieldsV1: {0}")]
pub struct SetError(String);

pub(super) fn field(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

pub(super) fn value(value: &Value) -> Box<str> {
    format!("v:{value}").into()
}

pub(super) fn key(keys: Map<String, Value>) -> Box<str> {
    format!("k:{}", Value::Object(keys)).into()
}

/// As upstream prints a path's element: `.name`, `[port=80,protocol="TCP"]`, `[="x"]`, `[0]`.
pub(super) fn display(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("k:", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

impl FieldSet {
    /// The set of nothing.
    pub const EMPTY: Self = Self(Vec::new());

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an element that sorts after all others. One with nothing in it is left out.
    pub(super) fn push(&mut self, element: Box<str>, owned: bool, below: FieldSet) {
        if owned || !below.is_empty() {
            self.0.push(Entry { element, owned, below });
        }
    }

    pub(super) fn find(&self, element: &str) -> Option<&Entry> {
        let found = self.0.binary_search_by(|entry| (*entry.element).cmp(element));
        found.ok().map(|index| &self.0[index])
    }

    /// A set of the given paths, each a list of field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        paths.iter().fold(Self::default(), |set, path| {
            let one = path.iter().rev().fold((true, Self::default()), |(owned, below), name| {
                let mut set = Self::default();
                set.push(field(name), owned, below);
                (false, set)
            });
            set.union(&one.1)
        })
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = Self(Vec::with_capacity(self.0.len().max(other.0.len())));
        for pair in zip(&self.0, &other.0) {
            result.0.push(match pair {
                (Some(a), Some(b)) => Entry {
                    element: a.element.clone(),
                    owned: a.owned || b.owned,
                    below: a.below.union(&b.below),
                },
                (Some(one), None) | (None, Some(one)) => one.clone(),
                (None, None) => continue,
            });
        }
        result
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut result = Self::default();
        for pair in zip(&self.0, &other.0) {
            if let (Some(a), Some(b)) = pair {
                let below = a.below.intersection(&b.below);
                result.push(a.element.clone(), a.owned && b.owned, below);
            }
        }
        result
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut result = Self::default();
        for pair in zip(&self.0, &other.0) {
            match pair {
                (Some(a), Some(b)) => {
                    let below = a.below.difference(&b.below);
                    result.push(a.element.clone(), a.owned && !b.owned, below);
                }
                (Some(a), None) => result.0.push(a.clone()),
                (None, _) => {}
            }
        }
        result
    }

    /// This without the given fields and all that is in them.
    #[must_use]
    pub fn without(&self, fields: &Self) -> Self {
        let mut result = Self::default();
        for entry in &self.0 {
            match fields.find(&entry.element) {
                Some(found) if found.owned => {}
                Some(found) => {
                    let below = entry.below.without(&found.below);
                    result.push(entry.element.clone(), entry.owned, below);
                }
                None => result.0.push(entry.clone()),
            }
        }
        result
    }

    /// The paths in the set, as upstream prints them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        fn collect(set: &FieldSet, path: &str, found: &mut Vec<String>) {
            for entry in &set.0 {
                let path = format!("{path}{}", display(&entry.element));
                if entry.owned {
                    found.push(path.clone());
                }
                collect(&entry.below, &path, found);
            }
        }
        let mut found = Vec::new();
        collect(self, "", &mut found);
        found
    }

    /// The fieldsV1 form.
    pub fn to_value(&self) -> Value {
        fn write(set: &FieldSet, owned: bool) -> Value {
            let mut fields = Map::new();
            if owned && !set.is_empty() {
                fields.insert(".".to_owned(), Value::Object(Map::new()));
            }
            for entry in &set.0 {
                fields.insert(entry.element.to_string(), write(&entry.below, entry.owned));
            }
            Value::Object(fields)
        }
        write(self, false)
    }

    /// Reads the fieldsV1 form.
    ///
    /// # Errors
    /// Elements of no known form, values that are no objects, too many levels.
    pub fn parse(fields: &Value) -> Result<Self, SetError> {
        Ok(parse(fields, 0)?.1)
    }
}

/// Whether the thing itself is in the set, and what is below it.
fn parse(fields: &Value, depth: usize) -> Result<(bool, FieldSet), SetError> {
    let Value::Object(fields) = fields else {
        return Err(SetError(format!("{} is not an object", brief(&fields.to_string()))));
    };
    if depth > MAX_DEPTH {
        return Err(SetError(format!("deeper than {MAX_DEPTH} levels")));
    }
    let mut owned = fields.is_empty();
    let mut entries = Vec::with_capacity(fields.len());
    for (name, below) in fields {
        if name == "." {
            owned = true;
            continue;
        }
        let element = canonical(name)?;
        let (owned, below) = parse(below, depth + 1)?;
        entries.push(Entry { element, owned, below });
    }
    entries.sort_by(|a, b| a.element.cmp(&b.element));
    // Two spellings of one key.
    entries.dedup_by(|next, kept| {
        let same = next.element == kept.element;
        if same {
            kept.owned |= next.owned;
            kept.below = kept.below.union(&next.below);
        }
        same
    });
    Ok((owned, FieldSet(entries)))
}

fn canonical(name: &str) -> Result<Box<str>, SetError> {
    let malformed = || SetError(format!("unknown element {:?}", brief(name)));
    match name.split_at_checked(2) {
        Some(("f:", _)) => Ok(name.into()),
        Some(("v:", text)) => {
            let parsed: Value = serde_json::from_str(text).map_err(|_| malformed())?;
            Ok(value(&parsed))
        }
        Some(("k:", text)) => {
            let parsed: Map<String, Value> = serde_json::from_str(text).map_err(|_| malformed())?;
            Ok(key(parsed))
        }
        Some(("i:", text)) => {
            let index: i64 = text.parse().map_err(|_| malformed())?;
            Ok(format!("i:{index}").into())
        }
        _ => Err(malformed()),
    }
}

fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Walks two sorted lists side by side.
fn zip<'a>(
    a: &'a [Entry],
    b: &'a [Entry],
) -> impl Iterator<Item = (Option<&'a Entry>, Option<&'a Entry>)> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => x.element.cmp(&y.element),
        };
        Some(match order {
            Ordering::Less => (a.next(), None),
            Ordering::Equal => (a.next(), b.next()),
            Ordering::Greater => (None, b.next()),
        })
    })
}
