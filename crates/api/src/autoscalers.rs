//! HorizontalPodAutoscalers have two versions over the same objects: autoscaling/v2, in which they
//! are kept, and autoscaling/v1, which knows one target for the processor and carries all else in
//! annotations (upstream: pkg/apis/autoscaling/v1/conversion.go).

use serde_json::{Value, json};

use crate::fields::{Fields, empty};
use crate::schema::{Strictness, check_component};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

const PACKAGE: &str = "io.k8s.api.autoscaling.v2.";

/// Source of a metric, and pairs of its fields: in v1, and where v2 has them.
type Source = (&'static str, &'static [(&'static str, &'static [&'static str])]);

const WANTED: &[Source] = &[
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("averageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
];

const MEASURED: &[Source] = &[
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("averageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
];

/// The stored object in the form of autoscaling/v1.
pub fn from_v2(object: &mut Value) {
    object.set("apiVersion", "autoscaling/v1");
    let mut annotations = Vec::new();
    if let Some(spec) = object.get_mut("spec") {
        let metrics = spec.unset("metrics");
        let (percent, others) = split(metrics, &["target", "averageUtilization"]);
        if let Some(percent) = percent {
            spec.set("targetCPUUtilizationPercentage", percent);
        }
        annotations.push((METRICS, older(others, WANTED)));
        annotations.push((BEHAVIOR, spec.unset("behavior").unwrap_or_default()));
    }
    if let Some(status) = object.get_mut("status") {
        let metrics = status.unset("currentMetrics");
        let (percent, others) = split(metrics, &["current", "averageUtilization"]);
        if let Some(percent) = percent {
            status.set("currentCPUUtilizationPercentage", percent);
        }
        annotations.push((CURRENT_METRICS, older(others, MEASURED)));
        annotations.push((CONDITIONS, status.unset("conditions").unwrap_or_default()));
    }
    for (name, value) in annotations {
        let is_some = !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty());
        if is_some
            && let Some(all) =
                object.object_mut("metadata").and_then(|m| m.object_mut("annotations"))
        {
            all.set(name, value.to_string());
        }
    }
}

/// An object in the form of autoscaling/v1, checked, in the form that is stored. An annotation that
/// does not hold what it should stays an annotation.
pub fn to_v2(object: &mut Value) {
    object.set("apiVersion", "autoscaling/v2");
    let behavior = take(object, BEHAVIOR, |value| {
        check("HorizontalPodAutoscalerBehavior", value).then_some(())
    });
    let wanted = take(object, METRICS, |value| newer(value, WANTED, "MetricSpec"));
    let measured = take(object, CURRENT_METRICS, |value| newer(value, MEASURED, "MetricStatus"));
    let conditions = take(object, CONDITIONS, |value| {
        let items = value.as_array_mut()?;
        items.iter_mut().all(|c| check("HorizontalPodAutoscalerCondition", c)).then_some(())
    });
    if let Some(spec) = object.get_mut("spec") {
        let percent = spec.unset("targetCPUUtilizationPercentage");
        let cpu = percent.map(|percent| {
            let target = json!({ "type": "Utilization", "averageUtilization": percent });
            json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
        });
        set_list(spec, "metrics", cpu, wanted);
        if let Some(behavior) = behavior {
            spec.set("behavior", behavior);
        }
    }
    if let Some(status) = object.get_mut("status") {
        let percent = status.unset("currentCPUUtilizationPercentage");
        let cpu = percent.map(|percent| {
            let current = json!({ "averageUtilization": percent });
            json!({ "type": "Resource", "resource": { "name": "cpu", "current": current } })
        });
        set_list(status, "currentMetrics", cpu, measured);
        if let Some(conditions) = conditions {
            status.set("conditions", conditions);
        }
    }
}

fn set_list(parent: &mut Value, field: &str, first: Option<Value>, rest: Option<Value>) {
    let rest = match rest {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let all: Vec<Value> = first.into_iter().chain(rest).collect();
    if !all.is_empty() {
        parent.set(field, all);
    }
}

/// The percentage of the first metric of the processor, and the other metrics.
fn split(metrics: Option<Value>, path: &[&str]) -> (Option<Value>, Vec<Value>) {
    let Some(Value::Array(mut metrics)) = metrics else { return (None, Vec::new()) };
    let percent = |metric: &Value| {
        let is_cpu = metric.text("type") == "Resource" && metric["resource"].text("name") == "cpu";
        let mut at = vec!["resource"];
        at.extend(path);
        get(metric, &at).filter(|value| is_cpu && value.is_number()).cloned()
    };
    match metrics.iter().position(|metric| percent(metric).is_some()) {
        Some(index) => {
            let cpu = metrics.remove(index);
            (percent(&cpu), metrics)
        }
        None => (None, metrics),
    }
}

fn older(metrics: Vec<Value>, sources: &[Source]) -> Value {
    let convert = |metric: Value| {
        let mut older = json!({ "type": metric["type"] });
        for (source, fields) in sources {
            let Some(own) = metric.get(source).filter(|own| own.is_object()) else { continue };
            let mut converted = empty();
            for (old, new) in *fields {
                if let Some(value) = get(own, new) {
                    converted.set(old, value.clone());
                }
            }
            older.set(source, converted);
        }
        older
    };
    metrics.into_iter().map(convert).collect()
}

/// Converts a list of v1's metrics in place; none when they are not such.
fn newer(value: &mut Value, sources: &[Source], component: &str) -> Option<()> {
    for metric in value.as_array_mut()? {
        let mut newer = json!({ "type": metric["type"].as_str()? });
        for (source, fields) in sources {
            let Some(own) = metric.get(source).filter(|own| own.is_object()) else { continue };
            let mut converted = empty();
            for (old, new) in *fields {
                if let Some(value) = own.get(old) {
                    set(&mut converted, new, value.clone());
                }
            }
            if converted.has("target") {
                let kind = target_type(&converted["target"]);
                if let Some(target) = converted.object_mut("target") {
                    target.set("type", kind);
                }
            }
            newer.set(source, converted);
        }
        *metric = newer;
        if !check(component, metric) {
            return None;
        }
    }
    Some(())
}

fn target_type(target: &Value) -> &'static str {
    if target.has("averageUtilization") {
        "Utilization"
    } else if target.has("averageValue") {
        "AverageValue"
    } else {
        "Value"
    }
}

/// Takes an annotation whose JSON `convert` accepts.
fn take(
    object: &mut Value,
    name: &str,
    convert: impl FnOnce(&mut Value) -> Option<()>,
) -> Option<Value> {
    let annotations = object.get_mut("metadata")?.get_mut("annotations")?;
    let mut value: Value = serde_json::from_str(annotations.get(name)?.as_str()?).ok()?;
    convert(&mut value)?;
    annotations.unset(name);
    Some(value)
}

/// Whether a value is of a type of v2; brings it into canonical form.
fn check(component: &str, value: &mut Value) -> bool {
    check_component(&format!("{PACKAGE}{component}"), value, &[], Strictness::Ignore).is_ok()
}

fn get<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| value.get(step))
}

fn set(value: &mut Value, path: &[&str], new: Value) {
    match path {
        [] => {}
        [last] => value.set(last, new),
        [first, rest @ ..] => {
            if let Some(inner) = value.object_mut(first) {
                set(inner, rest, new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever annotations say, what is stored is of the type that clients expect.
        #[test]
        fn no_annotation_gives_an_object_of_the_wrong_type(
            name in prop::sample::select(vec![METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS]),
            source in prop::sample::select(vec!["resource", "object", "pods", "scaleUp", "type"]),
            value in prop::sample::select(vec!["1", "null", "{}", "[]", "\"x\"", "[{\"a\":1}]"]),
            in_list in any::<bool>(),
        ) {
            let item = format!(r#"{{"type": "Resource", "{source}": {value}}}"#);
            let text = if in_list { format!("[{item}]") } else { item };
            let mut object = json!({
                "metadata": { "annotations": { name: text } }, "spec": {}, "status": {},
            });
            to_v2(&mut object);
            let kind = format!("{PACKAGE}HorizontalPodAutoscaler");
            let warnings = check_component(&kind, &mut object, &[], Strictness::Strict);
            prop_assert!(warnings.is_ok(), "{warnings:?}: {object}");
            from_v2(&mut object);
        }
    }

    fn stored() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "web", "annotations": { "own": "x" } },
            "spec": {
                "maxReplicas": 5,
                "metrics": [
                    { "type": "Resource", "resource": { "name": "cpu",
                        "target": { "type": "Utilization", "averageUtilization": 50 } } },
                    { "type": "Pods", "pods": { "metric": { "name": "hits" },
                        "target": { "type": "AverageValue", "averageValue": "10" } } },
                    { "type": "Object", "object": {
                        "describedObject": { "kind": "Service", "name": "web" },
                        "metric": { "name": "hits" },
                        "target": { "type": "Value", "value": "1k" } } },
                ],
                "behavior": { "scaleDown": { "selectPolicy": "Min" } },
            },
            "status": {
                "currentReplicas": 2,
                "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu",
                    "current": { "averageUtilization": 40 } } }],
                "conditions": [{ "type": "AbleToScale", "status": "True" }],
            },
        })
    }

    #[test]
    fn an_autoscaler_survives_the_way_to_v1_and_back() {
        let mut object = stored();
        from_v2(&mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v1");
        assert_eq!(
            object["spec"],
            json!({ "maxReplicas": 5, "targetCPUUtilizationPercentage": 50 })
        );
        assert_eq!(
            object["status"],
            json!({ "currentReplicas": 2, "currentCPUUtilizationPercentage": 40 })
        );
        let metrics = object["metadata"]["annotations"].text(METRICS).to_owned();
        assert_eq!(
            serde_json::from_str::<Value>(&metrics).unwrap(),
            json!([
                { "type": "Pods", "pods": { "metricName": "hits", "targetAverageValue": "10" } },
                { "type": "Object", "object": {
                    "target": { "kind": "Service", "name": "web" },
                    "metricName": "hits", "targetValue": "1k" } },
            ])
        );
        to_v2(&mut object);
        assert_eq!(object, stored());
    }

    #[test]
    fn an_annotation_of_the_wrong_shape_stays_an_annotation() {
        for text in ["", "[", "{}", "[1]", r#"[{"type":1}]"#, r#"[{"pods":{"metricName":1}}]"#] {
            let mut object = json!({
                "metadata": { "annotations": { METRICS: text } },
                "spec": { "targetCPUUtilizationPercentage": 70 },
            });
            to_v2(&mut object);
            assert_eq!(object["metadata"]["annotations"][METRICS], text);
            assert_eq!(object["spec"]["metrics"].as_array().unwrap().len(), 1, "{text}");
        }
    }
}
