//! Roles and their bindings (upstream: pkg/apis/rbac/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, selector};
use crate::fields::Fields;
use crate::kinds::{Kind, Scope};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role or ClusterRole.
pub(super) fn role(causes: &mut Causes, kind: &Kind, role: &Value) {
    let list = Path::new("rules");
    for (index, rule) in role.items("rules").iter().enumerate() {
        policy_rule(causes, &list.index(index), rule, kind.scope);
    }
    if !role.has("aggregationRule") {
        return;
    }
    let path = Path::new("aggregationRule");
    let list = path.child("clusterRoleSelectors");
    let selectors = role["aggregationRule"].items("clusterRoleSelectors");
    if selectors.is_empty() {
        let message = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        causes.required(&list, message);
    }
    for (index, item) in selectors.iter().enumerate() {
        selector::validate(causes, &list.index(index), item);
    }
}

fn policy_rule(causes: &mut Causes, path: &Path<'_>, rule: &Value, scope: Scope) {
    let empty = |field: &str| rule.items(field).is_empty();
    if empty("verbs") {
        causes.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !empty("nonResourceURLs") {
        let (path, urls) = (path.child("nonResourceURLs"), &rule["nonResourceURLs"]);
        if scope == Scope::Namespaced {
            let message = "namespaced rules cannot apply to non-resource URLs";
            causes.invalid(&path, urls.clone(), message);
        }
        if !(empty("apiGroups") && empty("resources") && empty("resourceNames")) {
            let message = "rules cannot apply to both regular resources and non-resource URLs";
            causes.invalid(&path, urls.clone(), message);
        }
        return;
    }
    for (field, message) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if empty(field) {
            causes.required(&path.child(field), message);
        }
    }
}

/// A RoleBinding or ClusterRoleBinding.
pub(super) fn binding(causes: &mut Causes, kind: &Kind, binding: &Value) {
    let (role, path) = (&binding["roleRef"], Path::new("roleRef"));
    if role.text("apiGroup") != GROUP {
        causes.not_supported(&path.child("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = match kind.scope {
        Scope::Namespaced => &["ClusterRole", "Role"],
        Scope::Cluster => &["ClusterRole"],
    };
    if !kinds.contains(&role.text("kind")) {
        causes.not_supported(&path.child("kind"), role.text("kind"), kinds);
    }
    match role.text("name") {
        "" => causes.required(&path.child("name"), ""),
        name => causes.all(&path.child("name"), name, formats::path_segment(name)),
    }
    let list = Path::new("subjects");
    for (index, item) in binding.items("subjects").iter().enumerate() {
        subject(causes, &list.index(index), item, kind.scope);
    }
}

fn subject(causes: &mut Causes, path: &Path<'_>, subject: &Value, scope: Scope) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        causes.required(&path.child("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                causes.all(&path.child("name"), name, formats::dns_subdomain(name));
            }
            if !group.is_empty() {
                causes.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if scope == Scope::Cluster && subject.text("namespace").is_empty() {
                causes.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                causes.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => {
            let kinds = ["Group", "ServiceAccount", "User"];
            causes.not_supported(&path.child("kind"), other, &kinds);
        }
    }
}

pub(super) fn binding_update(causes: &mut Causes, new: &Value, old: &Value) {
    if new["roleRef"] != old["roleRef"] {
        causes.invalid(&Path::new("roleRef"), new["roleRef"].clone(), "cannot change roleRef");
    }
}
