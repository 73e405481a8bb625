//! The way to a node agent: logs streamed, upgrades passed byte for byte, refusals kept.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_apiserver::pki::{San, Usage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::*;
use crate::tls::{connect, connector, listen};

/// A node agent that answers with what it was asked, and echoes after an upgrade.
async fn agent(t: &Fixture) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pair = t.pki.issue("node", None, &[San::Ip(address.ip())], Usage::Server).unwrap();
    let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(t.pki.certificate_pem().as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let asked = request.uri().to_string();
    if asked.contains("/gone") {
        let mut response = Response::new(Full::from("container \"gone\" is not there"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if !request.headers().contains_key("upgrade") {
        return Ok(Response::new(Full::from(asked)));
    }
    // Answered in the protocol that was asked for, be it SPDY or WebSocket.
    let header = match request.headers()["upgrade"].as_bytes() {
        b"SPDY/3.1" => "x-stream-protocol-version",
        _ => "sec-websocket-protocol",
    };
    let upgrade = request.headers()["upgrade"].clone();
    let protocol = request.headers()[header].clone();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        stream.write_all(asked.as_bytes()).await.unwrap();
        stream.write_all(b"\n").await.unwrap();
        // Echo to the end of the client's half, then say goodbye: half close must pass.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    Ok(Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", upgrade)
        .header(header, protocol)
        .body(Full::default())
        .unwrap())
}

/// A pod `p` bound to a node whose agent listens.
async fn pod_on_agent(t: &Fixture) {
    let agent = agent(t).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    t.post("/api/v1/nodes", node).await.ok();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": agent.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent.port()}},
    }});
    t.patch("/api/v1/nodes/n1/status", "merge-patch", status).await.ok();
    t.post(PODS, pod("p")).await.ok();
    t.post(&format!("{PODS}/p/binding"), json!({"target": {"name": "n1"}})).await.ok();
}

#[tokio::test]
async fn logs_come_from_the_node_of_the_pod() {
    let t = start().await;
    pod_on_agent(&t).await;
    let log = t.get(&format!("{PODS}/p/log?follow=true&tailLines=3")).await;
    assert_eq!(log.headers["content-type"], "text/plain");
    assert_eq!(log.ok(), "/containerLogs/default/p/main?follow=true&tailLines=3");
    t.get(&format!("{PODS}/p/log?container=x")).await.fails(
        400,
        "BadRequest",
        "container x is not valid for pod p",
    );
    t.post(PODS, pod("homeless")).await.ok();
    t.get(&format!("{PODS}/homeless/log")).await.fails(
        400,
        "BadRequest",
        "pod homeless does not have a host assigned",
    );
}

#[tokio::test]
async fn a_refusal_of_the_node_agent_reaches_the_client() {
    let t = start().await;
    pod_on_agent(&t).await;
    let mut gone = pod("q");
    gone["spec"]["containers"][0]["name"] = json!("gone");
    t.post(PODS, gone).await.ok();
    t.post(&format!("{PODS}/q/binding"), json!({"target": {"name": "n1"}})).await.ok();
    let answer = t.get(&format!("{PODS}/q/log")).await;
    answer.fails(404, "NotFound", "container \"gone\" is not there");
}

#[tokio::test]
async fn several_containers_must_be_chosen_from() {
    let t = start().await;
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]);
    t.post(PODS, two).await.ok();
    t.get(&format!("{PODS}/two/log")).await.fails(
        400,
        "BadRequest",
        "a container name must be specified for pod two, choose one of: [a b]",
    );
}

/// Sends an upgrade over TLS; answers the response's headers, and what comes back when `payload` is sent and this half
/// closed.
async fn upgraded(
    t: &Fixture,
    request: http::request::Builder,
    payload: &[u8],
) -> (http::HeaderMap, Vec<u8>) {
    let server = listen(t).await;
    let admin = t.pki.issue("root", Some("system:masters"), &[], Usage::Client).unwrap();
    let stream = connect(&server, &connector(&t.pki, Some(&admin), &[])).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = request
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let headers = response.headers().clone();
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(payload).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut back)).await.unwrap().unwrap();
    (headers, back)
}

#[tokio::test]
async fn an_upgraded_connection_is_passed_byte_for_byte_with_half_close() {
    let t = start().await;
    pod_on_agent(&t).await;
    // More than any buffer on the way holds.
    let payload: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let request =
        Request::get(format!("{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true"))
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", "v5.channel.k8s.io")
            .header("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw==")
            .header("sec-websocket-version", "13");
    let (headers, back) = upgraded(&t, request, &payload).await;
    assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io");
    let asked = b"/exec/default/p/main?command=sh&command=-c&input=1&output=1\n";
    assert_eq!(&back[..asked.len()], asked);
    assert_eq!(back.len(), asked.len() + payload.len() + 3);
    assert!(back[asked.len()..].starts_with(&payload) && back.ends_with(b"bye"));
}

#[tokio::test]
async fn raw_spdy_is_passed_on_as_kubectl_before_1_31_sends_it() {
    let t = start().await;
    pod_on_agent(&t).await;
    for (subresource, protocol, asked) in [
        (
            "exec?command=id&stdout=true",
            "v4.channel.k8s.io",
            "/exec/default/p/main?command=id&output=1",
        ),
        (
            "attach?stdin=true&stdout=true&tty=true",
            "v4.channel.k8s.io",
            "/attach/default/p/main?input=1&output=1&tty=1",
        ),
        ("portforward", "portforward.k8s.io", "/portForward/default/p"),
    ] {
        let request = Request::post(format!("{PODS}/p/{subresource}"))
            .header("content-length", "0")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", protocol);
        let (headers, back) = upgraded(&t, request, b"frames").await;
        assert_eq!(headers["upgrade"], "SPDY/3.1");
        assert_eq!(headers["x-stream-protocol-version"], protocol);
        assert_eq!(String::from_utf8(back).unwrap(), format!("{asked}\nframesbye"));
    }
}

#[tokio::test]
async fn exec_without_an_upgrade_is_refused() {
    let t = start().await;
    pod_on_agent(&t).await;
    t.post(&format!("{PODS}/p/exec?command=x"), json!({})).await.fails(
        400,
        "BadRequest",
        "unable to upgrade: missing upgrade headers in request",
    );
}

#[tokio::test]
async fn a_service_is_proxied_to_one_of_its_ready_endpoints() {
    let t = start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let echo = service_fn(|request: Request<Incoming>| async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = request.into_body().collect().await?.to_bytes();
                let body = [line.as_bytes(), b" ", &body[..]].concat();
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(body)))
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), echo));
        }
    });
    let spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": port}]});
    t.post(SERVICES, service("web", spec)).await.ok();
    let uri = format!("{SERVICES}/web:http/proxy/a/b?c=d");
    let none = t.get(&uri).await;
    none.fails(503, "ServiceUnavailable", "no endpoints available for service \"web\"");
    // Validation keeps loopback addresses out of slices made by hand, so the pod's own status leads there.
    t.post(PODS, pod("p")).await.ok();
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    t.patch(&format!("{PODS}/p/status"), "merge-patch", status).await.ok();
    let answer = t.post(&format!("{PODS}/p:{port}/proxy/a/b?c=d"), json!(1)).await.ok();
    assert_eq!(answer, "POST /a/b?c=d 1");
}
