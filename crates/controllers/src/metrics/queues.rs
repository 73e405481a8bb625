//! `workqueue_*`, of each controller's queue.
//!
//! Upstream: `k8s.io/component-base/metrics/prometheus/workqueue`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Number = Gauge<i64, AtomicI64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// The metrics of all queues.
#[derive(Debug)]
pub(crate) struct Queues {
    depth: Family<Name, Number>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Family<Name, Histogram>,
    worked: Family<Name, Histogram>,
}

/// The metrics of one queue.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    depth: Number,
    adds: Counter,
    retries: Counter,
    waited: Histogram,
    worked: Histogram,
}

impl Queues {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(1e-8, 10.0, 12));
        let this = Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(seconds),
            worked: Family::new_with_constructor(seconds),
        };
        let all = registry.sub_registry_with_prefix("workqueue");
        all.register("depth", "Keys that wait", this.depth.clone());
        all.register("adds", "Keys added, those that waited already left out", this.adds.clone());
        all.register("retries", "Keys added again after a failure", this.retries.clone());
        let how_long = "How long a key waited before it was worked on";
        all.register_with_unit("queue_duration", how_long, Unit::Seconds, this.waited.clone());
        let how_long = "How long the work on a key took";
        all.register_with_unit("work_duration", how_long, Unit::Seconds, this.worked.clone());
        this
    }

    /// Those of the controller of that name.
    pub(crate) fn of(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        QueueMetrics {
            depth: self.depth.get_or_create_owned(&name),
            adds: self.adds.get_or_create_owned(&name),
            retries: self.retries.get_or_create_owned(&name),
            waited: self.waited.get_or_create_owned(&name),
            worked: self.worked.get_or_create_owned(&name),
        }
    }
}

impl QueueMetrics {
    pub(crate) fn added(&self) {
        self.adds.inc();
        self.depth.inc();
    }

    pub(crate) fn taken(&self, waited: Duration) {
        self.depth.dec();
        self.waited.observe(waited.as_secs_f64());
    }

    pub(crate) fn done(&self, worked: Duration) {
        self.worked.observe(worked.as_secs_f64());
    }

    pub(crate) fn failed(&self) {
        self.retries.inc();
    }
}
