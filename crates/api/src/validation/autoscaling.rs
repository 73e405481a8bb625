//! HorizontalPodAutoscalers, in the form of autoscaling/v2 (upstream: pkg/apis/autoscaling/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;
use crate::schema::quantity;

/// An hour; and half of one.
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

/// Type of a metric, the field that describes it, and the types of target that it can have.
const SOURCES: &[(&str, &str, &[&str])] = &[
    ("ContainerResource", "containerResource", &["averageUtilization", "averageValue"]),
    ("External", "external", &["value", "averageValue"]),
    ("Object", "object", &["value", "averageValue"]),
    ("Pods", "pods", &["averageValue"]),
    ("Resource", "resource", &["averageUtilization", "averageValue"]),
];

pub(super) fn horizontal_pod_autoscaler(causes: &mut Causes, autoscaler: &Value) {
    let (spec, path) = (&autoscaler["spec"], Path::new("spec"));
    let (least, most) = (spec.number("minReplicas"), spec.number("maxReplicas"));
    if spec.has("minReplicas") && least < 1 {
        causes.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        causes.invalid(&path.child("maxReplicas"), most, formats::NOT_POSITIVE);
    }
    if spec.has("minReplicas") && most < least {
        let message = "must be greater than or equal to `minReplicas`";
        causes.invalid(&path.child("maxReplicas"), most, message);
    }
    reference(causes, &path.child("scaleTargetRef"), &spec["scaleTargetRef"]);
    let list = path.child("metrics");
    for (index, item) in spec.items("metrics").iter().enumerate() {
        metric(causes, &list.index(index), item);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            let path = path.child("behavior");
            scaling_rules(causes, &path.child(direction), rules);
        }
    }
}

fn reference(causes: &mut Causes, path: &Path<'_>, reference: &Value) {
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => causes.required(&path.child(field), ""),
            text => causes.all(&path.child(field), text, formats::path_segment(text)),
        }
    }
    let version = reference.text("apiVersion");
    if version.matches('/').count() > 1 {
        let message = format!("unexpected GroupVersion string: {version}");
        causes.invalid(&path.child("apiVersion"), version, &message);
    } else if !version.contains('/') && reference.text("kind") != "ReplicationController" {
        let message = "apiVersion must specify API group";
        causes.invalid(&path.child("apiVersion"), version, message);
    }
}

fn metric(causes: &mut Causes, path: &Path<'_>, metric: &Value) {
    let kind = metric.text("type");
    let types: Vec<&str> = SOURCES.iter().map(|(name, ..)| *name).collect();
    if kind.is_empty() {
        causes.required(&path.child("type"), "must specify a metric source type");
    } else {
        causes.one_of(&path.child("type"), kind, &types);
    }
    let mut given = SOURCES.iter().filter(|(_, field, _)| metric.has(field));
    let Some((own, field, targets)) = given.next() else {
        if let Some((_, field, _)) = SOURCES.iter().find(|(name, ..)| *name == kind) {
            let message = "must populate information for the given metric source";
            causes.required(&path.child(field), message);
        }
        return;
    };
    for (_, extra, _) in given {
        let message = "must populate the given metric source only";
        causes.forbidden(&path.child(extra), message);
    }
    if *own != kind {
        if let Some((_, wanted, _)) = SOURCES.iter().find(|(name, ..)| *name == kind) {
            let message = "must populate information for the given metric source";
            causes.required(&path.child(wanted), message);
        }
        return;
    }
    let (source, path) = (&metric[*field], path.child(field));
    match *field {
        "resource" | "containerResource" => {
            if source.text("name").is_empty() {
                causes.required(&path.child("name"), "must specify a resource name");
            }
            if *field == "containerResource" && source.text("container").is_empty() {
                causes.required(&path.child("container"), "must specify a container");
            }
        }
        _ => {
            let metric = path.child("metric");
            match source["metric"].text("name") {
                "" => causes.required(&metric.child("name"), "must specify a metric name"),
                name => causes.all(&metric.child("name"), name, formats::path_segment(name)),
            }
        }
    }
    if *field == "object" {
        let (object, path) = (&source["describedObject"], path.child("describedObject"));
        for field in ["kind", "name"] {
            if object.text(field).is_empty() {
                causes.required(&path.child(field), "");
            }
        }
    }
    target(causes, &path.child("target"), &source["target"], targets);
}

fn target(causes: &mut Causes, path: &Path<'_>, target: &Value, fields: &[&str]) {
    let types = ["AverageValue", "Utilization", "Value"];
    match target.text("type") {
        "" => causes.required(&path.child("type"), "must specify a metric target type"),
        other => causes.one_of(&path.child("type"), other, &types),
    }
    if target.has("averageUtilization") && target.number("averageUtilization") < 1 {
        let value = target.number("averageUtilization");
        causes.invalid(&path.child("averageUtilization"), value, formats::NOT_POSITIVE);
    }
    for field in ["value", "averageValue"] {
        if quantity::parse(target.text(field)).is_ok_and(|quantity| quantity.nanos <= 0) {
            let value = target.text(field);
            causes.invalid(&path.child(field), value, "must be positive");
        }
    }
    let given = fields.iter().filter(|field| target.has(field)).count();
    let [first, rest @ ..] = fields else { return };
    match (given, rest) {
        (0, []) => {
            causes.required(&path.child(first), &format!("must specify a positive target {first}"))
        }
        (0, [second, ..]) => causes.required(
            &path.child(first),
            &format!("must set either a target {} or a target {}", spoken(first), spoken(second)),
        ),
        (2.., [second, ..]) => causes.forbidden(
            &path.child(second),
            &format!("may not set both a target {} and a target {}", spoken(second), spoken(first)),
        ),
        _ => {}
    }
}

fn spoken(field: &str) -> &'static str {
    match field {
        "averageUtilization" => "utilization",
        "averageValue" => "average value",
        _ => "value",
    }
}

fn scaling_rules(causes: &mut Causes, path: &Path<'_>, rules: &Value) {
    let window = rules.number("stabilizationWindowSeconds");
    let own = path.child("stabilizationWindowSeconds");
    if window < 0 {
        causes.invalid(&own, window, "must be greater than or equal to zero");
    }
    if window > LONGEST_WINDOW {
        let message = format!("must be less than or equal to {LONGEST_WINDOW}");
        causes.invalid(&own, window, &message);
    }
    let choices = ["Disabled", "Max", "Min"];
    causes.one_of_or_empty(&path.child("selectPolicy"), rules.text("selectPolicy"), &choices);
    let list = path.child("policies");
    if rules.items("policies").is_empty() {
        causes.required(&list, "must specify at least one Policy");
    }
    for (index, policy) in rules.items("policies").iter().enumerate() {
        let path = list.index(index);
        causes.one_of(&path.child("type"), policy.text("type"), &["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            if policy.number(field) <= 0 {
                let message = "must be greater than zero";
                causes.invalid(&path.child(field), policy.number(field), message);
            }
        }
        let period = policy.number("periodSeconds");
        if period > LONGEST_PERIOD {
            let message = format!("must be less than or equal to {LONGEST_PERIOD}");
            causes.invalid(&path.child("periodSeconds"), period, &message);
        }
    }
}
