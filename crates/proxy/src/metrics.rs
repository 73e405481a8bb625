//! Metrics under upstream's names (pkg/proxy/metrics/metrics.go), and the few that are ours.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_exposition::{joined, plain, process};
use portolan_model::{Family, RuleCount};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::config::Mode;
use crate::kernel;
use crate::sync::Kind;
use crate::tally::Policy;

type IpFamily = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];
type Seconds = Gauge<f64, AtomicU64>;
type Durations = Labelled<IpFamily, Histogram, fn() -> Histogram>;

/// From 1 ms to 16 s, upstream's buckets of sync durations.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Upstream's buckets of the programming latency: finer where it matters, up to five minutes.
fn programming_buckets() -> Histogram {
    let fine = (1..4).map(|n| 0.25 * f64::from(n));
    let seconds = (1..60).map(f64::from);
    let coarse = (60..=300).step_by(5).map(f64::from);
    Histogram::new(fine.chain(seconds).chain(coarse))
}

/// All metrics of the proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sync: Durations,
    full_sync: Durations,
    partial_sync: Durations,
    last_synced: Labelled<IpFamily, Seconds>,
    last_queued: Labelled<IpFamily, Seconds>,
    programming: Durations,
    endpoint_changes: Labelled<IpFamily, Counter>,
    endpoint_pending: Labelled<IpFamily, Gauge>,
    service_changes: Labelled<IpFamily, Counter>,
    service_pending: Labelled<IpFamily, Gauge>,
    nftables_failures: Labelled<IpFamily, Counter>,
    restore_failures: Labelled<IpFamily, Counter>,
    partial_restore_failures: Labelled<IpFamily, Counter>,
    iptables_total: Labelled<TwoLabels, Gauge>,
    iptables_last: Labelled<TwoLabels, Gauge>,
    without_local: Labelled<TwoLabels, Gauge>,
    repairs: Labelled<IpFamily, Counter>,
    conntrack_duration: Durations,
    conntrack_deleted: Labelled<IpFamily, Counter>,
    healthz: Labelled<[(&'static str, String); 1], Counter>,
    livez: Labelled<[(&'static str, String); 1], Counter>,
    sysctl_failures: Counter,
}

const fn label(family: Family) -> IpFamily {
    [(
        "ip_family",
        match family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        },
    )]
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::with_prefix("kubeproxy");
        let durations = || Durations::new_with_constructor(sync_buckets);
        let this = Self {
            registry: Registry::default(),
            sync: durations(),
            full_sync: durations(),
            partial_sync: durations(),
            last_synced: Labelled::default(),
            last_queued: Labelled::default(),
            programming: Durations::new_with_constructor(programming_buckets),
            endpoint_changes: Labelled::default(),
            endpoint_pending: Labelled::default(),
            service_changes: Labelled::default(),
            service_pending: Labelled::default(),
            nftables_failures: Labelled::default(),
            restore_failures: Labelled::default(),
            partial_restore_failures: Labelled::default(),
            iptables_total: Labelled::default(),
            iptables_last: Labelled::default(),
            without_local: Labelled::default(),
            repairs: Labelled::default(),
            conntrack_duration: durations(),
            conntrack_deleted: Labelled::default(),
            healthz: Labelled::default(),
            livez: Labelled::default(),
            sysctl_failures: Counter::default(),
        };
        all.register(
            "sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            this.sync.clone(),
        );
        all.register(
            "sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            this.full_sync.clone(),
        );
        all.register(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            this.partial_sync.clone(),
        );
        all.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            this.last_synced.clone(),
        );
        all.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            this.last_queued.clone(),
        );
        all.register(
            "network_programming_duration_seconds",
            "In cluster network programming latency in seconds",
            this.programming.clone(),
        );
        all.register(
            "sync_proxy_rules_endpoint_changes",
            "Cumulative proxy rules endpoint changes",
            this.endpoint_changes.clone(),
        );
        all.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Pending proxy rules endpoint changes",
            this.endpoint_pending.clone(),
        );
        all.register(
            "sync_proxy_rules_service_changes",
            "Cumulative proxy rules service changes",
            this.service_changes.clone(),
        );
        all.register(
            "sync_proxy_rules_service_changes_pending",
            "Pending proxy rules service changes",
            this.service_pending.clone(),
        );
        all.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Cumulative proxy nftables sync failures",
            this.nftables_failures.clone(),
        );
        all.register(
            "sync_proxy_rules_iptables_restore_failures",
            "Cumulative proxy iptables restore failures",
            this.restore_failures.clone(),
        );
        all.register(
            "sync_proxy_rules_iptables_partial_restore_failures",
            "Cumulative proxy iptables restore failures of a part of the rules",
            this.partial_restore_failures.clone(),
        );
        all.register(
            "sync_proxy_rules_iptables_total",
            "Number of iptables rules owned by the proxy",
            this.iptables_total.clone(),
        );
        all.register(
            "sync_proxy_rules_iptables_last",
            "Number of iptables rules said or taken back by the last sync",
            this.iptables_last.clone(),
        );
        all.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports whose policy is Local and that have no endpoint on this node",
            this.without_local.clone(),
        );
        all.register(
            "sync_proxy_rules_repairs",
            "Times that the kernel's rules were not what they should have been, and were put right",
            this.repairs.clone(),
        );
        all.register(
            "conntrack_reconciler_sync_duration_seconds",
            "Latency in seconds of the clean-up of stale conntrack entries",
            this.conntrack_duration.clone(),
        );
        all.register(
            "conntrack_reconciler_deleted_entries",
            "Cumulative conntrack entries deleted",
            this.conntrack_deleted.clone(),
        );
        all.register("proxy_healthz", "Cumulative answers of /healthz", this.healthz.clone());
        all.register("proxy_livez", "Cumulative answers of /livez", this.livez.clone());
        all.register(
            "sysctl_failures",
            "Kernel settings that could not be written",
            this.sysctl_failures.clone(),
        );
        Self { registry: all, ..this }
    }
}

