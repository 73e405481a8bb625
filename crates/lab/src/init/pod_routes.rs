//! Routes from the control plane's namespace to the nodes' pods, kept equal to the Node objects.
//!
//! The API server needs them for `services/proxy` and `pods/proxy`, which dial pods themselves.
//! On a cluster the machine of the control plane is a node and has them anyway.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;

use super::observe::{Watched, node_address};
use crate::fabric::Fabric;

/// Follows the Nodes until `shutdown`.
pub(super) async fn keep(fabric: Fabric, mut nodes: Watched<Node>, shutdown: CancellationToken) {
    let mut had = BTreeMap::new();
    loop {
        let wanted = routes(&nodes.store);
        for (to, via) in difference(&had, &wanted) {
            if let Err(error) = fabric.delete_route(to, via).await {
                tracing::warn!(%error, "a route to pods stays");
            }
        }
        for (to, via) in difference(&wanted, &had) {
            if let Err(error) = fabric.add_route(to, via).await {
                tracing::warn!(%error, "the API server cannot reach a node's pods");
            }
        }
        had = wanted;
        tokio::select! {
            changed = nodes.changed.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

type Routes = BTreeMap<Ipv4Net, Ipv4Addr>;

fn routes(nodes: &Store<Node>) -> Routes {
    nodes.state().iter().filter_map(|node| Some((pod_cidr(node)?, node_address(node)?))).collect()
}

fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// What is in `a` and not, or otherwise, in `b`.
fn difference(a: &Routes, b: &Routes) -> Vec<(Ipv4Net, Ipv4Addr)> {
    a.iter().filter(|(to, via)| b.get(to) != Some(via)).map(|(to, via)| (*to, *via)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_moves_to_another_node_changes_its_route() {
        let net: Ipv4Net = "10.244.0.0/24".parse().unwrap();
        let one = Routes::from([(net, Ipv4Addr::new(172, 30, 0, 11))]);
        let two = Routes::from([(net, Ipv4Addr::new(172, 30, 0, 12))]);
        assert_eq!(difference(&one, &two), [(net, Ipv4Addr::new(172, 30, 0, 11))]);
        assert_eq!(difference(&one, &one), []);
    }
}
