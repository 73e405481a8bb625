//! Roles and bindings, indexed by whom they are for. Pure.
//!
//! A question costs what its user's bindings cost; a changed object costs its own subjects.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::{Rule, text};
use crate::UserInfo;
use crate::registry::meta;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
/// The label of the objects that the server made itself.
const BOOTSTRAPPED: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

/// A role; cluster roles have no namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoleKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A binding; cluster role bindings have no namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct BindingKey {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Binding {
    role: RoleKey,
    subjects: Vec<Whom>,
}

/// Someone's bindings by namespace; those of the whole cluster under the empty one.
type Bound = HashMap<String, BTreeSet<BindingKey>>;

/// What is allowed to whom.
#[derive(Debug, Default)]
pub(super) struct Policy {
    roles: HashMap<RoleKey, Vec<Rule>>,
    bindings: HashMap<BindingKey, Binding>,
    users: HashMap<String, Bound>,
    groups: HashMap<String, Bound>,
}

/// By what a rule holds for a user, in upstream's words.
pub(super) struct Way<'a> {
    binding: &'a BindingKey,
    role: &'a RoleKey,
    whom: &'a str,
    name: &'a str,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindingKey { namespace, name } = self.binding;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding {name:?}")?;
        } else {
            write!(f, "RoleBinding {:?}", format!("{name}/{namespace}"))?;
        }
        let kind = if self.role.namespace.is_empty() { "ClusterRole" } else { "Role" };
        write!(f, " of {kind} {:?} to ", self.role.name)?;
        let account = self.name.strip_prefix(UserInfo::SERVICE_ACCOUNT);
        match account.filter(|_| self.whom == "User").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => {
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
            None => write!(f, "{} {:?}", self.whom, self.name),
        }
    }
}

/// The objects that every cluster begins with, complete.
pub(crate) fn bootstrap_objects() -> Vec<Value> {
    let mut objects: Vec<Value> = serde_saphyr::from_str(include_str!("bootstrap.yaml"))
        .expect("a file of this crate, read by its tests");
    for object in &mut objects {
        object["apiVersion"] = API_VERSION.into();
        let (label, value) = BOOTSTRAPPED;
        object["metadata"]["labels"] = json!({label: value});
        object["metadata"]["annotations"] =
            json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
        if object["roleRef"].is_object() {
            object["roleRef"]["apiGroup"] = GROUP.into();
        }
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            if subject["kind"] != "ServiceAccount" {
                subject["apiGroup"] = GROUP.into();
            }
        }
    }
    objects
}

impl Policy {
    /// The objects of some kinds that a cluster begins with.
    pub(super) fn bootstrap(wanted: impl Fn(&str) -> bool) -> Policy {
        let mut policy = Policy::default();
        for object in bootstrap_objects() {
            let kind = text(&object, "kind");
            if wanted(kind) {
                policy.put(kind, &object);
            }
        }
        policy
    }

    /// A role or binding is now like this.
    pub(super) fn put(&mut self, kind: &str, object: &Value) {
        self.remove(kind, object);
        let (namespace, name) = (meta::text(object, "namespace"), meta::name(object));
        match kind {
            "ClusterRole" | "Role" => {
                let rules = object["rules"].as_array().into_iter().flatten();
                // What cannot be read allows nothing.
                let rules = rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok());
                let key = RoleKey { namespace: namespace.into(), name: name.into() };
                self.roles.insert(key, rules.collect());
            }
            "ClusterRoleBinding" | "RoleBinding" => {
                let Some(role) = role_of(object) else { return };
                let key = BindingKey { namespace: namespace.into(), name: name.into() };
                let subjects = object["subjects"].as_array().into_iter().flatten();
                let subjects: Vec<Whom> =
                    subjects.filter_map(|subject| whom(subject, namespace)).collect();
                for subject in &subjects {
                    let bound = self.bound_mut(subject);
                    bound.entry(namespace.to_owned()).or_default().insert(key.clone());
                }
                self.bindings.insert(key, Binding { role, subjects });
            }
            _ => {}
        }
    }

    /// A role or binding is gone.
    pub(super) fn remove(&mut self, kind: &str, object: &Value) {
        let (namespace, name) =
            (meta::text(object, "namespace").to_owned(), meta::name(object).to_owned());
        match kind {
            "ClusterRole" | "Role" => {
                self.roles.remove(&RoleKey { namespace, name });
            }
            "ClusterRoleBinding" | "RoleBinding" => {
                let key = BindingKey { namespace, name };
                let Some(old) = self.bindings.remove(&key) else { return };
                for subject in &old.subjects {
                    self.unbind(subject, &key);
                }
            }
            _ => {}
        }
    }

    fn bound_mut(&mut self, subject: &Whom) -> &mut Bound {
        match subject {
            Whom::User(name) => self.users.entry(name.clone()).or_default(),
            Whom::Group(name) => self.groups.entry(name.clone()).or_default(),
        }
    }

    /// Forgets the binding, and whoever has none left.
    fn unbind(&mut self, subject: &Whom, key: &BindingKey) {
        let bound = self.bound_mut(subject);
        if let Some(keys) = bound.get_mut(&key.namespace) {
            keys.remove(key);
            if keys.is_empty() {
                bound.remove(&key.namespace);
            }
        }
        if bound.is_empty() {
            match subject {
                Whom::User(name) => self.users.remove(name),
                Whom::Group(name) => self.groups.remove(name),
            };
        }
    }

    pub(super) fn role(&self, key: &RoleKey) -> Option<&[Rule]> {
        self.roles.get(key).map(Vec::as_slice)
    }

    /// Shows every rule that holds for `user` in `namespace` (empty: at the cluster's scope) until told to stop.
    pub(super) fn visit<T>(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut show: impl FnMut(&Rule, Way<'_>) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        let own = self.users.get(&user.name).map(|bound| (bound, "User", user.name.as_str()));
        let groups = user.groups.iter().filter_map(|group| {
            self.groups.get(group).map(|bound| (bound, "Group", group.as_str()))
        });
        for (bound, whom, name) in own.into_iter().chain(groups) {
            let cluster = bound.get("");
            let local = bound.get(namespace).filter(|_| !namespace.is_empty());
            for key in cluster.into_iter().chain(local).flatten() {
                let Some(binding) = self.bindings.get(key) else { continue };
                for rule in self.role(&binding.role).unwrap_or_default() {
                    show(rule, Way { binding: key, role: &binding.role, whom, name })?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// How many bindings and subjects there are.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.bindings.len(), self.users.len() + self.groups.len())
    }
}

/// The role that a binding refers to; none for what is no such reference.
pub(crate) fn role_of(binding: &Value) -> Option<RoleKey> {
    let reference = &binding["roleRef"];
    let name = text(reference, "name").to_owned();
    let own = meta::text(binding, "namespace");
    match text(reference, "kind") {
        "ClusterRole" => Some(RoleKey { namespace: String::new(), name }),
        "Role" if !own.is_empty() => Some(RoleKey { namespace: own.to_owned(), name }),
        _ => None,
    }
}

fn whom(subject: &Value, own_namespace: &str) -> Option<Whom> {
    let name = text(subject, "name");
    match text(subject, "kind") {
        "User" => Some(Whom::User(name.to_owned())),
        "Group" => Some(Whom::Group(name.to_owned())),
        "ServiceAccount" => {
            let namespace = match text(subject, "namespace") {
                "" => own_namespace,
                named => named,
            };
            let prefix = UserInfo::SERVICE_ACCOUNT;
            (!namespace.is_empty()).then(|| Whom::User(format!("{prefix}{namespace}:{name}")))
        }
        _ => None,
    }
}
