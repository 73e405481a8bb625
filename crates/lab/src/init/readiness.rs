//! Whether nodes and proxies are ready: what the board shows, where node ports may be relayed to,
//! and the moment at which everything is up.
//!
//! A node is ready when its Node says so. A proxy is ready when it answers 200 on its health port:
//! it does so only after its rules have been written once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::observe::{Observed, node_addresses, node_is_ready, pod_is_ready, ready_nodes};
use crate::status::ComponentState;

/// kube-proxy's health port.
const HEALTH_PORT: u16 = 10256;

/// How often a proxy that has not answered yet is asked.
const ASK: Duration = Duration::from_millis(10);

/// An agent that comes back within the second of its last report writes what is there already, so
/// no event tells of it; if it does not come back, its node stops being ready by its lease.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps the board and the ready nodes true until `shutdown`; tells `up` once.
pub(super) async fn keep(
    nodes: Vec<String>,
    mut observed: Observed,
    board: Board,
    ready: watch::Sender<Arc<[IpAddr]>>,
    up: oneshot::Sender<()>,
    shutdown: CancellationToken,
) {
    let mut up = Some(up);
    let mut parts_changed = board.changes();
    let mut synced: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let unsynced = look(&nodes, &observed, &board, &mut synced);
        ready.send_replace(ready_nodes(&observed.nodes.store));
        let (_, _, parts) = board.read();
        if parts.iter().all(|part| part.state == ComponentState::Ready)
            && let Some(up) = up.take()
        {
            // Nobody waits when the lab stops while it starts.
            let _ = up.send(());
        }
        tokio::select! {
            changed = observed.nodes.changed.changed() => if changed.is_err() { return },
            changed = observed.proxies.changed.changed() => if changed.is_err() { return },
            (node, uid) = first_synced(unsynced) => { synced.insert(node, uid); }
            _ = parts_changed.changed(), if up.is_some() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// A proxy that runs and has not answered yet.
struct Unsynced {
    node: String,
    uid: String,
    address: IpAddr,
}

/// Writes the present state to the board; returns the proxies to ask.
fn look(
    nodes: &[String],
    observed: &Observed,
    board: &Board,
    synced: &mut BTreeMap<String, String>,
) -> Vec<Unsynced> {
    let known: BTreeMap<String, _> = observed
        .nodes
        .store
        .state()
        .into_iter()
        .filter_map(|node| Some((node.metadata.name.clone()?, node)))
        .collect();
    for name in nodes {
        match known.get(name) {
            Some(node) if node_is_ready(node) => {
                board.ready(name, detail(node));
            }
            _ => board.unready(name, "not ready"),
        }
    }
    let mut running: BTreeMap<String, String> = BTreeMap::new();
    for pod in observed.proxies.store.state() {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if let (Some(node), Some(uid), true) = (node, pod.metadata.uid.clone(), pod_is_ready(&pod))
            && pod.metadata.deletion_timestamp.is_none()
        {
            running.insert(node, uid);
        }
    }
    synced.retain(|node, uid| running.get(node) == Some(uid));
    let count = nodes.iter().filter(|node| synced.contains_key(*node)).count();
    if count == nodes.len() {
        board.ready("kube-proxy", format!("on {count} nodes"));
    } else {
        board.unready("kube-proxy", &format!("on {count} of {} nodes", nodes.len()));
    }
    running
        .into_iter()
        .filter(|(node, _)| !synced.contains_key(node))
        .filter_map(|(node, uid)| {
            let address =
                known.get(&node).and_then(|known| node_addresses(known).first().copied())?;
            Some(Unsynced { node, uid, address })
        })
        .collect()
}

/// A node's addresses and those of its pods.
fn detail(node: &Node) -> String {
    let addresses = node_addresses(node).into_iter().map(|address| address.to_string());
    let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    addresses.chain(cidrs.map(|cidr| format!("pods {cidr}"))).collect::<Vec<_>>().join(", ")
}

/// The first proxy that answers 200; waits for ever when there is none to ask.
async fn first_synced(unsynced: Vec<Unsynced>) -> (String, String) {
    if unsynced.is_empty() {
        return std::future::pending().await;
    }
    loop {
        for proxy in &unsynced {
            if is_healthy((proxy.address, HEALTH_PORT).into()).await {
                return (proxy.node.clone(), proxy.uid.clone());
            }
        }
        tokio::time::sleep(ASK).await;
    }
}

async fn is_healthy(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: kube-proxy\r\nConnection: close\r\n\r\n")
            .await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(&status == b"HTTP/1.1 200")
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), ask).await, Ok(Ok(true)))
}
