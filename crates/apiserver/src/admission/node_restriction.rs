//! Keeps a node's agent to its own objects in what it writes (upstream `plugin/pkg/admission/noderestriction`). Pure.

use portolan_api::Kind;
use portolan_api::kinds::{self, Subresource};
use portolan_store::Store;
use serde_json::{Map, Value};

use crate::registry::{Target, meta, subject};
use crate::status::{Result, Status};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// The labels of Kubernetes' own domains that an agent may give its Node (`kubelet/apis.KubeletLabels`).
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
];
/// Domains whose labels are all an agent's own.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn refuse(kind: &Kind, name: &str, why: &str) -> Result<()> {
    let kind = kinds::by_kind(&kind.api_version(), kind.kind).expect("a kind of the table");
    Err(Status::forbidden(subject(kind), name, why))
}

pub(super) fn create(
    node: &str,
    kind: &Kind,
    namespace: Option<&str>,
    object: &Value,
) -> Result<()> {
    let name = meta::name(object);
    match (kind.group, kind.kind) {
        ("", "Pod") => {
            if object["metadata"]["annotations"].get(MIRROR).is_none() {
                let why = format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror \
                     pods"
                );
                return refuse(kind, name, &why);
            }
            if object["spec"]["nodeName"] != node {
                let why =
                    format!("node {node:?} can only create pods with spec.nodeName set to itself");
                return refuse(kind, name, &why);
            }
            Ok(())
        }
        ("", "Node") => {
            if name != node {
                let why = format!("node {node:?} is not allowed to modify node {name:?}");
                return refuse(kind, name, &why);
            }
            let none = Map::new();
            labels(node, kind, object, &none, "set")
        }
        ("coordination.k8s.io", "Lease") if namespace != Some(LEASES) || name != node => {
            let why = "can only access node lease with the same name as the requesting node";
            refuse(kind, name, why)
        }
        _ => Ok(()),
    }
}

pub(super) fn update(
    node: &str,
    target: &Target,
    part: Option<Subresource>,
    new: &Value,
    old: &Value,
) -> Result<()> {
    let kind = target.kind;
    let refuse = |why: String| refuse(kind, &target.name, &why);
    match (kind.group, kind.kind) {
        ("", "Pod") => {
            if part != Some(Subresource::Status) {
                return refuse(format!("unexpected operation by node {node:?}"));
            }
            if old["spec"]["nodeName"] != node {
                return refuse(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to \
                     itself"
                ));
            }
            if new["metadata"]["labels"] != old["metadata"]["labels"] {
                return refuse(format!("node {node:?} cannot update labels through pod status"));
            }
            Ok(())
        }
        ("", "Node") => {
            if target.name != node {
                return refuse(format!(
                    "node {node:?} is not allowed to modify node {:?}",
                    target.name
                ));
            }
            if new["spec"]["taints"] != old["spec"]["taints"] {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let none = Map::new();
            let before = old["metadata"]["labels"].as_object().unwrap_or(&none);
            labels(node, kind, new, before, "modify")
        }
        _ => Ok(()),
    }
}

pub(super) fn delete(node: &str, target: &Target, current: &Value) -> Result<()> {
    if (target.kind.group, target.kind.kind) == ("", "Pod") && current["spec"]["nodeName"] != node {
        let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
        return refuse(target.kind, &target.name, &why);
    }
    Ok(())
}

/// Labels by which users steer pods are not an agent's to set.
fn labels(
    node: &str,
    kind: &Kind,
    object: &Value,
    before: &Map<String, Value>,
    verb: &str,
) -> Result<()> {
    let none = Map::new();
    let now = object["metadata"]["labels"].as_object().unwrap_or(&none);
    let changed = now.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let removed = before.iter().filter(|(key, _)| !now.contains_key(*key));
    let mut forbidden: Vec<&str> = changed
        .chain(removed)
        .map(|(key, _)| key.as_str())
        .filter(|key| !is_own_label(key))
        .collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    forbidden.sort_unstable();
    let why = format!(
        "node {node:?} is not allowed to {verb} the following labels: {}",
        forbidden.join(", ")
    );
    refuse(kind, meta::name(object), &why)
}

fn is_own_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |outer: &str| {
        domain == outer || domain.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
    };
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|own| within(own))
}

/// A node may ask for tokens that are bound to its own pods only; `spec` is the TokenRequest's.
///
/// # Errors
/// 403.
pub(crate) fn token(store: &Store, node: &str, account: &Target, spec: &Value) -> Result<()> {
    let refuse = |why: &str| Err(Status::forbidden(account.subject(), &account.name, why));
    let bound = &spec["boundObjectRef"];
    if bound["kind"] != "Pod" || bound["apiVersion"] != "v1" || bound["name"] == "" {
        return refuse("node requested token not bound to a pod");
    }
    let uid = bound["uid"].as_str().unwrap_or("");
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let kind = kinds::by_kind("v1", "Pod").expect("the table of kinds has Pod");
    let name = bound["name"].as_str().unwrap_or("");
    let Some(pod) = store.get(&kind.key(account.namespace.as_deref(), name)) else {
        return Err(Status::not_found(subject(kind), name));
    };
    if meta::uid(&pod.value) != uid {
        return refuse(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The \
             object might have been deleted and then recreated"
        ));
    }
    if pod.value["spec"]["nodeName"] != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_gives_its_node_no_labels_of_kubernetes_domains_but_its_own() {
        for own in [
            "disk",
            "example.com/disk",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "x.kubelet.kubernetes.io/anything",
            "notkubernetes.io/role",
        ] {
            assert!(is_own_label(own), "{own}");
        }
        for foreign in [
            "node-restriction.kubernetes.io/team",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/role",
            "x.k8s.io/role",
        ] {
            assert!(!is_own_label(foreign), "{foreign}");
        }
    }
}
