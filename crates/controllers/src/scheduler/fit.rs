//! Whether a pod may run on a node: name, selector, affinity, taints. Pure.
//!
//! Follows the scheduler's NodeName, NodeAffinity, TaintToleration and NodeUnschedulable filters.
//! A node that is not Ready counts as tainted `not-ready` or `unreachable` even before the node
//! lifecycle controller has tainted it.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::object::Meta;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Why a node does not take a pod, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unfit {
    NodeName,
    Unschedulable,
    Affinity,
    Taint { key: String, value: String, effect: String },
    HostPorts,
    TooManyPods,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NodeName => f.write_str("node(s) didn't match the requested node name"),
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Taint { key, value, .. } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::HostPorts => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
        }
    }
}

/// Whether selector and required affinity let the pod onto the node.
pub(crate) fn matches_affinity(spec: &PodSpec, node: &Node) -> bool {
    let labels = spec.node_selector.iter().flatten();
    if !labels.into_iter().all(|(key, value)| node.label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// The weight of the preferred terms that the node meets.
pub(super) fn preference(spec: &PodSpec, node: &Node) -> i32 {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let met = preferred.into_iter().flatten().filter(|p| matches_term(&p.preference, node));
    met.map(|p| p.weight).sum()
}

/// All of a term's requirements hold; an empty term matches no node.
fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |key: &str| (key == "metadata.name").then(|| node.name());
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, node.label(&r.key)))
        && fields.iter().all(|r| holds(r, name(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |wanted: std::cmp::Ordering| match (value.and_then(number), values) {
        (Some(value), [bound]) => number(bound).is_some_and(|b| value.cmp(&b) == wanted),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_set = |t: &Option<String>| t.as_deref().is_some_and(|t| !t.is_empty());
    if is_set(&toleration.effect) && toleration.effect.as_deref() != Some(&taint.effect) {
        return false;
    }
    if is_set(&toleration.key) && toleration.key.as_deref() != Some(&taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            is_set(&toleration.key)
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// The first taint that keeps new pods with these tolerations away.
pub(crate) fn untolerated<'a>(
    tolerations: &[Toleration],
    taints: &'a [Taint],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|t| t.effect == NO_SCHEDULE || t.effect == NO_EXECUTE)
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// How many soft taints the pod does not tolerate.
pub(super) fn soft_taints(tolerations: &[Toleration], node: &Node) -> usize {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints
        .iter()
        .filter(|t| t.effect == "PreferNoSchedule")
        .filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
        .count()
}

/// The node's taints, with those that its conditions and its `unschedulable` imply.
pub(crate) fn taints(node: &Node) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let mut taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut imply = |key: &str| {
        if !taints.iter().any(|t| t.key == key && t.effect == NO_SCHEDULE) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: NO_SCHEDULE.to_owned(),
                ..Taint::default()
            });
        }
    };
    match readiness(node) {
        "True" => {}
        "Unknown" => imply(UNREACHABLE),
        _ => imply(NOT_READY),
    }
    if spec.is_some_and(|s| s.unschedulable == Some(true)) {
        imply(UNSCHEDULABLE);
    }
    taints
}

/// The status of the condition Ready; "False" when there is none.
pub(crate) fn readiness(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    ready.map_or("False", |c| c.status.as_str())
}

/// Everything about the node itself that may keep the pod away.
pub(super) fn check(pod: &Pod, node: &Node) -> Result<(), Unfit> {
    let Some(spec) = &pod.spec else { return Err(Unfit::Affinity) };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if let Some(taint) = untolerated(tolerations, &taints(node)) {
        if taint.key == UNSCHEDULABLE {
            return Err(Unfit::Unschedulable);
        }
        return Err(Unfit::Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.clone(),
        });
    }
    if matches_affinity(spec, node) { Ok(()) } else { Err(Unfit::Affinity) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector, NodeSpec};

    use super::*;
    use crate::testing::{labels, node, pod};

    fn requiring(operator: &str, values: &[&str]) -> PodSpec {
        let requirement = NodeSelectorRequirement {
            key: "disk".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        let term =
            NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
        PodSpec {
            affinity: Some(Affinity {
                node_affinity: Some(NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                        node_selector_terms: vec![term],
                    }),
                    ..NodeAffinity::default()
                }),
                ..Affinity::default()
            }),
            ..PodSpec::default()
        }
    }

    fn with_label(value: &str) -> Node {
        let mut node = node("n");
        node.metadata.labels = Some(labels(&[("disk", value)]));
        node
    }

    #[test]
    fn each_affinity_operator_does_what_it_says() {
        for (operator, values, ten, bare) in [
            ("In", vec!["10"], true, false),
            ("NotIn", vec!["10"], false, true),
            ("Exists", vec![], true, false),
            ("DoesNotExist", vec![], false, true),
            ("Gt", vec!["9"], true, false),
            ("Lt", vec!["9"], false, false),
        ] {
            let spec = requiring(operator, &values);
            assert_eq!(matches_affinity(&spec, &with_label("10")), ten, "{operator}");
            assert_eq!(matches_affinity(&spec, &node("n")), bare, "{operator}");
        }
    }

    #[test]
    fn a_node_selector_needs_every_label() {
        let spec =
            PodSpec { node_selector: Some(labels(&[("disk", "ssd")])), ..PodSpec::default() };
        assert!(matches_affinity(&spec, &with_label("ssd")));
        assert!(!matches_affinity(&spec, &with_label("hdd")));
    }

    #[test]
    fn an_empty_term_matches_no_node() {
        assert!(!matches_term(&NodeSelectorTerm::default(), &node("n")));
    }

    #[test]
    fn a_cordoned_node_takes_only_what_tolerates_it() {
        let mut cordoned = node("n");
        cordoned.spec = Some(NodeSpec { unschedulable: Some(true), ..NodeSpec::default() });
        let mut pod = pod("ns", "p");
        assert_eq!(check(&pod, &cordoned), Err(Unfit::Unschedulable));
        pod.spec.as_mut().unwrap().tolerations =
            Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]);
        assert_eq!(check(&pod, &cordoned), Ok(()));
    }

    #[test]
    fn a_node_that_is_not_ready_counts_as_tainted() {
        let mut down = node("n");
        down.status = None;
        let unfit = check(&pod("ns", "p"), &down).unwrap_err();
        assert_eq!(
            unfit.to_string(),
            "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
        );
    }

    #[test]
    fn a_toleration_without_key_needs_exists() {
        let taint = Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() };
        assert!(!tolerates(&Toleration::default(), &taint));
        let exists = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        assert!(tolerates(&exists, &taint));
    }
}
