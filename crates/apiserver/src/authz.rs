//! Who may do what.
//!
//! ```text
//!   request ─▶ in system:masters? ─▶ a node, and the object concerns it? ─▶ a binding leads to a rule? ─▶ 403
//! ```
//!
//! The rules are those of upstream's RBAC: (Cluster)Roles and their bindings, at first those of `bootstrap.yaml`.
//! Nothing is ever forbidden by a rule; what no rule allows is refused.

mod escalation;
mod node;
mod policy;
mod rule;
mod stored;

pub(crate) use escalation::check as check_escalation;
pub(crate) use policy::bootstrap_objects;

use std::ops::ControlFlow;

use parking_lot::RwLock;
use portolan_store::Store;
use serde_json::Value;

use crate::UserInfo;
use crate::query::Query;
use crate::request::{RequestInfo, Verb};
use crate::selector::FieldSelector;
use crate::status::{Status, Subject};
use policy::Policy;
pub(crate) use rule::Rule;
use stored::Changes;

/// What is to be done to a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    /// Empty: the cluster's scope, or all namespaces.
    pub(crate) namespace: &'a str,
    /// Empty: no single object. Lists and watches that a field selector limits to one name have that name.
    pub(crate) name: &'a str,
    /// The node that a field selector limits pods to; empty: none.
    pub(crate) on_node: &'a str,
}

/// What is to be allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    Resource(Attributes<'a>),
    Path { verb: &'a str, path: &'a str },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Yes, and by what.
    Allowed(String),
    /// Nothing allows it; perhaps with a remark why.
    Refused(String),
}

/// What a user may do in a namespace, as far as rules say it.
#[derive(Debug, Default)]
pub(crate) struct RuleList {
    pub(crate) rules: Vec<Rule>,
    /// What the rules do not tell.
    pub(crate) missing: Option<&'static str>,
}

/// Decides about requests, by the policy and by the objects that nodes are concerned with.
pub(crate) struct Authorizer {
    store: Store,
    policy: RwLock<Policy>,
    changes: Changes,
}

impl Authorizer {
    pub(crate) fn new(store: Store) -> Authorizer {
        Authorizer { store, policy: RwLock::default(), changes: Changes::served() }
    }

    /// Whether `user` may do `action`.
    pub(crate) fn decide(&self, user: &UserInfo, action: Action<'_>) -> Decision {
        if user.is_in(UserInfo::MASTERS) {
            return Decision::Allowed(String::new());
        }
        let policy = self.policy();
        let mut remark = String::new();
        if let (Some(name), Action::Resource(attributes)) = (user.as_node(), action) {
            match node::decide(&self.store, &policy, name, attributes) {
                Decision::Refused(why) => remark = why,
                allowed @ Decision::Allowed(_) => return allowed,
            }
        }
        let namespace = match action {
            Action::Resource(attributes) => attributes.namespace,
            Action::Path { .. } => "",
        };
        let found = policy.visit(user, namespace, |rule, way| {
            if rule.allows(action) {
                ControlFlow::Break(format!("RBAC: allowed by {way}"))
            } else {
                ControlFlow::Continue(())
            }
        });
        match found {
            ControlFlow::Break(reason) => Decision::Allowed(reason),
            ControlFlow::Continue(()) => Decision::Refused(remark),
        }
    }

    pub(crate) fn allows(&self, user: &UserInfo, action: Action<'_>) -> bool {
        matches!(self.decide(user, action), Decision::Allowed(_))
    }

    /// Refuses with 403 what is not allowed.
    ///
    /// # Errors
    /// The 403.
    pub(crate) fn check(&self, user: &UserInfo, action: Action<'_>) -> Result<(), Status> {
        match self.decide(user, action) {
            Decision::Allowed(_) => Ok(()),
            Decision::Refused(why) => Err(action.refusal(user, &why)),
        }
    }

    /// Every rule that holds for a user in a namespace.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> RuleList {
        let mut list = RuleList::default();
        if user.as_node().is_some() {
            list.missing = Some("node authorizer does not support user rule resolution");
        }
        let _: ControlFlow<()> = self.policy().visit(user, namespace, |rule, _| {
            list.rules.push(rule.clone());
            ControlFlow::Continue(())
        });
        list
    }

    /// The rules of a role, as the policy has them; none when there is no such role.
    pub(crate) fn role(&self, role: &policy::RoleKey) -> Option<Vec<Rule>> {
        self.policy().role(role).map(<[Rule]>::to_vec)
    }

    /// The policy, with everything in it that is stored by now.
    fn policy(&self) -> parking_lot::RwLockReadGuard<'_, Policy> {
        self.changes.take_in(&self.store, &self.policy);
        self.policy.read()
    }
}

/// A text field of a role or a binding; empty when it is none.
fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("")
}

/// What a list's selector says about the objects that it can answer.
pub(crate) struct Selected {
    name: String,
    node: String,
}

impl Selected {
    /// Reads the field selector of a request; one that does not parse selects nothing special here and is refused later.
    pub(crate) fn of(info: &RequestInfo, query: &Query) -> Selected {
        let many = matches!(info.verb, Verb::List | Verb::Watch);
        let fields = query.first("fieldSelector").filter(|_| many && info.name.is_none());
        let fields = fields.and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default();
        let exactly = |field| fields.exactly(field).unwrap_or("").to_owned();
        Selected { name: exactly("metadata.name"), node: exactly("spec.nodeName") }
    }
}

impl<'a> Action<'a> {
    pub(crate) fn of(info: &'a RequestInfo, selected: &'a Selected) -> Action<'a> {
        Action::Resource(Attributes {
            verb: info.verb.as_str(),
            group: &info.group,
            resource: &info.resource,
            subresource: info.subresource.as_deref().unwrap_or(""),
            namespace: info.namespace.as_deref().unwrap_or(""),
            name: info.name.as_deref().unwrap_or(&selected.name),
            on_node: &selected.node,
        })
    }

    /// The 403 for this action, in upstream's words (`handlers/responsewriters/errors.go`).
    pub(crate) fn refusal(self, user: &UserInfo, remark: &str) -> Status {
        let who = &user.name;
        let remark = if remark.is_empty() { String::new() } else { format!(": {remark}") };
        match self {
            Action::Path { verb, path } => {
                Status::forbidden_path(&format!("User {who:?} cannot {verb} path {path:?}{remark}"))
            }
            Action::Resource(Attributes {
                verb,
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            }) => {
                let what = if subresource.is_empty() {
                    resource.to_owned()
                } else {
                    format!("{resource}/{subresource}")
                };
                let place = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                let why = format!(
                    "User {who:?} cannot {verb} resource {what:?} in API group {group:?} {place}\
                     {remark}"
                );
                Status::forbidden(Subject { group, resource, kind: "" }, name, &why)
            }
        }
    }
}

#[cfg(test)]
mod tests;
