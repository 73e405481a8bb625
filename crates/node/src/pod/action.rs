//! What probes and lifecycle hooks do: HTTP, TCP, a command, sleep. Effects; failures are told
//! in kubelet's words.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;

use super::probe::Outcome;
use crate::runtime::{PodKey, Runtime, Streams, Terminal};
use crate::shim::protocol::OnClose;

/// How much of an answer or a command's output is looked at.
const OUTPUT: usize = 10 * 1024;

/// The container that an action is about.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    pub(crate) pod: PodKey,
    pub(crate) container: Container,
    pub(crate) ip: IpAddr,
}

/// Runs a probe once.
pub(crate) async fn probe(target: &Target, probe: &Probe) -> Outcome {
    let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let limit = Duration::from_secs(seconds.unwrap_or(1).max(1));
    let result = if let Some(exec) = &probe.exec {
        run(target, exec, limit).await
    } else if let Some(get) = &probe.http_get {
        http(target, get, limit).await
    } else if let Some(socket) = &probe.tcp_socket {
        tcp(target, socket, limit).await
    } else if probe.grpc.is_some() {
        Err("gRPC probes are not supported by this node".to_owned())
    } else {
        Ok(())
    };
    match result {
        Ok(()) => Outcome::Success,
        Err(message) => Outcome::Failure(message),
    }
}

/// Runs a lifecycle hook to its end.
pub(crate) async fn hook(
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        run(target, exec, limit).await
    } else if let Some(get) = &hook.http_get {
        http(target, get, limit).await
    } else if let Some(sleep) = &hook.sleep {
        let length = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(length.min(limit)).await;
        Ok(())
    } else {
        Err("the hook's handler is not supported".to_owned())
    }
}

async fn run(target: &Target, exec: &ExecAction, limit: Duration) -> Result<(), String> {
    let command = exec.command.as_deref().unwrap_or_default();
    if command.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let work = async {
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let Target { runtime, pod, container, .. } = target;
        let name = &container.name;
        let started =
            runtime.exec_until(pod, name, command, Terminal::None, streams, OnClose::Kill).await;
        let mut exec = started.map_err(|error| error.to_string())?;
        let (stdout, stderr) = (exec.stdout.take(), exec.stderr.take());
        let (out, err, status) =
            futures::join!(collect(stdout), collect(stderr), exec.control.wait());
        match status.map_err(|error| error.to_string())?.code() {
            0 => Ok(()),
            _ => Err(out + &err),
        }
    };
    // Dropping the command's connection kills it.
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let line = command.join(" ");
        Err(format!("command timed out: {line:?} timed out after {}s", limit.as_secs()))
    })
}

/// The beginning of an output; the rest is read and thrown away, so that nobody blocks.
async fn collect(output: Option<crate::runtime::Output>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; 4096];
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        let room = OUTPUT - kept.len();
        kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// A port by number or by its name in the container.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    number.ok_or_else(|| format!("invalid port: {port:?}"))
}

fn dial_error(address: &str, error: &std::io::Error) -> String {
    let cause = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {cause}")
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = authority(host, port);
    match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
        Err(_) => TcpStream::connect((host, port)).await,
    }
    .map_err(|error| dial_error(&shown, &error))
}

async fn tcp(target: &Target, socket: &TCPSocketAction, limit: Duration) -> Result<(), String> {
    let port = port(&target.container, &socket.port)?;
    let host = socket.host.clone().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| target.ip.to_string());
    match tokio::time::timeout(limit, dial(&host, port)).await {
        Ok(connected) => connected.map(|_| ()),
        Err(_) => Err(format!("dial tcp {}: i/o timeout", authority(&host, port))),
    }
}

/// Host and port as in a URL.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn http(target: &Target, get: &HTTPGetAction, limit: Duration) -> Result<(), String> {
    let port = port(&target.container, &get.port)?;
    let host = get.host.clone().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| target.ip.to_string());
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let authority = authority(&host, port);
    let url = format!("{scheme}://{authority}{slash}{path}");
    let told = |message: String| format!("Get {url:?}: {message}");
    let work = async {
        let stream = dial(&host, port).await.map_err(&told)?;
        let request = request(get, &authority, &format!("{slash}{path}")).map_err(&told)?;
        let status = if scheme == "https" {
            let stream = tls(stream, &host).await.map_err(&told)?;
            ask(stream, request).await.map_err(&told)?
        } else {
            ask(stream, request).await.map_err(&told)?
        };
        // A redirection counts as an answer.
        if status.as_u16() >= 200 && status.as_u16() < 400 {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    };
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(told(late.to_owned())))
}

fn request(
    get: &HTTPGetAction,
    authority: &str,
    path: &str,
) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    headers.insert(http::header::HOST, host);
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    let mut own = std::collections::HashSet::new();
    for header in get.http_headers.iter().flatten() {
        let name: HeaderName = header.name.parse().map_err(|_| "invalid header name".to_owned())?;
        let value = HeaderValue::from_str(&header.value).map_err(|error| error.to_string())?;
        if own.insert(name.clone()) {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(request)
}

async fn ask<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    let status = match answer {
        Ok(response) => {
            let status = response.status();
            // Some of the body is read, so that a server does not see a broken connection.
            let _ = Limited::new(response.into_body(), OUTPUT).collect().await;
            Ok(status)
        }
        Err(error) if error.is_incomplete_message() => Err("EOF".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    connection.abort();
    status
}

async fn tls(
    stream: TcpStream,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

/// A probe asks whether the server answers, not who it is: kubelet verifies no certificate.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
