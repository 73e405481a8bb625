use portolan_api::Kind;
use portolan_api::kinds::{self, Scope, Storage};
use portolan_store::{Op, Options};
use serde_json::json;

use super::policy::RoleKey;
use super::*;

/// An authorizer on a store of its own.
struct World {
    access: Authorizer,
    store: Store,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    world_with(Options::default(), Changes::of(Vec::new()))
}

fn world_with(options: Options, changes: Changes) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state"), options).unwrap();
    let access = Authorizer { store: store.clone(), policy: RwLock::default(), changes };
    World { access, store, _dir: dir }
}

/// The kinds of roles and bindings, whether they are served or not.
fn rbac_kinds() -> Vec<&'static Kind> {
    let all = [
        ("ClusterRole", "clusterroles", Scope::Cluster),
        ("ClusterRoleBinding", "clusterrolebindings", Scope::Cluster),
        ("Role", "roles", Scope::Namespaced),
        ("RoleBinding", "rolebindings", Scope::Namespaced),
    ];
    let made = all.map(|(kind, plural, scope)| -> &'static Kind {
        Box::leak(Box::new(Kind {
            group: "rbac.authorization.k8s.io",
            kind,
            plural,
            scope,
            storage: Storage { group: "rbac.authorization.k8s.io", resource: plural },
            ..*kinds::by_kind("v1", "ConfigMap").unwrap()
        }))
    });
    made.into()
}

impl World {
    async fn put(&self, kind: &Kind, value: Value) {
        let namespace = value["metadata"]["namespace"].as_str();
        let key = kind.key(namespace, value["metadata"]["name"].as_str().unwrap());
        let op = match self.store.get(&key) {
            None => Op::Create { key, value },
            Some(old) => Op::Update { key, expected: old.revision, value },
        };
        self.store.commit(vec![op]).await.unwrap();
    }
}

/// Who, by a letter of the tables.
fn who(name: &str) -> UserInfo {
    match name {
        "admin" => UserInfo::admin(),
        "anonymous" => UserInfo::anonymous(),
        "proxy" => UserInfo::service_account("kube-system", "kube-proxy", "u"),
        "dns" => UserInfo::service_account("kube-system", "coredns", "u"),
        "robot" => UserInfo::service_account("ns", "robot", "u"),
        "node" => UserInfo::new("system:node:a", ["system:nodes"]),
        "scheduler" => UserInfo::component("system:kube-scheduler"),
        "controllers" => UserInfo::component("system:kube-controller-manager"),
        "lab" => UserInfo::component("portolan:lab"),
        other => UserInfo::component(other),
    }
}

/// `verb`, `[group:]resource[/subresource]`, `[namespace/]name`.
fn on<'a>(verb: &'a str, resource: &'a str, object: &'a str) -> Action<'a> {
    let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (namespace, name) = object.split_once('/').unwrap_or(("", object));
    let on_node = "";
    Action::Resource(Attributes { verb, group, resource, subresource, namespace, name, on_node })
}

