//! Reading and writing fields of checked objects. After `schema::check` a field has its type or is
//! absent; these say "absent" in Go's way, where an empty string or zero is as good as none.

use serde_json::{Map, Value};

/// An empty object, as Go prints an empty struct.
pub(crate) fn empty() -> Value {
    Value::Object(Map::new())
}

/// Equality as upstream's Semantic.DeepEqual has it: what a Go client drops when it is empty is no
/// difference.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys());
            names.into_iter().all(|name| same(&a[name.as_str()], &b[name.as_str()]))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

pub(crate) trait Fields {
    /// Text of a field; empty when absent.
    fn text(&self, field: &str) -> &str;
    /// Number of a field; zero when absent.
    fn number(&self, field: &str) -> i64;
    /// Truth of a field; false when absent.
    fn is(&self, field: &str) -> bool;
    /// Items of a field; none when absent.
    fn items(&self, field: &str) -> &[Value];
    /// Entries of a field; none when absent.
    fn entries(&self, field: &str) -> impl Iterator<Item = (&String, &Value)>;
    /// Whether the field is there at all.
    fn has(&self, field: &str) -> bool;

    /// The field, made an empty object when absent. None when `self` is no object.
    fn object_mut(&mut self, field: &str) -> Option<&mut Value>;
    /// Items of a field, to be changed.
    fn items_mut(&mut self, field: &str) -> &mut [Value];
    /// Sets a field; nothing happens when `self` is no object.
    fn set(&mut self, field: &str, value: impl Into<Value>);
    /// Sets a field that is absent, or empty as Go sees it (`""`, `0`).
    fn default_to(&mut self, field: &str, value: impl Into<Value>);
    /// Sets a field that is absent: for those that are pointers in Go.
    fn default_absent(&mut self, field: &str, value: impl Into<Value>);
    /// Removes a field.
    fn unset(&mut self, field: &str) -> Option<Value>;
    /// Makes a field equal to another object's, absence included.
    fn copy_from(&mut self, other: &Value, field: &str);
}

impl Fields for Value {
    fn text(&self, field: &str) -> &str {
        self[field].as_str().unwrap_or_default()
    }

    fn number(&self, field: &str) -> i64 {
        self[field].as_i64().unwrap_or_default()
    }

    fn is(&self, field: &str) -> bool {
        self[field].as_bool().unwrap_or_default()
    }

    fn items(&self, field: &str) -> &[Value] {
        self[field].as_array().map_or(&[], Vec::as_slice)
    }

    fn entries(&self, field: &str) -> impl Iterator<Item = (&String, &Value)> {
        self[field].as_object().into_iter().flatten()
    }

    fn has(&self, field: &str) -> bool {
        !self[field].is_null()
    }

    fn object_mut(&mut self, field: &str) -> Option<&mut Value> {
        let Value::Object(fields) = self else { return None };
        let entry = fields.entry(field).or_insert_with(empty);
        if entry.is_null() {
            *entry = empty();
        }
        Some(entry)
    }

    fn items_mut(&mut self, field: &str) -> &mut [Value] {
        match self.get_mut(field) {
            Some(Value::Array(items)) => items,
            _ => &mut [],
        }
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        if let Value::Object(fields) = self {
            fields.insert(field.to_owned(), value.into());
        }
    }

    fn default_to(&mut self, field: &str, value: impl Into<Value>) {
        let empty = match &self[field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Number(number) => number.as_i64() == Some(0),
            _ => false,
        };
        if empty {
            self.set(field, value);
        }
    }

    fn default_absent(&mut self, field: &str, value: impl Into<Value>) {
        if !self.has(field) {
            self.set(field, value);
        }
    }

    fn unset(&mut self, field: &str) -> Option<Value> {
        self.as_object_mut()?.remove(field)
    }

    fn copy_from(&mut self, other: &Value, field: &str) {
        match other.get(field) {
            Some(value) => self.set(field, value.clone()),
            None => drop(self.unset(field)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_go_clients_drop_is_no_difference() {
        let full = json!({ "a": { "b": [], "c": "", "d": 0, "e": false }, "f": [{ "g": {} }] });
        assert!(same(&full, &json!({ "f": [{}] })));
        assert!(same(&json!({}), &json!({ "a": { "b": {} } })));
        assert!(!same(&full, &json!({ "f": [] })));
        assert!(!same(&json!({ "a": 1 }), &json!({ "a": 2 })));
        assert!(!same(&json!({ "a": "x" }), &json!({})));
    }
}
