//! Routes from the control plane's namespace to the nodes' pods, kept equal to the Node objects.
//!
//! The API server needs them for `services/proxy` and `pods/proxy`, which dial pods themselves.
//! On a cluster the machine of the control plane is a node and has them anyway.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;

use super::observe::{Watched, node_addresses};
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

type Routes = BTreeMap<IpNet, IpAddr>;

fn routes(nodes: &Store<Node>) -> Routes {
    nodes.state().iter().flat_map(|node| routes_to(node)).collect()
}

/// Each of a node's ranges by its address of the same family.
fn routes_to(node: &Node) -> impl Iterator<Item = (IpNet, IpAddr)> {
    let addresses = node_addresses(node);
    let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let cidrs: Vec<IpNet> = cidrs.filter_map(|cidr| cidr.parse().ok()).collect();
    cidrs.into_iter().filter_map(move |cidr| {
        let via = addresses.iter().find(|via| via.is_ipv4() == cidr.addr().is_ipv4())?;
        Some((cidr.trunc(), *via))
    })
}

/// What is in `a` and not, or otherwise, in `b`.
fn difference(a: &Routes, b: &Routes) -> Vec<(IpNet, IpAddr)> {
    a.iter().filter(|(to, via)| b.get(to) != Some(via)).map(|(to, via)| (*to, *via)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_moves_to_another_node_changes_its_route() {
        let net: IpNet = "10.244.0.0/24".parse().unwrap();
        let one = Routes::from([(net, IpAddr::from([172, 30, 0, 11]))]);
        let two = Routes::from([(net, IpAddr::from([172, 30, 0, 12]))]);
        assert_eq!(difference(&one, &two), [(net, IpAddr::from([172, 30, 0, 11]))]);
        assert_eq!(difference(&one, &one), []);
    }

    #[test]
    fn each_range_goes_by_the_nodes_address_of_its_family() {
        let node = |addresses: serde_json::Value| -> Node {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "node-1"},
                "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]},
                "status": {"addresses": addresses},
            }))
            .unwrap()
        };
        let internal =
            |address: &str| serde_json::json!({"type": "InternalIP", "address": address});
        let both = node([internal("fd00:172:30::11"), internal("172.30.0.11")].into());
        let found: Vec<_> = routes_to(&both).map(|(to, via)| format!("{to} via {via}")).collect();
        assert_eq!(
            found,
            ["10.244.0.0/24 via 172.30.0.11", "fd00:10:244::/64 via fd00:172:30::11"]
        );
        assert_eq!(routes_to(&node([internal("172.30.0.11")].into())).count(), 1);
        assert_eq!(routes_to(&Node::default()).count(), 0);
    }
}
