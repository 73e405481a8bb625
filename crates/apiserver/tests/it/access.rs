//! Tokens, identities and what they may do, as clients see it.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use portolan_apiserver::UserInfo;
use portolan_apiserver::pki::Usage;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::*;
use crate::tls::{connector, listen, server_name};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const ACCESS: &str = "/apis/authorization.k8s.io/v1";

impl Fixture {
    async fn as_user(&self, user: UserInfo, method: &str, uri: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        read(self.raw_as(user, method, uri, &JSON, body).await).await
    }

    async fn token_request(&self, account: &str, spec: Value) -> Answer {
        self.post(&format!("{ACCOUNTS}/{account}/token"), json!({"spec": spec})).await
    }

    /// A token of an account for this server.
    async fn token(&self, account: &str) -> String {
        let answer = self.token_request(account, json!({})).await.ok();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn bound_pod(&self, name: &str, node: &str) -> Value {
        let mut object = pod(name);
        object["spec"]["nodeName"] = node.into();
        self.post(PODS, object).await.ok()
    }
}

/// A request over TLS with nothing but an Authorization header.
async fn with_header(t: &Fixture, at: SocketAddr, header: &str, path: &str) -> (u16, Value) {
    let stream = TcpStream::connect(at).await.unwrap();
    let stream = connector(&t.pki, None, &[]).connect(server_name(), stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "kubernetes")
        .header("authorization", header)
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn a_token_request_answers_what_was_asked_with_its_defaults() {
    let t = start().await;
    let answer = t.token_request("default", json!({})).await;
    assert_eq!(answer.code, 201);
    let body = answer.ok();
    assert_eq!(
        (&body["kind"], &body["apiVersion"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io/v1"))
    );
    assert_eq!(body["metadata"]["name"], "default");
    assert_eq!(body["metadata"]["namespace"], "default");
    assert_eq!(body["spec"], json!({"audiences": [ISSUER], "expirationSeconds": 3600}));
    let begin = second(&body["metadata"]["creationTimestamp"]);
    assert_eq!(second(&body["status"]["expirationTimestamp"]) - begin, 3600);
    assert_eq!(body["status"]["token"].as_str().unwrap().split('.').count(), 3);
}

fn second(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_second()
}

#[tokio::test]
async fn token_requests_are_refused_as_upstream_refuses_them() {
    let t = start().await;
    let pod = t.bound_pod("web", "n1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    t.account("default", "robot").await;
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    let cases = [
        (
            "default",
            json!({"expirationSeconds": 599}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 599: may not specify a duration less than 10 minutes"
                .to_owned(),
        ),
        (
            "default",
            json!({"expirationSeconds": 4_294_967_297_i64}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 4294967297: may not specify a duration larger than 2^32 seconds"
                .to_owned(),
        ),
        ("none", json!({}), 404, "serviceaccounts \"none\" not found".to_owned()),
        ("default", bound("Pod", "none", ""), 404, "pods \"none\" not found".to_owned()),
        ("default", bound("Secret", "none", ""), 404, "secrets \"none\" not found".to_owned()),
        ("default", bound("Node", "none", ""), 404, "nodes \"none\" not found".to_owned()),
        (
            "default",
            bound("Pod", "web", "another"),
            409,
            "Operation cannot be fulfilled on Pod \"web\": the UID in the bound object reference \
             (another) does not match the UID in record. The object might have been deleted and \
             then recreated"
                .to_owned(),
        ),
        (
            "robot",
            bound("Pod", "web", uid),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different \
             serviceaccount name."
                .to_owned(),
        ),
        (
            "default",
            bound("ConfigMap", "x", ""),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap".to_owned(),
        ),
    ];
    for (account, spec, code, message) in cases {
        let answer = t.token_request(account, spec.clone()).await;
        assert_eq!(
            (answer.code, answer.body["message"].as_str().unwrap()),
            (code, &*message),
            "{spec}"
        );
    }
    let named = json!({"metadata": {"name": "other"}, "spec": {}});
    let answer = t.post(&format!("{ACCOUNTS}/default/token"), named).await;
    assert_eq!(answer.code, 422);
    assert_eq!(t.get(&format!("{ACCOUNTS}/default/token")).await.code, 405);
}

#[tokio::test]
async fn a_bearer_token_is_its_account_over_tls_until_the_account_is_gone() {
    let t = start().await;
    let server = listen(&t).await;
    t.account("kube-system", "coredns").await;
    let uri = "/api/v1/namespaces/kube-system/serviceaccounts/coredns";
    let token = t.post(&format!("{uri}/token"), json!({"spec": {}})).await.ok();
    let header = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let get = async |path: &str| with_header(&t, server.address, &header, path).await;
    assert_eq!(get("/api/v1/pods").await.0, 200);
    let (code, status) = get("/api/v1/namespaces/default/secrets").await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "secrets is forbidden: User \"system:serviceaccount:kube-system:coredns\" cannot list \
         resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    t.delete(uri).await.ok();
    t.account("kube-system", "coredns").await;
    // The same name, but another account.
    assert_eq!(get("/api/v1/pods").await.0, 401);
}

#[tokio::test]
async fn a_bad_token_is_unauthorized_even_where_nobody_need_say_who_they_are() {
    let t = start().await;
    let server = listen(&t).await;
    let good = t.token("default").await;
    for header in
        ["Bearer x", "bearer a.b.c", "Bearer eyJhbGciOiJub25lIn0.e30.", &format!("Bearer {good}x")]
    {
        for path in ["/healthz", "/api/v1/pods"] {
            let (code, status) = with_header(&t, server.address, header, path).await;
            assert_eq!(
                (code, &status["kind"], &status["reason"], &status["message"]),
                (401, &json!("Status"), &json!("Unauthorized"), &json!("Unauthorized")),
                "{header} {path}"
            );
        }
    }
    // No token at all: as without the header.
    for header in ["Basic YTpi", "Bearer", "Bearer "] {
        assert_eq!(with_header(&t, server.address, header, "/healthz").await.0, 200, "{header}");
        assert_eq!(with_header(&t, server.address, header, "/api").await.0, 401, "{header}");
    }
    assert_eq!(with_header(&t, server.address, &format!("bearer {good}"), "/api").await.0, 200);
}

#[tokio::test]
async fn a_token_review_tells_whose_a_token_is_or_what_is_wrong_with_it() {
    let t = start().await;
    let pod = t.bound_pod("web", "n1").await;
    let bound =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": pod["metadata"]["uid"]});
    let spec = json!({"audiences": ["vault"], "boundObjectRef": bound});
    let answer = t.token_request("default", spec).await.ok();
    let token = answer["status"]["token"].as_str().unwrap();
    let uri = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = async |spec: Value| t.post(uri, json!({"spec": spec})).await;
    let status = review(json!({"token": token, "audiences": ["x", "vault"]})).await.ok();
    let status = &status["status"];
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["web"]));
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], json!([pod["metadata"]["uid"]]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n1"]));
    let status = review(json!({"token": token})).await.ok();
    assert_eq!(status["status"]["authenticated"], Value::Null, "it is not for this server");
    assert!(status["status"]["error"].as_str().unwrap().contains("audiences"));
    let status = review(json!({"token": "x"})).await.ok();
    assert_eq!(status["status"], json!({"user": {}, "error": "invalid bearer token"}));
    review(json!({})).await.fails(
        400,
        "BadRequest",
        "token is required for TokenReview in authentication",
    );
    t.delete(&format!("{PODS}/web?gracePeriodSeconds=0")).await.ok();
    let status = review(json!({"token": token, "audiences": ["vault"]})).await.ok();
    assert_eq!(
        status["status"]["error"],
        "[invalid bearer token, service account token has been invalidated]"
    );
}

#[tokio::test]
async fn the_issuers_documents_are_for_service_accounts() {
    let t = start().await;
    let account = UserInfo::new("system:serviceaccount:a:b", ["system:serviceaccounts"]);
    let get = async |uri: &str| {
        let user = account.clone();
        read(t.raw_as(user, "GET", uri, &[], "").await).await
    };
    let configuration = get("/.well-known/openid-configuration").await.ok();
    assert_eq!(configuration["issuer"], ISSUER);
    assert_eq!(configuration["jwks_uri"], format!("{ISSUER}/openid/v1/jwks"));
    let answer = get("/openid/v1/jwks").await;
    assert_eq!(answer.headers["content-type"], "application/jwk-set+json");
    let keys = answer.ok();
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]), (&json!("EC"), &json!("ES256")));
    let jane = UserInfo::new("jane", Vec::<String>::new());
    assert_eq!(t.as_user(jane, "GET", "/openid/v1/jwks", Value::Null).await.code, 403);
}

#[tokio::test]
async fn pods_get_their_account_and_its_token() {
    let t = start().await;
    t.account("default", "robot").await;
    let made = async |spec: Value| {
        let mut object = pod("x");
        object["metadata"] = json!({"generateName": "x-"});
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        t.post(PODS, object).await
    };
    let spec = made(json!({})).await.ok()["spec"].clone();
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let name = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}])
    );
    assert_eq!(
        spec["volumes"][0]["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]})
    );
    let named = made(json!({"serviceAccountName": "robot"})).await.ok();
    assert_eq!(named["spec"]["serviceAccount"], "robot");
    let without = made(json!({"automountServiceAccountToken": false})).await.ok();
    assert_eq!(without["spec"]["volumes"], Value::Null);
    // The account says no, the pod yes; then the account decides.
    let no = json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "key"}]});
    t.patch(&format!("{ACCOUNTS}/robot"), "merge-patch", no).await.ok();
    let robot = json!({"serviceAccountName": "robot"});
    let without = made(robot.clone()).await.ok();
    assert_eq!(without["spec"]["volumes"], Value::Null);
    assert_eq!(without["spec"]["imagePullSecrets"], json!([{"name": "key"}]));
    let mut asked = robot;
    asked["automountServiceAccountToken"] = true.into();
    assert!(made(asked).await.ok()["spec"]["volumes"][0]["projected"].is_object());
    let answer = made(json!({"serviceAccountName": "none"})).await;
    assert_eq!((answer.code, answer.body["reason"].as_str()), (403, Some("Forbidden")));
    let message = answer.body["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "error looking up service account default/none: serviceaccount \"none\" not found"
        ),
        "{message}"
    );
}

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_a_new_namespace() {
    let t = start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}});
    t.post("/api/v1/namespaces", namespace).await.ok();
    let created = t.post("/api/v1/namespaces/new/pods", pod("web"));
    // The account comes while the pod's request is being answered.
    let (created, ()) = tokio::join!(created, t.account("new", "default"));
    created.ok();
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_its_own_pods_only() {
    let t = start().await;
    let node = || UserInfo::new("system:node:n1", ["system:nodes"]);
    let own = t.bound_pod("own", "n1").await;
    let other = t.bound_pod("other", "n2").await;
    let ask = async |spec: Value| {
        let uri = format!("{ACCOUNTS}/default/token");
        t.as_user(node(), "POST", &uri, json!({"spec": spec})).await
    };
    let bound = |pod: &Value, uid: &Value| {
        let name = &pod["metadata"]["name"];
        json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}})
    };
    ask(bound(&own, &own["metadata"]["uid"])).await.ok();
    let refused = [
        (json!({}), "node requested token not bound to a pod"),
        (bound(&own, &json!("")), "node requested token with a pod binding without a uid"),
        (
            bound(&other, &other["metadata"]["uid"]),
            "node requested token bound to a pod scheduled on a different node",
        ),
    ];
    for (spec, why) in refused {
        let answer = ask(spec).await;
        let message = format!("serviceaccounts \"default\" is forbidden: {why}");
        answer.fails(403, "Forbidden", &message);
    }
    t.account("default", "robot").await;
    let uri = format!("{ACCOUNTS}/robot/token");
    let answer = t.as_user(node(), "POST", &uri, json!({"spec": {}})).await;
    assert_eq!(answer.code, 403, "no pod of the node runs as robot");
}