#[test]
fn everybody_may_do_their_work_and_no_more() {
    let world = world();
    let table: &[(&str, &str, &str, &str, bool)] = &[
        ("admin", "delete", "nodes", "a", true),
        ("admin", "escalate", "rbac.authorization.k8s.io:clusterroles", "x", true),
        // The proxy.
        ("proxy", "watch", "services", "", true),
        ("proxy", "list", "discovery.k8s.io:endpointslices", "", true),
        ("proxy", "get", "nodes", "a", true),
        ("proxy", "create", "events", "default/", true),
        ("proxy", "update", "services", "ns/web", false),
        ("proxy", "list", "pods", "", false),
        ("proxy", "get", "secrets", "kube-system/x", false),
        ("system:kube-proxy", "watch", "services", "", true),
        // DNS.
        ("dns", "list", "discovery.k8s.io:endpointslices", "", true),
        ("dns", "watch", "pods", "", true),
        ("dns", "list", "secrets", "", false),
        ("dns", "create", "pods", "ns/", false),
        // The scheduler.
        ("scheduler", "create", "pods/binding", "ns/web", true),
        ("scheduler", "patch", "pods/status", "ns/web", true),
        ("scheduler", "patch", "pods", "ns/web", false),
        ("scheduler", "delete", "pods", "ns/web", false),
        ("scheduler", "list", "secrets", "", false),
        // The controllers.
        ("controllers", "create", "pods", "ns/", true),
        ("controllers", "update", "namespaces/finalize", "ns", true),
        ("controllers", "deletecollection", "configmaps", "ns/", true),
        ("controllers", "create", "discovery.k8s.io:endpointslices", "ns/", true),
        ("controllers", "create", "secrets", "ns/", false),
        ("controllers", "create", "pods/binding", "ns/web", false),
        ("controllers", "create", "nodes", "a", false),
        ("controllers", "create", "rbac.authorization.k8s.io:clusterrolebindings", "", false),
        ("controllers", "impersonate", "users", "kubernetes-admin", false),
        // The lab.
        ("lab", "patch", "nodes/status", "a", true),
        ("lab", "patch", "configmaps", "kube-system/kube-proxy", true),
        ("lab", "patch", "configmaps", "kube-system/other", false),
        ("lab", "get", "secrets", "kube-system/x", false),
        // Anybody.
        ("robot", "create", "authorization.k8s.io:selfsubjectaccessreviews", "", true),
        ("robot", "create", "authorization.k8s.io:subjectaccessreviews", "", false),
        ("robot", "create", "authentication.k8s.io:tokenreviews", "", false),
        ("robot", "list", "pods", "ns/", false),
        ("jane", "list", "pods", "ns/", false),
        ("anonymous", "create", "authentication.k8s.io:selfsubjectreviews", "", false),
    ];
    for (name, verb, resource, object, expected) in table {
        let allowed = world.access.allows(&who(name), on(verb, resource, object));
        assert_eq!(allowed, *expected, "{name} {verb} {resource} {object}");
    }
}

#[test]
fn paths_are_open_by_who_asks() {
    let world = world();
    let table: &[(&str, &str, &[&str])] = &[
        ("/healthz", "get", &["anonymous", "jane", "admin"]),
        ("/livez/ping", "get", &["anonymous", "jane", "admin"]),
        ("/version", "get", &["anonymous", "jane", "admin"]),
        ("/version", "post", &["admin"]),
        ("/api", "get", &["jane", "admin"]),
        ("/apis/apps/v1", "get", &["jane", "admin"]),
        ("/openapi/v3", "get", &["jane", "admin"]),
        ("/metrics", "get", &["admin"]),
        ("/healthzx", "get", &["admin"]),
        ("/openid/v1/jwks", "get", &["robot", "admin"]),
    ];
    for (path, verb, expected) in table {
        let all = ["anonymous", "jane", "robot", "admin"];
        let allowed: Vec<&str> = all
            .into_iter()
            .filter(|name| world.access.allows(&who(name), Action::Path { verb, path }))
            .filter(|name| *name != "robot" || expected.contains(name))
            .collect();
        assert_eq!(allowed, *expected, "{verb} {path}");
    }
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    let world = world();
    let pod = |name: &str, node: &str, secret: &str| {
        let value = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "robot",
                "volumes": [{"secret": {"secretName": secret}}],
                "containers": [{"envFrom": [{"configMapRef": {"name": "settings"}}]}],
            },
        });
        let key = kinds::by_kind("v1", "Pod").unwrap().key(Some("ns"), name);
        Op::Create { key, value }
    };
    world.store.commit(vec![pod("mine", "a", "mine")]).await.unwrap();
    world.store.commit(vec![pod("theirs", "b", "theirs")]).await.unwrap();
    let table: &[(&str, &str, &str, bool)] = &[
        ("get", "secrets", "ns/mine", true),
        ("watch", "secrets", "ns/mine", true),
        ("get", "secrets", "ns/theirs", false),
        ("get", "secrets", "other/mine", false),
        ("list", "secrets", "ns/", false),
        ("list", "secrets", "/", false),
        ("update", "secrets", "ns/mine", false),
        ("get", "configmaps", "ns/settings", true),
        ("get", "configmaps", "ns/other", false),
        ("create", "serviceaccounts/token", "ns/robot", true),
        ("create", "serviceaccounts/token", "ns/default", false),
        ("create", "serviceaccounts/token", "kube-system/robot", false),
        ("get", "pods", "ns/mine", true),
        ("get", "pods", "ns/theirs", false),
        ("list", "pods", "/", false),
        ("patch", "pods/status", "ns/mine", true),
        ("patch", "pods", "ns/mine", false),
        ("get", "nodes", "a", true),
        ("patch", "nodes/status", "a", true),
        ("patch", "nodes/status", "b", false),
        ("get", "nodes", "b", false),
        // The routes to other nodes' pods.
        ("list", "nodes", "", true),
        ("delete", "nodes", "a", false),
        ("patch", "coordination.k8s.io:leases", "kube-node-lease/a", true),
        ("patch", "coordination.k8s.io:leases", "kube-node-lease/b", false),
        ("get", "coordination.k8s.io:leases", "default/a", false),
        ("list", "services", "", true),
        ("create", "services", "ns/", false),
    ];
    for (verb, resource, object, expected) in table {
        let action = on(verb, resource, object.strip_prefix('/').unwrap_or(object));
        assert_eq!(
            world.access.allows(&who("node"), action),
            *expected,
            "{verb} {resource} {object}"
        );
    }
    let mut own =
        Attributes { verb: "list", resource: "pods", on_node: "a", ..Attributes::default() };
    assert!(world.access.allows(&who("node"), Action::Resource(own)));
    own.on_node = "b";
    let Decision::Refused(why) = world.access.decide(&who("node"), Action::Resource(own)) else {
        panic!("another node's pods");
    };
    assert_eq!(why, "can only list/watch pods with spec.nodeName field selector");
}

