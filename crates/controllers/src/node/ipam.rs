//! Gives each node its pod CIDRs, one of each family of the cluster.
//!
//! One worker: the answer to each patch is in the cache before the next node is looked at, so no
//! slice is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::json;

use super::cidr::Ranges;
use crate::event::{EventType, Recorder};
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::{Config, Error, Result};

/// The node IPAM controller.
pub(crate) struct NodeIpam {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    queue: Arc<WorkQueue<Key>>,
    ranges: Ranges,
}

impl NodeIpam {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        config: &Config,
    ) -> Result<Arc<Self>> {
        let ranges = Ranges::of(config)?;
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.nodes.cache.subscribe(move |change| {
            if change.new.is_some_and(|n| cidrs(n).next().is_none()) {
                added.add(Key::of(&**change.latest()));
            }
        });
        let recorder = recorder.component("cidrAllocator");
        Ok(Arc::new(Self { kinds: Arc::clone(kinds), recorder, queue, ranges }))
    }
}

fn cidrs(node: &k8s_openapi::api::core::v1::Node) -> impl Iterator<Item = IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|s| s.pod_cidr.as_ref());
    all.iter().chain(one).filter_map(|c| c.parse().ok())
}

impl Reconcile for NodeIpam {
    type Key = Key;
    const NAME: &'static str = "node-ipam";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let nodes = &self.kinds.nodes;
        let Some(node) = nodes.cache.find(key) else { return Ok(None) };
        if cidrs(&node).next().is_some() || node.is_terminating() {
            return Ok(None);
        }
        let used: BTreeSet<IpNet> = nodes.cache.all().iter().flat_map(|n| cidrs(n)).collect();
        let Some(slices) = self.ranges.allocate(&used) else {
            let message = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.about(&*node, EventType::Normal, "CIDRNotAvailable", message);
            return Err(Error::Object {
                kind: "Node",
                namespace: String::new(),
                name: key.name.clone(),
                problem: "no free pod CIDR is left".to_owned(),
            });
        };
        let slices: Vec<_> = slices.iter().map(ToString::to_string).collect();
        let patch = json!({
            "metadata": { "uid": node.uid() },
            "spec": { "podCIDR": slices.first(), "podCIDRs": slices },
        });
        nodes.merge(key, node.uid(), &patch).await?;
        Ok(None)
    }
}
