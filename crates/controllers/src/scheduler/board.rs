//! Which pods sit on which nodes, and where the next one goes. Pure.
//!
//! Kept up to date change by change, so that a choice costs one look at each node. A pod is put on
//! the board the moment its node is chosen (the binding is assumed), so that the next choice
//! already sees it.
//!
//! Order of preference: preferred affinity, fewest soft taints, fewest pods of the same owner,
//! fewest pods, name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::fit::{self, Unfit};
use crate::object::Meta;
use crate::pod::node_name;

/// A host port a pod takes: protocol, address, port.
type HostPort = (String, String, i32);

/// All nodes and the pods placed on them.
#[derive(Debug, Default)]
pub(super) struct Board {
    nodes: BTreeMap<String, Slot>,
    places: HashMap<String, Place>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Absent while pods name a node that is not there (yet, or any more).
    node: Option<Arc<Node>>,
    pods: usize,
    of_owner: HashMap<String, usize>,
    ports: HashSet<HostPort>,
}

#[derive(Debug)]
struct Place {
    node: String,
    owner: String,
    ports: Vec<HostPort>,
}

/// No node takes the pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoNode {
    nodes: usize,
    reasons: BTreeMap<Unfit, usize>,
}

impl std::fmt::Display for NoNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }
}

impl Board {
    pub(super) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.name().to_owned();
        self.nodes.entry(name).or_default().node = Some(node);
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.nodes.get_mut(name) {
            slot.node = None;
            if slot.pods == 0 {
                self.nodes.remove(name);
            }
        }
    }

    /// Whether the pod of this uid has a place.
    pub(super) fn holds(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Puts a pod on a node; a pod placed already moves there.
    pub(super) fn place(&mut self, pod: &Pod, node: &str) {
        if self.places.get(pod.uid()).is_some_and(|p| p.node == node) {
            return;
        }
        self.remove(pod.uid());
        let place = Place { node: node.to_owned(), owner: owner(pod), ports: host_ports(pod) };
        let slot = self.nodes.entry(place.node.clone()).or_default();
        slot.pods += 1;
        *slot.of_owner.entry(place.owner.clone()).or_default() += 1;
        slot.ports.extend(place.ports.iter().cloned());
        self.places.insert(pod.uid().to_owned(), place);
    }

    /// Takes a pod off.
    pub(super) fn remove(&mut self, uid: &str) {
        let Some(place) = self.places.remove(uid) else { return };
        let Some(slot) = self.nodes.get_mut(&place.node) else { return };
        slot.pods -= 1;
        if let Some(count) = slot.of_owner.get_mut(&place.owner) {
            *count -= 1;
            if *count == 0 {
                slot.of_owner.remove(&place.owner);
            }
        }
        for port in &place.ports {
            slot.ports.remove(port);
        }
        if slot.pods == 0 && slot.node.is_none() {
            self.nodes.remove(&place.node);
        }
    }

    /// Chooses a node for the pod.
    pub(super) fn choose(&self, pod: &Pod) -> Result<String, NoNode> {
        let (owner, ports) = (owner(pod), host_ports(pod));
        let spec = pod.spec.clone().unwrap_or_default();
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let mut refusal = NoNode { nodes: 0, reasons: BTreeMap::new() };
        let mut best = None;
        for slot in self.nodes.values() {
            let Some(node) = &slot.node else { continue };
            refusal.nodes += 1;
            if let Err(reason) = slot.check(pod, node, &ports) {
                *refusal.reasons.entry(reason).or_default() += 1;
                continue;
            }
            let score = (
                Reverse(fit::preference(&spec, node)),
                fit::soft_taints(tolerations, node),
                slot.of_owner.get(&owner).copied().unwrap_or(0),
                slot.pods,
            );
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, node));
            }
        }
        best.map(|(_, node)| node.name().to_owned()).ok_or(refusal)
    }
}

impl Slot {
    fn check(&self, pod: &Pod, node: &Node, ports: &[HostPort]) -> Result<(), Unfit> {
        if node_name(pod).is_some_and(|n| n != node.name()) {
            return Err(Unfit::NodeName);
        }
        fit::check(pod, node)?;
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let room = allocatable.and_then(|a| a.get("pods")).and_then(|q| q.0.parse::<usize>().ok());
        if room.is_some_and(|room| self.pods >= room) {
            return Err(Unfit::TooManyPods);
        }
        if ports.iter().any(|port| self.is_taken(port)) {
            return Err(Unfit::HostPorts);
        }
        Ok(())
    }

