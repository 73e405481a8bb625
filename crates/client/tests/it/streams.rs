//! Scripted answers of an API server: whatever it says, the informer ends up with what was last
//! listed and watched.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Ready, ready};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use kube::{Api, Client};
use portolan_client::informer::{Backoff, Change, Config, Informer};
use serde_json::{Value, json};

/// What the server answers to the next list or watch.
#[derive(Clone)]
enum Answer {
    /// A status and a body.
    Body(u16, Value),
    /// Lines of a watch, which then stays open or ends.
    Watch(Vec<String>, After),
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    StaysOpen,
    Ends,
}

/// Answers by script, then for ever as the last one said; notes what was asked.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl tower::Service<Request<Body>> for Script {
    type Response = Response<UnsyncBoxBody<bytes::Bytes, Infallible>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.asked.lock().unwrap().push(request.uri().to_string());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        ready(Ok(match answer.expect("a script has an answer") {
            Answer::Body(code, body) => {
                let body = Full::from(body.to_string()).boxed_unsync();
                Response::builder().status(code).body(body).unwrap()
            }
            Answer::Watch(lines, after) => {
                let frames = lines.into_iter().map(|line| Ok(Frame::data((line + "\n").into())));
                let frames = futures::stream::iter(frames);
                let body = match after {
                    After::Ends => StreamBody::new(frames).boxed_unsync(),
                    After::StaysOpen => {
                        use futures::StreamExt as _;
                        StreamBody::new(frames.chain(futures::stream::pending())).boxed_unsync()
                    }
                };
                Response::new(body)
            }
        }))
    }
}

fn object(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": name, "resourceVersion": version.to_string()},
    })
}

fn list(version: u64, objects: &[Value]) -> Answer {
    Answer::Body(
        200,
        json!({
            "apiVersion": "v1", "kind": "ConfigMapList",
            "metadata": {"resourceVersion": version.to_string()}, "items": objects,
        }),
    )
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "message": reason, "reason": reason, "code": code,
    })
}

/// Runs an informer on a script until its objects are those wanted; what was asked.
async fn until(answers: Vec<Answer>, wanted: &[(&str, u64)]) -> Vec<String> {
    let script = Script { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() };
    let asked = Arc::clone(&script.asked);
    let api: Api<ConfigMap> = Api::all(Client::new(script, "default"));
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
    let informer = Informer::start(api, Config { backoff, ..Config::default() });
    let wanted: BTreeMap<String, u64> =
        wanted.iter().map(|(name, version)| (format!("default/{name}"), *version)).collect();
    let mut objects = BTreeMap::new();
    let followed = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let changes = informer.changes().await;
            for (key, change) in changes.objects {
                match change {
                    Change::Put(object) => {
                        let version = object.metadata.resource_version.unwrap_or_default();
                        objects.insert(key.to_string(), version.parse().unwrap_or(0));
                    }
                    Change::Delete => {
                        objects.remove(&key.to_string());
                    }
                }
            }
            if changes.is_listed && objects == wanted {
                break;
            }
        }
    });
    assert!(followed.await.is_ok(), "ended up with {objects:?}, not {wanted:?}");
    asked.lock().unwrap().clone()
}

#[tokio::test]
async fn added_changed_and_deleted_objects_are_followed() {
    let lines = vec![
        event("ADDED", &object("b", 2)),
        event("MODIFIED", &object("a", 3)),
        event("DELETED", &object("b", 4)),
        event("ADDED", &object("c", 5)),
    ];
    let answers = vec![list(1, &[object("a", 1)]), Answer::Watch(lines, After::StaysOpen)];
    until(answers, &[("a", 3), ("c", 5)]).await;
}

#[tokio::test]
async fn a_broken_watch_goes_on_from_the_last_version_seen() {
    let answers = vec![
        list(1, &[]),
        Answer::Watch(vec![event("ADDED", &object("a", 7))], After::Ends),
        Answer::Watch(vec![event("ADDED", &object("b", 8))], After::StaysOpen),
    ];
    let asked = until(answers, &[("a", 7), ("b", 8)]).await;
    assert!(asked[1].contains("resourceVersion=1&") || asked[1].ends_with("resourceVersion=1"));
    assert!(asked[2].contains("resourceVersion=7"), "{asked:?}");
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[tokio::test]
async fn a_bookmark_moves_the_version_from_which_a_watch_goes_on() {
    let bookmark = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": "50"},
    });
    let answers = vec![
        list(1, &[]),
        Answer::Watch(vec![event("BOOKMARK", &bookmark)], After::Ends),
        Answer::Watch(vec![event("ADDED", &object("b", 51))], After::StaysOpen),
    ];
    let asked = until(answers, &[("b", 51)]).await;
    assert!(asked[2].contains("resourceVersion=50"), "{asked:?}");
}

#[tokio::test]
async fn a_version_that_is_gone_means_a_new_list_and_what_it_lacks_is_deleted() {
    let gone_in_stream = Answer::Watch(vec![event("ERROR", &failure(410, "Expired"))], After::Ends);
    let gone_at_once = Answer::Body(410, failure(410, "Expired"));
    for gone in [gone_in_stream, gone_at_once] {
        let answers = vec![
            list(1, &[object("a", 1), object("b", 1)]),
            gone,
            list(9, &[object("b", 8)]),
            Answer::Watch(vec![], After::StaysOpen),
        ];
        until(answers, &[("b", 8)]).await;
    }
}

#[tokio::test]
async fn refusals_and_nonsense_are_tried_again() {
    let answers = vec![
        Answer::Body(503, failure(500, "ServiceUnavailable")),
        Answer::Body(403, failure(403, "Forbidden")),
        Answer::Body(200, json!({"kind": "Nonsense"})),
        list(1, &[object("a", 1)]),
        Answer::Watch(vec!["{not json".into()], After::Ends),
        Answer::Watch(vec![event("WEATHER", &object("x", 2))], After::Ends),
        list(3, &[object("a", 1)]),
        Answer::Watch(vec![event("ADDED", &object("b", 4))], After::StaysOpen),
    ];
    until(answers, &[("a", 1), ("b", 4)]).await;
}

#[tokio::test]
async fn a_list_of_several_pages_is_one_list() {
    let page = |token: &str, name: &str| {
        Answer::Body(
            200,
            json!({
                "apiVersion": "v1", "kind": "ConfigMapList",
                "metadata": {"resourceVersion": "5", "continue": token},
                "items": [object(name, 1)],
            }),
        )
    };
    let answers = vec![page("more", "a"), page("", "b"), Answer::Watch(vec![], After::StaysOpen)];
    let asked = until(answers, &[("a", 1), ("b", 1)]).await;
    assert!(asked[1].contains("continue=more"), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_forgets_versions_is_still_followed() {
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": "a"}});
    let answers = vec![
        list(1, std::slice::from_ref(&nameless)),
        Answer::Watch(vec![event("MODIFIED", &nameless)], After::StaysOpen),
    ];
    until(answers, &[("a", 0)]).await;
}
