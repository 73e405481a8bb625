//! Metrics of the allocators (upstream: `ipallocator/metrics.go`, `portallocator/metrics.go`). The gauges follow each
//! step; nothing is counted over.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use ipnet::IpNet;
use portolan_api::alloc::Occupancy;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds.
const BUCKETS: [f64; 10] = [1e-6, 2.5e-6, 5e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// Who chose the value: the client, or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Static,
    Dynamic,
}

impl EncodeLabelValue for Scope {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Scope::Static => "static",
            Scope::Dynamic => "dynamic",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cidr {
    cidr: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopedCidr {
    cidr: String,
    scope: Scope,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scoped {
    scope: Scope,
}

type Level = Gauge<i64, AtomicI64>;

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct AllocationMetrics {
    allocated_ips: Family<Cidr, Level>,
    available_ips: Family<Cidr, Level>,
    ips: Family<ScopedCidr, Counter>,
    ip_errors: Family<ScopedCidr, Counter>,
    ip_durations: Family<Cidr, Histogram>,
    allocated_ports: Level,
    available_ports: Level,
    ports: Family<Scoped, Counter>,
    port_errors: Family<Scoped, Counter>,
}

impl AllocationMetrics {
    pub(super) fn new(registry: &mut Registry) -> AllocationMetrics {
        let metrics = AllocationMetrics {
            allocated_ips: Family::default(),
            available_ips: Family::default(),
            ips: Family::default(),
            ip_errors: Family::default(),
            ip_durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            allocated_ports: Level::default(),
            available_ports: Level::default(),
            ports: Family::default(),
            port_errors: Family::default(),
        };
        let cluster_ips = registry.sub_registry_with_prefix("kube_apiserver_clusterip_allocator");
        let help = "Addresses that Services and others have";
        cluster_ips.register("allocated_ips", help, metrics.allocated_ips.clone());
        let help = "Addresses that are left";
        cluster_ips.register("available_ips", help, metrics.available_ips.clone());
        cluster_ips.register("allocation", "Addresses given out", metrics.ips.clone());
        let help = "Addresses that could not be given out";
        cluster_ips.register("allocation_errors", help, metrics.ip_errors.clone());
        let help = "Time to choose an address";
        cluster_ips.register("allocation_duration_seconds", help, metrics.ip_durations.clone());
        let ports = registry.sub_registry_with_prefix("kube_apiserver_nodeport_allocator");
        let help = "Node ports that Services have";
        ports.register("allocated_ports", help, metrics.allocated_ports.clone());
        let help = "Node ports that are left";
        ports.register("available_ports", help, metrics.available_ports.clone());
        ports.register("allocation", "Node ports given out", metrics.ports.clone());
        let help = "Node ports that could not be given out";
        ports.register("allocation_errors", help, metrics.port_errors.clone());
        metrics
    }

    pub(crate) fn show_range(&self, range: &Occupancy) {
        let labels = Cidr { cidr: range.net.to_string() };
        self.allocated_ips.get_or_create(&labels).set(level(range.allocated));
        self.available_ips.get_or_create(&labels).set(level(range.available));
    }

    /// The range is gone, and with it what is shown of it.
    pub(crate) fn forget_range(&self, net: IpNet) {
        let labels = Cidr { cidr: net.to_string() };
        self.allocated_ips.remove(&labels);
        self.available_ips.remove(&labels);
    }

    pub(crate) fn show_ports(&self, allocated: u64, available: u64) {
        self.allocated_ports.set(level(allocated));
        self.available_ports.set(level(available));
    }

    /// An address was given out; `took` when it had to be looked for.
    pub(crate) fn ip_allocated(&self, net: IpNet, scope: Scope, took: Option<Duration>) {
        let cidr = net.to_string();
        if let Some(took) = took {
            let labels = Cidr { cidr: cidr.clone() };
            self.ip_durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.ips.get_or_create(&ScopedCidr { cidr, scope }).inc();
    }

    pub(crate) fn ip_failed(&self, net: IpNet, scope: Scope) {
        self.ip_errors.get_or_create(&ScopedCidr { cidr: net.to_string(), scope }).inc();
    }

    pub(crate) fn port(&self, scope: Scope, succeeded: bool) {
        let family = if succeeded { &self.ports } else { &self.port_errors };
        family.get_or_create(&Scoped { scope }).inc();
    }
}

fn level(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
