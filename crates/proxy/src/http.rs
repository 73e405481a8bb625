//! The proxy's HTTP: health on one address, metrics and what it runs by on another.
//!
//! Upstream rule: `serveHealthz` and `serveMetrics` of cmd/kube-proxy/app/server.go.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::metrics::Metrics;

/// What the pages show.
#[derive(Debug)]
pub struct Pages {
    /// The health.
    pub health: Health,
    /// The metrics.
    pub metrics: Metrics,
    /// The mode's name.
    pub mode: &'static str,
    /// The configuration with its defaults.
    pub configuration: serde_json::Value,
}

/// Which pages an address has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// /healthz and /livez.
    Health,
    /// /metrics and the rest.
    Metrics,
}

/// Serves a site on an address until `stop`.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(
    address: SocketAddr,
    site: Site,
    pages: Arc<Pages>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let answer = Arc::new(move |request: &Request<Incoming>| page(request, site, &pages));
    tasks.spawn(accept(listener, answer, tasks.clone(), stop));
    Ok(address)
}

/// Answers requests until `stop`.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    answer: Arc<F>,
    tasks: TaskTracker,
    stop: CancellationToken,
) where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: a moment later some may be free.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (answer, stop) = (Arc::clone(&answer), stop.clone());
        tasks.spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is its own affair.
            let _ = stop.run_until_cancelled(connection).await;
        });
    }
}

fn page(request: &Request<Incoming>, site: Site, pages: &Pages) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(405, "method not allowed\n".into());
    }
    match (site, request.uri().path()) {
        (Site::Health, "/healthz") => {
            let report = pages.health.healthz();
            pages.metrics.healthz(report.code());
            json(report.code(), &report.json())
        }
        (Site::Health, "/livez") => {
            let report = pages.health.livez();
            pages.metrics.livez(report.code());
            json(report.code(), &report.json())
        }
        (Site::Metrics, "/healthz") => text(200, "ok".into()),
        (Site::Metrics, "/proxyMode") => text(200, pages.mode.into()),
        (Site::Metrics, "/configz") => {
            json(200, &serde_json::json!({ "kubeproxy.config.k8s.io": pages.configuration }))
        }
        (Site::Metrics, "/metrics") => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer(200, kind, pages.metrics.text())
        }
        _ => text(404, "404 page not found\n".into()),
    }
}

fn text(code: u16, body: String) -> Response<Full<Bytes>> {
    answer(code, "text/plain; charset=utf-8", body)
}

/// An answer in JSON.
pub(crate) fn json(code: u16, body: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(code, "application/json", body.to_string())
}

fn answer(code: u16, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}
