//! Label selectors: their form, and whether they select the labels of a template.

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, metadata};
use crate::fields::Fields;

pub(super) fn validate(causes: &mut Causes, path: &Path<'_>, selector: &Value) {
    metadata::labels(causes, &path.child("matchLabels"), &selector["matchLabels"]);
    let expressions = path.child("matchExpressions");
    for (index, expression) in selector.items("matchExpressions").iter().enumerate() {
        let path = expressions.index(index);
        let values = expression.items("values");
        match expression.text("operator") {
            "In" | "NotIn" if values.is_empty() => causes.required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                causes.invalid(&path.child("operator"), other, "not a valid selector operator");
            }
        }
        let key = expression.text("key");
        causes.all(&path.child("key"), key, formats::qualified_name(key));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            causes.all(&path.child("values").index(index), value, formats::label_value(value));
        }
    }
}

pub(super) fn is_empty(selector: &Value) -> bool {
    selector.entries("matchLabels").next().is_none()
        && selector.items("matchExpressions").is_empty()
}

pub(super) fn matches(selector: &Value, labels: &Value) -> bool {
    selector.entries("matchLabels").all(|(key, value)| labels.get(key) == Some(value))
        && selector.items("matchExpressions").iter().all(|expression| {
            let label = labels.get(expression.text("key"));
            let among = label.is_some_and(|label| expression.items("values").contains(label));
            match expression.text("operator") {
                "In" => among,
                "NotIn" => !among,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}
