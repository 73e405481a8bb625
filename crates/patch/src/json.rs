//! The two standard patches: RFC 6902 (json-patch's implementation, with upstream's bounds) and
//! RFC 7386.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::PatchError;

/// Operations that one JSON patch may have (upstream: maxJSONPatchOperations).
pub const MAX_OPERATIONS: usize = 10_000;

/// Bytes that the `copy` operations of one patch may copy: without a bound, each could double the
/// object (upstream: jsonpatch.AccumulatedCopySizeLimit).
const MAX_COPIED: usize = 30 << 20;

/// Levels that a patched value may have, or dropping and printing it could exhaust the stack.
const MAX_DEPTH: usize = 256;

/// Applies an RFC 6902 patch (an array of operations).
///
/// # Errors
/// [`PatchError::Malformed`] when it does not parse, [`PatchError::Unprocessable`] when an
/// operation (a failed `test`, a missing path) does not apply, [`PatchError::TooLarge`] beyond
/// [`MAX_OPERATIONS`] and where it would nest or copy without bound.
pub fn json_patch(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    if let Some(count) = patch.as_array().map(Vec::len)
        && count > MAX_OPERATIONS
    {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let operations: Vec<PatchOperation> = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    let mut value = original.clone();
    let mut copied = 0;
    for operation in &operations {
        copied += size_of_copy(&value, operation);
        if copied > MAX_COPIED {
            return Err(PatchError::TooLarge(format!(
                "the JSON patch copies more than {MAX_COPIED} bytes"
            )));
        }
        if depth_after(&value, operation) > MAX_DEPTH {
            let text = format!("the JSON patch nests deeper than {MAX_DEPTH} levels");
            return Err(PatchError::TooLarge(text));
        }
        apply(&mut value, operation)?;
    }
    Ok(value)
}

fn size_of_copy(value: &Value, operation: &PatchOperation) -> usize {
    let PatchOperation::Copy(copy) = operation else { return 0 };
    value.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len())
}

/// How deep the place that is written will be.
fn depth_after(value: &Value, operation: &PatchOperation) -> usize {
    let levels = |path: &str| path.bytes().filter(|b| *b == b'/').count();
    let below = |path: &str| value.pointer(path).map_or(0, depth);
    match operation {
        PatchOperation::Add(add) => levels(add.path.as_str()) + depth(&add.value),
        PatchOperation::Replace(replace) => levels(replace.path.as_str()) + depth(&replace.value),
        PatchOperation::Copy(copy) => levels(copy.path.as_str()) + below(copy.from.as_str()),
        PatchOperation::Move(from) => levels(from.path.as_str()) + below(from.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn apply(value: &mut Value, operation: &PatchOperation) -> Result<(), PatchError> {
    // One operation at a time is applied whole or not at all, so there is nothing to undo.
    json_patch::patch_unsafe(value, std::slice::from_ref(operation)).map_err(|error| {
        let path = operation.path();
        PatchError::Unprocessable(match (&error.kind, name(operation)) {
            (PatchErrorKind::TestFailed, _) => {
                format!("testing value {path} failed: test failed")
            }
            (_, name) => {
                format!(
                    "{name} operation does not apply: doc is missing path: {path}: missing value"
                )
            }
        })
    })
}

fn name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

/// Applies an RFC 7386 merge patch.
///
/// # Errors
/// [`PatchError::Malformed`] when the patch is not an object.
pub fn merge_patch(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("Invalid JSON Patch".to_owned()));
    }
    let mut value = original.clone();
    json_patch::merge(&mut value, patch);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let original = json!({ "a": [1, 2], "b": { "c": 1 } });
        let patched = json_patch(
            &original,
            &json!([
                { "op": "test", "path": "/b/c", "value": 1 },
                { "op": "add", "path": "/a/-", "value": 3 },
                { "op": "replace", "path": "/b/c", "value": 2 },
                { "op": "remove", "path": "/a/0" },
                { "op": "copy", "from": "/b", "path": "/d" },
                { "op": "move", "from": "/b/c", "path": "/e" },
            ]),
        );
        assert_eq!(patched.unwrap(), json!({ "a": [2, 3], "b": {}, "d": { "c": 2 }, "e": 2 }));
    }

    #[test]
    fn what_does_not_apply_is_unprocessable_and_what_does_not_parse_malformed() {
        let original = json!({ "a": 1 });
        for patch in [
            json!([{ "op": "remove", "path": "/b" }]),
            json!([{ "op": "test", "path": "/a", "value": 2 }]),
            json!([{ "op": "replace", "path": "/b", "value": 2 }]),
            json!([{ "op": "copy", "from": "/b", "path": "/c" }]),
        ] {
            let refused = json_patch(&original, &patch);
            assert!(matches!(refused, Err(PatchError::Unprocessable(_))), "{patch}: {refused:?}");
        }
        for patch in [json!({}), json!([{ "op": "frob", "path": "/a" }]), json!([1])] {
            let refused = json_patch(&original, &patch);
            assert!(matches!(refused, Err(PatchError::Malformed(_))), "{patch}: {refused:?}");
        }
    }

    #[test]
    fn a_patch_cannot_make_the_server_work_without_bound() {
        let test = json!({ "op": "test", "path": "/a", "value": 1 });
        let many = Value::Array(vec![test; MAX_OPERATIONS + 1]);
        assert!(matches!(json_patch(&json!({ "a": 1 }), &many), Err(PatchError::TooLarge(_))));
        let too_large = |original: Value, operation: Value| {
            let refused = json_patch(&original, &Value::Array(vec![operation; 1000]));
            assert!(matches!(refused, Err(PatchError::TooLarge(_))), "{refused:?}");
        };
        // Doubles the list, and nests it, respectively.
        let text = "x".repeat(1000);
        too_large(json!({ "a": [text] }), json!({ "op": "copy", "from": "/a", "path": "/a/-" }));
        too_large(json!({}), json!({ "op": "copy", "from": "", "path": "/x" }));
    }

    #[test]
    fn a_merge_patch_removes_by_null_and_replaces_lists() {
        let original = json!({ "a": { "b": 1, "c": [1, 2] }, "d": 1 });
        let patched = merge_patch(&original, &json!({ "a": { "b": null, "c": [3] }, "e": {} }));
        assert_eq!(patched.unwrap(), json!({ "a": { "c": [3] }, "d": 1, "e": {} }));
        assert!(matches!(merge_patch(&original, &json!([])), Err(PatchError::Malformed(_))));
    }
}
