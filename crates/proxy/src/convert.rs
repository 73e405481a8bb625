//! API objects as the model's input. What is odd in an object is left out, never fatal: the API
//! server has validated it, and what it let through must not stop the other Services.
//!
//! Upstream rule: pkg/proxy/serviceport.go, endpointslicecache.go, topology.go (see the table of
//! fields in docs/parity.md).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::jiff::Timestamp;
use portolan_model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Hints, IpMode, LoadBalancerIngress,
    NamespacedName, Node, NodePort, Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy,
};

/// The Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When the change began that a slice carries.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Set by the cluster autoscaler on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not given.
const AFFINITY_SECONDS: i32 = 10_800;

/// A Service; none when it is not for this proxy (headless, ExternalName).
#[must_use]
pub fn service(object: &core::Service) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let single = spec.cluster_ip.as_slice();
    let ips = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()).unwrap_or(single);
    let cluster_ips: Vec<IpAddr> = exactly(ips.iter().filter_map(|ip| ip.parse().ok()));
    if cluster_ips.is_empty() {
        return None;
    }
    Some(Service {
        name: name(&object.metadata.namespace, &object.metadata.name),
        cluster_ips,
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
        session_affinity: affinity(spec),
        external_traffic_policy: policy(spec.external_traffic_policy.as_deref()),
        internal_traffic_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
        load_balancer_ingress: ingress(object),
        load_balancer_source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|range| range.trim().parse::<IpNet>().ok())
            .collect(),
        health_check_node_port: health_check_node_port(spec),
    })
}

/// Of a Service that has left policy Local, the port is no more than a remnant.
fn health_check_node_port(spec: &core::ServiceSpec) -> Option<NodePort> {
    let local = policy(spec.external_traffic_policy.as_deref()) == TrafficPolicy::Local;
    spec.health_check_node_port.filter(|_| local).and_then(number).map(NodePort)
}

fn service_port(port: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref())?,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number).map(NodePort),
    })
}

fn affinity(spec: &core::ServiceSpec) -> SessionAffinity {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return SessionAffinity::None;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    let seconds = u64::try_from(seconds).unwrap_or_default().max(1);
    SessionAffinity::ClientIp { timeout: Duration::from_secs(seconds) }
}

fn ingress(object: &core::Service) -> Vec<LoadBalancerIngress> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    let read = |one: &core::LoadBalancerIngress| {
        let ip = one.ip.as_deref()?.parse().ok()?;
        let mode = match one.ip_mode.as_deref() {
            Some("Proxy") => IpMode::Proxy,
            _ => IpMode::Vip,
        };
        Some(LoadBalancerIngress { ip, mode })
    };
    ingress.into_iter().flatten().filter_map(read).collect()
}

/// The ranges of a ServiceCIDR that can be read.
#[must_use]
pub fn service_cidrs(object: &networking::ServiceCIDR) -> Vec<IpNet> {
    let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
}

/// In no more memory than they take: there are many of them, and they are kept.
fn exactly<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.shrink_to_fit();
    items
}

/// An EndpointSlice; none when it has no Service, or names hosts in the place of addresses.
#[must_use]
pub fn endpoint_slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let service = object.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(EndpointSlice {
        name: name(&object.metadata.namespace, &object.metadata.name),
        service: service.as_str().into(),
        ports: exactly(object.ports.iter().flatten().filter_map(endpoint_port)),
        endpoints: exactly(object.endpoints.iter().flatten().filter_map(endpoint)),
    })
}

fn endpoint_port(port: &discovery::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref())?,
        port: number(port.port?)?,
    })
}

fn endpoint(endpoint: &discovery::Endpoint) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let condition = |value: Option<bool>, default| value.unwrap_or(default);
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        conditions: Conditions {
            ready: condition(conditions.and_then(|c| c.ready), true),
            serving: condition(conditions.and_then(|c| c.serving), true),
            terminating: condition(conditions.and_then(|c| c.terminating), false),
        },
        node_name: endpoint.node_name.as_deref().map(Into::into),
        hints: Hints {
            zones: names(
                hints
                    .and_then(|h| h.for_zones.as_ref())
                    .map(|zones| zones.iter().map(|zone| zone.name.as_str())),
            ),
            nodes: names(
                hints
                    .and_then(|h| h.for_nodes.as_ref())
                    .map(|nodes| nodes.iter().map(|node| node.name.as_str())),
            ),
        },
    })
}

fn names<'a>(names: Option<impl Iterator<Item = &'a str>>) -> BTreeSet<Arc<str>> {
    names.into_iter().flatten().map(Into::into).collect()
}

/// When the change began that a slice carries, if it says so.
#[must_use]
pub fn trigger_time(object: &discovery::EndpointSlice) -> Option<Timestamp> {
    object.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}

/// This node.
#[must_use]
pub fn node(object: &core::Node) -> Node {
    let labels = object.metadata.labels.as_ref();
    let status = object.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    Node {
        zone: labels.and_then(|labels| labels.get(ZONE)).map(|zone| zone.as_str().into()),
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
    }
}

/// The node's primary addresses: of each family the first InternalIP, or else ExternalIP.
///
/// Upstream rule: `GetNodeHostIPs` of pkg/util/node/node.go.
#[must_use]
pub fn primary_addresses(object: &core::Node) -> BTreeSet<IpAddr> {
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    let of_kind = |kind: &'static str| {
        let addresses = addresses.into_iter().flatten();
        addresses.filter(move |a| a.type_ == kind).filter_map(|a| a.address.parse::<IpAddr>().ok())
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in of_kind("InternalIP").chain(of_kind("ExternalIP")) {
        if !found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found.into_iter().collect()
}

/// The ranges of the pods of this node.
#[must_use]
pub fn pod_cidrs(object: &core::Node) -> Vec<IpNet> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let one = spec.pod_cidr.as_slice();
    let many = spec.pod_cidrs.as_deref().filter(|many| !many.is_empty()).unwrap_or(one);
    many.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// Whether load balancers may send to this node: it is not being deleted.
#[must_use]
pub fn is_eligible(object: &core::Node) -> bool {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let is_doomed = taints.into_iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
    object.metadata.deletion_timestamp.is_none() && !is_doomed
}

fn name(namespace: &Option<String>, name: &Option<String>) -> NamespacedName {
    NamespacedName::new(
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default(),
    )
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    match name {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn number(port: i32) -> Option<NonZeroU16> {
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}
