//! The server's metrics, under upstream's names.

mod allocation;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub(crate) use self::allocation::{AllocationMetrics, Scope};
use crate::discovery::subresource_name;
use crate::request::{Route, Verb};
use crate::respond;
use crate::server::Body;
use crate::status::{Result, Status};

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    pub(crate) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
}

impl RequestLabels {
    pub(crate) fn new(method: &Method, route: Option<&Route>) -> RequestLabels {
        let none = String::new;
        let Some(Route::Resource(info)) = route else {
            let method = match *method {
                Method::GET | Method::HEAD => "GET",
                _ => "other",
            };
            let (group, version, resource) = (none(), none(), none());
            let (subresource, scope) = (none(), none());
            return RequestLabels {
                verb: method.to_owned(),
                group,
                version,
                resource,
                subresource,
                scope,
                code: 0,
            };
        };
        // Unknown resources must not make label sets without end.
        let kind = portolan_api::kinds::by_resource(&info.group, &info.version, &info.resource);
        let keep = |text: &str| if kind.is_some() { text.to_owned() } else { String::new() };
        let subresource = info.subresource.as_deref().unwrap_or("");
        let served = kind
            .is_some_and(|k| k.subresources.iter().any(|s| subresource_name(*s) == subresource));
        let scope = match (&info.name, &info.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        RequestLabels {
            verb: match info.verb {
                Verb::Create => "POST".to_owned(),
                Verb::Update => "PUT".to_owned(),
                other => other.as_str().to_ascii_uppercase(),
            },
            group: keep(&info.group),
            version: keep(&info.version),
            resource: keep(&info.resource),
            subresource: if served { subresource.to_owned() } else { none() },
            scope: scope.to_owned(),
            code: 0,
        }
    }
}

/// All of the server's metrics.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    connections: Gauge<i64, AtomicI64>,
    allocation: AllocationMetrics,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0])
        });
        let connections = Gauge::default();
        let mut registry = Registry::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time until the head of the response",
            durations.clone(),
        );
        registry.register(
            "apiserver_open_connections",
            "TLS connections that are open",
            connections.clone(),
        );
        let allocation = AllocationMetrics::new(&mut registry);
        Metrics { registry: Mutex::new(registry), requests, durations, connections, allocation }
    }

    /// Those that the allocators keep.
    pub(crate) fn allocation(&self) -> AllocationMetrics {
        self.allocation.clone()
    }

    pub(crate) fn observe(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        let RequestLabels { verb, group, version, resource, .. } = labels.clone();
        self.durations
            .get_or_create(&DurationLabels { verb, group, version, resource })
            .observe(took.as_secs_f64());
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(self: &Arc<Self>) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.clone())
    }

    pub(crate) fn respond(&self) -> Result<Response<Body>> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).map_err(Status::internal)?;
        Ok(respond::text(StatusCode::OK, text))
    }
}

/// See [`Metrics::connection`].
pub(crate) struct ConnectionGuard(Arc<Metrics>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
