//! What the agent follows in the API: its Pods, all Nodes (for routes and its own podCIDRs), all
//! Services (for environment variables).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use kube::Api;
use parking_lot::Mutex;
use portolan_client::informer::{Change, Config, Informer, ObjectKey};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Addresses;
use crate::ipam::Ipam;
use crate::node::{Node, Services};
use crate::pod::worker::{Message, Worker, remove_directory};
use crate::recorder::Severity;
use crate::register;
use crate::runtime::sandbox::Sandbox;

/// Keeps the Services up to date for the workers.
pub(crate) async fn services(node: Arc<Node>) {
    let informer: Informer<Service> =
        Informer::start(Api::all(node.client.clone()), Config::default());
    let mut known = Services::default();
    loop {
        let changes = informer.changes().await;
        for (key, change) in changes.objects {
            match change {
                Change::Put(service) => known.insert(key, Arc::new(*service)),
                Change::Delete => known.remove(&key),
            };
        }
        if changes.is_listed {
            node.services.send_replace(Some(Arc::new(known.clone())));
        }
    }
}

/// Where another node's pods are.
type Route = (IpNet, IpAddr);

/// Learns this node's podCIDRs, and leads to the other nodes' pods.
pub(crate) async fn nodes(node: Arc<Node>) {
    let informer: Informer<NodeObject> =
        Informer::start(Api::all(node.client.clone()), Config::default());
    let mut routes: HashMap<ObjectKey, Vec<Route>> = HashMap::new();
    loop {
        let changes = informer.changes().await;
        for (key, change) in changes.objects {
            let wanted = match &change {
                Change::Put(object) if *key.name == *node.options.name => {
                    own_cidrs(&node, object);
                    if !register::is_ready(object) {
                        node.doubted.notify_one();
                    }
                    continue;
                }
                Change::Delete if *key.name == *node.options.name => {
                    node.doubted.notify_one();
                    continue;
                }
                Change::Put(object) => routes_to(object),
                Change::Delete => Vec::new(),
            };
            let had = routes.insert(key, wanted.clone()).unwrap_or_default();
            for (to, via) in had.iter().filter(|route| !wanted.contains(route)) {
                if let Err(error) = node.network.delete_route(*to, *via).await {
                    tracing::warn!("cannot delete the route to {to}: {error}");
                }
            }
            for (to, via) in wanted.iter().filter(|route| !had.contains(route)) {
                if let Err(error) = node.network.add_route(*to, *via).await {
                    tracing::warn!("cannot add the route to {to}: {error}");
                }
            }
        }
    }
}

fn cidrs(object: &NodeObject) -> Vec<IpNet> {
    let spec = object.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    let mut cidrs: Vec<IpNet> =
        all.iter().chain(&one).filter_map(|cidr| cidr.parse().ok()).collect();
    cidrs.dedup();
    cidrs.sort();
    cidrs.dedup();
    cidrs
}

/// The ranges out of which this node's pods get addresses: one of each family that the node has
/// an address of, in their order (kubelet puts the node's primary family first in podIPs, too).
fn own_ranges(own: &Addresses, cidrs: &[IpNet]) -> Vec<IpNet> {
    let of_family = |ip: IpAddr| cidrs.iter().find(|c| c.addr().is_ipv4() == ip.is_ipv4());
    own.iter().filter_map(of_family).copied().collect()
}

fn own_cidrs(node: &Node, object: &NodeObject) {
    let ranges = own_ranges(&node.options.node_ips, &cidrs(object));
    if !ranges.is_empty() {
        // They never change once they are there (API validation); pods hold addresses of them.
        node.ipam.send_if_modified(|ipam| {
            ipam.is_none() && {
                let mut fresh = Ipam::new(ranges);
                claim_held(&node.options.state_dir, &mut fresh);
                *ipam = Some(Arc::new(Mutex::new(fresh)));
                true
            }
        });
    }
}

/// Addresses of pods that an earlier agent left are held before anyone is given one.
fn claim_held(state_dir: &std::path::Path, ipam: &mut Ipam) {
    let Ok(entries) = std::fs::read_dir(state_dir.join("pods")) else { return };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        let ip = std::fs::read_to_string(entry.path().join("ip")).unwrap_or_default();
        if let Ok(addresses) = ip.trim().parse() {
            ipam.claim(&addresses, &uid);
        }
    }
}

/// Each of the node's ranges by its address of the same family.
fn routes_to(object: &NodeObject) -> Vec<Route> {
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|ip| ip.address.parse().ok()).collect();
    let via = |cidr: &IpNet| internal.iter().find(|ip| ip.is_ipv4() == cidr.addr().is_ipv4());
    cidrs(object).into_iter().filter_map(|cidr| Some((cidr, *via(&cidr)?))).collect()
}

struct Running {
    uid: String,
    sender: mpsc::UnboundedSender<Message>,
}

