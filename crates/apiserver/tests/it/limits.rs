//! What clients may ask of the server at a time, and how it refuses more.

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use portolan_apiserver::UserInfo;
use portolan_apiserver::pki::Usage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use crate::support::*;
use crate::tls::{connect, connector, listen};

const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

#[tokio::test]
async fn a_crowd_waits_in_line_and_who_finds_it_full_comes_again_later() {
    let t = start().await;
    let jane = || UserInfo::new("jane", Vec::<String>::new());
    // Requests whose bodies never end hold their turns.
    let endless = || {
        let body =
            StreamBody::new(stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>());
        let request =
            Request::post(REVIEW).header("content-type", "application/json").body(body).unwrap();
        t.server.service(jane()).oneshot(request)
    };
    let mut held: FuturesUnordered<_> = (0..400).map(|_| endless()).collect();
    assert!(held.next().now_or_never().is_none(), "200 are answered and 200 wait");
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let json = [("content-type", "application/json")];
    let refused = read(t.raw_as(jane(), "POST", REVIEW, &json, review.to_string()).await).await;
    refused.fails(429, "TooManyRequests", "Too many requests, please try again later.");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 1);
    // Reads have their own limit; administrators and probes have none.
    let read_as_jane = async |uri: &str| read(t.raw_as(jane(), "GET", uri, &[], "").await).await;
    read_as_jane("/apis").await.ok();
    read_as_jane("/readyz").await.ok();
    t.post(REVIEW, review.clone()).await.ok();
    let metrics = t.get("/metrics").await.ok();
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 200\n")
    );
    let ended = metrics.lines().find(|l| l.starts_with("apiserver_request_terminations_total{"));
    assert!(ended.unwrap().contains("code=\"429\""), "{ended:?}");
    drop(held);
    read(t.raw_as(jane(), "POST", REVIEW, &json, review.to_string()).await).await.ok();
}

#[tokio::test]
async fn a_request_may_set_itself_a_shorter_time() {
    let t = start().await;
    let body =
        StreamBody::new(stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>());
    let request = Request::post(format!("{CONFIG_MAPS}?timeout=20ms"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let response = t.server.service(UserInfo::admin()).oneshot(request).await.unwrap();
    read(response).await.fails(
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
    );
}

#[tokio::test]
async fn a_patch_of_too_many_operations_is_too_large() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let one = json!({"op": "test", "path": "/data/a", "value": "b"});
    let patch = Value::Array(vec![one; 10_001]);
    t.patch(&format!("{CONFIG_MAPS}/m"), "json-patch", patch).await.fails(
        413,
        "RequestEntityTooLarge",
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got \
         10001",
    );
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_on_every_way_of_writing() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    for (method, path, content_type) in [
        ("POST", CONFIG_MAPS.to_owned(), "application/json"),
        ("PUT", format!("{CONFIG_MAPS}/m"), "application/json"),
        ("PATCH", format!("{CONFIG_MAPS}/m"), "application/merge-patch+json"),
        ("DELETE", format!("{CONFIG_MAPS}/m"), "application/json"),
        ("POST", REVIEW.to_owned(), "application/json"),
    ] {
        let headers = [("content-type", content_type)];
        let answer = t.send(method, &path, &headers, vec![b' '; 3 * 1024 * 1024 + 1]).await;
        answer.fails(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    }
}

/// What the server says to a request that is written by hand.
async fn spoken(t: &Fixture, request: &str) -> String {
    let server = listen(t).await;
    let admin = t.pki.issue("root", Some("system:masters"), &[], Usage::Client).unwrap();
    let mut stream = connect(&server, &connector(&t.pki, Some(&admin), &[b"http/1.1"])).await;
    // It may refuse before all is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn heads_that_are_too_long_are_refused_and_the_server_goes_on() {
    let t = start().await;
    let long = "x".repeat(100_000);
    for (request, code) in [
        (format!("GET /api/v1/pods?labelSelector={long} HTTP/1.1\r\nHost: k\r\n\r\n"), "431"),
        (format!("GET /version HTTP/1.1\r\nHost: k\r\nX-Long: {long}\r\n\r\n"), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = spoken(&t, &request).await;
        let head = answer.lines().next().unwrap_or("nothing");
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{head}");
    }
    let fine = "GET /livez HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n";
    assert!(spoken(&t, fine).await.starts_with("HTTP/1.1 200"));
    // Selectors of a few thousand characters are nothing out of the way.
    let selector = "a,".repeat(10_000);
    let selector = selector.trim_end_matches(',');
    let request = format!(
        "GET /api/v1/pods?labelSelector={selector} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n"
    );
    assert!(spoken(&t, &request).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_list_in_pieces_keeps_its_turn_until_it_is_read() {
    let t = start().await;
    for i in 0..20 {
        let mut map = config_map(&format!("m-{i:02}"));
        map["data"]["text"] = json!("x".repeat(40_000));
        t.post(CONFIG_MAPS, map).await.ok();
    }
    // The request for the metrics itself is one of them.
    let settles = async |expected: u32| {
        let line = format!(
            "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {expected}\n"
        );
        tokio::time::timeout(PATIENCE, async {
            while !t.get("/metrics").await.ok().as_str().unwrap().contains(&line) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("never {line}"));
    };
    let mut lists = Vec::new();
    for _ in 0..3 {
        lists.push(t.raw("GET", CONFIG_MAPS, &[], "").await);
    }
    settles(4).await;
    lists.pop();
    settles(3).await;
    for list in lists {
        list.into_body().collect().await.unwrap();
    }
    settles(1).await;
}
