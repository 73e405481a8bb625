//! The JSON merge patch (RFC 7386) from one value to another.

use serde_json::{Map, Value};

/// The patch that turns `old` into `new`, or `None` when they are equal.
///
/// Nulls in `new` count as absent, as everywhere in Kubernetes.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) => {
                if let Some(change) = merge_patch(before, value) {
                    patch.insert(name.clone(), change);
                }
            }
            None if value.is_null() => {}
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let target = target.as_object_mut().unwrap();
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                apply(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<bool>().prop_map(Value::from), any::<i8>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn equal_values_need_no_patch() {
        assert_eq!(merge_patch(&json!({"a": [1]}), &json!({"a": [1]})), None);
    }

    #[test]
    fn a_field_that_disappears_is_set_to_null() {
        let patch = merge_patch(&json!({"a": 1, "b": 2}), &json!({"a": 1})).unwrap();
        assert_eq!(patch, json!({"b": null}));
    }

    proptest! {
        #[test]
        fn applying_the_patch_gives_the_new_value(old in value(), new in value()) {
            let mut target = old.clone();
            if let Some(patch) = merge_patch(&old, &new) {
                apply(&mut target, &patch);
            }
            // A merge patch cannot tell a scalar replaced by an empty object from one left alone
            // beyond the target itself, so compare after the patch only.
            prop_assert_eq!(target, new);
        }
    }
}
