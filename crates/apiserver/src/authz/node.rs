//! What a node's agent may read and do: its own Node and Lease, its pods, and what those refer to
//! (upstream `plugin/pkg/auth/authorizer/node`).
//!
//! Which pods a node has is read from the store at each question, so that an agent that was just given a pod may at once
//! read what the pod refers to. A question about one object costs the pods of its namespace at most.

use portolan_api::kinds;
use portolan_store::{ListOptions, Store};
use serde_json::Value;

use super::policy::{Policy, RoleKey};
use super::{Action, Attributes, Decision};

const LEASES: &str = "kube-node-lease";

pub(super) fn decide(
    store: &Store,
    policy: &Policy,
    node: &str,
    attributes: Attributes<'_>,
) -> Decision {
    let refused = |why: &str| Decision::Refused(why.to_owned());
    let a = attributes;
    let reads = matches!(a.verb, "get" | "list" | "watch");
    match (a.group, a.resource, a.subresource) {
        ("", "secrets" | "configmaps", _) => {
            if !reads || !a.subresource.is_empty() {
                return refused("can only read resources of this type");
            }
            if a.name.is_empty() || a.namespace.is_empty() {
                return refused("No Object name found");
            }
            if !has_pod(store, node, a.namespace, |pod| refers(pod, a.resource, a.name)) {
                return Decision::Refused(format!(
                    "no relationship found between node '{node}' and this object"
                ));
            }
        }
        ("", "serviceaccounts", "token") => {
            if a.verb != "create" || a.name.is_empty() {
                return refused("can only create tokens for individual service accounts");
            }
            let uses = |pod: &Value| pod["spec"]["serviceAccountName"] == a.name;
            if !has_pod(store, node, a.namespace, uses) {
                return Decision::Refused(format!(
                    "no relationship found between node '{node}' and this object"
                ));
            }
        }
        ("", "pods", "") if a.verb == "get" => {
            let pod = kinds::by_kind("v1", "Pod").expect("the table of kinds has Pod");
            let pod = store.get(&pod.key(Some(a.namespace), a.name));
            if pod.is_some_and(|pod| pod.value["spec"]["nodeName"] != node) {
                return Decision::Refused(format!(
                    "no relationship found between node '{node}' and this object"
                ));
            }
        }
        ("", "pods", "") if reads && a.on_node != node => {
            return refused("can only list/watch pods with spec.nodeName field selector");
        }
        ("", "nodes", _) if a.verb != "create" && a.name != node => {
            return Decision::Refused(format!(
                "node '{node}' cannot {} '{}', only its own Node object",
                if reads { "read" } else { "write" },
                a.name
            ));
        }
        ("coordination.k8s.io", "leases", _) => {
            if a.namespace != LEASES {
                return refused(
                    "can only access leases in the \"kube-node-lease\" system namespace",
                );
            }
            // The name of a new lease is in its body: node restriction looks at it.
            if a.verb != "create" && a.name != node {
                return refused(
                    "can only access node lease with the same name as the requesting node",
                );
            }
        }
        _ => {}
    }
    let role = RoleKey { namespace: String::new(), name: "system:node".into() };
    let rules = policy.role(&role).unwrap_or_default();
    match rules.iter().any(|rule| rule.allows(Action::Resource(a))) {
        true => Decision::Allowed(String::new()),
        false => refused(""),
    }
}

fn has_pod(store: &Store, node: &str, namespace: &str, concerned: impl Fn(&Value) -> bool) -> bool {
    let kind = kinds::by_kind("v1", "Pod").expect("the table of kinds has Pod");
    let Ok(page) = store.list(&kind.prefix(Some(namespace)), ListOptions::default()) else {
        return false;
    };
    page.items.iter().any(|pod| pod.value["spec"]["nodeName"] == node && concerned(&pod.value))
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// Whether a pod refers to the Secret or ConfigMap of this name.
fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let (volume, named, projection, from, key) = match resource {
        "secrets" => ("secret", "secretName", "secret", "secretRef", "secretKeyRef"),
        _ => ("configMap", "name", "configMap", "configMapRef", "configMapKeyRef"),
    };
    let in_volume = |v: &Value| {
        v[volume][named] == name
            || list(&v["projected"], "sources").any(|s| s[projection]["name"] == name)
    };
    let in_container = |c: &Value| {
        list(c, "envFrom").any(|source| source[from]["name"] == name)
            || list(c, "env").any(|variable| variable["valueFrom"][key]["name"] == name)
    };
    list(spec, "volumes").any(in_volume)
        || ["initContainers", "containers", "ephemeralContainers"]
            .iter()
            .any(|containers| list(spec, containers).any(in_container))
        || (resource == "secrets"
            && list(spec, "imagePullSecrets").any(|secret| secret["name"] == name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_refers_to_what_its_volumes_and_variables_name() {
        let pod = json!({"spec": {
            "volumes": [
                {"secret": {"secretName": "a"}},
                {"configMap": {"name": "b"}},
                {"projected": {"sources": [{"secret": {"name": "c"}}, {"configMap": {"name": "d"}}]}},
            ],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "e"}}]}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "f", "key": "k"}}}]}],
            "imagePullSecrets": [{"name": "g"}],
        }});
        let found = |resource| {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let names = names.iter().filter(|name| refers(&pod, resource, name));
            names.copied().collect::<String>()
        };
        assert_eq!(found("secrets"), "acfg");
        assert_eq!(found("configmaps"), "bde");
    }
}
