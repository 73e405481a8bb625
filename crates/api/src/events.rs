//! Events are stored in core's form and served in two: `v1` and `events.k8s.io/v1` (upstream:
//! pkg/apis/events/v1/conversion.go). Only names of fields differ.

use serde_json::{Map, Value};

/// core name, events.k8s.io name.
const NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
/// Same, but required (never absent) in core's form.
const CONTROLLER: [(&str, &str); 2] =
    [("reportingComponent", "reportingController"), ("reportingInstance", "reportingInstance")];

/// Turns an event of `events.k8s.io/v1` into core's form.
pub fn to_core(event: &mut Value) {
    rename(event, "v1", |(core, events)| (events, core));
}

/// Turns an event of core's form into that of `events.k8s.io/v1`.
pub fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(core, events)| (core, events));
}

fn rename(
    event: &mut Value,
    api_version: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Value::Object(fields) = event else { return };
    fields.insert("apiVersion".into(), api_version.into());
    let moved: Map<String, Value> = NAMES
        .into_iter()
        .chain(CONTROLLER)
        .map(direction)
        .filter_map(|(from, to)| Some((to.to_owned(), fields.remove(from)?)))
        .collect();
    fields.extend(moved);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": "a" },
            "involvedObject": { "kind": "Pod" }, "reason": "Killing", "message": "Stopping",
            "source": { "component": "kubelet" }, "count": 2,
            "reportingComponent": "kubelet", "reportingInstance": "node-1",
        });
        let mut event = core.clone();
        from_core(&mut event);
        assert_eq!(event["regarding"]["kind"], "Pod");
        assert_eq!(event["note"], "Stopping");
        assert_eq!(event["reportingController"], "kubelet");
        assert_eq!(event["reportingInstance"], "node-1");
        assert!(event.get("message").is_none());
        to_core(&mut event);
        assert_eq!(event, core);
    }
}
