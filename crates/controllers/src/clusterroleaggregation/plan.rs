//! Which rules an aggregated role is to have. Pure.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::object::Meta;
use crate::selector::Selector;

/// The rules of the selected roles, each once: by selector, then by name. None when the role has
/// exactly these, or aggregates nothing.
pub(super) fn changed_rules(
    role: &ClusterRole,
    all: &[Arc<ClusterRole>],
) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref();
    let mut by_name: Vec<&ClusterRole> = all.iter().map(|other| &**other).collect();
    by_name.sort_unstable_by_key(|other| other.name());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.unwrap_or_default() {
        let selector = Selector::parse(selector);
        let selected = by_name.iter().filter(|other| {
            other.name() != role.name() && selector.matches(other.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A role that reads these resources.
    fn role(name: &str, labels: Value, resources: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> = resources
            .iter()
            .map(|one| json!({"verbs": ["get"], "apiGroups": [""], "resources": [one]}))
            .collect();
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    fn aggregated(selectors: Value, has: &[&str]) -> ClusterRole {
        let mut role = (*role("all", json!({"a": "1"}), has)).clone();
        let rule = json!({"clusterRoleSelectors": selectors});
        role.aggregation_rule = Some(serde_json::from_value(rule).unwrap());
        role
    }

    /// The resources of the rules that a role is to get.
    fn planned(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<String>> {
        let rules = changed_rules(role, all)?;
        Some(rules.into_iter().map(|rule| rule.resources.unwrap().remove(0)).collect())
    }

    #[test]
    fn rules_come_by_selector_then_by_name_and_each_once() {
        let all = [
            role("z", json!({"a": "1"}), &["pods", "secrets"]),
            role("b", json!({"a": "1"}), &["pods"]),
            role("c", json!({"b": "2"}), &["nodes", "pods"]),
            role("other", json!({"a": "2"}), &["events"]),
            // The role itself is never among what it selects.
            role("all", json!({"a": "1"}), &["leases"]),
        ];
        let both = json!([{"matchLabels": {"b": "2"}}, {"matchLabels": {"a": "1"}}]);
        let order = ["nodes", "pods", "secrets"].map(str::to_owned).to_vec();
        assert_eq!(planned(&aggregated(both, &["leases"]), &all), Some(order));
        let first = json!([{"matchLabels": {"a": "1"}}]);
        let order = ["pods", "secrets"].map(str::to_owned).to_vec();
        assert_eq!(planned(&aggregated(first.clone(), &[]), &all), Some(order));
        assert_eq!(planned(&aggregated(first, &["pods", "secrets"]), &all), None);
    }

    #[test]
    fn what_is_selected_no_longer_is_taken_away() {
        let nobody = json!([{"matchLabels": {"a": "3"}}]);
        assert_eq!(planned(&aggregated(nobody, &["pods"]), &[]), Some(Vec::new()));
        assert_eq!(planned(&aggregated(json!([]), &[]), &[]), None);
        let everything = [role("b", Value::Null, &["pods"])];
        let plan = planned(&aggregated(json!([{}]), &[]), &everything);
        assert_eq!(plan, Some(vec!["pods".to_owned()]));
    }

    #[test]
    fn a_role_without_an_aggregation_rule_stays_as_it_is() {
        let all = [role("b", json!({"a": "1"}), &["pods"])];
        assert_eq!(planned(&role("plain", Value::Null, &["nodes"]), &all), None);
    }
}
