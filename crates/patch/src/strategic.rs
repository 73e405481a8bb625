//! Strategic merge (upstream: apimachinery/pkg/util/strategicpatch): a merge patch that knows how
//! lists are merged, and has directives.
//!
//! | in a patch | means |
//! |---|---|
//! | `field: null` | the field goes |
//! | `$patch: replace` in an object | the object is replaced, not merged |
//! | `$patch: delete` in an object | the object is emptied; as an item: the item with this key goes |
//! | `$patch: replace` as an item | the list is replaced by the other items |
//! | `$retainKeys: [a, b]` | fields other than these go |
//! | `$deleteFromPrimitiveList/x: [v]` | these values leave the list x |
//! | `$setElementOrder/x: […]` | the order of the items of x; what it does not name keeps its place |

mod applied;
mod list;
mod order;

use serde_json::{Map, Value};

use crate::{ListMerge, MergeSchema, PatchError};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a Kubernetes strategic merge patch.
///
/// # Errors
/// [`PatchError::Malformed`] for directives that make no sense and items without their merge key.
pub fn strategic_merge(
    original: &Value,
    patch: &Value,
    schema: &dyn MergeSchema,
) -> Result<Value, PatchError> {
    let (Value::Object(fields), Value::Object(changes)) = (original, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    let merged = Merge { schema, path: Vec::new() }.objects(fields.clone(), changes)?;
    let mut merged = Value::Object(merged);
    if let Some(applied) = applied::Applied::of(original, patch) {
        applied.mend(&mut merged, original, schema);
    }
    Ok(merged)
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

/// What `$patch` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive, PatchError> {
    match patch.get(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "merge" => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "replace" => Ok(Directive::Replace),
        Some(Value::String(text)) if text == "delete" => Ok(Directive::Delete),
        Some(other) => Err(malformed(format!("unknown patch type found: {other}"))),
    }
}

struct Merge<'a> {
    schema: &'a dyn MergeSchema,
    /// Where we are, as [`MergeSchema::list`] wants it.
    path: Vec<&'a str>,
}

type Object = Map<String, Value>;

impl<'a> Merge<'a> {
    fn objects(&mut self, original: Object, patch: &'a Object) -> Result<Object, PatchError> {
        match directive(patch)? {
            Directive::Merge => {}
            Directive::Delete => return Ok(Object::new()),
            Directive::Replace => {
                let mut replacement = patch.clone();
                replacement.remove(PATCH);
                return Ok(replacement);
            }
        }
        let mut merged = original;
        retain_keys(&mut merged, patch)?;
        for (name, value) in patch {
            if let Some(list) = name.strip_prefix(DELETE_FROM) {
                delete_from(&mut merged, list, value)?;
            } else if let Some(list) = name.strip_prefix(SET_ORDER) {
                // Together with the list itself when the patch has both.
                if !patch.contains_key(list) {
                    self.list(&mut merged, list, &[], Some(value))?;
                }
            } else if name != PATCH && name != RETAIN_KEYS {
                self.field(&mut merged, name, value, patch)?;
            }
        }
        Ok(merged)
    }

    fn field(
        &mut self,
        merged: &mut Object,
        name: &'a str,
        value: &'a Value,
        patch: &'a Object,
    ) -> Result<(), PatchError> {
        match value {
            Value::Null => drop(merged.remove(name)),
            Value::Object(value) => {
                let old = match merged.remove(name) {
                    Some(Value::Object(old)) => old,
                    _ => Object::new(),
                };
                let new = self.below(name, |merge| merge.objects(old, value))?;
                merged.insert(name.to_owned(), Value::Object(new));
            }
            Value::Array(items) => {
                let order = patch.get(&format!("{SET_ORDER}{name}"));
                self.list(merged, name, items, order)?;
            }
            _ => drop(merged.insert(name.to_owned(), value.clone())),
        }
        Ok(())
    }

    fn list(
        &mut self,
        merged: &mut Object,
        name: &'a str,
        items: &'a [Value],
        order: Option<&'a Value>,
    ) -> Result<(), PatchError> {
        let order = match order {
            None => None,
            Some(Value::Array(order)) => Some(order.as_slice()),
            Some(_) => return Err(malformed(format!("{SET_ORDER}{name} must be a list"))),
        };
        let old = match merged.remove(name) {
            Some(Value::Array(old)) => Some(old),
            // Nothing to put in order.
            _ if items.is_empty() && order.is_some() => return Ok(()),
            _ => None,
        };
        let new = self.below(name, |merge| {
            let old = old.unwrap_or_default();
            match merge.schema.list(&merge.path) {
                ListMerge::Atomic if items.is_empty() && order.is_some() => Ok(old),
                ListMerge::Atomic => items.iter().map(|item| merge.fresh(item)).collect(),
                ListMerge::Set => Ok(list::union(old, items, order)),
                ListMerge::ByKey(keys) => list::ByKey { keys, order }.merge(merge, old, items),
            }
        })?;
        merged.insert(name.to_owned(), Value::Array(new));
        Ok(())
    }

    /// A patch's value where the original has none: nulls and directives mean nothing there.
    fn fresh(&mut self, value: &'a Value) -> Result<Value, PatchError> {
        match value {
            Value::Object(object) => Ok(Value::Object(self.objects(Object::new(), object)?)),
            _ => Ok(value.clone()),
        }
    }

    fn below<T>(&mut self, name: &'a str, inner: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name);
        let result = inner(self);
        self.path.pop();
        result
    }
}

fn retain_keys(merged: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(malformed(format!("{RETAIN_KEYS} must be a list")));
    };
    let retained = |name: &String| keys.iter().any(|key| key == name);
    let is_directive = |name: &String| name.starts_with('$');
    let stray = patch
        .iter()
        .find(|(name, value)| !is_directive(name) && !value.is_null() && !retained(name));
    if let Some((name, _)) = stray {
        return Err(malformed(format!("{name} is in the patch and not in {RETAIN_KEYS}")));
    }
    merged.retain(|name, _| retained(name));
    Ok(())
}

fn delete_from(merged: &mut Object, name: &str, values: &Value) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(malformed(format!("{DELETE_FROM}{name} must be a list")));
    };
    if let Some(Value::Array(list)) = merged.get_mut(name) {
        list.retain(|item| !values.contains(item));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
