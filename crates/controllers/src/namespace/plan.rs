//! What the state of a namespace's contents means for its deletion. Pure.

use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

use crate::clock::whole_seconds;

/// What one pass over the contents found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Objects left, by `resource.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Objects that a finalizer holds, by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// API groups that did not answer.
    pub(super) undiscovered: Vec<String>,
    /// What could not be listed or deleted, and why.
    pub(super) failures: Vec<String>,
}

impl Findings {
    /// Whether nothing keeps the namespace.
    pub(super) fn is_clean(&self) -> bool {
        self.remaining.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }
}

/// The conditions that tell a user what deletion waits for.
pub(super) fn conditions(
    old: &[NamespaceCondition],
    findings: &Findings,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, what: &str| {
        let list =
            counts.iter().map(|(name, count)| format!("{name} {what} {count} resource instances"));
        list.collect::<Vec<_>>().join(", ")
    };
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            !findings.undiscovered.is_empty(),
            (
                "DiscoveryFailed",
                format!("Discovery failed for: {}", findings.undiscovered.join(", ")),
            ),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("GroupVersionParsingFailed", String::new()),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            !findings.failures.is_empty(),
            ("ContentDeletionFailed", findings.failures.join("; ")),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            !findings.remaining.is_empty(),
            (
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", counted(&findings.remaining, "has")),
            ),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            !findings.finalizers.is_empty(),
            (
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    counted(&findings.finalizers, "in")
                ),
            ),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let now = Time(whole_seconds(now));
    let mut conditions: Vec<_> = wanted
        .into_iter()
        .map(|(kind, holds, (bad, told), (good, fine))| {
            let status = if holds { "True" } else { "False" };
            let since = old
                .iter()
                .find(|c| c.type_ == kind && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(if holds { bad } else { good }.to_owned()),
                message: Some(if holds { told } else { fine.to_owned() }),
                last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            }
        })
        .collect();
    let ours = |c: &&NamespaceCondition| !conditions.iter().any(|w| w.type_ == c.type_);
    let others: Vec<_> = old.iter().filter(ours).cloned().collect();
    conditions.extend(others);
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn status<'a>(conditions: &'a [NamespaceCondition], kind: &str) -> (&'a str, &'a str) {
        let found = conditions.iter().find(|c| c.type_ == kind).unwrap();
        (&found.status, found.message.as_deref().unwrap())
    }

    #[test]
    fn what_remains_is_named_and_counted() {
        let findings = Findings {
            remaining: BTreeMap::from([("pods.".into(), 2)]),
            finalizers: BTreeMap::from([("shop/hold".into(), 1)]),
            ..Findings::default()
        };
        assert!(!findings.is_clean());
        let conditions = conditions(&[], &findings, at(5));
        assert_eq!(
            status(&conditions, "NamespaceContentRemaining"),
            ("True", "Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(status(&conditions, "NamespaceFinalizersRemaining").0, "True");
        assert_eq!(status(&conditions, "NamespaceDeletionContentFailure").0, "False");
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let first = conditions(&[], &Findings::default(), at(5));
        assert_eq!(conditions(&first, &Findings::default(), at(9)), first);
    }
}
