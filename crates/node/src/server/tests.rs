//! The server over TLS, with a real container behind it where that is allowed.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use portolan_stream::websocket;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::runtime::tests::{Pod as TestPod, pod};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Authority { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    fn issue(&self, organization: &str, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A running agent's server; it stops when this is dropped.
struct Agent {
    authority: Authority,
    address: SocketAddr,
    stop: CancellationToken,
    _files: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Agent {
    async fn start(runtime: Runtime) -> Agent {
        let authority = Authority::new();
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (certificate, key) = authority.issue("system:nodes", "system:node:test");
        let options = NodeOptions {
            serving_cert: file("cert", &certificate),
            serving_key: file("key", &key),
            client_ca: file("ca", &authority.pem),
            name: "test".into(),
            labels: Default::default(),
            kubeconfig: files.path().into(),
            node_ips: std::net::IpAddr::from([127, 0, 0, 1]).into(),
            port: 0,
            state_dir: files.path().into(),
            cluster_dns: None,
            cluster_domain: "cluster.local".into(),
            portolan: files.path().into(),
            private_dirs: Vec::new(),
            hidden_dirs: Vec::new(),
            max_pods: 110,
        };
        let stop = CancellationToken::new();
        let pods: PodSource = Arc::new(|| vec![Pod::default()]);
        let server = Server::bind(&options, runtime, pods, stop.clone()).await.unwrap();
        let address = server.listener.local_addr().unwrap();
        tokio::spawn(server.run());
        Agent { authority, address, stop, _files: files }
    }

    async fn send(
        &self,
        organization: &str,
        request: http::request::Builder,
    ) -> Response<Incoming> {
        let (certificate, key) = self.authority.issue(organization, "a-client");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = request.header(header::HOST, "agent").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.send("system:masters", Request::get(path)).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// An upgraded WebSocket, or the refusal.
    async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<tokio_tungstenite::WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, StatusCode>
    {
        let request = Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        let response = self.send("system:masters", request).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(response.status());
        }
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], protocol);
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        Ok(websocket::client(io).await)
    }

    /// Runs a command with this standard input; stdout, stderr and the status.
    async fn exec(&self, query: &str, input: &'static [u8]) -> (Vec<u8>, Vec<u8>, String) {
        let path = format!("/exec/default/test/main?{query}");
        let socket = self.upgrade(&path, "v5.channel.k8s.io").await.unwrap();
        let (mut to, mut from) = socket.split();
        let sending = tokio::spawn(async move {
            for piece in input.chunks(30_000) {
                // A command that has ended takes no more.
                let _ = to.send(Message::Binary([&[0], piece].concat().into())).await;
            }
            let _ = to.send(Message::Binary(Bytes::from_static(&[255, 0]))).await;
            to
        });
        let mut channels = [const { Vec::new() }; 4];
        while let Some(Ok(message)) = from.next().await {
            if let Message::Binary(bytes) = message {
                channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
            }
        }
        drop(sending.await.unwrap());
        let [_, stdout, stderr, status] = channels;
        (stdout, stderr, String::from_utf8(status).unwrap())
    }
}

