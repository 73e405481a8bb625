//! The page /metrics.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    BlockMetrics, CODES, DURATIONS, FIRST_MICROS, Histogram, PLUGINS, PROGRAMMING, SERVICE_KINDS,
    SIZES, TYPES,
};
use crate::engine::Engine;

/// Codes of responses by name.
const CODE_NAMES: [&str; CODES] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "12",
    "13",
    "14",
    "15",
    "BADVERS",
];

/// Everything that is counted.
#[must_use]
pub fn render(engine: &Engine) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    page.head("coredns_build_info", "gauge", "The version that answers.");
    let version = env!("CARGO_PKG_VERSION");
    page.line(
        "coredns_build_info",
        &format!("goversion=\"\",revision=\"\",version=\"{version}\""),
        1,
    );
    page.head("coredns_panics_total", "counter", "Crashes that were survived.");
    page.line("coredns_panics_total", "", load(&engine.metrics.panics));
    let blocks = engine.metrics.blocks.lock().clone();
    let mut all: Vec<&BlockMetrics> = blocks.iter().map(AsRef::as_ref).collect();
    all.push(&engine.metrics.dropped);
    requests(&mut page, &all);
    responses(&mut page, &all);
    plugins(&mut page, engine);
    caches(&mut page, engine);
    upstreams(&mut page, engine);
    rest(&mut page, engine);
    page.0
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

struct Page(String);

impl Page {
    // Writing to a String does not fail.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// `bounds` gives the upper bound of a bucket as text; `unit` is what the sum counts.
    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &str,
        histogram: &Histogram<N>,
        bounds: impl Fn(usize) -> String,
        unit: f64,
    ) {
        let mut total = 0;
        for (i, bucket) in histogram.buckets.iter().enumerate() {
            total += load(bucket);
            let bound = if i + 1 == N { "+Inf".into() } else { bounds(i) };
            self.line(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), total);
        }
        self.line(&format!("{name}_sum"), labels, load(&histogram.sum) as f64 * unit);
        self.line(&format!("{name}_count"), labels, total);
    }
}

