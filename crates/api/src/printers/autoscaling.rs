//! HorizontalPodAutoscalers: TARGETS is what is measured of what is wanted, for two metrics at most.

use serde_json::Value;

use super::{AGE, Column, NAME, age, name, text};
use crate::fields::Fields;

const SHOWN: usize = 2;

pub(super) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "What is measured, and what is wanted."),
    text("MinPods", "Pods there are at least."),
    text("MaxPods", "Pods there are at most."),
    text("Replicas", "Pods there are."),
    AGE,
];

pub(super) fn horizontal_pod_autoscaler(autoscaler: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&autoscaler["spec"], &autoscaler["status"]);
    let reference = &spec["scaleTargetRef"];
    let least = match spec["minReplicas"].as_i64() {
        Some(least) => least.to_string(),
        None => "<unset>".to_owned(),
    };
    vec![
        name(autoscaler),
        format!("{}/{}", reference.text("kind"), reference.text("name")).into(),
        targets(spec.items("metrics"), status.items("currentMetrics")).into(),
        least.into(),
        spec.number("maxReplicas").into(),
        status.number("currentReplicas").into(),
        age(autoscaler, now),
    ]
}

fn targets(metrics: &[Value], statuses: &[Value]) -> String {
    if metrics.is_empty() {
        return "<none>".into();
    }
    let all: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(index, metric)| target(metric, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn target(metric: &Value, status: &Value) -> String {
    let (field, named) = match metric.text("type") {
        "External" => ("external", false),
        "Object" => ("object", false),
        "Pods" => ("pods", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (wanted, current) = (&metric[field]["target"], &status[field]["current"]);
    let measured = |field: &str| match &current[field] {
        Value::Null => "<unknown>".to_owned(),
        Value::String(quantity) => quantity.clone(),
        number => format!("{number}%"),
    };
    let average = wanted.has("averageValue");
    let pair = match (named, average) {
        (_, true) => format!("{}/{}", measured("averageValue"), wanted.text("averageValue")),
        (true, false) => {
            let utilization = match wanted["averageUtilization"].as_i64() {
                Some(percent) => format!("{percent}%"),
                None => "<auto>".to_owned(),
            };
            format!("{}/{utilization}", measured("averageUtilization"))
        }
        (false, false) => format!("{}/{}", measured("value"), wanted.text("value")),
    };
    match (named, average && field != "pods") {
        (true, _) => format!("{}: {pair}", metric[field].text("name")),
        (false, true) => format!("{pair} (avg)"),
        (false, false) => pair,
    }
}
