//! API objects as events of the index. What is odd in an object is left out, never fatal.
//!
//! Upstream rule: coredns plugin/kubernetes/object/service.go, endpoint.go, pod.go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::wire::Name;
use crate::zone::{Endpoint, EndpointSlice, Kind, Port, Protocol, Service};

/// The Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When the change began that a slice carries.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// What a headless Service has in the place of a cluster IP.
const NONE: &str = "None";

/// A Service.
#[must_use]
pub fn service(object: core::Service) -> Option<Service> {
    let spec = object.spec?;
    let single = spec.cluster_ip.as_slice();
    let ips = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()).unwrap_or(single);
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        external(spec.external_name.as_deref().unwrap_or_default())
    } else if ips.first().is_some_and(|ip| ip == NONE) {
        Kind::Headless
    } else {
        Kind::ClusterIp(ips.iter().filter_map(|ip| ip.parse().ok()).collect())
    };
    let ports = spec.ports.unwrap_or_default();
    let ports = ports.into_iter().filter_map(|p| port(p.name, p.protocol.as_deref(), p.port));
    Some(Service { kind, ports: ports.collect() })
}

/// Upstream makes no alias of an address.
fn external(name: &str) -> Kind {
    match Name::parse(name) {
        Some(name_read) if !name.is_empty() && name.parse::<IpAddr>().is_err() => {
            Kind::ExternalName(name_read)
        }
        _ => Kind::Nothing,
    }
}

fn port(name: Option<String>, protocol: Option<&str>, port: i32) -> Option<Port> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    Some(Port { name: name.unwrap_or_default().into(), protocol, port: u16::try_from(port).ok()? })
}

/// An EndpointSlice, and when the change began that made it so.
#[derive(Debug)]
pub struct Slice {
    /// What is in it; none when it has no Service, or names hosts in the place of addresses.
    pub slice: Option<EndpointSlice>,
    /// When the change began.
    pub changed: Option<SystemTime>,
}

/// An EndpointSlice.
#[must_use]
pub fn slice(object: discovery::EndpointSlice) -> Slice {
    let annotations = object.metadata.annotations.as_ref();
    let changed = annotations
        .and_then(|all| all.get(TRIGGER_TIME)?.parse::<jiff::Timestamp>().ok())
        .map(SystemTime::from);
    let service = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let Some(service) = service.filter(|_| object.address_type != "FQDN") else {
        return Slice { slice: None, changed };
    };
    let ports = object.ports.unwrap_or_default();
    let ports = ports.into_iter().filter_map(|p| port(p.name, p.protocol.as_deref(), p.port?));
    let endpoints = object.endpoints.into_iter().flatten().filter_map(endpoint);
    let slice = EndpointSlice {
        service: service.as_str().into(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    };
    Slice { slice: Some(slice), changed }
}

/// One that is ready: of a Service with publishNotReadyAddresses, the controller says that all are.
fn endpoint(endpoint: discovery::Endpoint) -> Option<Endpoint> {
    let ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let is_label = |name: &String| (1..=63).contains(&name.len());
    ready.then(|| Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
        hostname: endpoint.hostname.filter(is_label).map(|name| lower(&name)),
        pod: endpoint.target_ref.and_then(|target| target.name).filter(is_label).map(|n| lower(&n)),
    })
}

fn lower(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}

/// The addresses of a pod; none of one that is about to go, or has ended.
#[must_use]
pub fn pod(object: core::Pod) -> Vec<IpAddr> {
    let Some(status) = object.status.filter(|_| object.metadata.deletion_timestamp.is_none())
    else {
        return Vec::new();
    };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed" | "Unknown")) {
        return Vec::new();
    }
    let all = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
    let mut ips: Vec<IpAddr> = all.chain(status.pod_ip).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn services_of_every_type() {
        let kind = |spec: Value| service(read(json!({ "spec": spec }))).unwrap().kind;
        assert_eq!(
            kind(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]})),
            Kind::ClusterIp(["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into())
        );
        assert_eq!(
            kind(json!({"clusterIP": "10.0.0.1"})),
            Kind::ClusterIp(["10.0.0.1".parse().unwrap()].into())
        );
        assert_eq!(kind(json!({"clusterIP": "None", "clusterIPs": ["None"]})), Kind::Headless);
        assert_eq!(kind(json!({"clusterIP": ""})), Kind::ClusterIp([].into()));
        let external = |name| kind(json!({"type": "ExternalName", "externalName": name}));
        assert_eq!(external("a.b."), Kind::ExternalName(Name::parse("a.b").unwrap()));
        assert_eq!(external("10.0.0.1"), Kind::Nothing);
        assert_eq!(external(""), Kind::Nothing);
        assert_eq!(external("a..b"), Kind::Nothing);
    }

    #[test]
    fn only_ready_endpoints_count_and_nothing_said_is_ready() {
        let object = read(json!({
            "metadata": {"labels": {SERVICE_NAME: "web"}, "annotations": {TRIGGER_TIME: "2026-11-25T00:00:00Z"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "any"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "hostname": "Web-0", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true}},
                {"addresses": ["10.0.0.3", "nonsense"], "targetRef": {"name": "web-abc"}},
            ],
        }));
        let Slice { slice, changed } = slice(object);
        let slice = slice.unwrap();
        assert!(changed.is_some());
        assert_eq!((slice.ports.len(), slice.endpoints.len()), (1, 2));
        assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("web-0"));
        assert_eq!(slice.endpoints[1].pod.as_deref(), Some("web-abc"));
        assert_eq!(slice.endpoints[1].addresses.len(), 1);
        let fqdn = json!({"metadata": {"labels": {SERVICE_NAME: "web"}}, "addressType": "FQDN", "endpoints": []});
        assert!(super::slice(read(fqdn)).slice.is_none());
    }

    #[test]
    fn pods_that_run() {
        let ips = |value: Value| pod(read(value)).len();
        let status = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "phase": "Running"});
        assert_eq!(ips(json!({"status": status})), 2);
        assert_eq!(
            ips(
                json!({"metadata": {"deletionTimestamp": "2026-11-25T00:00:00Z"}, "status": status})
            ),
            0
        );
        assert_eq!(ips(json!({"status": {"podIP": "10.0.0.1", "phase": "Failed"}})), 0);
        assert_eq!(ips(json!({})), 0);
    }
}
