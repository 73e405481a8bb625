//! Which node ports are on the host's loopback: those of all NodePort and LoadBalancer Services.
//!
//! `wanted` is a pure function of the Services; the loop asks `up` for what is missing, hands it
//! to the relay, and lets go of what no Service has any more. A port that is taken on the host is
//! a Warning event on its Service and a line in `status`, and is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::observe::Watched;
use super::relay::{Port, Relay};
use super::uplink::Uplink;
use crate::message::Protocol;
use crate::status::PublishedPort;

/// How soon a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The published ports; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    ports: Arc<Mutex<BTreeMap<(u16, Protocol), Entry>>>,
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
            .map(|(&(port, protocol), entry)| PublishedPort {
                service: entry.service.clone(),
                protocol,
                port,
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
            for (port, protocol) in gone {
                relay.close((protocol, port));
                self.ports.lock().remove(&(port, protocol));
            }
            for (&(port, protocol), owner) in &wanted {
                let known = self.ports.lock().get(&(port, protocol)).cloned();
                let error = match &known {
                    Some(entry) if entry.error.is_none() => None,
                    _ => open(&uplink, &relay, (protocol, port)).await.err(),
                };
                let service = owner.name.clone();
                let entry = Entry { service: service.clone(), error: error.clone() };
                if known.as_ref() == Some(&entry) {
                    continue;
                }
                self.ports.lock().insert((port, protocol), entry);
                if let Some(error) = error {
                    let note =
                        format!("{protocol} port {port} is not published on the host: {error}");
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
    let socket = uplink.bind(port.0, port.1).await?;
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
fn wanted<'a>(services: impl Iterator<Item = &'a Service>) -> BTreeMap<(u16, Protocol), Owner> {
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
                let owner = Owner { name: name.clone(), reference: reference.clone() };
                wanted.insert((number, protocol), owner);
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, kind: &str, ports: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": kind, "ports": ports},
        }))
        .unwrap()
    }

    fn ports(services: &[Service]) -> Vec<(u16, Protocol, String)> {
        wanted(services.iter())
            .into_iter()
            .map(|((port, protocol), owner)| (port, protocol, owner.name))
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
                (30053, Protocol::Tcp, "default/dns".into()),
                (30053, Protocol::Udp, "default/dns".into()),
            ]
        );
    }

    #[test]
    fn only_services_with_node_ports_are_published() {
        let services = [
            service("a", "ClusterIP", json!([{"port": 80}])),
            service("b", "LoadBalancer", json!([{"port": 80, "nodePort": 30001}])),
            service("c", "NodePort", json!([{"port": 80}])),
            service("d", "ExternalName", json!(null)),
        ];
        assert_eq!(ports(&services), [(30001, Protocol::Tcp, "default/b".into())]);
    }
}
