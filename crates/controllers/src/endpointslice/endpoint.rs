//! The endpoints that a Service's pods make. Pure.
//!
//! A pod is an endpoint while it has an address and has not finished. serving = the pod is Ready;
//! terminating = it is being deleted; ready = both right, or the Service publishes whatever is
//! there. Each pod's ports are resolved by itself, for a named target port may differ from pod to
//! pod; endpoints are grouped by what that gives.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::topology;
use crate::object::Meta;
use crate::pod::{is_finished, is_ready, node_name};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// The family of the addresses in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AddressType {
    IPv4,
    IPv6,
}

impl AddressType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }

    /// The family that a slice's address type names; none for `FQDN`.
    pub(crate) fn named(kind: &str) -> Option<Self> {
        [Self::IPv4, Self::IPv6].into_iter().find(|family| family.as_str() == kind)
    }

    pub(crate) fn of(address: &str) -> Option<Self> {
        Some(match address.parse().ok()? {
            IpAddr::V4(_) => Self::IPv4,
            IpAddr::V6(_) => Self::IPv6,
        })
    }
}

/// A slice's ports, comparable: name, protocol, number, application protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ports(Vec<(String, String, Option<i32>, Option<String>)>);

impl Ports {
    pub(crate) fn of(ports: &[EndpointPort]) -> Self {
        let mut list: Vec<_> = ports
            .iter()
            .map(|p| {
                let name = p.name.clone().unwrap_or_default();
                let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                (name, protocol, p.port, p.app_protocol.clone())
            })
            .collect();
        list.sort();
        Self(list)
    }

    pub(crate) fn to_api(&self) -> Vec<EndpointPort> {
        let port = |(name, protocol, port, app_protocol): &(_, _, _, _)| EndpointPort {
            name: Some(String::clone(name)),
            protocol: Some(String::clone(protocol)),
            port: *port,
            app_protocol: Option::clone(app_protocol),
        };
        self.0.iter().map(port).collect()
    }
}

/// Which endpoint an entry of a slice stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    target: (String, String),
    addresses: Vec<String>,
    hostname: Option<String>,
}

impl Identity {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let target = endpoint.target_ref.as_ref();
        let part = |of: fn(&ObjectReference) -> &Option<String>| {
            target.and_then(|t| of(t).clone()).unwrap_or_default()
        };
        let mut addresses = endpoint.addresses.clone();
        addresses.sort();
        Self {
            target: (part(|t| &t.namespace), part(|t| &t.name)),
            addresses,
            hostname: endpoint.hostname.clone(),
        }
    }
}

/// Endpoints by identity.
pub(crate) type Endpoints = BTreeMap<Identity, Endpoint>;

/// What one pod comes to.
pub(super) enum Made {
    /// An endpoint in each family that it has an address of.
    Endpoints(Vec<(AddressType, Ports, Endpoint)>),
    /// Nothing until this node is known.
    NodeMissing(String),
}

/// The endpoints that a pod is, which the Service's selector matches.
pub(super) fn of_pod(
    service: &Service,
    families: &[AddressType],
    pod: &Pod,
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Made {
    let mut made = Vec::new();
    if is_finished(pod) || ips(pod).next().is_none() {
        return Made::Endpoints(made);
    }
    let spec = service.spec.as_ref();
    let publish = spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let node = node_name(pod).map(|name| (name, node(name)));
    if let Some((name, None)) = &node
        && !publish
    {
        return Made::NodeMissing((*name).to_owned());
    }
    let node = node.and_then(|(_, node)| node);
    let wanted = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let ports = Ports::of(&ports(wanted, pod));
    for family in families {
        let addresses: Vec<_> =
            ips(pod).filter(|ip| AddressType::of(ip) == Some(*family)).map(str::to_owned).collect();
        if !addresses.is_empty() {
            made.push((*family, ports.clone(), endpoint(service, pod, node.as_deref(), addresses)));
        }
    }
    Made::Endpoints(made)
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, addresses: Vec<String>) -> Endpoint {
    let spec = service.spec.as_ref();
    let publish = spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let serving = is_ready(pod);
    let terminating = pod.is_terminating();
    let ready = publish || (serving && !terminating);
    let zone = node.and_then(|n| n.label(ZONE)).map(str::to_owned);
    let node_name = node_name(pod).map(str::to_owned);
    let distribution = spec.and_then(|s| s.traffic_distribution.as_deref());
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        // Under `topology-mode: Auto` the hints depend on all endpoints together.
        hints: distribution
            .filter(|_| ready && !topology::is_auto(service))
            .and_then(|d| hints(d, zone.as_ref(), node_name.as_ref())),
        hostname: hostname(service, pod),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        node_name,
        zone,
        ..Endpoint::default()
    }
}

/// An endpoint is for its own zone, and under `PreferSameNode` for its own node.
fn hints(
    distribution: &str,
    zone: Option<&String>,
    node: Option<&String>,
) -> Option<EndpointHints> {
    let zones = zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let nodes = node.map(|node| vec![ForNode { name: node.clone() }]);
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: zones, for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones: zones, for_nodes: nodes },
        _ => return None,
    };
    (hints != EndpointHints::default()).then_some(hints)
}

/// The pod's host name, when its subdomain is this Service.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref()?;
    let hostname = spec.hostname.as_ref().filter(|h| !h.is_empty())?;
    (subdomain == service.name() && pod.namespace() == service.namespace())
        .then(|| hostname.clone())
}

/// The families that the Service has addresses of.
pub(crate) fn families(service: &Service) -> Vec<AddressType> {
    let spec = service.spec.clone().unwrap_or_default();
    let named: Vec<_> =
        spec.ip_families.iter().flatten().filter_map(|family| AddressType::named(family)).collect();
    if !named.is_empty() {
        return named;
    }
    // Written before families existed: the cluster IP tells.
    vec![spec.cluster_ip.as_deref().and_then(AddressType::of).unwrap_or(AddressType::IPv4)]
}

/// The pod's addresses, first the primary one.
pub(crate) fn ips(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let all = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    let primary = status.and_then(|s| s.pod_ip.as_deref()).filter(|_| all.is_empty());
    all.iter().map(|ip| ip.ip.as_str()).chain(primary).filter(|ip| !ip.is_empty())
}

/// The Service's ports as this pod has them; a named port that it lacks is left out.
pub(crate) fn ports(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| {
                    p.name.as_ref() == Some(name)
                        && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|p| p.container_port)
        }
    }
}
