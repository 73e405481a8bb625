//! What the lab itself watches through the API: Nodes, the proxies' pods, and Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The watched objects; cheap to clone.
#[derive(Clone)]
pub(super) struct Observed {
    pub(super) nodes: Watched<Node>,
    pub(super) proxies: Watched<Pod>,
    pub(super) services: Watched<Service>,
}

/// One kind's objects, and a signal at each change.
#[derive(Clone)]
pub(super) struct Watched<K: kube::Resource<DynamicType = ()> + Clone + 'static> {
    pub(super) store: Store<K>,
    pub(super) changed: watch::Receiver<u64>,
}

/// The label that selects the proxies' pods.
pub(super) const PROXY_LABEL: &str = "k8s-app=kube-proxy";

impl Observed {
    /// Begins to watch.
    pub(super) fn start(client: &Client, shutdown: &CancellationToken) -> Observed {
        let all = watcher::Config::default;
        Observed {
            nodes: watch_all(Api::all(client.clone()), all(), shutdown),
            proxies: watch_all(
                Api::namespaced(client.clone(), "kube-system"),
                all().labels(PROXY_LABEL),
                shutdown,
            ),
            services: watch_all(Api::all(client.clone()), all(), shutdown),
        }
    }
}

fn watch_all<K>(api: Api<K>, config: watcher::Config, shutdown: &CancellationToken) -> Watched<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let (tell, changed) = watch::channel(0u64);
    let stream = watcher(api, config).default_backoff().reflect(writer);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(_)) => tell.send_modify(|count| *count += 1),
                Some(Err(error)) => tracing::debug!(%error, "a watch begins anew"),
                None => return,
            }
        }
    });
    Watched { store, changed }
}

/// Whether a Node's Ready condition is True.
pub(super) fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a Pod's Ready condition is True.
pub(super) fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A Node's InternalIPs, the primary first.
pub(super) fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// The addresses of all ready nodes, in order of name.
pub(super) fn ready_nodes(nodes: &Store<Node>) -> Arc<[IpAddr]> {
    let by_name: BTreeMap<_, _> = nodes
        .state()
        .into_iter()
        .filter(|node| node_is_ready(node))
        .filter_map(|node| Some((node.metadata.name.clone()?, node_addresses(&node))))
        .collect();
    by_name.into_values().flatten().collect()
}