    fn is_taken(&self, (protocol, address, port): &HostPort) -> bool {
        let any = "0.0.0.0";
        self.ports.iter().any(|(p, a, n)| {
            p == protocol && n == port && (a == address || a == any || address == any)
        })
    }
}

/// What pods are spread by: their controller, or failing that their namespace's bare pods.
fn owner(pod: &Pod) -> String {
    pod.controller().map_or_else(|| pod.namespace().to_owned(), |o| o.uid.clone())
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let host_network = spec.host_network == Some(true);
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.or_else(|| host_network.then_some(p.container_port))?;
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = p.host_ip.clone().filter(|ip| !ip.is_empty());
            (port > 0).then(|| (protocol, address.unwrap_or_else(|| "0.0.0.0".to_owned()), port))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;
    use proptest::prelude::*;

    use super::*;
    use crate::object::controller_ref;
    use crate::testing::{node, pod, replica_set};

    fn board(nodes: &[&str]) -> Board {
        let mut board = Board::default();
        nodes.iter().for_each(|n| board.set_node(Arc::new(node(n))));
        board
    }

    fn of(owner: &str, name: &str) -> Pod {
        let mut pod = pod("ns", name);
        pod.metadata.owner_references = Some(vec![controller_ref(&replica_set("ns", owner, 1))]);
        pod
    }

    fn put(board: &mut Board, pod: &Pod) -> String {
        let node = board.choose(pod).unwrap();
        board.place(pod, &node);
        node
    }

    #[test]
    fn pods_of_one_owner_spread_before_the_total_evens_out() {
        let mut board = board(&["a", "b"]);
        for n in 0..4 {
            board.place(&of("other", &format!("o{n}")), "b");
        }
        assert_eq!(put(&mut board, &of("web", "1")), "a");
        assert_eq!(put(&mut board, &of("web", "2")), "b");
        assert_eq!(put(&mut board, &of("web", "3")), "a");
    }

    #[test]
    fn a_host_port_is_taken_once_on_each_node() {
        let mut board = board(&["a"]);
        let mut first = of("web", "1");
        first.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            container_port: 80,
            host_port: Some(8080),
            ..ContainerPort::default()
        }]);
        let mut second = first.clone();
        second.metadata.uid = Some("second".into());
        put(&mut board, &first);
        let refusal = board.choose(&second).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
        );
        board.remove(first.uid());
        assert!(board.choose(&second).is_ok());
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        let refusal = board(&[]).choose(&pod("ns", "p")).unwrap_err();
        assert_eq!(refusal.to_string(), "no nodes available to schedule pods");
    }

    #[test]
    fn a_node_that_left_takes_no_more_pods() {
        let mut board = board(&["a", "b"]);
        board.place(&pod("ns", "p"), "a");
        board.remove_node("a");
        assert_eq!(board.choose(&pod("ns", "q")).unwrap(), "b");
        board.remove("uid-ns-p");
        assert_eq!(board.nodes.len(), 1);
    }

    proptest! {
        /// No owner ever has two more pods on one node than on another.
        #[test]
        fn owners_stay_even(owners in prop::collection::vec(0..3u8, 1..40)) {
            let mut board = board(&["a", "b", "c"]);
            for (n, owner) in owners.iter().enumerate() {
                put(&mut board, &of(&format!("o{owner}"), &n.to_string()));
            }
            for owner in 0..3u8 {
                let uid = format!("uid-ns-o{owner}");
                let counts: Vec<_> = board.nodes.values().map(|s| s.of_owner.get(&uid).copied().unwrap_or(0)).collect();
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
        }

        /// Any order of placing and removing leaves the counts that the placed pods give.
        #[test]
        fn the_counts_follow_the_places(steps in prop::collection::vec((0..6u8, 0..3u8, any::<bool>()), 0..60)) {
            let mut board = board(&["n0", "n1"]);
            for (p, n, add) in steps {
                let pod = of("web", &p.to_string());
                if add { board.place(&pod, &format!("n{n}")) } else { board.remove(pod.uid()) }
            }
            for (name, slot) in &board.nodes {
                let placed = board.places.values().filter(|p| p.node == *name).count();
                prop_assert_eq!(slot.pods, placed);
                prop_assert_eq!(slot.of_owner.values().sum::<usize>(), placed);
            }
        }
    }
}
