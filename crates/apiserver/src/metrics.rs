//! The server's metrics, under upstream's names (`apiserver/pkg/endpoints/metrics`, `storage/etcd3/metrics`).

mod allocation;
mod labels;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use http::{Response, StatusCode};
use parking_lot::Mutex;
use portolan_api::{Kind, kinds};
use portolan_exposition::{plain, process};
use portolan_store::{ListOptions, Store};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::labels::{CodeLabels, LongLabels, WatchLabels};
use crate::respond;
use crate::server::Body;
use crate::status::{Result, Status};

pub(crate) use self::allocation::{AllocationMetrics, Scope};
pub(crate) use self::labels::RequestLabels;

type Number = Gauge<i64, AtomicI64>;
type Source = Box<dyn Fn() -> String + Send + Sync>;

/// Upstream's buckets of durations, in seconds.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Upstream's buckets of the sizes of events, in bytes.
const SIZES: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 65_536.0, 131_072.0];

/// Requests that change something have a limit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    ReadOnly,
    Mutating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    group: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorageLabels {
    resource: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    major: &'static str,
    minor: &'static str,
    git_version: &'static str,
    platform: &'static str,
}

/// All of the server's metrics.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// What others in this process count, as OpenMetrics text.
    beside: Mutex<Vec<Source>>,
    requests: Family<CodeLabels, Counter>,
    terminations: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram>,
    long_running: Family<LongLabels, Number>,
    in_flight: Family<KindLabels, Number>,
    watch_events: Family<WatchLabels, Counter>,
    watch_sizes: Family<WatchLabels, Histogram>,
    objects: Family<ObjectLabels, Number>,
    storage_objects: Family<StorageLabels, Number>,
    connections: Number,
    allocation: AllocationMetrics,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let metrics = Metrics {
            allocation: AllocationMetrics::new(&mut registry),
            registry: Mutex::new(registry),
            beside: Mutex::default(),
            requests: Family::default(),
            terminations: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            long_running: Family::default(),
            in_flight: Family::default(),
            watch_events: Family::default(),
            watch_sizes: Family::new_with_constructor(|| Histogram::new(SIZES)),
            objects: Family::default(),
            storage_objects: Family::default(),
            connections: Gauge::default(),
        };
        for kind in [RequestKind::ReadOnly, RequestKind::Mutating] {
            drop(metrics.in_flight.get_or_create(&labels_of(kind)));
        }
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, \
             version, resource, scope, component, and HTTP response code",
            self.requests.clone(),
        );
        registry.register(
            "apiserver_request_terminations",
            "Number of requests which the server terminated in self-defense",
            self.terminations.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, \
             version, resource, subresource, scope and component",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running requests broken out by verb, group, version, \
             resource, scope and component",
            self.long_running.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Number of requests that are being answered, per request kind",
            self.in_flight.clone(),
        );
        registry.register(
            "apiserver_watch_events",
            "Number of events sent in watch clients",
            self.watch_events.clone(),
        );
        registry.register(
            "apiserver_watch_events_sizes",
            "Watch event size distribution in bytes",
            self.watch_sizes.clone(),
        );
        registry.register(
            "apiserver_resource_objects",
            "Number of stored objects split by group and resource",
            self.objects.clone(),
        );
        registry.register(
            "apiserver_storage_objects",
            "Number of stored objects split by kind",
            self.storage_objects.clone(),
        );
        registry.register(
            "apiserver_open_connections",
            "TLS connections that are open",
            self.connections.clone(),
        );
        let build = Family::<BuildLabels, Number>::default();
        let labels = BuildLabels {
            major: "1",
            minor: "36",
            git_version: crate::health::VERSION,
            platform: std::env::consts::ARCH,
        };
        build.get_or_create(&labels).set(1);
        registry.register(
            "kubernetes_build_info",
            "A metric with a constant '1' value labeled by the version of the API and of the build",
            build,
        );
    }

    /// Those that the allocators keep.
    pub(crate) fn allocation(&self) -> AllocationMetrics {
        self.allocation.clone()
    }

    /// Counts an answered request; `took` for those that do not last by design.
    pub(crate) fn observe(&self, labels: RequestLabels, code: u16, took: Option<Duration>) {
        self.requests.get_or_create(&labels.with_code(code)).inc();
        if let Some(took) = took {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Counts a request that was ended to protect the server.
    pub(crate) fn terminated(&self, labels: RequestLabels, code: u16) {
        self.terminations.get_or_create(&labels.with_code(code)).inc();
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// Counts a request that lasts.
    pub(crate) fn long_running(&self, labels: RequestLabels) -> Counted {
        Counted::new(&self.long_running.get_or_create(&labels.long()))
    }

    /// Counts a request that is being answered.
    pub(crate) fn in_flight(&self, kind: RequestKind) -> Counted {
        Counted::new(&self.in_flight.get_or_create(&labels_of(kind)))
    }

    /// Counts what the watches of a kind send.
    pub(crate) fn watch(&self, kind: &'static Kind) -> WatchCounters {
        let Kind { group, version, plural: resource, .. } = *kind;
        let labels = WatchLabels { group, version, resource };
        WatchCounters {
            events: self.watch_events.get_or_create(&labels).clone(),
            sizes: self.watch_sizes.get_or_create(&labels).clone(),
        }
    }

    /// Serves what somebody else in this process counts, too.
    pub(crate) fn beside(&self, source: Source) {
        self.beside.lock().push(source);
    }

    /// The text form, version 0.0.4.
    pub(crate) fn respond(&self, store: &Store) -> Result<Response<Body>> {
        self.count_objects(store);
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).map_err(Status::internal)?;
        let mut text = plain(&text);
        for source in self.beside.lock().iter() {
            text.push_str(&plain(&source()));
        }
        text.push_str(&plain(&process()));
        let mut response = respond::text(StatusCode::OK, text);
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
        Ok(response)
    }

    fn count_objects(&self, store: &Store) {
        for kind in kinds::all() {
            // One of the kinds that share a place in the store is enough.
            let stored = crate::convert::stored_kind(kind);
            if !std::ptr::eq(stored, kind) {
                continue;
            }
            let one = ListOptions { limit: 1, ..ListOptions::default() };
            let Ok(page) = store.list(&kind.prefix(None), one) else { continue };
            let count = page.remaining.saturating_add(page.items.len() as u64);
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let labels = ObjectLabels { group: kind.group, resource: kind.plural };
            self.objects.get_or_create(&labels).set(count);
            let labels = StorageLabels { resource: kind.group_resource() };
            self.storage_objects.get_or_create(&labels).set(count);
        }
    }
}

fn labels_of(kind: RequestKind) -> KindLabels {
    let request_kind = match kind {
        RequestKind::ReadOnly => "readOnly",
        RequestKind::Mutating => "mutating",
    };
    KindLabels { request_kind }
}

/// Counts in a gauge for as long as it lives.
pub(crate) struct Counted(Number);

impl Counted {
    fn new(gauge: &Number) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts the events of one watch.
#[derive(Clone)]
pub(crate) struct WatchCounters {
    events: Counter,
    sizes: Histogram,
}

impl WatchCounters {
    /// An event of so many bytes was sent.
    pub(crate) fn sent(&self, bytes: usize) {
        self.events.inc();
        // Sizes are far from where a float would round them.
        self.sizes.observe(u32::try_from(bytes).map_or(f64::MAX, f64::from));
    }
}

/// A guard that several holders share.
pub(crate) type SharedCount = Arc<Counted>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_by_a_guard_ends_with_it() {
        let metrics = Metrics::new();
        let gauge = metrics.in_flight.get_or_create(&labels_of(RequestKind::Mutating)).clone();
        let guards = [RequestKind::Mutating; 3].map(|k| metrics.in_flight(k));
        assert_eq!(gauge.get(), 3);
        drop(guards);
        assert_eq!(gauge.get(), 0);
    }
}