impl Metrics {
    /// Notes a sync.
    pub fn synced(&self, family: Family, kind: Kind, took: Duration) {
        let label = label(family);
        self.sync.get_or_create(&label).observe(took.as_secs_f64());
        let of_kind = match kind {
            Kind::Full => &self.full_sync,
            Kind::Partial => &self.partial_sync,
        };
        of_kind.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Notes that a sync was carried out.
    pub fn carried_out(&self, family: Family) {
        self.last_synced.get_or_create(&label(family)).set(now());
    }

    /// Notes that a sync was refused.
    pub fn refused(&self, family: Family, kind: Kind, mode: Mode) {
        let label = label(family);
        match mode {
            Mode::Nftables => {
                self.nftables_failures.get_or_create(&label).inc();
            }
            Mode::Iptables | Mode::Ipvs => {
                self.restore_failures.get_or_create(&label).inc();
                if kind == Kind::Partial {
                    self.partial_restore_failures.get_or_create(&label).inc();
                }
            }
        }
    }

    /// How many iptables rules there are, and how many the last sync turned over.
    pub fn iptables_rules(&self, family: Family, count: RuleCount) {
        let [of_family] = label(family);
        let label = [of_family, ("table", count.table)];
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.iptables_total.get_or_create(&label).set(number(count.total));
        self.iptables_last.get_or_create(&label).set(number(count.last));
    }

    /// How many Service ports drop packets for want of an endpoint on this node.
    pub fn without_local(&self, family: Family, policy: Policy, count: usize) {
        let [of_family] = label(family);
        let label = [of_family, ("traffic_policy", policy.name())];
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.without_local.get_or_create(&label).set(count);
    }

    /// Notes that rules were put right.
    pub fn repaired(&self, family: Family) {
        self.repairs.get_or_create(&label(family)).inc();
    }

    /// Notes how long a change took from its cause to the kernel.
    pub fn programmed(&self, family: Family, latency: Duration) {
        self.programming.get_or_create(&label(family)).observe(latency.as_secs_f64());
    }

    /// Notes changes that wait for a sync.
    pub fn queued(&self, family: Family, services: usize, slices: usize) {
        let label = label(family);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.last_queued.get_or_create(&label).set(now());
        self.service_changes.get_or_create(&label).inc_by(count(services));
        self.endpoint_changes.get_or_create(&label).inc_by(count(slices));
    }

    /// How many changes wait for a sync.
    pub fn pending(&self, family: Family, services: usize, slices: usize) {
        let label = label(family);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.service_pending.get_or_create(&label).set(count(services));
        self.endpoint_pending.get_or_create(&label).set(count(slices));
    }

    /// Notes a clean-up of conntrack entries.
    pub fn conntrack(&self, family: Family, took: Duration, deleted: usize) {
        let label = label(family);
        self.conntrack_duration.get_or_create(&label).observe(took.as_secs_f64());
        let deleted = u64::try_from(deleted).unwrap_or(u64::MAX);
        self.conntrack_deleted.get_or_create(&label).inc_by(deleted);
    }

    /// Notes an answer of /healthz.
    pub fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&[("code", code.to_string())]).inc();
    }

    /// Notes an answer of /livez.
    pub fn livez(&self, code: u16) {
        self.livez.get_or_create(&[("code", code.to_string())]).inc();
    }

    /// Notes a kernel setting that could not be written.
    pub fn sysctl_failed(&self) {
        self.sysctl_failures.inc();
    }

    /// Everything, as upstream answers: Prometheus' text format 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        plain(&self.open_metrics())
    }

    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        joined(&text, &(packets(kernel::counted()) + &process()))
    }
}

