//! Who may do what: a small table in the shape of upstream's bootstrap cluster roles
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).

use serde_json::{Value, json};

use crate::UserInfo;
use crate::request::RequestInfo;
use crate::status::{Status, Subject};

/// What is to be allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

/// A rule on resources: all of its parts must match; `*` matches anything. Subresources are written `pods/status`.
struct Rule {
    verbs: &'static [&'static str],
    group: &'static str,
    resources: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const EVENTS: &[&str] = &["create", "patch", "update"];

const NODE_PROXIER: &[Rule] = &[
    Rule { verbs: &["list", "watch"], group: "", resources: &["services", "endpoints"] },
    Rule { verbs: READ, group: "", resources: &["nodes"] },
    Rule { verbs: &["list", "watch"], group: "discovery.k8s.io", resources: &["endpointslices"] },
    Rule { verbs: &["list", "watch"], group: "networking.k8s.io", resources: &["servicecidrs"] },
    Rule { verbs: EVENTS, group: "", resources: &["events"] },
    Rule { verbs: EVENTS, group: "events.k8s.io", resources: &["events"] },
];

const NODE: &[Rule] = &[
    Rule {
        verbs: READ,
        group: "",
        resources: &[
            "nodes",
            "pods",
            "services",
            "endpoints",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "namespaces",
        ],
    },
    Rule { verbs: &["create", "update", "patch", "delete"], group: "", resources: &["nodes"] },
    Rule { verbs: &["update", "patch"], group: "", resources: &["nodes/status", "pods/status"] },
    Rule { verbs: &["create", "delete"], group: "", resources: &["pods"] },
    Rule { verbs: &["create"], group: "", resources: &["pods/eviction"] },
    Rule { verbs: EVENTS, group: "", resources: &["events"] },
    Rule { verbs: EVENTS, group: "events.k8s.io", resources: &["events"] },
    Rule { verbs: READ, group: "discovery.k8s.io", resources: &["endpointslices"] },
    Rule {
        verbs: &["get", "create", "update", "patch", "delete"],
        group: "coordination.k8s.io",
        resources: &["leases"],
    },
];

/// `system:basic-user`: what everybody may ask about themselves.
const AUTHENTICATED: &[Rule] = &[
    Rule {
        verbs: &["create"],
        group: "authorization.k8s.io",
        resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
    Rule { verbs: &["create"], group: "authentication.k8s.io", resources: &["selfsubjectreviews"] },
];

/// Group → its rules.
const TABLE: &[(&str, &[Rule])] = &[
    ("system:nodes", NODE),
    ("system:node-proxier", NODE_PROXIER),
    (UserInfo::AUTHENTICATED, AUTHENTICATED),
];

/// Paths that need no credentials: probes and the version (`system:public-info-viewer`).
pub(crate) fn is_public(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ["/healthz", "/livez", "/readyz", "/version"]
        .iter()
        .any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

fn is_discovery(path: &str) -> bool {
    ["/api", "/apis", "/openapi"]
        .iter()
        .any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

/// Whether `user` may do `action`.
pub(crate) fn allows(user: &UserInfo, action: Action<'_>) -> bool {
    if user.is_in(UserInfo::MASTERS) {
        return true;
    }
    match action {
        Action::Path { verb, path } => {
            is_public(path)
                || (matches!(verb, "get" | "head")
                    && is_discovery(path)
                    && user.is_in(UserInfo::AUTHENTICATED))
        }
        Action::Resource { verb, group, resource, subresource, .. } => {
            TABLE.iter().filter(|(g, _)| user.is_in(g)).flat_map(|(_, rules)| *rules).any(|rule| {
                rule.group == group
                    && rule.verbs.contains(&verb)
                    && rule.resources.iter().any(|r| match r.split_once('/') {
                        Some((r, sub)) => r == resource && sub == subresource,
                        None => *r == resource && subresource.is_empty(),
                    })
            })
        }
    }
}

/// The rules that apply to a user, as `SelfSubjectRulesReview` lists them.
pub(crate) fn resource_rules(user: &UserInfo) -> Vec<Value> {
    if user.is_in(UserInfo::MASTERS) {
        return vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})];
    }
    TABLE
        .iter()
        .filter(|(group, _)| user.is_in(group))
        .flat_map(|(_, rules)| *rules)
        .map(|r| json!({"verbs": r.verbs, "apiGroups": [r.group], "resources": r.resources}))
        .collect()
}

/// The paths that a user may read.
pub(crate) fn path_rules(user: &UserInfo) -> Vec<Value> {
    if user.is_in(UserInfo::MASTERS) {
        return vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})];
    }
    vec![json!({"verbs": ["get"], "nonResourceURLs": [
        "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
        "/readyz", "/version",
    ]})]
}

impl<'a> Action<'a> {
    pub(crate) fn of(info: &'a RequestInfo) -> Action<'a> {
        Action::Resource {
            verb: info.verb.as_str(),
            group: &info.group,
            resource: &info.resource,
            subresource: info.subresource.as_deref().unwrap_or(""),
            namespace: info.namespace.as_deref().unwrap_or(""),
            name: info.name.as_deref().unwrap_or(""),
        }
    }

    /// The 403 for this action, in upstream's words (`handlers/responsewriters/errors.go`).
    pub(crate) fn refusal(self, user: &UserInfo) -> Status {
        let who = &user.name;
        match self {
            Action::Path { verb, path } => {
                Status::forbidden_path(&format!("User {who:?} cannot {verb} path {path:?}"))
            }
            Action::Resource { verb, group, resource, subresource, namespace, name } => {
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
                    "User {who:?} cannot {verb} resource {what:?} in API group {group:?} {place}"
                );
                Status::forbidden(Subject { group, resource, kind: "" }, name, &why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str) -> Action<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Action::Resource { verb, group, resource, subresource, namespace: "ns", name: "" }
    }

    #[test]
    fn each_group_may_do_its_work_and_no_more() {
        let proxy = UserInfo::new("system:kube-proxy", ["system:node-proxier"]);
        assert!(allows(&proxy, on("watch", "", "services")));
        assert!(!allows(&proxy, on("get", "", "secrets")));
        assert!(!allows(&proxy, on("update", "", "services")));
        let node = UserInfo::new("system:node:a", ["system:nodes"]);
        assert!(allows(&node, on("patch", "", "pods/status")));
        assert!(!allows(&node, on("patch", "", "pods")));
        assert!(allows(&UserInfo::admin(), on("delete", "", "nodes")));
        let nobody = UserInfo::new("jane", Vec::<String>::new());
        assert!(allows(&nobody, Action::Path { verb: "get", path: "/apis/apps" }));
        assert!(!allows(&nobody, Action::Path { verb: "get", path: "/metrics" }));
    }

    #[test]
    fn a_refusal_names_user_verb_resource_and_place() {
        let status = on("list", "", "pods").refusal(&UserInfo::new("jane", Vec::<String>::new()));
        assert_eq!(
            status.message,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in \
             the namespace \"ns\""
        );
    }
}