#[test]
fn rules_match_as_upstreams_do() {
    let rule = |value: Value| -> Rule { serde_json::from_value(value).unwrap() };
    let table = [
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            "get",
            "apps:x/y",
            "n/o",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get",
            "pods",
            "n/o",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get",
            "pods/log",
            "n/o",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get",
            "apps:pods",
            "n/o",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "list",
            "pods",
            "n/",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}),
            "get",
            "pods/log",
            "n/o",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}),
            "get",
            "pods",
            "n/o",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]}),
            "get",
            "pods/log",
            "n/o",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]}),
            "get",
            "pods",
            "n/o",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["o"]}),
            "get",
            "pods",
            "n/o",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["o"]}),
            "get",
            "pods",
            "n/p",
            false,
        ),
        (
            json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["o"]}),
            "list",
            "pods",
            "n/",
            false,
        ),
        (json!({"verbs": ["get"], "nonResourceURLs": ["*"]}), "get", "pods", "n/o", false),
        (json!({"verbs": ["get"], "apiGroups": [""]}), "get", "pods", "n/o", false),
        (json!({}), "get", "pods", "n/o", false),
    ];
    for (value, verb, resource, object, expected) in table {
        let found = rule(value.clone()).allows(on(verb, resource, object));
        assert_eq!(found, expected, "{value} {verb} {resource} {object}");
    }
    let path = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/api/*", "/x"]}));
    for (path_, expected) in
        [("/api/v1", true), ("/api/", true), ("/api", false), ("/x", true), ("/xy", false)]
    {
        assert_eq!(path.allows(Action::Path { verb: "get", path: path_ }), expected, "{path_}");
    }
}

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": rules})
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    json!({
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"kind": role.0, "name": role.1},
        "subjects": [subject],
    })
}

fn allowed(policy: &Policy, user: &UserInfo, namespace: &str, verb: &str) -> Option<String> {
    let attributes = Attributes { verb, resource: "pods", namespace, ..Attributes::default() };
    let found = policy.visit(user, namespace, |rule, way| {
        match rule.allows(Action::Resource(attributes)) {
            true => ControlFlow::Break(way.to_string()),
            false => ControlFlow::Continue(()),
        }
    });
    match found {
        ControlFlow::Break(way) => Some(way),
        ControlFlow::Continue(()) => None,
    }
}

#[test]
fn bindings_reach_whom_they_name_where_they_are() {
    let mut policy = Policy::default();
    let list = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
    policy.put("ClusterRole", &role("ClusterRole", "", "reader", list.clone()));
    policy.put("Role", &role("Role", "ns", "reader", list));
    let account = json!({"kind": "ServiceAccount", "name": "robot"});
    policy.put("RoleBinding", &binding("RoleBinding", "ns", "own", ("Role", "reader"), account));
    let robot = who("robot");
    assert_eq!(
        allowed(&policy, &robot, "ns", "list").as_deref(),
        Some("RoleBinding \"own/ns\" of Role \"reader\" to ServiceAccount \"robot/ns\"")
    );
    assert_eq!(allowed(&policy, &robot, "ns", "get"), None);
    assert_eq!(allowed(&policy, &robot, "other", "list"), None);
    assert_eq!(allowed(&policy, &robot, "", "list"), None, "not all namespaces");

    let group = json!({"kind": "Group", "name": "team"});
    let everywhere = binding("ClusterRoleBinding", "", "team", ("ClusterRole", "reader"), group);
    policy.put("ClusterRoleBinding", &everywhere);
    let jane = UserInfo::new("jane", ["team"]);
    for namespace in ["", "ns", "other"] {
        assert_eq!(
            allowed(&policy, &jane, namespace, "list").as_deref(),
            Some("ClusterRoleBinding \"team\" of ClusterRole \"reader\" to Group \"team\"")
        );
    }
    // Another subject: the one before has nothing left.
    let user = json!({"kind": "User", "name": "joe"});
    let moved = binding("ClusterRoleBinding", "", "team", ("ClusterRole", "reader"), user);
    policy.put("ClusterRoleBinding", &moved);
    assert_eq!(allowed(&policy, &jane, "ns", "list"), None);
    assert!(allowed(&policy, &who("joe"), "ns", "list").is_some());
    assert_eq!(policy.size(), (2, 2));
    // A role that is gone allows nothing, and neither does a role of another namespace.
    policy.remove("ClusterRole", &role("ClusterRole", "", "reader", json!([])));
    assert_eq!(allowed(&policy, &who("joe"), "ns", "list"), None);
    policy.remove("ClusterRoleBinding", &moved);
    assert_eq!(policy.size(), (1, 1));
}

#[tokio::test]
async fn a_stored_binding_counts_from_the_next_question_on() {
    // A queue of one: more than one write between two questions makes the policy be read anew.
    let options = Options { watch_queue: 1, ..Options::default() };
    let kinds = rbac_kinds();
    let world = world_with(options, Changes::of(kinds.clone()));
    let [cluster_role, _, _, role_binding] = kinds[..] else { panic!("four kinds") };
    let may = || world.access.allows(&who("robot"), on("list", "pods", "ns/"));
    assert!(!may());
    // Everything is stored: what a cluster begins with does not count by itself.
    assert!(!world.access.allows(&who("system:kube-proxy"), on("watch", "services", "")));
    let rules = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
    let account = json!({"kind": "ServiceAccount", "name": "robot"});
    let bound = binding("RoleBinding", "ns", "b", ("ClusterRole", "reader"), account);
    world.put(cluster_role, role("ClusterRole", "", "reader", rules.clone())).await;
    assert!(!may());
    world.put(role_binding, bound.clone()).await;
    assert!(may());
    world.put(cluster_role, role("ClusterRole", "", "reader", json!([]))).await;
    assert!(!may());
    for _ in 0..5 {
        world.put(cluster_role, role("ClusterRole", "", "reader", json!([]))).await;
    }
    world.put(cluster_role, role("ClusterRole", "", "reader", rules)).await;
    assert!(may(), "after more changes than a watch holds");
    let key = role_binding.key(Some("ns"), "b");
    let expected = world.store.get(&key).unwrap().revision;
    world.store.commit(vec![Op::Delete { key, expected }]).await.unwrap();
    assert!(!may());
}

#[test]
fn what_cannot_be_read_grants_nothing() {
    let mut policy = Policy::default();
    let odd = json!([{"verbs": "*", "apiGroups": ["*"], "resources": ["*"]}, 7, null]);
    policy.put("ClusterRole", &role("ClusterRole", "", "odd", odd));
    for (at, subject) in [
        json!({"kind": "ServiceAccount", "name": "x"}),
        json!({"kind": "Robot", "name": "jane"}),
        json!(7),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("b{at}");
        let one = binding("ClusterRoleBinding", "", &name, ("ClusterRole", "odd"), subject);
        policy.put("ClusterRoleBinding", &one);
    }
    let user = json!({"kind": "User", "name": "jane"});
    policy.put(
        "ClusterRoleBinding",
        &binding("ClusterRoleBinding", "", "r", ("Role", "odd"), user.clone()),
    );
    policy.put(
        "ClusterRoleBinding",
        &binding("ClusterRoleBinding", "", "u", ("ClusterRole", "odd"), user),
    );
    assert_eq!(allowed(&policy, &who("jane"), "ns", "list"), None);
    assert_eq!(policy.size(), (4, 1));
}

#[test]
fn nobody_gives_away_what_they_do_not_have() {
    let world = world();
    {
        let mut policy = world.access.policy.write();
        *policy = Policy::bootstrap(|_| true);
        let user = json!({"kind": "User", "name": "jane"});
        policy.put(
            "RoleBinding",
            &binding("RoleBinding", "ns", "jane", ("ClusterRole", "admin"), user),
        );
    }
    world.access.changes.pretend_seen(&world.store);
    let jane = who("jane");
    let check = |kind: &str, object: &Value| {
        check_escalation(&world.access, &jane, kind, object, None).map_err(|status| status.message)
    };
    let rules = |verb: &str, resource: &str| json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]);
    assert_eq!(check("Role", &role("Role", "ns", "r", rules("list", "secrets"))), Ok(()));
    let message = check("Role", &role("Role", "ns", "r", rules("list", "nodes"))).unwrap_err();
    assert!(
        message.ends_with(
            "is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"list\"]}"
        ),
        "{message}"
    );
    assert!(check("Role", &role("Role", "other", "r", rules("list", "secrets"))).is_err());
    assert!(check("ClusterRole", &role("ClusterRole", "", "r", rules("list", "pods"))).is_err());
    let team = || json!({"kind": "Group", "name": "team"});
    let bind = |namespace: &str, role: &str| {
        let one = binding("RoleBinding", namespace, "b", ("ClusterRole", role), team());
        check("RoleBinding", &one)
    };
    assert_eq!(bind("ns", "view"), Ok(()));
    assert_eq!(bind("ns", "edit"), Ok(()));
    assert!(bind("ns", "cluster-admin").is_err());
    assert!(bind("other", "view").is_err());
    assert_eq!(
        bind("ns", "none").unwrap_err(),
        "clusterroles.rbac.authorization.k8s.io \"none\" not found"
    );
    assert!(
        world.access.role(&RoleKey { namespace: String::new(), name: "view".into() }).is_some()
    );
}

#[test]
fn a_refusal_names_user_verb_resource_and_place() {
    let jane = who("jane");
    let status = on("list", "pods", "ns/").refusal(&jane, "");
    assert_eq!(
        status.message,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in \
         the namespace \"ns\""
    );
    let status = on("get", "apps:deployments/scale", "ns/web").refusal(&jane, "why");
    assert_eq!(
        status.message,
        "deployments.apps \"web\" is forbidden: User \"jane\" cannot get resource \
         \"deployments/scale\" in API group \"apps\" in the namespace \"ns\": why"
    );
}
