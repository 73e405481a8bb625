//! /health, /ready and /metrics.
//!
//! Upstream rule: coredns plugin/health/health.go, plugin/ready/ready.go, plugin/metrics/metrics.go.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::metrics;
use crate::zone::Loaded;

/// What Prometheus' text format is called.
const PLAIN_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How many clients a page may have at once.
const MOST_CLIENTS: usize = 64;
/// How long a request may take to arrive.
const SLOW: Duration = Duration::from_secs(5);

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Whether the process lives.
    Health,
    /// Whether it has what it answers by.
    Ready,
    /// What it counted.
    Metrics,
}

/// What pages show.
#[derive(Debug)]
pub struct Shown {
    /// Who answers.
    pub engine: Arc<Engine>,
    /// Whether the process is about to stop, or has not begun.
    pub is_stopping: AtomicBool,
    /// Whether the sockets are open.
    pub is_listening: AtomicBool,
}

impl Shown {
    /// Whether queries should be sent here. Once ready, the API server may go away: answers are
    /// given by what was there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let config = self.engine.config.load();
        let needs_names = config.ports.values().flatten().any(|block| block.authority.is_some());
        let has_names = self.engine.snapshot.load().loaded() == Loaded::Whole;
        self.is_listening.load(Ordering::Acquire)
            && !self.is_stopping.load(Ordering::Acquire)
            && (has_names || !needs_names)
    }
}

/// Serves a page until `stop`; gives its address.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(
    at: SocketAddr,
    page: Page,
    shown: Arc<Shown>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = match TcpListener::bind(at).await {
        // A machine without IPv6 has its IPv4 addresses.
        Err(_) if at.ip().is_unspecified() && at.is_ipv6() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, at.port())).await?
        }
        bound => bound?,
    };
    let address = listener.local_addr()?;
    tasks.spawn(accept(listener, page, shown, tasks.clone(), stop));
    Ok(address)
}

async fn accept(
    listener: TcpListener,
    page: Page,
    shown: Arc<Shown>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let accepted = async {
            let permit = Arc::clone(&clients).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = stop.run_until_cancelled(accepted).await else { return };
        let (Ok(permit), Ok((stream, _))) = (permit, accepted) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shown, stop) = (Arc::clone(&shown), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let answer = service_fn(|request: Request<Incoming>| {
                let response = respond(&request, page, &shown);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(SLOW);
            let connection = builder.serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is its own affair.
            let _ = stop.run_until_cancelled(connection).await;
        });
    }
}

fn respond<B>(request: &Request<B>, page: Page, shown: &Shown) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n".into());
    }
    match (page, request.uri().path()) {
        // As upstream, also while it is about to stop: then only /ready says no.
        (Page::Health, "/health") => text(StatusCode::OK, "OK".into()),
        (Page::Ready, "/ready") if shown.is_ready() => text(StatusCode::OK, "OK".into()),
        (Page::Ready, "/ready") => text(StatusCode::SERVICE_UNAVAILABLE, "kubernetes".into()),
        (Page::Metrics, "/metrics") => {
            answer(StatusCode::OK, PLAIN_METRICS, metrics::render(&shown.engine))
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
    }
}

fn text(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    answer(code, "text/plain; charset=utf-8", body)
}

fn answer(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}
