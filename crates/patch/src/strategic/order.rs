//! The order of a merged list under `$setElementOrder` (upstream: normalizeElementOrder).
//!
//! Items that the directive names take its order. The others keep theirs, and each is put before the
//! first named item, at or after the last one put in, that stood behind it in the live list.

use serde_json::Value;

pub(super) fn arrange(
    merged: Vec<Value>,
    live: &[Value],
    order: &[Value],
    means: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let mut free: Vec<bool> = vec![true; order.len()];
    let mut named: Vec<(usize, Option<usize>, Value)> = Vec::new();
    let mut others: Vec<(Option<usize>, Value)> = Vec::new();
    let mut live_free: Vec<bool> = vec![true; live.len()];
    for item in merged {
        let place = take_first(&mut free, |i| means(&item, &order[i]));
        // By position among equals, since a merged item may differ from what it was.
        let before = take_first(&mut live_free, |i| same_identity(&item, &live[i], order, &means));
        match place {
            Some(place) => named.push((place, before, item)),
            None => others.push((before, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    let mut result: Vec<(Option<usize>, Value)> =
        named.into_iter().map(|(_, before, item)| (before, item)).collect();
    let mut from = 0;
    for (before, item) in others {
        let behind = |place: &(Option<usize>, Value)| match (before, place.0) {
            (Some(mine), Some(theirs)) => mine < theirs,
            _ => false,
        };
        let at = result[from..].iter().position(behind).map_or(result.len(), |at| from + at);
        result.insert(at, (before, item));
        from = at + 1;
    }
    result.into_iter().map(|(_, item)| item).collect()
}

fn take_first(free: &mut [bool], fits: impl Fn(usize) -> bool) -> Option<usize> {
    let found = (0..free.len()).find(|index| free[*index] && fits(*index))?;
    free[found] = false;
    Some(found)
}

/// Whether a merged item is this live one: untouched, or named by the same entry.
fn same_identity(
    item: &Value,
    live: &Value,
    order: &[Value],
    means: &impl Fn(&Value, &Value) -> bool,
) -> bool {
    item == live || order.iter().any(|entry| means(item, entry) && means(live, entry))
}
