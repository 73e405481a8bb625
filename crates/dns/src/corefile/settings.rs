//! What a Corefile says, with the defaults filled in.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::answer::{Fallthrough, LoadBalance, PodMode};
use crate::wire::Name;

/// A whole Corefile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Corefile {
    /// The server blocks in their order.
    pub servers: Vec<ServerBlock>,
    /// Where /health is served, when it is.
    pub health: Option<Health>,
    /// Where /ready is served, when it is.
    pub ready: Option<SocketAddr>,
    /// Where /metrics is served, when it is.
    pub metrics: Option<SocketAddr>,
    /// How changes of the file are taken over, when they are.
    pub reload: Option<Reload>,
    /// What is odd, but no error; with its place.
    pub warnings: Vec<String>,
}

/// The zones of a server block with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The zone, in lower case.
    pub name: Name,
    /// Where it is served.
    pub port: u16,
}

/// A server block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerBlock {
    /// Its zones.
    pub zones: Vec<Zone>,
    /// Only at these addresses; empty: all.
    pub bind: Vec<IpAddr>,
    /// Whether errors are logged.
    pub errors: bool,
    /// Whether every query is logged.
    pub log: bool,
    /// The longest response over UDP, in bytes. Default 4096.
    pub bufsize: u16,
    /// The names of the cluster.
    pub kubernetes: Option<Kubernetes>,
    /// Where other names are asked for, in their order.
    pub forwards: Vec<Forward>,
    /// What is remembered of them.
    pub cache: Option<Cache>,
    /// Whether queries that come back are looked for.
    pub loop_detection: bool,
    /// The order of addresses.
    pub load_balance: LoadBalance,
    /// Whether /metrics counts its queries.
    pub prometheus: bool,
    /// The names of its plugins, for `coredns_plugin_enabled`.
    pub plugins: Vec<String>,
}

/// `health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Where. Default `:8080`.
    pub address: SocketAddr,
    /// How long queries are answered after the signal to stop. Default 0.
    pub lameduck: Duration,
}

/// `reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// How often the file is looked at where it cannot be watched. Default 30 s.
    pub interval: Duration,
}

/// `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The zones, in lower case.
    pub zones: Vec<Name>,
    /// The API server, where it is not the pod's own.
    pub endpoint: Option<String>,
    /// A kubeconfig and a context of it.
    pub kubeconfig: Option<(PathBuf, Option<String>)>,
    /// Only these namespaces; empty: all.
    pub namespaces: BTreeSet<String>,
    /// Only namespaces with these labels.
    pub namespace_labels: Option<String>,
    /// Only Services with these labels.
    pub labels: Option<String>,
    /// Which pods have records.
    pub pods: PodMode,
    /// Whether an endpoint without a hostname is called like its pod.
    pub endpoint_pod_names: bool,
    /// How long answers hold, in seconds. Default 5.
    pub ttl: u32,
    /// Whether endpoints are left aside.
    pub no_endpoints: bool,
    /// Whether a Service without ready endpoints has no name.
    pub ignore_empty_service: bool,
    /// What happens to names that do not exist.
    pub fallthrough: Fallthrough,
}

/// Which upstream is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// The first that is well.
    Sequential,
}

/// How upstreams that failed are looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// How often. Default 500 ms.
    pub interval: Duration,
    /// Whether recursion is asked for.
    pub recursion: bool,
}

/// `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Which names, in lower case.
    pub from: Name,
    /// But not these.
    pub except: Vec<Name>,
    /// Whom to ask.
    pub to: Vec<SocketAddr>,
    /// In which order.
    pub policy: Policy,
    /// Whether TCP is used for everything.
    pub force_tcp: bool,
    /// Whether UDP is used even for queries that came over TCP.
    pub prefer_udp: bool,
    /// After how many failed checks in a row an upstream is down; 0: never. Default 2.
    pub max_fails: u32,
    /// How they are looked after.
    pub health_check: HealthCheck,
    /// How many queries may wait at once; 0: as many as the server can hold.
    pub max_concurrent: usize,
}

/// How much is remembered, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKind {
    /// At most so many answers; 0: none.
    pub capacity: usize,
    /// At most so long, in seconds.
    pub max_ttl: u32,
    /// At least so long, in seconds.
    pub min_ttl: u32,
}

/// Whether an answer has what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// It has.
    Success,
    /// It says that there is nothing.
    Denial,
}

/// `cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Only names in these zones, in lower case; empty: the block's.
    pub zones: Vec<Name>,
    /// Answers. Default 9984 for up to 3600 s, at least 5 s.
    pub success: CacheKind,
    /// Names and records that do not exist. Default 9984 for up to 1800 s, at least 5 s.
    pub denial: CacheKind,
    /// Zones whose answers, or denials, are not kept: `disable`. In lower case.
    pub disabled: Vec<(Denial, Name)>,
    /// How long a failure is remembered. Default 5 s.
    pub servfail: Duration,
    /// An answer that is asked for so many times is fetched anew before it ends; 0: never.
    pub prefetch: u32,
    /// With no longer pause between two questions than this. Default 1 m.
    pub prefetch_pause: Duration,
    /// When so many percent of its time are left. Default 10.
    pub prefetch_percent: u8,
    /// How long answers that ended are given while upstreams fail; none: not at all.
    pub serve_stale: Option<Duration>,
    /// Whether the upstream is asked before an ended answer is given.
    pub verify_stale: bool,
}
