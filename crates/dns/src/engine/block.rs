//! Server blocks as they answer, made out of a Corefile.

use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{Config, Counted, Engine};
use crate::answer::{Authority, LoadBalance};
use crate::cache::Cache;
use crate::corefile::{Corefile, ServerBlock};
use crate::forward::Forwarder;
use crate::wire::Name;

/// One zone of a server block at one port.
#[derive(Debug)]
pub struct Block {
    /// The zone, in lower case.
    pub zone: Name,
    /// The port.
    pub port: u16,
    /// The cluster's zones.
    pub authority: Option<Authority>,
    /// Who is asked about other names.
    pub forwards: Vec<Arc<Forwarder>>,
    /// What they said.
    pub cache: Option<Arc<Cache>>,
    /// The order of addresses.
    pub load_balance: LoadBalance,
    /// Whether queries that come back are looked for.
    pub loop_detection: bool,
    /// Whether every query is logged.
    pub log: bool,
    /// Whether errors are.
    pub errors: bool,
    /// The longest response over UDP, in bytes.
    pub bufsize: u16,
    /// The names of its plugins.
    pub plugins: Vec<String>,
    /// What it counts.
    pub metrics: Counted,
}

/// What settings are made with beside the Corefile.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The addresses of this machine, for NS records.
    pub local_ips: Vec<IpAddr>,
    /// How many queries may wait for upstreams at once.
    pub most_waiting: usize,
}

impl Engine {
    /// Takes a Corefile over. Caches and upstreams whose settings are the same stay as they are.
    pub fn set_config(&self, corefile: &Corefile, setup: &Setup) {
        let before = self.config.load_full();
        let mut config = Config::default();
        for server in &corefile.servers {
            let old = known(&before, server);
            let forwards = forwards(server, old.as_deref(), setup, &self.tasks);
            let cache = cache(server, old.as_deref());
            for zone in &server.zones {
                let name = format!("dns://:{}", zone.port);
                let block = Block {
                    zone: zone.name.clone(),
                    port: zone.port,
                    authority: authority(server, setup),
                    forwards: forwards.clone(),
                    cache: cache.clone(),
                    load_balance: server.load_balance,
                    loop_detection: server.loop_detection,
                    log: server.log,
                    errors: server.errors,
                    bufsize: server.bufsize,
                    plugins: server.plugins.clone(),
                    metrics: self.metrics.block(&name, &zone.name.to_string()),
                };
                config.ports.entry(zone.port).or_default().push(Arc::new(block));
            }
        }
        self.config.store(Arc::new(config));
    }
}

/// The block that had the first zone of this one.
fn known(before: &Config, server: &ServerBlock) -> Option<Arc<Block>> {
    let zone = server.zones.first()?;
    let blocks = before.ports.get(&zone.port)?;
    blocks.iter().find(|block| block.zone == zone.name).cloned()
}

fn forwards(
    server: &ServerBlock,
    old: Option<&Block>,
    setup: &Setup,
    tasks: &TaskTracker,
) -> Vec<Arc<Forwarder>> {
    let make = |settings: &crate::corefile::Forward| {
        let mut same = old.iter().flat_map(|block| &block.forwards);
        match same.find(|forward| forward.settings == *settings) {
            Some(forward) => Arc::clone(forward),
            None => Arc::new(Forwarder::new(settings.clone(), setup.most_waiting, tasks.clone())),
        }
    };
    server.forwards.iter().map(make).collect()
}

fn cache(server: &ServerBlock, old: Option<&Block>) -> Option<Arc<Cache>> {
    let settings = server.cache.as_ref()?;
    let same =
        old.and_then(|block| block.cache.as_ref()).filter(|cache| cache.settings == *settings);
    Some(same.cloned().unwrap_or_else(|| Arc::new(Cache::new(settings.clone()))))
}

fn authority(server: &ServerBlock, setup: &Setup) -> Option<Authority> {
    let kubernetes = server.kubernetes.as_ref()?;
    let mut authority = Authority::new(kubernetes.zones.clone());
    authority.pods = kubernetes.pods;
    authority.ttl = kubernetes.ttl;
    authority.namespaces.clone_from(&kubernetes.namespaces);
    authority.ignore_empty_service = kubernetes.ignore_empty_service;
    authority.fallthrough = kubernetes.fallthrough.clone();
    authority.local_ips.clone_from(&setup.local_ips);
    Some(authority)
}
