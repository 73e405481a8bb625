//! Revisions of a Deployment: which ReplicaSet is the present one, and the annotations that
//! `kubectl rollout history` and `undo` read.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::bounds::Bounds;
use crate::object::{Meta, controller_ref};
use crate::template;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of the Deployment that its ReplicaSets do not take over.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The wanted number of replicas when this ReplicaSet was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    set.annotation(DESIRED)?.parse().ok()
}

/// The allowed number of pods when this ReplicaSet was last scaled.
pub(super) fn max(set: &ReplicaSet) -> Option<i32> {
    set.annotation(MAX)?.parse().ok()
}

/// Whether a ReplicaSet makes the pods that this template wants.
pub(super) fn same_template(set: &ReplicaSet, wanted: &PodTemplateSpec) -> bool {
    let Some(template) = set.spec.as_ref().and_then(|s| s.template.as_ref()) else { return false };
    bare(template) == bare(wanted)
}

fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    if meta.labels.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.labels = None;
    }
    if meta.annotations.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.annotations = None;
    }
    meta.creation_timestamp = None;
    template
}

/// Brings the present ReplicaSet's annotations up to the Deployment's, and its revision past every
/// other's.
pub(super) fn annotate_present(set: &mut ReplicaSet, deployment: &Deployment, newest_old: i64) {
    let before = revision(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if before <= newest_old {
        let old = annotations.insert(REVISION.to_owned(), (newest_old + 1).to_string());
        if let Some(old) = old.filter(|old| old.parse::<i64>().is_ok_and(|r| r > 0)) {
            let history = annotations.entry(HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old);
        }
    }
}

/// Notes the numbers that proportional scaling starts from.
pub(super) fn annotate_scale(set: &mut ReplicaSet, bounds: Bounds) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), bounds.replicas.to_string());
    annotations.insert(MAX.to_owned(), bounds.most().to_string());
}

/// The ReplicaSet for the Deployment's template, without replicas.
pub(super) fn new_set(deployment: &Deployment, newest_old: i64) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template::hash(&spec.template, collisions);
    let with_hash = |labels: Option<&BTreeMap<String, String>>| {
        let mut labels = labels.cloned().unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        labels
    };
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    let labels = with_hash(meta.labels.as_ref());
    meta.labels = Some(labels.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            selector: LabelSelector {
                match_labels: Some(with_hash(spec.selector.match_labels.as_ref())),
                match_expressions: spec.selector.match_expressions.clone(),
            },
            template: Some(template),
            min_ready_seconds: spec.min_ready_seconds,
        }),
        status: None,
    };
    annotate_present(&mut set, deployment, newest_old);
    annotate_scale(&mut set, Bounds::of(deployment));
    Some(set)
}