/// Runs a worker for each Pod of this node. Dropped, it leaves the pods running.
pub(crate) async fn pods(node: Arc<Node>) {
    let selector = format!("spec.nodeName={}", node.options.name);
    let informer: Informer<Pod> =
        Informer::start(Api::all(node.client.clone()), Config::fields(selector));
    let mut running: HashMap<ObjectKey, Running> = HashMap::new();
    let mut workers = JoinSet::new();
    let mut swept = false;
    loop {
        let changes = tokio::select! {
            changes = informer.changes() => changes,
            Some(ended) = workers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a pod's worker failed: {error}");
                }
                continue;
            }
        };
        for (key, change) in changes.objects {
            let pod = match change {
                Change::Put(pod) => Arc::new(*pod),
                Change::Delete => {
                    node.pods.write().remove(&key);
                    if let Some(gone) = running.remove(&key) {
                        let _ = gone.sender.send(Message::Gone);
                    }
                    continue;
                }
            };
            node.pods.write().insert(key.clone(), pod.clone());
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            match running.get(&key) {
                Some(known) if known.uid == uid => {
                    let _ = known.sender.send(Message::Pod(pod));
                    continue;
                }
                // Another Pod of the same name: the one before is gone.
                Some(other) => {
                    let _ = other.sender.send(Message::Gone);
                }
                None => {}
            }
            if let Some(reason) = unfit(&uid, &pod) {
                let message = format!("the Pod cannot run here: {reason}");
                node.recorder.pod(&pod, None, Severity::Warning, "Failed", message);
                continue;
            }
            let (worker, sender) = Worker::new(node.clone(), pod);
            workers.spawn(worker.run());
            running.insert(key, Running { uid, sender });
        }
        if changes.is_listed && !swept {
            swept = true;
            let known = running.values().map(|one| one.uid.clone()).collect();
            sweep(&node, known).await;
        }
    }
}

/// A uid and container names become file names: only what can be one.
fn unfit(uid: &str, pod: &Pod) -> Option<&'static str> {
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let Some(spec) = &pod.spec else { return Some("it has no spec") };
    let containers = crate::pod::record::containers(spec).map(|(container, _)| &container.name);
    let volumes = spec.volumes.iter().flatten().map(|volume| &volume.name);
    if !plain(uid) || !containers.chain(volumes).all(|name| plain(name)) {
        return Some("its uid or a name in it is no file name");
    }
    None
}

/// Ends what earlier agents left of Pods that are no more.
async fn sweep(node: &Node, known: std::collections::HashSet<String>) {
    let Ok(entries) = std::fs::read_dir(node.options.state_dir.join("pods")) else { return };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&uid) {
            continue;
        }
        let directory = entry.path();
        if let Ok(Some((sandbox, _))) = Sandbox::adopt(&directory).await {
            sandbox.stop().await;
        }
        let _ = node.network.disconnect(&crate::network::interface(&uid)).await;
        node.release(&uid);
        remove_directory(&directory);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, NodeAddress, NodeSpec, NodeStatus, PodSpec};

    use super::*;

    #[test]
    fn a_node_is_reached_by_its_internal_address_once_it_has_a_cidr() {
        let mut object = NodeObject::default();
        assert_eq!(routes_to(&object), []);
        let address = |type_: &str, address: &str| NodeAddress {
            type_: type_.into(),
            address: address.into(),
        };
        let mut known = |ips: &[&str]| {
            let internal = ips.iter().map(|ip| address("InternalIP", ip));
            let addresses = internal.chain([address("Hostname", "n")]).collect();
            object.status =
                Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() });
            object.spec = Some(NodeSpec {
                pod_cidr: Some("10.244.2.0/24".into()),
                pod_cidrs: Some(vec!["10.244.2.0/24".into(), "fd00:10:244:2::/64".into()]),
                ..NodeSpec::default()
            });
            let routes = routes_to(&object).into_iter();
            routes.map(|(to, via)| format!("{to} via {via}")).collect::<Vec<_>>()
        };
        let four = "10.244.2.0/24 via 172.30.0.12";
        assert_eq!(known(&["172.30.0.12"]), [four]);
        let both = [four, "fd00:10:244:2::/64 via fd00:172:30::12"];
        assert_eq!(known(&["fd00:172:30::12", "172.30.0.12"]), both);
    }

    #[test]
    fn a_nodes_ranges_follow_its_own_addresses() {
        let cidrs = ["10.244.2.0/24", "fd00:10:244:2::/64"].map(|cidr| cidr.parse().unwrap());
        let ranges = |own: &str| own_ranges(&own.parse().unwrap(), &cidrs);
        assert_eq!(ranges("172.30.0.12"), cidrs[..1]);
        assert_eq!(ranges("172.30.0.12,fd00:172:30::12"), cidrs);
        assert_eq!(ranges("fd00:172:30::12,172.30.0.12"), [cidrs[1], cidrs[0]]);
        assert_eq!(own_ranges(&"fd00::1".parse().unwrap(), &cidrs[..1]), []);
    }

    #[test]
    fn addresses_of_pods_that_are_there_are_not_given_out() {
        let state = tempfile::tempdir().unwrap();
        let pod = state.path().join("pods/one");
        std::fs::create_dir_all(&pod).unwrap();
        std::fs::write(pod.join("ip"), "10.244.1.2,fd00::2").unwrap();
        let mut ipam = Ipam::new(["10.244.1.0/24", "fd00::/64"].map(|cidr| cidr.parse().unwrap()));
        claim_held(state.path(), &mut ipam);
        assert_eq!(ipam.allocate("two", None), "10.244.1.3,fd00::3".parse().ok());
        assert_eq!(ipam.allocate("one", None), "10.244.1.2,fd00::2".parse().ok());
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        let pod = |name: &str| Pod {
            spec: Some(PodSpec {
                containers: vec![Container { name: name.into(), ..Container::default() }],
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        assert_eq!(unfit("5f0c-1", &pod("web")), None);
        for (uid, name) in
            [("../x", "web"), ("u", "../../etc"), ("u", "a/b"), ("", "web"), ("u", "")]
        {
            assert!(unfit(uid, &pod(name)).is_some(), "{uid} {name}");
        }
    }
}
