//! Label selectors, parsed once from an object and then matched against many.
//!
//! Follows `metav1.LabelSelectorAsSelector`: an empty selector matches everything, an absent one
//! nothing; `NotIn` and `DoesNotExist` hold for objects without the label.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Never,
}

impl Selector {
    /// The selector of a workload.
    pub(crate) fn parse(selector: &LabelSelector) -> Self {
        let equal = selector.match_labels.iter().flatten().map(|(key, value)| Requirement {
            key: key.clone(),
            rule: Rule::In(vec![value.clone()]),
        });
        let expressions = selector.match_expressions.iter().flatten().map(|e| Requirement {
            key: e.key.clone(),
            rule: match e.operator.as_str() {
                "In" => Rule::In(e.values.clone().unwrap_or_default()),
                "NotIn" => Rule::NotIn(e.values.clone().unwrap_or_default()),
                "Exists" => Rule::Exists,
                "DoesNotExist" => Rule::DoesNotExist,
                // Validation keeps others out; one that slips through must not match everything.
                _ => Rule::Never,
            },
        });
        Self(equal.chain(expressions).collect())
    }

    /// The selector of a Service: equality only.
    pub(crate) fn equal(labels: &Labels) -> Self {
        Self(
            labels
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    rule: Rule::In(vec![value.clone()]),
                })
                .collect(),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, labels: Option<&Labels>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|l| l.get(&requirement.key));
            match &requirement.rule {
                Rule::In(values) => value.is_some_and(|v| values.contains(v)),
                Rule::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Rule::Exists => value.is_some(),
                Rule::DoesNotExist => value.is_none(),
                Rule::Never => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Selector {
        Selector::parse(&LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        })
    }

    #[test]
    fn every_requirement_must_hold() {
        let selector = Selector::equal(&labels(&[("a", "1"), ("b", "2")]));
        assert!(selector.matches(Some(&labels(&[("a", "1"), ("b", "2"), ("c", "3")]))));
        assert!(!selector.matches(Some(&labels(&[("a", "1")]))));
        assert!(!selector.matches(None));
    }

    #[test]
    fn not_in_and_does_not_exist_hold_without_the_label() {
        assert!(expression("a", "NotIn", &["1"]).matches(None));
        assert!(expression("a", "DoesNotExist", &[]).matches(None));
        assert!(!expression("a", "NotIn", &["1"]).matches(Some(&labels(&[("a", "1")]))));
    }

    #[test]
    fn an_unknown_operator_matches_nothing() {
        assert!(!expression("a", "Near", &["1"]).matches(Some(&labels(&[("a", "1")]))));
    }

    #[test]
    fn the_empty_selector_matches_everything() {
        assert!(Selector::parse(&LabelSelector::default()).matches(None));
    }
}
