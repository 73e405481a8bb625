//! `fieldValidation` on every way of writing: unknown and duplicate fields are refused, warned of, or dropped.

use serde_json::{Value, json};

use crate::support::*;

const WEB: &str = "/api/v1/namespaces/default/services/web";

async fn with_service() -> Fixture {
    let t = start().await;
    t.post(SERVICES, service("web", json!({"ports": [{"port": 80}]}))).await.ok();
    t
}

/// Method, path, content type and body of a write that has `spec.foo`, which nobody knows, and says `spec.type` twice;
/// and what is found, in order.
fn writes() -> Vec<(&'static str, &'static str, &'static str, String, [&'static str; 2])> {
    let found = ["unknown field \"spec.foo\"", "duplicate field \"spec.type\""];
    // A patch's own duplicates are found before the object is made.
    let found_in_patch = [found[1], found[0]];
    let spec = r#""spec":{"type":"ClusterIP","foo":1,"type":"ClusterIP","ports":[{"port":80}]}"#;
    let object = |name: &str| {
        format!(r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"{name}"}},{spec}}}"#)
    };
    let patch = format!("{{{spec}}}");
    vec![
        ("POST", SERVICES, "application/json", object("new"), found),
        ("PUT", WEB, "application/json", object("web"), found),
        ("PATCH", WEB, "application/merge-patch+json", patch.clone(), found_in_patch),
        ("PATCH", WEB, "application/strategic-merge-patch+json", patch, found_in_patch),
        (
            "PATCH",
            WEB,
            "application/json-patch+json",
            r#"[{"op":"add","path":"/spec/foo","value":1,"value":1}]"#.to_owned(),
            ["json patch duplicate field \"[0].value\"", "unknown field \"spec.foo\""],
        ),
    ]
}

#[tokio::test]
async fn strict_refuses_what_is_unknown_or_there_twice() {
    let t = with_service().await;
    let before = t.get(WEB).await.ok();
    for (method, path, content_type, body, found) in writes() {
        let headers = [("content-type", content_type)];
        let uri = format!("{path}?fieldValidation=Strict");
        let answer = t.send(method, &uri, &headers, body).await;
        let why = format!("strict decoding error: {}", found.join(", "));
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.ends_with(&why), "{content_type}: {message}");
        let expected = if method == "PATCH" { (422, "Invalid") } else { (400, "BadRequest") };
        assert_eq!((answer.code, answer.body["reason"].as_str().unwrap()), expected);
        assert!(answer.warnings().is_empty());
    }
    assert_eq!(t.get(WEB).await.ok(), before, "nothing was written");
}

#[tokio::test]
async fn warn_is_the_default_and_tells_each_finding_once() {
    let t = with_service().await;
    for (method, path, content_type, body, found) in writes() {
        for parameter in ["", "?fieldValidation=Warn"] {
            let headers = [("content-type", content_type)];
            let dry = if parameter.is_empty() { "?dryRun=All" } else { "&dryRun=All" };
            let answer =
                t.send(method, &format!("{path}{parameter}{dry}"), &headers, body.clone()).await;
            let warnings = answer.warnings();
            let expected = found.map(|f| format!("299 - \"{}\"", f.replace('"', "\\\"")));
            assert_eq!(warnings, expected, "{content_type}");
            assert_eq!(answer.ok()["spec"]["foo"], Value::Null);
        }
    }
}

#[tokio::test]
async fn ignore_says_nothing() {
    let t = with_service().await;
    for (method, path, content_type, body, _) in writes() {
        let headers = [("content-type", content_type)];
        let uri = format!("{path}?fieldValidation=Ignore&dryRun=All");
        let answer = t.send(method, &uri, &headers, body).await;
        assert!(answer.warnings().is_empty());
        assert_eq!(answer.ok()["spec"]["foo"], Value::Null);
    }
}

#[tokio::test]
async fn unknown_fields_of_a_json_patch_operation_are_found() {
    let t = with_service().await;
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}, "vaule": 1}]);
    let answer =
        t.patch(&format!("{WEB}?fieldValidation=Strict"), "json-patch", patch.clone()).await;
    let message = answer.body["message"].as_str().unwrap();
    let why = "strict decoding error: json patch unknown field \"[0].vaule\"";
    assert!(message.ends_with(why), "{message}");
    let answer = t.patch(WEB, "json-patch", patch).await;
    assert_eq!(answer.warnings(), ["299 - \"json patch unknown field \\\"[0].vaule\\\"\""]);
    assert_eq!(answer.ok()["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn a_patch_to_something_else_than_the_kind_is_invalid() {
    let t = with_service().await;
    let strict = format!("{WEB}?fieldValidation=Strict");
    let answer =
        t.patch(&strict, "strategic-merge-patch", json!({"spec": {"foo": [1, "a"]}})).await;
    answer.fails(
        422,
        "Invalid",
        " \"\" is invalid: patch: Invalid value: \"map[spec:map[foo:[1 a]]]\": strict decoding \
         error: unknown field \"spec.foo\"",
    );
    // A merge patch is shown as what it makes of the object.
    let answer = t.patch(&strict, "merge-patch", json!({"spec": {"foo": 1}})).await;
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{message}");
    assert!(message.contains("\\\"clusterIP\\\":"), "{message}");
    let answer = t.patch(WEB, "merge-patch", json!({"spec": {"ports": 7}})).await;
    assert_eq!(
        (answer.code, &answer.body["details"]["causes"][0]["field"]),
        (422, &json!("patch"))
    );
    assert_eq!(t.get(WEB).await.ok()["spec"]["ports"][0]["port"], 80);
}

#[tokio::test]
async fn a_body_full_of_unknown_fields_gets_a_bounded_answer() {
    let t = with_service().await;
    let mut object = service("many", json!({"ports": [{"port": 80}]}));
    for i in 0..20_000 {
        object["spec"][format!("unknown-{i}")] = json!(1);
    }
    let strict = t.post(&format!("{SERVICES}?fieldValidation=Strict"), object.clone()).await;
    let message = strict.body["message"].as_str().unwrap();
    assert_eq!(message.matches("unknown field").count(), 100);
    let answer = t.post(SERVICES, object).await;
    let warnings = answer.warnings();
    assert_eq!(warnings.len(), 100);
    assert!(warnings.iter().map(String::len).sum::<usize>() < 8192);
    answer.ok();
}
