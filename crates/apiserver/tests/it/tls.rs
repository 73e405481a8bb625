//! Over TLS on loopback: who gets in, and as whom.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_apiserver::pki::{Pair, Pki, Usage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::*;

pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

pub(crate) async fn listen(t: &Fixture) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (server, token) = (t.server.clone(), shutdown.clone());
    tokio::spawn(async move { server.serve(vec![listener], token).await });
    Listening { address, _stop: shutdown.drop_guard() }
}

pub(crate) fn connector(ca: &Pki, client: Option<&Pair>, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A name of the server's certificate.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("kubernetes.default.svc").unwrap()
}

/// A connection to the server.
pub(crate) async fn connect(
    to: &Listening,
    connector: &TlsConnector,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(to.address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

async fn get(at: SocketAddr, connector: &TlsConnector, path: &str) -> (u16, Value) {
    let stream = TcpStream::connect(at).await.unwrap();
    let stream = connector.connect(server_name(), stream).await.unwrap();
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let request = Request::get(format!("https://kubernetes{path}"))
        .header("host", "kubernetes")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}

#[tokio::test]
async fn without_a_certificate_only_the_probes_and_the_version_answer() {
    let t = start().await;
    let server = listen(&t).await;
    let nobody = connector(&t.pki, None, &[]);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(server.address, &nobody, path).await.0, 200, "{path}");
    }
    for path in ["/api", "/api/v1/pods", "/metrics", "/openapi/v3", "/nope"] {
        let (code, status) = get(server.address, &nobody, path).await;
        assert_eq!(code, 401, "{path}");
        assert_eq!(
            (&status["reason"], &status["message"]),
            (&json!("Unauthorized"), &json!("Unauthorized"))
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_for_servers_is_nobody() {
    let t = start().await;
    let server = listen(&t).await;
    let foreign = Pki::ephemeral().unwrap();
    let foreign = foreign.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
    let serving = t.pki.issue("admin", Some("system:masters"), &[], Usage::Server).unwrap();
    for pair in [foreign, serving] {
        let (code, status) =
            get(server.address, &connector(&t.pki, Some(&pair), &[]), "/api/v1/pods").await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
    }
}

#[tokio::test]
async fn a_certificate_names_its_user_and_group_over_both_http_versions() {
    let t = start().await;
    let server = listen(&t).await;
    let admin = t.pki.issue("root", Some("system:masters"), &[], Usage::Client).unwrap();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let connector = connector(&t.pki, Some(&admin), &[alpn]);
        let (code, list) = get(server.address, &connector, "/api/v1/namespaces").await;
        assert_eq!((code, &list["kind"]), (200, &json!("NamespaceList")));
    }
    let node = t.pki.issue("system:node:n1", Some("system:nodes"), &[], Usage::Client).unwrap();
    let connector = connector(&t.pki, Some(&node), &[]);
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
    assert_eq!(get(server.address, &connector, pods).await.0, 200);
    let path = "/apis/apps/v1/deployments";
    let (code, status) = get(server.address, &connector, path).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "deployments.apps is forbidden: User \"system:node:n1\" cannot list resource \
         \"deployments\" in API group \"apps\" at the cluster scope"
    );
}

#[tokio::test]
async fn what_is_not_tls_does_no_harm() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let t = start().await;
    let server = listen(&t).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, or the end: never an HTTP answer.
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(get(server.address, &connector(&t.pki, None, &[]), "/livez").await.0, 200);
}
