//! Conversion between served versions and the stored form.
//!
//! Two kinds have two. Of Events `v1` is stored, and `events.k8s.io/v1` is a renaming of its fields
//! (upstream `pkg/apis/events/v1/conversion.go`). Of HorizontalPodAutoscalers `autoscaling/v2` is.

use std::borrow::Cow;

use portolan_api::{Kind, autoscalers};
use serde_json::Value;

/// Pairs of field names: stored (`v1`), served by `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn is_new_event(kind: &Kind) -> bool {
    kind.group == "events.k8s.io"
}

fn is_old_autoscaler(kind: &Kind) -> bool {
    (kind.group, kind.version) == ("autoscaling", "v1")
}

/// Whether a stored value is in the form of `kind` already.
pub(crate) fn is_stored_form(kind: &Kind) -> bool {
    !is_new_event(kind) && !is_old_autoscaler(kind)
}

/// The stored value in the form of `kind`.
pub(crate) fn from_stored<'a>(kind: &Kind, value: &'a Value) -> Cow<'a, Value> {
    if is_old_autoscaler(kind) {
        let mut value = value.clone();
        autoscalers::from_v2(&mut value);
        return Cow::Owned(value);
    }
    if !is_new_event(kind) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(renamed(value.clone(), kind, |stored, served| (stored, served)))
}

/// A decoded body of `kind` in the stored form.
pub(crate) fn to_stored(kind: &Kind, mut value: Value) -> Value {
    if is_old_autoscaler(kind) {
        autoscalers::to_v2(&mut value);
        return value;
    }
    if !is_new_event(kind) {
        return value;
    }
    let mut value = renamed(value, kind, |stored, served| (served, stored));
    value["apiVersion"] = "v1".into();
    value
}

fn renamed(
    mut value: Value,
    kind: &Kind,
    direction: fn(&'static str, &'static str) -> (&'static str, &'static str),
) -> Value {
    if let Some(object) = value.as_object_mut() {
        for (stored, served) in EVENT_FIELDS {
            let (from, to) = direction(stored, served);
            if let Some(field) = object.remove(from) {
                object.insert(to.to_owned(), field);
            }
        }
        object.insert("apiVersion".into(), kind.api_version().into());
    }
    value
}

/// The kind whose defaults, rules and strategy the stored form follows.
pub(crate) fn stored_kind(kind: &'static Kind) -> &'static Kind {
    if is_new_event(kind) {
        return portolan_api::kinds::by_kind("v1", "Event").unwrap_or(kind);
    }
    if is_old_autoscaler(kind) {
        return portolan_api::kinds::by_kind("autoscaling/v2", kind.kind).unwrap_or(kind);
    }
    kind
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let kind = portolan_api::kinds::by_kind("events.k8s.io/v1", "Event").unwrap();
        let served = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
            "regarding": {"name": "p"}, "reportingController": "c"});
        let stored = to_stored(kind, served.clone());
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(*from_stored(kind, &stored), served);
    }
}
