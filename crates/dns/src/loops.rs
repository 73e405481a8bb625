//! Whether what is forwarded comes back: a probe with a name that nobody else asks for is sent to
//! each upstream, and must not be seen here again.
//!
//! Upstream rule: coredns plugin/loop/setup.go; its probe goes to the server itself first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Engine;
use crate::forward::{PROBE_TYPE, ask_once, probe_name, query_for};

/// A loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// The upstream that sends queries back.
    pub upstream: SocketAddr,
    /// The zone for which it is asked.
    pub zone: String,
}

/// Looks for loops at each upstream of blocks that ask for it; gives the first.
pub async fn find(engine: &Arc<Engine>) -> Option<Loop> {
    let config = engine.config.load_full();
    let mut asked = Vec::new();
    for block in config.ports.values().flatten().filter(|block| block.loop_detection) {
        for forwarder in block.forwards.iter().filter(|forward| forward.takes(block.zone.wire())) {
            for upstream in &forwarder.upstreams {
                if asked.contains(&upstream.address) {
                    continue;
                }
                asked.push(upstream.address);
                let Some(name) = probe_name(&block.zone) else { continue };
                let query = query_for(&name, PROBE_TYPE);
                engine.probe.store(Some(Arc::new((name.lowercased(), AtomicU64::new(0)))));
                // Whether and what it answers says nothing; whether it came here does.
                let _ = ask_once(upstream.address, &query).await;
                let seen = engine.probe.swap(None);
                if seen.is_some_and(|probe| probe.1.load(Ordering::Relaxed) > 0) {
                    let zone = block.zone.to_string();
                    return Some(Loop { upstream: upstream.address, zone });
                }
            }
        }
    }
    None
}
