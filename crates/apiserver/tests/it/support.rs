//! A server on a temporary store, and requests on it without a network.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use portolan_apiserver::pki::Pki;
use portolan_apiserver::{Body, Config, Server, UserInfo};
use portolan_store::{Options, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) pki: Arc<Pki>,
    pub(crate) dir: TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

pub(crate) async fn start() -> Fixture {
    start_in(tempfile::tempdir().unwrap()).await
}

pub(crate) async fn start_in(dir: TempDir) -> Fixture {
    start_with(dir, Options::default()).await
}

/// A server whose store forgets soon.
pub(crate) async fn start_forgetful() -> Fixture {
    start_with(
        tempfile::tempdir().unwrap(),
        Options { history: 20, watch_queue: 10, ..Options::default() },
    )
    .await
}

/// A server with these service CIDRs, the primary one first.
pub(crate) async fn start_on(dir: TempDir, cidrs: &[&str]) -> Fixture {
    start_with_cidrs(dir, Options::default(), cidrs).await
}

async fn start_with(dir: TempDir, options: Options) -> Fixture {
    start_with_cidrs(dir, options, &["10.96.0.0/24"]).await
}

/// A server on the state of one that was dropped.
pub(crate) async fn start_again(dir: TempDir) -> Fixture {
    drop(open(&dir).await);
    start_in(dir).await
}

/// The store of a server that was dropped; its last tasks may hold the file for a moment.
pub(crate) async fn open(dir: &TempDir) -> Store {
    let start = std::time::Instant::now();
    loop {
        match Store::open(&dir.path().join("state"), Options::default()) {
            Ok(store) => return store,
            Err(error) => assert!(start.elapsed() < PATIENCE, "the file stays open: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Why a server with these service CIDRs does not start.
pub(crate) async fn refused(cidrs: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::ephemeral().unwrap());
    let outcome = Server::new(config(&dir, &pki, Options::default(), cidrs)).await;
    outcome.err().expect("the server starts").to_string()
}

async fn start_with_cidrs(dir: TempDir, options: Options, cidrs: &[&str]) -> Fixture {
    let pki = Arc::new(Pki::ephemeral().unwrap());
    let server = Server::new(config(&dir, &pki, options, cidrs)).await.unwrap();
    let fixture = Fixture { server, pki, dir };
    fixture.account("default", "default").await;
    fixture
}

fn config(dir: &TempDir, pki: &Arc<Pki>, options: Options, cidrs: &[&str]) -> Config {
    Config {
        store: Store::open(&dir.path().join("state"), options).unwrap(),
        pki: pki.clone(),
        service_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        node_port_range: 30000..=30100,
        advertise: "172.30.0.1:6443".parse().unwrap(),
    }
}

impl Fixture {
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.server.service(UserInfo::admin()), "default")
    }

    /// Makes a ServiceAccount, as a controller does for `default`; or leaves the one from an earlier run.
    pub(crate) async fn account(&self, namespace: &str, name: &str) {
        let uri = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name},
        });
        let answer = self.post(&uri, account).await;
        assert!(matches!(answer.code, 201 | 409), "{}", answer.body);
    }

    /// Sends a request as the administrator.
    pub(crate) async fn raw(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Response<Body> {
        self.raw_as(UserInfo::admin(), method, uri, headers, body).await
    }

    pub(crate) async fn raw_as(
        &self,
        user: UserInfo,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Response<Body> {
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.into())).unwrap();
        self.server.service(user).oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        read(self.raw(method, uri, headers, body).await).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, &[], "").await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Answer {
        self.send("DELETE", uri, &[], "").await
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) -> Answer {
        self.send("POST", uri, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn put(&self, uri: &str, body: Value) -> Answer {
        self.send("PUT", uri, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn patch(&self, uri: &str, kind: &str, body: Value) -> Answer {
        let content_type = format!("application/{kind}+json");
        self.send("PATCH", uri, &[("content-type", &content_type)], body.to_string()).await
    }
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: head.status.as_u16(), headers: head.headers, body }
}

impl Answer {
    /// The object, when the request succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, self.body);
        self.body
    }

    /// Asserts that this is the given Status.
    #[track_caller]
    pub(crate) fn fails(&self, code: u16, reason: &str, message: &str) {
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["message"], message);
        assert_eq!((self.code, self.body["reason"].as_str().unwrap()), (code, reason));
        assert_eq!(self.body["code"], code);
        assert_eq!(self.body["status"], "Failure");
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        values.map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "nginx"}]},
    })
}

pub(crate) fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "nginx"}]},
            },
        },
    })
}
