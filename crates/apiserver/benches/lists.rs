//! How long a list of many Services takes, and what it costs in memory: `cargo bench -p portolan-apiserver --bench lists`.
//!
//! In this process, and over TLS on loopback with a client on the same processors. Each figure is the median of some
//! rounds; the memory is the growth of the process's peak while one list is sent to a client that reads slowly.

#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Body, Config, Server, UserInfo};
use portolan_store::{Options, Store};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SERVICES: usize = 10_000;
const ROUNDS: usize = 15;
const LIST: &str = "/api/v1/services";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let pki = Arc::new(Pki::ephemeral()?);
    let server = Server::new(Config {
        store: Store::open(&dir.path().join("state"), Options::default())?,
        pki: pki.clone(),
        service_cidrs: vec!["10.96.0.0/12".parse()?],
        node_port_range: 30000..=32767,
        advertise: "172.30.0.1:6443".parse()?,
    })
    .await?;
    let began = Instant::now();
    let created = stream::iter(0..SERVICES)
        .map(|i| create(&server, i))
        .buffer_unordered(64)
        .filter(|r| std::future::ready(r.as_ref().is_ok_and(|r| r.status() == 201)));
    let created = created.count().await;
    println!("{created} Services created in {:.1} s", began.elapsed().as_secs_f64());
    for (name, headers) in [
        ("whole objects", &[][..]),
        ("tables", &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")]),
        (
            "metadata",
            &[("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")],
        ),
        ("whole objects, gzip", &[("accept-encoding", "gzip")]),
    ] {
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let began = Instant::now();
            bytes = read(get(&server, headers).await?.into_body()).await?;
            took.push(began.elapsed());
        }
        println!("list in process, {name}: {} ms, {bytes} bytes", median(took));
    }
    let (mut first, mut took, mut bytes) = (Vec::new(), Vec::new(), 0);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let (serving, stop) = (server.clone(), shutdown.clone());
    let serving = tokio::spawn(async move { serving.serve(vec![listener], stop).await });
    let stream = tls(&pki, address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..ROUNDS {
        let request = Request::get(LIST).header("host", "k").body(Empty::<Bytes>::new())?;
        let began = Instant::now();
        sender.ready().await?;
        let mut body = sender.send_request(request).await?.into_body();
        bytes = 0;
        while let Some(frame) = body.frame().await {
            if bytes == 0 {
                first.push(began.elapsed());
            }
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        took.push(began.elapsed());
    }
    println!(
        "list over TLS: {} ms, first bytes after {} ms, {bytes} bytes",
        median(took),
        median(first)
    );
    let before = peak();
    let mut slow = get(&server, &[]).await?.into_body();
    while let Some(frame) = slow.frame().await {
        frame.map_err(|e| e.to_string())?;
        tokio::task::yield_now().await;
    }
    println!("peak memory: {before} kB before a slow list, {} kB after", peak());
    drop(sender);
    shutdown.cancel();
    serving.await??;
    Ok(())
}

async fn create(server: &Server, i: usize) -> Result<Response<Body>, Failure> {
    let service = json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("service-{i:05}"),
            "labels": {"app": format!("app-{i}"), "tier": "backend"},
            "annotations": {"example.org/description": "x".repeat(500)},
        },
        "spec": {
            "selector": {"app": format!("app-{i}")},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "https", "port": 443, "targetPort": "tls"},
            ],
        },
    });
    let request = Request::post("/api/v1/namespaces/default/services")
        .header("content-type", "application/json")
        .body(Full::from(service.to_string()))?;
    Ok(server.service(UserInfo::admin()).oneshot(request).await?)
}

async fn get(server: &Server, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
    let mut request = Request::get(LIST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default())?;
    Ok(server.service(UserInfo::admin()).oneshot(request).await?)
}

async fn read(mut body: Body) -> Result<usize, Failure> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.map_err(|e| e.to_string())?.data_ref().map_or(0, Bytes::len);
    }
    Ok(bytes)
}

async fn tls(
    pki: &Pki,
    to: std::net::SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let admin = pki.issue("admin", Some("system:masters"), &[], Usage::Client)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.certificate_pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(admin.certificate_pem.as_bytes())?],
            PrivateKeyDer::from_pem_slice(admin.key_pem.as_bytes())?,
        )?;
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

fn median(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    format!("{:.1}", middle.as_secs_f64() * 1e3)
}

/// The most memory that the process has held, in kilobytes.
fn peak() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).into()
}
