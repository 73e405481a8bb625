//! `endpoint_slice_controller_*`.
//!
//! `changes` and `syncs` are counters, kept in gauges: an OpenMetrics counter's name ends in
//! `_total`, which theirs upstream does not.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;

use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::endpointslice::plan::{Counts, Plan};
use crate::endpointslice::topology::is_auto;
use crate::object::Key;

type Number = Gauge<i64, AtomicI64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hinting {
    topology: &'static str,
    traffic_distribution: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Distribution {
    traffic_distribution: &'static str,
}

/// The EndpointSlice controller's metrics.
#[derive(Debug)]
pub(crate) struct SliceMetrics {
    added: Histogram,
    removed: Histogram,
    desired: Number,
    slices: Number,
    ideal: Number,
    changes: Family<Operation, Number>,
    changed: Family<Hinting, Histogram>,
    syncs: Family<Outcome, Number>,
    distributions: Family<Distribution, Number>,
    /// What each Service adds to the sums.
    services: Mutex<HashMap<Key, (Counts, Option<&'static str>)>>,
}

impl SliceMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let buckets = || Histogram::new(exponential_buckets(2.0, 2.0, 15));
        let this = Self {
            added: buckets(),
            removed: buckets(),
            desired: Number::default(),
            slices: Number::default(),
            ideal: Number::default(),
            changes: Family::default(),
            // Prometheus' default buckets, as upstream names none.
            changed: Family::new_with_constructor(|| {
                Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
            }),
            syncs: Family::default(),
            distributions: Family::default(),
            services: Mutex::default(),
        };
        let all = registry.sub_registry_with_prefix("endpoint_slice_controller");
        let per_sync = "on each Service sync";
        all.register(
            "endpoints_added_per_sync",
            format!("Endpoints added {per_sync}"),
            this.added.clone(),
        );
        all.register(
            "endpoints_removed_per_sync",
            format!("Endpoints removed {per_sync}"),
            this.removed.clone(),
        );
        all.register("endpoints_desired", "Endpoints desired", this.desired.clone());
        all.register("num_endpoint_slices", "EndpointSlices", this.slices.clone());
        all.register(
            "desired_endpoint_slices",
            "EndpointSlices that would do, were they all full",
            this.ideal.clone(),
        );
        all.register("changes", "EndpointSlice changes", this.changes.clone());
        all.register(
            "endpointslices_changed_per_sync",
            format!("EndpointSlices changed {per_sync}"),
            this.changed.clone(),
        );
        all.register("syncs", "EndpointSlice syncs", this.syncs.clone());
        all.register(
            "services_count_by_traffic_distribution",
            "Services by their trafficDistribution",
            this.distributions.clone(),
        );
        this
    }

    /// A plan was carried out, or failed.
    pub(crate) fn observe(&self, key: &Key, service: &Service, plan: &Plan, done: bool) {
        let result = if done { "success" } else { "error" };
        self.syncs.get_or_create(&Outcome { result }).inc();
        if !done {
            return;
        }
        let writes = [
            ("create", plan.create.len()),
            ("update", plan.update.len()),
            ("delete", plan.delete.len()),
        ];
        for (operation, count) in writes.into_iter().filter(|(_, count)| *count > 0) {
            self.changes.get_or_create(&Operation { operation }).inc_by(integer(count));
        }
        let distribution = distribution(service);
        let hinting = Hinting {
            topology: if is_auto(service) { "Auto" } else { "Disabled" },
            traffic_distribution: distribution.unwrap_or_default(),
        };
        let count: usize = writes.iter().map(|(_, count)| count).sum();
        self.changed.get_or_create(&hinting).observe(real(count));
        self.added.observe(real(plan.counts.added));
        self.removed.observe(real(plan.counts.removed));
        let now = (plan.counts, distribution);
        let before = self.services.lock().insert(key.clone(), now);
        self.shift(before, Some(now));
    }

    /// The Service is gone, or has no endpoints of ours any more.
    pub(crate) fn forget(&self, key: &Key) {
        let before = self.services.lock().remove(key);
        self.shift(before, None);
    }

    fn shift(
        &self,
        before: Option<(Counts, Option<&'static str>)>,
        now: Option<(Counts, Option<&'static str>)>,
    ) {
        for (part, sign) in [(now, 1), (before, -1)] {
            let Some((counts, distribution)) = part else { continue };
            self.desired.inc_by(sign * integer(counts.desired));
            self.slices.inc_by(sign * integer(counts.slices));
            self.ideal.inc_by(sign * integer(counts.ideal));
            if let Some(traffic_distribution) = distribution {
                let labels = Distribution { traffic_distribution };
                self.distributions.get_or_create(&labels).inc_by(sign);
            }
        }
    }
}

/// The Service's distribution; whatever else is written there must not make labels without end.
fn distribution(service: &Service) -> Option<&'static str> {
    let text = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    ["PreferClose", "PreferSameZone", "PreferSameNode"].into_iter().find(|known| *known == text)
}

fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;
    use crate::Metrics;
    use crate::testing::meta;

    #[test]
    fn sums_follow_services_as_they_change_and_go() {
        let metrics = Metrics::default();
        let slices = &metrics.slices;
        let service = |distribution: &str| Service {
            metadata: meta("ns", "web"),
            spec: Some(ServiceSpec {
                traffic_distribution: Some(distribution.into()),
                ..ServiceSpec::default()
            }),
            status: None,
        };
        let plan = |desired: usize| Plan {
            create: vec![EndpointSlice::default(); 2],
            counts: Counts { added: desired, removed: 1, desired, slices: 3, ideal: 2 },
            ..Plan::default()
        };
        let (web, db) = (Key::new("ns", "web"), Key::new("ns", "db"));
        slices.observe(&web, &service("PreferClose"), &plan(120), true);
        slices.observe(&db, &service("anything"), &plan(5), true);
        slices.observe(&web, &service("PreferSameNode"), &plan(110), true);
        slices.observe(&web, &service("PreferSameNode"), &plan(7), false);
        let text = metrics.text();
        for line in [
            "endpoint_slice_controller_endpoints_desired 115",
            "endpoint_slice_controller_num_endpoint_slices 6",
            "endpoint_slice_controller_desired_endpoint_slices 4",
            "endpoint_slice_controller_changes{operation=\"create\"} 6",
            "endpoint_slice_controller_syncs{result=\"success\"} 3",
            "endpoint_slice_controller_syncs{result=\"error\"} 1",
            "endpoint_slice_controller_endpoints_added_per_sync_sum 235.0",
            "endpoint_slice_controller_endpoints_removed_per_sync_count 3",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 0",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferSameNode\"} 1",
            "endpoint_slice_controller_endpointslices_changed_per_sync_count{topology=\"Disabled\",traffic_distribution=\"\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        slices.forget(&web);
        slices.forget(&web);
        assert!(metrics.text().contains("endpoint_slice_controller_endpoints_desired 5"));
    }
}