/// The labels that every metric of a block has.
fn of(block: &BlockMetrics) -> String {
    let (server, zone) = &block.labels;
    let zone = if zone.is_empty() { "dropped" } else { zone };
    format!("server=\"{server}\",view=\"\",zone=\"{}\"", escaped(zone))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn requests(page: &mut Page, blocks: &[&BlockMetrics]) {
    let name = "coredns_dns_requests_total";
    page.head(name, "counter", "Queries by zone, protocol, family and type.");
    for block in blocks {
        for (proto, by_family) in ["udp", "tcp"].iter().zip(&block.requests) {
            for (family, by_type) in ["1", "2"].iter().zip(by_family) {
                for ((qtype, _), count) in TYPES.iter().zip(by_type) {
                    let count = load(count);
                    if count > 0 {
                        let labels = format!(
                            "family=\"{family}\",proto=\"{proto}\",{},type=\"{qtype}\"",
                            of(block)
                        );
                        page.line(name, &labels, count);
                    }
                }
            }
        }
    }
    let name = "coredns_dns_request_size_bytes";
    page.head(name, "histogram", "How long queries are, in bytes.");
    sizes(page, name, blocks, |block| &block.request_sizes);
}

fn sizes(
    page: &mut Page,
    name: &str,
    blocks: &[&BlockMetrics],
    which: impl Fn(&BlockMetrics) -> &[Histogram<{ SIZES.len() + 1 }>; 2],
) {
    for block in blocks {
        for (proto, sizes) in ["udp", "tcp"].iter().zip(which(block)) {
            let labels = format!("proto=\"{proto}\",{}", of(block));
            page.histogram(name, &labels, sizes, |i| SIZES[i].to_string(), 1.0);
        }
    }
}

fn responses(page: &mut Page, blocks: &[&BlockMetrics]) {
    let name = "coredns_dns_responses_total";
    page.head(name, "counter", "Responses by zone, code and who answered.");
    for block in blocks {
        for (plugin, codes) in PLUGINS.iter().zip(&block.responses) {
            for (code, count) in CODE_NAMES.iter().zip(codes) {
                let count = load(count);
                if count > 0 {
                    let labels = format!("plugin=\"{plugin}\",rcode=\"{code}\",{}", of(block));
                    page.line(name, &labels, count);
                }
            }
        }
    }
    let name = "coredns_dns_request_duration_seconds";
    page.head(name, "histogram", "How long answers took, in seconds.");
    for block in blocks {
        page.histogram(name, &of(block), &block.durations, seconds, 1e-9);
    }
    let name = "coredns_dns_response_size_bytes";
    page.head(name, "histogram", "How long responses are, in bytes.");
    sizes(page, name, blocks, |block| &block.response_sizes);
}

/// The bound of a bucket of durations, in seconds.
fn seconds(bucket: usize) -> String {
    ((FIRST_MICROS << bucket.min(DURATIONS)) as f64 / 1e6).to_string()
}

fn plugins(page: &mut Page, engine: &Engine) {
    let name = "coredns_plugin_enabled";
    page.head(name, "gauge", "Which plugins a zone has.");
    for block in engine.config.load().ports.values().flatten() {
        for plugin in &block.plugins {
            let labels = format!("name=\"{plugin}\",{}", of(&block.metrics));
            page.line(name, &labels, 1);
        }
    }
}

fn caches(page: &mut Page, engine: &Engine) {
    let config = engine.config.load();
    let blocks: Vec<_> = config.ports.values().flatten().collect();
    let mut each =
        |name: &str,
         kind: &str,
         help: &str,
         read: &dyn Fn(&crate::cache::Cache) -> Vec<(&'static str, u64)>| {
            page.head(name, kind, help);
            for block in &blocks {
                let Some(cache) = &block.cache else { continue };
                for (kind, value) in read(cache) {
                    let (server, zone) = &block.metrics.labels;
                    let kind =
                        if kind.is_empty() { String::new() } else { format!(",type=\"{kind}\"") };
                    let labels =
                        format!("server=\"{server}\"{kind},view=\"\",zones=\"{}\"", escaped(zone));
                    page.line(name, &labels, value);
                }
            }
        };
    each("coredns_cache_entries", "gauge", "How many answers are remembered.", &|cache| {
        let (success, denial) = cache.len();
        vec![("success", success as u64), ("denial", denial as u64)]
    });
    each("coredns_cache_hits_total", "counter", "Queries that the cache answered.", &|cache| {
        let counts = &cache.counts;
        vec![("success", load(&counts.hits_success)), ("denial", load(&counts.hits_denial))]
    });
    each("coredns_cache_misses_total", "counter", "Queries that it did not.", &|cache| {
        vec![("", load(&cache.counts.misses))]
    });
    each("coredns_cache_requests_total", "counter", "Queries that it was asked.", &|cache| {
        let counts = &cache.counts;
        let all = [&counts.hits_success, &counts.hits_denial, &counts.misses];
        vec![("", all.into_iter().map(load).sum())]
    });
    each(
        "coredns_cache_prefetch_total",
        "counter",
        "Answers fetched before they were asked for.",
        &|cache| vec![("", load(&cache.counts.prefetch))],
    );
    each("coredns_cache_served_stale_total", "counter", "Answers that had ended.", &|cache| {
        vec![("", load(&cache.counts.served_stale))]
    });
    each(
        "coredns_cache_drops_total",
        "counter",
        "Responses that are not to be remembered.",
        &|cache| vec![("", load(&cache.counts.drops))],
    );
    each(
        "coredns_cache_evictions_total",
        "counter",
        "Answers that made room for others.",
        &|cache| {
            let counts = &cache.counts;
            vec![
                ("success", load(&counts.evictions_success)),
                ("denial", load(&counts.evictions_denial)),
            ]
        },
    );
}

fn upstreams(page: &mut Page, engine: &Engine) {
    let config = engine.config.load();
    let mut forwarders: Vec<_> =
        config.ports.values().flatten().flat_map(|block| &block.forwards).collect();
    forwarders.sort_by_key(|forwarder| std::sync::Arc::as_ptr(forwarder));
    forwarders.dedup_by_key(|forwarder| std::sync::Arc::as_ptr(forwarder));
    let name = "coredns_proxy_request_duration_seconds";
    page.head(name, "histogram", "How long upstreams took, in seconds.");
    let each = || forwarders.iter().flat_map(|forwarder| &forwarder.upstreams);
    for upstream in each() {
        for (code, durations) in CODE_NAMES.iter().zip(&upstream.answers) {
            if durations.count() > 0 {
                let to = upstream.address;
                let labels = format!("proxy_name=\"forward\",rcode=\"{code}\",to=\"{to}\"");
                page.histogram(name, &labels, durations, seconds, 1e-9);
            }
        }
    }
    let name = "coredns_proxy_healthcheck_failures_total";
    page.head(name, "counter", "Checks that upstreams did not pass.");
    for upstream in each() {
        let labels = format!("proxy_name=\"forward\",to=\"{}\"", upstream.address);
        page.line(name, &labels, load(&upstream.failed_checks));
    }
    let sum = |read: fn(&crate::forward::Forwarder) -> &AtomicU64| -> u64 {
        forwarders.iter().map(|forwarder| load(read(forwarder))).sum()
    };
    let name = "coredns_forward_healthcheck_broken_total";
    page.head(name, "counter", "Queries for which every upstream was down.");
    page.line(name, "", sum(|forwarder| &forwarder.all_down));
    let name = "coredns_forward_max_concurrent_rejects_total";
    page.head(name, "counter", "Queries refused since too many waited.");
    page.line(name, "", sum(|forwarder| &forwarder.rejects));
}

fn rest(page: &mut Page, engine: &Engine) {
    let name = "coredns_kubernetes_dns_programming_duration_seconds";
    page.head(name, "histogram", "From a change of endpoints to its answer, in seconds.");
    for (kind, histogram) in SERVICE_KINDS.iter().zip(&engine.metrics.programming) {
        let labels = format!("service_kind=\"{kind}\"");
        let bound = |i: usize| ((1_u64 << i.min(PROGRAMMING)) as f64 / 1e3).to_string();
        page.histogram(name, &labels, histogram, bound, 1e-9);
    }
    let name = "coredns_reload_failed_total";
    page.head(name, "counter", "Corefiles that were refused.");
    page.line(name, "", load(&engine.metrics.reload_failed));
    if let Some(hash) = &*engine.metrics.corefile.load() {
        let name = "coredns_reload_version_info";
        page.head(name, "gauge", "The Corefile that is served by.");
        page.line(name, &format!("hash=\"sha256\",value=\"{hash}\""), 1);
    }
    let name = "process_resident_memory_bytes";
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    if let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()) {
        page.head(name, "gauge", "Memory in use, in bytes.");
        page.line(name, "", pages * rustix::param::page_size() as u64);
    }
}
