//! The proxy's HTTP: health on one address, metrics and what it runs by on another.
//!
//! Upstream rule: `serveHealthz` and `serveMetrics` of cmd/kube-proxy/app/server.go.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::log;
use crate::metrics::Metrics;
use crate::zpages::{self, About};

/// The longest body that any page takes, in bytes.
const LONGEST_BODY: usize = 64;
/// What Prometheus' text format is called.
const PLAIN_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

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
    /// Whether profiles are asked for.
    pub profiling: bool,
    /// What does not change.
    pub about: About,
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
    let answer = Arc::new(move |request: &Request<Bytes>| page(request, site, &pages));
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
    F: Fn(&Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: a moment later some may be free.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (answer, stop) = (Arc::clone(&answer), stop.clone());
        tasks.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let answer = &answer;
                async move {
                    let (head, body) = request.into_parts();
                    let response = match Limited::new(body, LONGEST_BODY).collect().await {
                        Ok(body) => answer(&Request::from_parts(head, body.to_bytes())),
                        Err(_) => text(413, "the body is too long, or broken off\n".into()),
                    };
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is its own affair.
            let _ = stop.run_until_cancelled(connection).await;
        });
    }
}

fn page(request: &Request<Bytes>, site: Site, pages: &Pages) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if (site, path) == (Site::Metrics, "/debug/flags/v") && *request.method() == Method::PUT {
        return set_verbosity(request.body());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(405, "method not allowed\n".into());
    }
    match (site, path) {
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
        (Site::Metrics, "/metrics") if wants_open_metrics(request) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer(200, kind, pages.metrics.open_metrics())
        }
        (Site::Metrics, "/metrics") => answer(200, PLAIN_METRICS, pages.metrics.text()),
        (Site::Metrics, "/metrics/slis") => {
            answer(200, PLAIN_METRICS, zpages::slis(&pages.health.checks()))
        }
        (Site::Metrics, "/flagz") => text(200, zpages::flagz(&pages.about)),
        (Site::Metrics, "/statusz") => {
            text(200, zpages::statusz(&pages.about, jiff::Timestamp::now()))
        }
        (Site::Metrics, path) if path.starts_with("/debug/pprof") && pages.profiling => {
            let why = "this proxy keeps no profiles; hint: perf record -p its process\n";
            text(501, why.into())
        }
        (Site::Metrics, "/debug/flags") => text(200, "v: PUT how much is logged, 0 to 10\n".into()),
        _ => text(404, "404 page not found\n".into()),
    }
}

/// Takes a number over as how much is logged.
fn set_verbosity(body: &Bytes) -> Response<Full<Bytes>> {
    let number = std::str::from_utf8(body).ok().and_then(|text| text.trim().parse::<u8>().ok());
    match number {
        Some(verbosity) => {
            log::set(verbosity);
            text(200, format!("logging at verbosity {verbosity} from now on\n"))
        }
        None => text(400, "the body must be a number, how much is logged\n".into()),
    }
}

fn wants_open_metrics(request: &Request<Bytes>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/openmetrics-text"))
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