#[tokio::test]
async fn only_the_api_server_is_let_in() {
    let agent = Agent::start(Runtime::default()).await;
    let response = agent.send("system:nodes", Request::get("/healthz")).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(agent.get("/healthz").await, (StatusCode::OK, "ok".to_owned()));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_not_served() {
    let agent = Agent::start(Runtime::default()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(agent.authority.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(agent.address).await.unwrap();
    let name = ServerName::IpAddress(agent.address.ip().into());
    let served = async {
        let mut stream =
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(drop)?;
        let request = b"GET /healthz HTTP/1.1\r\nhost: agent\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.map_err(drop)?;
        let mut answer = [0; 1];
        // In TLS 1.3 the client's handshake ends before the server has refused it.
        match tokio::io::AsyncReadExt::read(&mut stream, &mut answer).await {
            Ok(1..) => Ok(()),
            _ => Err(()),
        }
    };
    assert_eq!(served.await, Err(()));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let agent = Agent::start(Runtime::default()).await;
    for path in [
        "/",
        "/stats",
        "/containerLogs/default/none/main",
        "/exec/default/none/main?command=ls&output=1",
        "/attach/default/none/main?output=1",
        "/portForward/default/none",
    ] {
        assert_eq!(agent.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let (status, body) = agent.get("/pods").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""kind":"PodList""#), "{body}");
}

/// An agent with a container that runs until it is told to stop.
async fn running(test: &str) -> Option<(TestPod, Agent)> {
    let pod = pod(test).await?;
    let mut spec = pod.spec(0, &["sh", "-c", "echo started; exec sleep 600"]);
    spec.stdin = true;
    pod.sandbox.start(&spec).await.unwrap();
    pod.wait_for_log("started").await;
    let agent = Agent::start(pod.runtime.clone()).await;
    Some((pod, agent))
}

#[tokio::test]
async fn commands_run_with_their_streams_and_their_exit_codes() {
    let Some((pod, agent)) = running("commands_run_with_their_streams").await else { return };
    let query =
        "command=sh&command=-c&command=cat%3B+echo+err+%3E%262%3B+exit+3&input=1&output=1&error=1";
    let (stdout, stderr, status) = agent.exec(query, b"in\0put").await;
    assert_eq!((&stdout[..], &stderr[..]), (&b"in\0put"[..], &b"err\n"[..]));
    assert!(
        status.contains(r#""reason":"ExitCode""#) && status.contains(r#""message":"3""#),
        "{status}"
    );
    let (_, stderr, status) = agent.exec("command=no-such-command&output=1&error=1", b"").await;
    assert!(String::from_utf8_lossy(&stderr).contains("no-such-command"));
    assert!(status.contains(r#""message":"127""#), "{status}");
    let (stdout, _, status) = agent.exec("command=true&output=1", b"").await;
    assert!(stdout.is_empty() && status.contains("Success"), "{status}");
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn megabytes_pass_through_a_command_unchanged() {
    let Some((pod, agent)) = running("megabytes_pass_through_a_command").await else { return };
    let data: Vec<u8> =
        (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let data: &'static [u8] = data.leak();
    let (stdout, _, status) = agent.exec("command=cat&input=1&output=1", data).await;
    assert!(stdout == data, "{} of {} bytes", stdout.len(), data.len());
    assert!(status.contains("Success"), "{status}");
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_command_whose_child_holds_the_output_ends_all_the_same() {
    let Some((pod, agent)) = running("a_command_whose_child_holds").await else { return };
    let query = "command=sh&command=-c&command=echo+one%3B+sleep+300+%26&output=1";
    let (stdout, _, status) = agent.exec(query, b"").await;
    assert_eq!(stdout, b"one\n");
    assert!(status.contains("Success"), "{status}");
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_terminal_takes_sizes_and_shows_them() {
    let Some((pod, agent)) = running("a_terminal_takes_sizes").await else { return };
    let path = "/exec/default/test/main?command=sh&command=-c\
                &command=read+line%3B+stty+size%3B+tty&input=1&output=1&tty=1";
    let mut socket = agent.upgrade(path, "v5.channel.k8s.io").await.unwrap();
    let size = Bytes::from_static(b"\x04{\"Width\":131,\"Height\":47}");
    socket.send(Message::Binary(size)).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\0\n"))).await.unwrap();
    let mut text = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            text.extend_from_slice(&bytes[1..]);
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("47 131") && text.contains("/dev/pts/"), "{text}");
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_command_with_it() {
    let Some((pod, agent)) = running("a_client_that_leaves").await else { return };
    let path = "/exec/default/test/main?command=sh&command=-c\
                &command=echo+here%3B+exec+sleep+4711&input=1&output=1";
    let mut socket = agent.upgrade(path, "v5.channel.k8s.io").await.unwrap();
    let here = |message: &Message| matches!(message, Message::Binary(b) if b.ends_with(b"here\n"));
    while !here(&socket.next().await.unwrap().unwrap()) {}
    drop(socket);
    // The pattern does not match its own text.
    let count = "command=sh&command=-c&output=1\
                 &command=grep+-al+471%5B1%5D+/proc/*/cmdline+2%3E/dev/null+%7C+wc+-l";
    for _ in 0..500 {
        if agent.exec(count, b"").await.0 == b"0\n" {
            pod.sandbox.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the command runs on");
}

#[tokio::test]
async fn a_log_is_followed_over_https() {
    let Some((pod, agent)) = running("a_log_is_followed_over_https").await else { return };
    let (status, text) = agent.get("/containerLogs/default/test/main").await;
    assert_eq!((status, &text[..]), (StatusCode::OK, "started\n"));
    assert_eq!(
        agent.get("/containerLogs/default/test/main?tailLines=x").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        agent.get("/containerLogs/default/test/main?previous=true").await.0,
        StatusCode::BAD_REQUEST
    );
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_port_of_the_pod_is_reached_from_within() {
    let Some((pod, agent)) = running("a_port_of_the_pod_is_reached").await else { return };
    let path = "/portForward/default/test?ports=9";
    let mut socket = agent.upgrade(path, "v4.channel.k8s.io").await.unwrap();
    let mut error = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message
            && bytes[0] == 1
        {
            error.extend_from_slice(&bytes[1..]);
        }
    }
    assert_eq!(&error[..2], 9u16.to_le_bytes());
    let text = String::from_utf8_lossy(&error[2..]).into_owned();
    // This pod's loopback is not up: what is told is that its network was asked.
    let told = "error forwarding port 9 to pod default/test: failed to connect to localhost:9";
    assert!(text.starts_with(told), "{text}");
    assert!(agent.upgrade("/portForward/default/test", "v4.channel.k8s.io").await.is_err());
    pod.sandbox.stop().await;
}
