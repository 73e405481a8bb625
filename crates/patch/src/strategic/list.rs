//! Merging of lists whose items have an identity.
//!
//! Keys may be composite (a port and its protocol) while clients know only the first of them. Then:
//! - an item that has all keys is the item with equal keys;
//! - one that lacks the others is the only item with its first key, or the one with the defaults;
//! - where `$setElementOrder` leaves room for no further item with that first key, an item with new
//!   keys is an old one that changed (its protocol, say);
//! - a deletion that names the first key only spares the items that the same patch mentions in full,
//!   and as many as `$setElementOrder` still lists.

use serde_json::Value;

use super::order::arrange;
use super::{Directive, Merge, Object, directive, malformed};
use crate::{MergeKey, PatchError};

/// The union of two sets of primitives, old values first.
pub(super) fn union(old: Vec<Value>, items: &[Value], order: Option<&[Value]>) -> Vec<Value> {
    let before = old.clone();
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + items.len());
    for item in old.into_iter().chain(items.iter().cloned()) {
        if !merged.contains(&item) {
            merged.push(item);
        }
    }
    match order {
        Some(order) => arrange(merged, &before, order, |item, entry| item == entry),
        None => merged,
    }
}

pub(super) struct ByKey<'a> {
    pub(super) keys: &'static [MergeKey],
    pub(super) order: Option<&'a [Value]>,
}

impl<'a> ByKey<'a> {
    pub(super) fn merge(
        &self,
        merge: &mut Merge<'a>,
        old: Vec<Value>,
        items: &'a [Value],
    ) -> Result<Vec<Value>, PatchError> {
        let mut deletions = Vec::new();
        let mut changes = Vec::new();
        let mut replaces = false;
        for item in items {
            let Value::Object(object) = item else {
                return Err(malformed(format!("{item} is not an object, as the list's items are")));
            };
            match directive(object)? {
                Directive::Replace => replaces = true,
                Directive::Delete => deletions.push(object),
                Directive::Merge => changes.push(object),
            }
            if directive(object)? != Directive::Replace && !object.contains_key(self.first().field)
            {
                return Err(malformed(format!(
                    "map: {item} does not contain declared merge key: {}",
                    self.first().field
                )));
            }
        }
        let before = old.clone();
        let mut merged = if replaces { Vec::new() } else { old };
        for deletion in deletions {
            self.delete(&mut merged, deletion, &changes);
        }
        for change in &changes {
            match self.find(&merged, change) {
                Some(index) => {
                    if let Value::Object(current) = std::mem::take(&mut merged[index]) {
                        merged[index] = Value::Object(merge.objects(current, change)?);
                    }
                }
                None => merged.push(Value::Object(merge.objects(Object::new(), change)?)),
            }
        }
        Ok(match self.order {
            Some(order) => arrange(merged, &before, order, |item, entry| self.names(entry, item)),
            None => merged,
        })
    }

    fn first(&self) -> MergeKey {
        self.keys[0]
    }

    fn same_first(&self, a: &Value, b: &Object) -> bool {
        let field = self.first().field;
        b.get(field).is_some_and(|value| a.get(field) == Some(value))
    }

    /// Equal in all keys, defaults filled in.
    fn same(&self, a: &Value, b: &Object) -> bool {
        self.keys.iter().all(|key| {
            let default = key.default.map(Value::from);
            a.get(key.field).or(default.as_ref()) == b.get(key.field).or(default.as_ref())
        })
    }

    fn is_complete(&self, item: &Object) -> bool {
        self.keys.iter().all(|key| item.contains_key(key.field))
    }

    /// Whether an entry of `$setElementOrder` can mean this item.
    fn names(&self, entry: &Value, item: &Value) -> bool {
        self.keys.iter().all(|key| match entry.get(key.field) {
            Some(value) => {
                let default = key.default.map(Value::from);
                item.get(key.field).or(default.as_ref()) == Some(value)
            }
            None => *key != self.first(),
        })
    }

    /// How many items with this first key there are to be in the end; none when not said.
    fn room(&self, item: &Object) -> Option<usize> {
        let order = self.order?;
        Some(order.iter().filter(|entry| self.same_first(entry, item)).count())
    }

    /// The item that a change is about.
    fn find(&self, merged: &[Value], change: &Object) -> Option<usize> {
        let candidates: Vec<usize> =
            (0..merged.len()).filter(|i| self.same_first(&merged[*i], change)).collect();
        let exact = candidates.iter().copied().find(|i| self.same(&merged[*i], change));
        match candidates.as_slice() {
            [only] if !self.is_complete(change) => Some(*only),
            [only] if self.room(change).is_some_and(|room| room <= 1) => exact.or(Some(*only)),
            _ => exact,
        }
    }

    fn delete(&self, merged: &mut Vec<Value>, deletion: &Object, changes: &[&Object]) {
        if self.is_complete(deletion) {
            merged.retain(|item| !self.same(item, deletion));
            return;
        }
        let spared = |item: &Value| {
            changes.iter().any(|change| self.is_complete(change) && self.same(item, change))
        };
        let count = merged.iter().filter(|item| self.same_first(item, deletion)).count();
        let mut excess = count - self.room(deletion).unwrap_or_default().min(count);
        for index in (0..merged.len()).rev() {
            if excess > 0 && self.same_first(&merged[index], deletion) && !spared(&merged[index]) {
                merged.remove(index);
                excess -= 1;
            }
        }
    }
}