#[tokio::test]
async fn a_node_writes_its_own_objects_only() {
    let t = start().await;
    let node = || UserInfo::new("system:node:n1", ["system:nodes"]);
    let object = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let nodes = "/api/v1/nodes";
    let answer = t.as_user(node(), "POST", nodes, object("n2", json!({}))).await;
    answer.fails(
        403,
        "Forbidden",
        "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"",
    );
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    let answer = t.as_user(node(), "POST", nodes, object("n1", role)).await;
    answer.fails(
        403,
        "Forbidden",
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
         node-role.kubernetes.io/control-plane",
    );
    let zone = json!({"topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": "n1"});
    t.as_user(node(), "POST", nodes, object("n1", zone)).await.ok();
    t.post(nodes, object("n2", json!({}))).await.ok();
    t.bound_pod("own", "n1").await;
    t.bound_pod("other", "n2").await;

    let patch = async |uri: &str, body: Value| {
        let headers = [("content-type", "application/merge-patch+json")];
        read(t.raw_as(node(), "PATCH", uri, &headers, body.to_string()).await).await.code
    };
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(patch(&format!("{PODS}/own/status"), status.clone()).await, 200);
    assert_eq!(patch(&format!("{PODS}/other/status"), status.clone()).await, 403);
    assert_eq!(patch(&format!("{PODS}/own"), status).await, 403);
    let labels = json!({"metadata": {"labels": {"app": "other"}}});
    assert_eq!(patch(&format!("{PODS}/own/status"), labels).await, 403);
    assert_eq!(patch("/api/v1/nodes/n1/status", json!({"status": {}})).await, 200);
    assert_eq!(patch("/api/v1/nodes/n2/status", json!({"status": {}})).await, 403);
    let taints = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    assert_eq!(patch("/api/v1/nodes/n1", taints).await, 403);
    let delete = async |uri: &str| t.as_user(node(), "DELETE", uri, Value::Null).await.code;
    assert_eq!(delete(&format!("{PODS}/other?gracePeriodSeconds=0")).await, 403);
    assert_eq!(delete(&format!("{PODS}/own?gracePeriodSeconds=0")).await, 200);
    assert_eq!(t.as_user(node(), "POST", PODS, pod("new")).await.code, 403);
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(t.as_user(node(), "POST", leases, lease("n2")).await.code, 403);
    assert_eq!(t.as_user(node(), "POST", leases, lease("n1")).await.code, 201);
    let pods = async |uri: &str| t.as_user(node(), "GET", uri, Value::Null).await.code;
    assert_eq!(pods("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await, 200);
    assert_eq!(pods("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await, 403);
    assert_eq!(pods("/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1").await, 403);
    assert_eq!(pods("/api/v1/pods").await, 403);
}

#[tokio::test]
async fn access_reviews_answer_for_oneself_and_for_others() {
    let t = start().await;
    let list = |resource: &str| json!({"verb": "list", "group": "", "resource": resource, "namespace": "default"});
    let proxy = "system:kube-proxy";
    let about = async |spec: Value| {
        t.post(&format!("{ACCESS}/subjectaccessreviews"), json!({"spec": spec})).await
    };
    let answer = about(json!({"user": proxy, "resourceAttributes": list("services")})).await.ok();
    assert_eq!(answer["kind"], "SubjectAccessReview");
    assert_eq!(
        answer["status"],
        json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \
            \"system:node-proxier\" of ClusterRole \"system:node-proxier\" to User \
            \"system:kube-proxy\""})
    );
    let answer = about(json!({"user": proxy, "resourceAttributes": list("secrets")})).await.ok();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let path = json!({"verb": "get", "path": "/healthz"});
    let nobody = json!({"groups": ["system:unauthenticated"], "nonResourceAttributes": path});
    assert_eq!(about(nobody).await.ok()["status"]["allowed"], true);
    about(json!({"resourceAttributes": list("pods")})).await.fails(
        422,
        "Invalid",
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Required value: at \
         least one of user or group must be specified",
    );
    about(json!({"user": "a"})).await.fails(
        422,
        "Invalid",
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: \
         Required value: exactly one of nonResourceAttributes or resourceAttributes must be \
         specified",
    );
    let local = async |namespace: &str| {
        let uri = format!(
            "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
        );
        let spec = json!({"user": proxy, "resourceAttributes": list("services")});
        t.post(&uri, json!({"spec": spec})).await
    };
    assert_eq!(local("default").await.ok()["status"]["allowed"], true);
    assert_eq!(local("other").await.code, 422);

    let proxy = || UserInfo::new("system:kube-proxy", Vec::<String>::new());
    let own = async |resource: &str, spec: Value| {
        let uri = format!("{ACCESS}/{resource}");
        t.as_user(proxy(), "POST", &uri, json!({"spec": spec})).await
    };
    let review = json!({"resourceAttributes": list("services")});
    let answer = own("selfsubjectaccessreviews", review.clone()).await.ok();
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(own("subjectaccessreviews", review).await.code, 403);
    let answer = own("selfsubjectrulesreviews", json!({"namespace": "default"})).await.ok();
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    let services = json!({"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["endpoints", "services"]});
    assert!(rules.contains(&services), "{rules:?}");
    assert_eq!(answer["status"]["incomplete"], false);
    let paths = answer["status"]["nonResourceRules"].to_string();
    assert!(paths.contains("/healthz") && !paths.contains("\"*\""), "{paths}");
    own("selfsubjectrulesreviews", json!({})).await.fails(
        400,
        "BadRequest",
        "no namespace on request",
    );
}

#[tokio::test]
async fn acting_as_somebody_else_takes_every_part_of_their_identity() {
    let t = start().await;
    let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let whoami = async |headers: &[(&str, &str)]| {
        let all = [&JSON[..], headers].concat();
        t.send("POST", uri, &all, "{}").await
    };
    let answer = whoami(&[
        ("impersonate-user", "jane"),
        ("impersonate-group", "team"),
        ("impersonate-group", "other"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scopes", "view"),
        ("impersonate-extra-acme.com%2fproject", "x"),
    ]);
    assert_eq!(
        answer.await.ok()["status"]["userInfo"],
        json!({
            "username": "jane",
            "uid": "7",
            "groups": ["team", "other", "system:authenticated"],
            "extra": {"scopes": ["view"], "acme.com/project": ["x"]},
        })
    );
    let answer = whoami(&[("impersonate-user", "system:serviceaccount:ns:robot")]).await.ok();
    assert_eq!(
        answer["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"])
    );
    whoami(&[("impersonate-group", "team")]).await.fails(
        400,
        "BadRequest",
        "requested groups without impersonating a user name",
    );
    // Who is acted as may not do more for having been asked by an administrator.
    let answer = t.send("GET", "/api/v1/secrets", &[("impersonate-user", "jane")], "").await;
    assert_eq!(answer.code, 403);
    let jane = UserInfo::new("jane", Vec::<String>::new());
    for header in
        ["impersonate-user", "impersonate-uid", "impersonate-extra-a", "impersonate-group"]
    {
        let headers = [("impersonate-user", "jane"), (header, "x")];
        let answer = read(t.raw_as(jane.clone(), "GET", "/api", &headers, "").await).await;
        assert_eq!(answer.code, 403, "{header}");
    }
}

#[tokio::test]
async fn who_may_only_change_does_not_create_by_it() {
    let t = start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{
        "apiGroups": [""],
        "resources": ["configmaps", "endpoints"],
        "verbs": ["get", "update", "patch"],
    }]);
    t.post(&format!("{roles}/roles"), json!({"metadata": {"name": "editor"}, "rules": rules}))
        .await
        .ok();
    let binding = json!({
        "metadata": {"name": "editor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "editor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    t.post(&format!("{roles}/rolebindings"), binding).await.ok();
    let jane = UserInfo::new("jane", Vec::<String>::new());
    let core = "/api/v1/namespaces/default";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "m"}});
    let writes = [
        ("PATCH", "configmaps", "application/apply-patch+yaml", "?fieldManager=jane", map),
        ("PUT", "endpoints", "application/json", "", endpoints),
    ];
    for (method, resource, form, query, object) in writes {
        let write = async || {
            let uri = format!("{core}/{resource}/m{query}");
            let (headers, body) = ([("content-type", form)], object.to_string());
            read(t.raw_as(jane.clone(), method, &uri, &headers, body).await).await
        };
        let refused = write().await;
        assert_eq!(refused.code, 403, "{}", refused.body);
        let text = refused.body["message"].as_str().unwrap();
        assert!(text.contains(&format!("cannot create resource \"{resource}\"")), "{text}");
        t.post(&format!("{core}/{resource}"), object.clone()).await.ok();
        assert_eq!(write().await.code, 200, "{method}");
    }
}

#[tokio::test]
async fn a_certificate_wins_over_a_token() {
    let t = start().await;
    let server = listen(&t).await;
    let pair = t.pki.issue("jane", None, &[], Usage::Client).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let stream = connector(&t.pki, Some(&pair), &[]).connect(server_name(), stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/api/v1/pods")
        .header("host", "kubernetes")
        .header("authorization", format!("Bearer {}", t.token("default").await))
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 403);
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    assert!(status["message"].as_str().unwrap().contains("User \"jane\""), "{status}");
}