/// What rules count, as OpenMetrics text; where nothing counts, there is no metric, as upstream has it.
fn packets(counted: Option<[u64; 2]>) -> String {
    let metric = |(name, help, count)| {
        format!(
            "# HELP kubeproxy_{name} {help}.\n# TYPE kubeproxy_{name} counter\n\
             kubeproxy_{name}_total {count}\n"
        )
    };
    let metrics = counted.map(|[invalid, localhost]| {
        [
            (
                "iptables_ct_state_invalid_dropped_packets",
                "Packets dropped since connection tracking calls them invalid",
                invalid,
            ),
            (
                "iptables_localhost_nodeports_accepted_packets",
                "First packets to node ports at loopback addresses",
                localhost,
            ),
        ]
    });
    metrics.into_iter().flatten().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_alike_in_every_line_of_the_older_format() {
        let metrics = Metrics::default();
        metrics.healthz(200);
        metrics.synced(Family::Ipv4, Kind::Full, Duration::from_millis(3));
        metrics.without_local(Family::Ipv6, Policy::External, 3);
        let text = metrics.text();
        for line in [
            "# HELP kubeproxy_proxy_healthz_total Cumulative answers of /healthz.",
            "# TYPE kubeproxy_proxy_healthz_total counter",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 3",
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        assert!(!text.contains("EOF") && metrics.open_metrics().ends_with("# EOF\n"));
    }

    #[test]
    fn failures_are_counted_by_mode() {
        let metrics = Metrics::default();
        metrics.refused(Family::Ipv4, Kind::Partial, Mode::Iptables);
        metrics.refused(Family::Ipv4, Kind::Full, Mode::Iptables);
        metrics.refused(Family::Ipv4, Kind::Full, Mode::Nftables);
        let text = metrics.text();
        for line in [
            "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn upstreams_names_are_there_with_their_labels() {
        let metrics = Metrics::default();
        metrics.synced(Family::Ipv4, Kind::Full, Duration::from_millis(3));
        metrics.synced(Family::Ipv4, Kind::Partial, Duration::from_millis(3));
        metrics.queued(Family::Ipv4, 2, 3);
        metrics.healthz(200);
        let text = metrics.text();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total{ip_family=\"IPv4\"} 3",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
