//! An applied configuration over a live object, and what leaves the object because its applier let go
//! of it (upstream: structured-merge-diff `typed/merge.go`, `typed/remove.go`, `merge/update.go`).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::set::FieldSet;
use super::{FieldSchema, Shape, child, element, is_empty, set};

/// The live object with the configuration's fields.
pub fn merge<S: FieldSchema>(schema: S, live: &Value, config: &Value) -> Value {
    match (schema.shape(), live, config) {
        (Shape::Struct | Shape::Map, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let new = match (live.get(name), child(schema, name)) {
                    (Some(old), Some(field)) => merge(field.schema, old, value),
                    _ => value.clone(),
                };
                merged.insert(name.clone(), new);
            }
            Value::Object(merged)
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_items(schema, live, config))
        }
        _ => config.clone(),
    }
}

/// The configuration's items in its order; what else is in the live list keeps its place between
/// those that both have.
fn merge_items<S: FieldSchema>(schema: S, live: &[Value], config: &[Value]) -> Vec<Value> {
    let named = |items: &[Value]| -> Vec<Option<Box<str>>> {
        items.iter().map(|item| element(schema.shape(), item).ok()).collect()
    };
    let (old_names, new_names) = (named(live), named(config));
    let positions = |names: &[Option<Box<str>>]| -> HashMap<Box<str>, usize> {
        let named = names.iter().enumerate().rev();
        named.filter_map(|(index, name)| Some((name.clone()?, index))).collect()
    };
    let (old, new) = (positions(&old_names), positions(&new_names));
    let is_mine = |name: &Option<Box<str>>| name.as_ref().is_some_and(|n| new.contains_key(n));
    let place = |name: &Option<Box<str>>| name.as_ref().and_then(|n| old.get(n)).copied();
    // Where in the live list the first item stands, at or after each of the config's, that both have.
    let mut shared = vec![None; config.len()];
    for (index, name) in new_names.iter().enumerate().rev() {
        shared[index] = place(name).or(shared.get(index + 1).copied().flatten());
    }
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut next = 0;
    for ((item, name), shared) in config.iter().zip(&new_names).zip(shared) {
        // Others' items go before the next one that both have, if that is still to come.
        let until = shared.map_or(live.len(), |shared| shared.max(next));
        merged.extend((next..until).filter(|i| !is_mine(&old_names[*i])).map(|i| live[i].clone()));
        next = next.max(until);
        merged.push(match (place(name), schema.item()) {
            (Some(place), Some(schema)) => merge(schema, &live[place], item),
            _ => item.clone(),
        });
    }
    merged.extend((next..live.len()).filter(|i| !is_mine(&old_names[*i])).map(|i| live[i].clone()));
    merged
}

/// Removes what is in `last` and not in `owned`; an object or list that becomes empty by that goes.
///
/// A declared field in which nobody owns anything any more goes whole, with what the server has put
/// there by default: the rest of a probe without its handler would make no sense.
pub fn prune<S: FieldSchema>(schema: S, object: &mut Value, last: &FieldSet, owned: &FieldSet) {
    match (schema.shape(), object) {
        (Shape::Struct | Shape::Map, Value::Object(fields)) => {
            let before = std::mem::take(fields);
            *fields = before
                .into_iter()
                .filter_map(|(name, value)| {
                    let inner = child(schema, &name).map(|field| field.schema);
                    let declared = inner.is_some() && schema.shape() == Shape::Struct;
                    let value = kept(inner, &set::field(&name), value, last, owned, declared)?;
                    Some((name, value))
                })
                .collect::<Map<String, Value>>();
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(items)) => {
            let before = std::mem::take(items);
            let shape = schema.shape();
            items.extend(before.into_iter().filter_map(|item| match element(shape, &item) {
                Ok(element) => kept(schema.item(), &element, item, last, owned, false),
                Err(_) => Some(item),
            }));
        }
        _ => {}
    }
}

fn kept<S: FieldSchema>(
    schema: Option<S>,
    element: &str,
    mut value: Value,
    last: &FieldSet,
    owned: &FieldSet,
    declared: bool,
) -> Option<Value> {
    static NOBODY: FieldSet = FieldSet::EMPTY;
    let Some(entry) = last.find(element) else { return Some(value) };
    let claim = owned.find(element);
    if claim.is_none() && (entry.owned || declared) {
        return None;
    }
    let Some(schema) = schema.filter(|_| !entry.below.is_empty()) else { return Some(value) };
    let was_empty = is_empty(&value);
    prune(schema, &mut value, &entry.below, claim.map_or(&NOBODY, |claim| &claim.below));
    let emptied = !was_empty && is_empty(&value);
    (!emptied || claim.is_some_and(|claim| claim.owned)).then_some(value)
}
