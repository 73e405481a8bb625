//! Nobody gives away what they do not have (upstream `pkg/registry/rbac`).
//!
//! A role may hold only what its writer may do, unless the verb `escalate` is allowed; a binding may lead only to a role
//! that its writer has all of, unless the verb `bind` is.

use serde_json::Value;

use super::{Action, Attributes, Authorizer, Rule, policy, text};
use crate::UserInfo;
use crate::registry::meta;
use crate::status::{Status, Subject};

/// Refuses a role or binding by which `user` would give away more than they have.
///
/// # Errors
/// 403, or 404 for a role that is not there.
pub(crate) fn check(
    authorizer: &Authorizer,
    user: &UserInfo,
    kind: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if user.is_in(UserInfo::MASTERS) {
        return Ok(());
    }
    match kind {
        "Role" | "ClusterRole" => {
            if old.is_some_and(|old| old["rules"] == object["rules"]) {
                return Ok(());
            }
            role(authorizer, user, kind, object)
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            let unchanged = |old: &Value| {
                old["roleRef"] == object["roleRef"] && old["subjects"] == object["subjects"]
            };
            if old.is_some_and(unchanged) {
                return Ok(());
            }
            binding(authorizer, user, kind, object)
        }
        _ => Ok(()),
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        "RoleBinding" => "rolebindings",
        _ => "clusterrolebindings",
    }
}

fn role(
    authorizer: &Authorizer,
    user: &UserInfo,
    kind: &str,
    object: &Value,
) -> Result<(), Status> {
    let (namespace, name) = (meta::text(object, "namespace"), meta::name(object));
    let resource = plural(kind);
    if may(authorizer, user, "escalate", resource, namespace, name) {
        return Ok(());
    }
    let rules: Vec<Rule> = object["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| serde_json::from_value(rule.clone()).ok())
        .collect();
    covered(authorizer, user, namespace, &rules, (resource, name))
}

fn binding(
    authorizer: &Authorizer,
    user: &UserInfo,
    kind: &str,
    object: &Value,
) -> Result<(), Status> {
    let (namespace, name) = (meta::text(object, "namespace"), meta::name(object));
    let reference = &object["roleRef"];
    // What is no reference to a role binds nothing; validation says what is wrong with it.
    let Some(key) = policy::role_of(object) else { return Ok(()) };
    let resource = plural(text(reference, "kind"));
    if may(authorizer, user, "bind", resource, namespace, &key.name) {
        return Ok(());
    }
    let Some(rules) = authorizer.role(&key) else {
        let subject = Subject { group: policy::GROUP, resource, kind: "" };
        return Err(Status::not_found(subject, &key.name));
    };
    covered(authorizer, user, namespace, &rules, (plural(kind), name))
}

fn may(
    authorizer: &Authorizer,
    user: &UserInfo,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let group = policy::GROUP;
    let attributes = Attributes { verb, group, resource, namespace, name, ..Attributes::default() };
    authorizer.allows(user, Action::Resource(attributes))
}

fn covered(
    authorizer: &Authorizer,
    user: &UserInfo,
    namespace: &str,
    wanted: &[Rule],
    (resource, name): (&str, &str),
) -> Result<(), Status> {
    let held = authorizer.rules(user, namespace).rules;
    let missing: Vec<Rule> = wanted
        .iter()
        .flat_map(Rule::broken_down)
        .filter(|one| !held.iter().any(|rule| rule.covers(one)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().take(MOST_LINES).map(compact).collect();
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        lines.join("\n")
    );
    Err(Status::forbidden(Subject { group: policy::GROUP, resource, kind: "" }, name, &why))
}

/// Of what is missing, so many are named.
const MOST_LINES: usize = 50;

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`, as upstream's `CompactString`.
fn compact(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{list:?}")).collect();
    format!("{{{}}}", parts.join(", "))
}
