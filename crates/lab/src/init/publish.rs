//! Which node ports are on the host's loopback: those of all NodePort and LoadBalancer Services, at
//! 127.0.0.1 for those with IPv4 and at ::1 for those with IPv6.
//!
//! `wanted` is a pure function of the Services; the loop asks `up` for what is missing, hands it
//! to the relay, and lets go of what no Service has any more. A port that is taken on the host is
//! a Warning event on its Service and a line in `status`, and is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::observe::Watched;
use super::relay::Relay;
use super::uplink::Uplink;
use crate::message::{Port, Protocol};
use crate::nets::Family;
use crate::status::PublishedPort;

/// How soon a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The published ports; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    ports: Arc<Mutex<BTreeMap<Port, Entry>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    service: String,
    error: Option<String>,
}

impl Published {
    /// All ports, for `status`.
    pub(super) fn list(&self) -> Vec<PublishedPort> {
        let ports = self.ports.lock();
        ports
            .iter()
            .map(|(port, entry)| PublishedPort {
                service: entry.service.clone(),
                protocol: port.protocol,
                port: port.number,
                address: port.loopback().to_string(),
                error: entry.error.clone(),
            })
            .collect()
    }

    /// Keeps the published ports equal to the Services until `shutdown`.
    pub(super) async fn keep(
        self,
        mut services: Watched<Service>,
        uplink: Uplink,
        relay: Relay,
        client: Client,
        board: Board,
        shutdown: CancellationToken,
    ) {
        let reporter = Reporter { controller: "portolan".into(), instance: None };
        let recorder = Recorder::new(client, reporter);
        loop {
            let state = services.store.state();
            let wanted = wanted(state.iter().map(AsRef::as_ref));
            let gone: Vec<_> =
                self.ports.lock().keys().filter(|key| !wanted.contains_key(key)).copied().collect();
            for port in gone {
                relay.close(port);
                self.ports.lock().remove(&port);
            }
            for (&port, owner) in &wanted {
                let known = self.ports.lock().get(&port).cloned();
                let error = match &known {
                    Some(entry) if entry.error.is_none() => None,
                    _ => open(&uplink, &relay, port).await.err(),
                };
                let service = owner.name.clone();
                let entry = Entry { service: service.clone(), error: error.clone() };
                if known.as_ref() == Some(&entry) {
                    continue;
                }
                self.ports.lock().insert(port, entry);
                if let Some(error) = error {
                    let note = format!("{port} is not published on the host: {error}");
                    board.warn(format!("{service}: {note}"));
                    report(&recorder, &owner.reference, note).await;
                }
            }
            let taken = self.ports.lock().values().any(|entry| entry.error.is_some());
            tokio::select! {
                changed = services.changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if taken => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

async fn open(uplink: &Uplink, relay: &Relay, port: Port) -> Result<(), String> {
    let socket = uplink.bind(port).await?;
    relay.open(port, socket);
    Ok(())
}

async fn report(recorder: &Recorder, service: &ObjectReference, note: String) {
    let event = Event {
        type_: EventType::Warning,
        reason: "NodePortNotPublished".into(),
        note: Some(note),
        action: "Publish".into(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, service).await {
        tracing::warn!(%error, "an event could not be written");
    }
}

/// The Service that a port is published for.
#[derive(Debug, Clone, PartialEq)]
struct Owner {
    name: String,
    reference: ObjectReference,
}

/// The ports to publish. Two Services cannot own one: the API server allocates node ports.
fn wanted<'a>(services: impl Iterator<Item = &'a Service>) -> BTreeMap<Port, Owner> {
    let mut wanted = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if !matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
            continue;
        }
        let reference = kube::Resource::object_ref(service, &());
        let name = format!(
            "{}/{}",
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default()
        );
        for port in spec.ports.iter().flatten() {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => continue,
            };
            let number = port.node_port.and_then(|number| u16::try_from(number).ok());
            if let Some(number) = number.filter(|number| *number != 0) {
                for family in families(spec) {
                    let owner = Owner { name: name.clone(), reference: reference.clone() };
                    wanted.insert(Port { number, protocol, family }, owner);
                }
            }
        }
    }
    wanted
}

/// The families of a Service's cluster IPs, in which its node ports answer, too.
fn families(spec: &ServiceSpec) -> BTreeSet<Family> {
    let single = spec.cluster_ip.as_slice();
    let ips = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()).unwrap_or(single);
    ips.iter().filter_map(|ip| ip.parse().ok()).map(Family::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, kind: &str, ports: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": kind, "clusterIP": "10.96.0.1", "ports": ports},
        }))
        .unwrap()
    }

    fn ports(services: &[Service]) -> Vec<String> {
        wanted(services.iter())
            .into_iter()
            .map(|(port, owner)| format!("{} {port}", owner.name))
            .collect()
    }

    #[test]
    fn udp_and_tcp_on_one_node_port_are_published_both() {
        let dns = service(
            "dns",
            "NodePort",
            json!([
                {"name": "a", "port": 53, "nodePort": 30053},
                {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053},
                {"name": "c", "port": 54, "protocol": "SCTP", "nodePort": 30054},
            ]),
        );
        assert_eq!(
            ports(&[dns]),
            [
                "default/dns TCP port 30053 at 127.0.0.1:30053",
                "default/dns UDP port 30053 at 127.0.0.1:30053",
            ]
        );
    }

    #[test]
    fn a_port_is_at_the_loopback_address_of_each_family_of_its_service() {
        let with = |ips: &[&str]| {
            let mut service = service("web", "NodePort", json!([{"port": 80, "nodePort": 30080}]));
            let spec = service.spec.as_mut().unwrap();
            spec.cluster_ips = Some(ips.iter().map(|ip| (*ip).to_owned()).collect());
            ports(&[service])
        };
        let four = "default/web TCP port 30080 at 127.0.0.1:30080";
        let six = "default/web TCP port 30080 at [::1]:30080";
        assert_eq!(with(&["10.96.0.1"]), [four]);
        assert_eq!(with(&["fd00:10:96::1"]), [six]);
        assert_eq!(with(&["fd00:10:96::1", "10.96.0.1"]), [four, six]);
        assert_eq!(with(&["None"]), [""; 0]);
    }

    #[test]
    fn only_services_with_node_ports_are_published() {
        let services = [
            service("a", "ClusterIP", json!([{"port": 80}])),
            service("b", "LoadBalancer", json!([{"port": 80, "nodePort": 30001}])),
            service("c", "NodePort", json!([{"port": 80}])),
            service("d", "ExternalName", json!(null)),
        ];
        assert_eq!(ports(&services), ["default/b TCP port 30001 at 127.0.0.1:30001"]);
    }
}
