//! What is wrong is refused with upstream's Status and changes nothing.

use portolan_apiserver::UserInfo;
use serde_json::json;

use crate::support::*;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test]
async fn malformed_bodies_are_bad_requests() {
    let t = start().await;
    let yaml = [("content-type", "application/yaml")];
    for (headers, body) in [
        (&JSON, "{\"kind\": "),
        (&JSON, "[]"),
        (&JSON, "not json"),
        (&yaml, "a: [b"),
        (&yaml, "\t- x"),
    ] {
        let answer = t.send("POST", CONFIG_MAPS, headers, body).await;
        assert_eq!((answer.code, &answer.body["reason"]), (400, &json!("BadRequest")), "{body}");
        assert_eq!(answer.body["kind"], "Status");
    }
    assert_eq!(t.get(CONFIG_MAPS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn unknown_fields_are_refused_or_warned_of_as_asked() {
    let t = start().await;
    let body = || {
        let mut service = service("web", json!({"ports": [{"port": 80, "prot": 1}]}));
        service["spec"]["foo"] = json!(1);
        service
    };
    let answer = t.post(&format!("{SERVICES}?fieldValidation=Strict"), body()).await;
    answer.fails(
        400,
        "BadRequest",
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown \
         field \"spec.foo\", unknown field \"spec.ports[0].prot\"",
    );
    let answer = t.post(&format!("{SERVICES}?dryRun=All"), body()).await;
    assert_eq!(
        answer.warnings(),
        [
            "299 - \"unknown field \\\"spec.foo\\\"\"",
            "299 - \"unknown field \\\"spec.ports[0].prot\\\"\""
        ]
    );
    assert!(answer.ok()["spec"]["foo"].is_null());
    let ignored = t.post(&format!("{SERVICES}?fieldValidation=Ignore"), body()).await;
    assert_eq!((ignored.code, ignored.warnings().len()), (201, 0));
    let bad = t.post(&format!("{SERVICES}?fieldValidation=Maybe"), body()).await;
    bad.fails(
        422,
        "Invalid",
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": \
         supported values: \"Ignore\", \"Strict\", \"Warn\"",
    );
}

#[tokio::test]
async fn wrong_types_are_bad_requests() {
    let t = start().await;
    let answer = t.post(SERVICES, service("web", json!({"ports": [{"port": "x"}]}))).await;
    assert_eq!((answer.code, &answer.body["reason"]), (400, &json!("BadRequest")));
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.starts_with("Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal string"), "{message}");
    assert_eq!(t.get(&format!("{SERVICES}/web")).await.code, 404);
}

#[tokio::test]
async fn invalid_objects_name_every_field() {
    let t = start().await;
    let answer = t.post(SERVICES, service("web", json!({"ports": [{"port": 70000}]}))).await;
    assert_eq!((answer.code, &answer.body["reason"]), (422, &json!("Invalid")));
    let details = &answer.body["details"];
    assert_eq!((&details["name"], &details["kind"]), (&json!("web"), &json!("Service")));
    assert!(
        details["causes"].as_array().unwrap().iter().any(|c| c
            == &json!({
                "reason": "FieldValueInvalid",
                "message": "Invalid value: 70000: must be between 1 and 65535, inclusive",
                "field": "spec.ports[0].port",
            })),
        "{details}"
    );
}

#[tokio::test]
async fn bodies_of_another_kind_version_name_or_namespace_are_refused() {
    let t = start().await;
    let mut other = config_map("m");
    other["apiVersion"] = json!("v2");
    t.post(CONFIG_MAPS, other).await.fails(
        400,
        "BadRequest",
        "the API version in the data (v2) does not match the expected API version (v1)",
    );
    assert_eq!(t.post(CONFIG_MAPS, pod("p")).await.code, 400);
    let mut elsewhere = config_map("m");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    t.post(CONFIG_MAPS, elsewhere).await.fails(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    t.put(&format!("{CONFIG_MAPS}/m"), config_map("n")).await.fails(
        400,
        "BadRequest",
        "the name of the object (n) does not match the name on the URL (m)",
    );
}

#[tokio::test]
async fn missing_and_taken_names_are_told_apart() {
    let t = start().await;
    t.post(CONFIG_MAPS, json!({})).await.fails(
        422,
        "Invalid",
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    );
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let taken = t.post(CONFIG_MAPS, config_map("m")).await;
    taken.fails(409, "AlreadyExists", "configmaps \"m\" already exists");
    assert_eq!(taken.body["details"], json!({"name": "m", "kind": "configmaps"}));
    let missing = t.get("/apis/apps/v1/namespaces/default/deployments/x").await;
    missing.fails(404, "NotFound", "deployments.apps \"x\" not found");
    let details = json!({"name": "x", "group": "apps", "kind": "deployments"});
    assert_eq!(missing.body["details"], details);
}

#[tokio::test]
async fn oversized_bodies_are_cut_off() {
    let t = start().await;
    let answer = t.send("POST", CONFIG_MAPS, &JSON, vec![b' '; 3 * 1024 * 1024 + 1]).await;
    answer.fails(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let t = start().await;
    let answer = t.send("POST", CONFIG_MAPS, &[("content-type", "text/html")], "x").await;
    answer.fails(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(t.send("GET", CONFIG_MAPS, &protobuf, "").await.code, 406);
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let other = [("content-type", "application/apply-patch+cbor")];
    let answer = t.send("PATCH", &format!("{CONFIG_MAPS}/m"), &other, "{}").await;
    answer.fails(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, \
         application/strategic-merge-patch+json, application/apply-patch+yaml",
    );
}

#[tokio::test]
async fn bad_selectors_and_versions_say_what_is_wrong() {
    let t = start().await;
    for (query, message) in [
        ("labelSelector=a+in", "unable to parse requirement: found '' expected: '('"),
        ("fieldSelector=spec.foo=1", "field label not supported: spec.foo"),
        ("fieldSelector=x", "invalid selector: 'x'; can't understand 'x'"),
        (
            "resourceVersion=abc",
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: \
             parsing \"abc\": invalid syntax",
        ),
        (
            "watch=1&resourceVersion=abc",
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: \
             parsing \"abc\": invalid syntax",
        ),
        ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "continue=e30",
            "invalid continue token: continue key is not valid: missing field `v` at line 1 column 2",
        ),
        (
            "timeout=soon",
            "invalid timeout specified in the request URL - time: invalid duration \"soon\"",
        ),
    ] {
        t.get(&format!("{PODS}?{query}")).await.fails(400, "BadRequest", message);
    }
    assert_eq!(t.get(&format!("{PODS}?continue=%25%25")).await.code, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let t = start().await;
    for path in ["/nope", "/api/v1/nope", "/apis/nope/v1", "/apis/apps/v2", "/api/v1/pods/a/b/c"] {
        t.get(path).await.fails(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
    }
    for (method, path) in [("POST", "/api/v1/pods"), ("PUT", "/api/v1"), ("OPTIONS", PODS)] {
        let answer = t.send(method, path, &JSON, "{}").await;
        answer.fails(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
    }
}

#[tokio::test]
async fn users_may_do_what_their_group_may() {
    let t = start().await;
    let proxy = || UserInfo::new("system:kube-proxy", ["system:node-proxier"]);
    let get =
        async |user: UserInfo, uri: &str| read(t.raw_as(user, "GET", uri, &[], "").await).await;
    get(proxy(), "/api/v1/services").await.ok();
    get(proxy(), "/api/v1/namespaces/kube-system/secrets").await.fails(
        403,
        "Forbidden",
        "secrets is forbidden: User \"system:kube-proxy\" cannot list resource \"secrets\" in API \
         group \"\" in the namespace \"kube-system\"",
    );
    let nobody = UserInfo::new("jane", Vec::<String>::new());
    get(nobody.clone(), "/api").await.ok();
    get(nobody.clone(), "/metrics").await.fails(
        403,
        "Forbidden",
        "forbidden: User \"jane\" cannot get path \"/metrics\"",
    );
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = t.raw_as(nobody.clone(), "POST", uri, &JSON, review.to_string()).await;
    assert_eq!(read(answer).await.ok()["status"]["allowed"], false);
    let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = read(t.raw_as(nobody, "POST", uri, &JSON, "{}").await).await.ok();
    assert_eq!(answer["status"]["userInfo"]["username"], "jane");
}

#[tokio::test]
async fn only_administrators_may_act_as_others() {
    let t = start().await;
    let headers =
        [("impersonate-user", "system:kube-proxy"), ("impersonate-group", "system:node-proxier")];
    t.send("GET", "/api/v1/services", &headers, "").await.ok();
    assert_eq!(t.send("GET", "/api/v1/secrets", &headers, "").await.code, 403);
    let jane = UserInfo::new("jane", Vec::<String>::new());
    let answer = read(t.raw_as(jane, "GET", "/api", &headers, "").await).await;
    answer.fails(
        403,
        "Forbidden",
        "users \"system:kube-proxy\" is forbidden: User \"jane\" cannot impersonate resource \
         \"users\" in API group \"\" at the cluster scope",
    );
}
