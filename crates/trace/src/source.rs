//! Who sends a packet: addresses, and how it comes to the node whose rules are asked about.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use portolan_model::{Arrival, Family, LocalDetector};
use portolan_proxy::convert;

use crate::TraceError;
use crate::objects::Objects;
use crate::question::From;
use crate::view::View;

/// Where `--from external` is (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// How a packet comes to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A process in the node's own network sends it.
    Node,
    /// A pod of this node sends it.
    PodHere,
    /// It comes over the network.
    Elsewhere,
}

/// Who sends a packet.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// In words, without the address.
    pub(crate) who: String,
    /// Its addresses, the preferred one first.
    addresses: Vec<IpAddr>,
    place: Place,
}

/// The node whose rules a question is about, when the command line does not say: the one that a
/// packet of this source meets first.
pub(crate) fn node_of(from: &From, objects: &Objects) -> Option<String> {
    match from {
        From::Pod(name) => objects.pods.get(name)?.spec.as_ref()?.node_name.clone(),
        From::Node(name) => Some(name.clone()),
        From::Address(ip) => {
            let node = |(name, node): (&String, &core::Node)| {
                convert::node(node).addresses.contains(ip).then(|| name.clone())
            };
            let pod = |pod: &core::Pod| {
                if pod_ips(pod).contains(ip) { pod.spec.as_ref()?.node_name.clone() } else { None }
            };
            objects.nodes.iter().find_map(node).or_else(|| objects.pods.values().find_map(pod))
        }
        From::External => None,
    }
}

fn pod_ips(pod: &core::Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = many.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    ips
}

impl Source {
    /// Finds out who sends a packet, as seen from a node.
    pub(crate) fn new(from: &From, objects: &Objects, view: &View) -> Result<Self, TraceError> {
        match from {
            From::External => {
                let who = "outside the cluster".into();
                Ok(Self { who, addresses: OUTSIDE.to_vec(), place: Place::Elsewhere })
            }
            From::Node(name) => Ok(Self::node(name, objects, view)?),
            From::Pod(name) => {
                let pod = objects.pods.get(name).ok_or_else(|| TraceError::NotFound {
                    kind: "Pod",
                    name: name.to_string(),
                    hint: "--from also takes the pod's IP",
                })?;
                let spec = pod.spec.as_ref();
                let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
                let is_here = !node.is_empty() && node == &*view.node_name;
                let is_host = spec.and_then(|spec| spec.host_network).unwrap_or_default();
                let place = match (is_here, is_host) {
                    (true, true) => Place::Node,
                    (true, false) => Place::PodHere,
                    (false, _) => Place::Elsewhere,
                };
                let network = if is_host { ", in the node's own network" } else { "" };
                let on = if node.is_empty() { "no node".into() } else { format!("node {node}") };
                let who = format!("pod {name} on {on}{network}");
                Ok(Self { who, addresses: pod_ips(pod), place })
            }
            From::Address(ip) => Ok(Self::address(*ip, objects, view)),
        }
    }

    fn node(name: &str, objects: &Objects, view: &View) -> Result<Self, TraceError> {
        if name == &*view.node_name {
            let families = [Family::Ipv4, Family::Ipv6];
            let addresses = families.iter().filter_map(|family| view.primary_address(*family));
            let who = format!("node {name} itself");
            return Ok(Self { who, addresses: addresses.collect(), place: Place::Node });
        }
        let node = objects.nodes.get(name).ok_or_else(|| TraceError::NotFound {
            kind: "Node",
            name: name.to_owned(),
            hint: "--node-name and --node-ip describe a node that has no object",
        })?;
        let addresses = convert::primary_addresses(node).into_iter().collect();
        Ok(Self { who: format!("node {name}"), addresses, place: Place::Elsewhere })
    }

    fn address(ip: IpAddr, objects: &Objects, view: &View) -> Self {
        let addresses = vec![ip];
        if ip.is_loopback() || view.node.addresses.contains(&ip) {
            let who = format!("node {} itself", view.node_name);
            return Self { who, addresses, place: Place::Node };
        }
        let holder = objects.pods.iter().find(|(_, pod)| {
            let is_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
            !is_host && pod_ips(pod).contains(&ip)
        });
        let on = |node: Option<&str>| {
            let is_here = node.is_some_and(|node| !node.is_empty() && node == &*view.node_name);
            if is_here { Place::PodHere } else { Place::Elsewhere }
        };
        if let Some((name, pod)) = holder {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            return Self { who: format!("pod {name}"), addresses, place: on(node) };
        }
        // An endpoint is a pod mostly, and its slice knows the node.
        let endpoints = objects.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        let endpoint = endpoints
            .filter(|e| e.addresses.iter().any(|address| address.parse() == Ok(ip)))
            .find_map(|e| e.node_name.as_deref());
        let who = match endpoint {
            Some(node) => format!("an endpoint on node {node}"),
            None => "an address that no object has".into(),
        };
        Self { who, addresses, place: on(endpoint) }
    }

    /// The families in which it can send.
    pub(crate) fn families(&self) -> BTreeSet<Family> {
        let known: BTreeSet<_> = self.addresses.iter().map(|ip| Family::of(*ip)).collect();
        // A node whose addresses nobody has named can send in both.
        match self.place {
            Place::Node if known.is_empty() => [Family::Ipv4, Family::Ipv6].into(),
            _ => known,
        }
    }

    /// The source address of a packet to `destination`. What a node sends to an address of its own
    /// has that address as source.
    pub(crate) fn sends_from(&self, destination: IpAddr, view: &View) -> Option<IpAddr> {
        let family = Family::of(destination);
        let is_own = destination.is_loopback() || view.node.addresses.contains(&destination);
        if self.place == Place::Node && is_own {
            return Some(destination);
        }
        let known = self.addresses.iter().copied().find(|ip| Family::of(*ip) == family);
        known.or_else(|| match (self.place, self.addresses.is_empty(), family) {
            (Place::Node, true, Family::Ipv4) => Some(Ipv4Addr::UNSPECIFIED.into()),
            (Place::Node, true, Family::Ipv6) => Some(Ipv6Addr::UNSPECIFIED.into()),
            _ => None,
        })
    }

    /// How the packet comes to the node. A pod of the node comes in at an interface of the kind that
    /// the proxy was told of; what comes over the network at one that it was not told of.
    pub(crate) fn arrival(&self, detector: &LocalDetector) -> Arrival {
        let pods: Arc<str> = match detector {
            LocalDetector::Bridge(name) | LocalDetector::InterfacePrefix(name) => name.clone(),
            LocalDetector::None | LocalDetector::Cidrs(_) => "".into(),
        };
        match self.place {
            Place::Node => Arrival::SentHere,
            Place::PodHere => Arrival::Interface(pods),
            Place::Elsewhere => Arrival::Interface("".into()),
        }
    }
}
