//! What must exist before the first request: system namespaces, the priorities of the system, and the Service `default/kubernetes` that leads to this
//! server, with its Endpoints and EndpointSlice (upstream `pkg/controlplane/controller/kubernetesservice`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Weak;
use std::time::Duration;

use futures::future::{select_all, try_join_all};
use ipnet::IpNet;
use portolan_api::Kind;
use portolan_api::kinds;
use portolan_store::Event;
use serde_json::{Value, json};

use super::Inner;
use crate::Error;
use crate::authz;
use crate::query::DryRun;
use crate::registry::{Ownership, SYSTEM_NAMESPACES, Target, Writer, namespace_kind};
use crate::repair;
use crate::status::Status;

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
/// The server as a field manager, as upstream's.
const MANAGER: &str = "kube-apiserver";

/// The classes that every cluster has (upstream `pkg/apis/scheduling/v1/helpers.go`).
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another \
         node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

const RETRY: Duration = Duration::from_millis(50);
/// The objects of `default/kubernetes`.
const OBJECTS: [(&str, &str); 3] =
    [("v1", "Service"), ("v1", "Endpoints"), ("discovery.k8s.io/v1", "EndpointSlice")];

/// Makes `default/kubernetes` again whenever somebody deletes a part of it. Ends with the server.
pub(super) async fn keep_default_service(inner: Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let store = &strong.registry.store;
        let from = store.revision();
        if let Err(error) = strong.ensure_default_service().await {
            // The deletion is seen before its address is free again; or the store is in trouble.
            tracing::debug!(%error, "default/kubernetes");
            drop(strong);
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let watches: Vec<_> = OBJECTS
            .iter()
            .map(|(version, name)| kind(version, name).key(Some(NAMESPACE), NAME))
            .filter_map(|key| store.watch(&key, from).ok())
            .collect();
        // While waiting, the server may go.
        drop(strong);
        if watches.len() < OBJECTS.len() {
            return;
        }
        let deletions = watches.into_iter().map(|mut changes| {
            Box::pin(async move {
                loop {
                    match changes.next().await {
                        Ok(Event::Delete { stored, .. }) if stored.key.ends_with("/kubernetes") => {
                            return Ok(());
                        }
                        Ok(_) => {}
                        Err(error) => return Err(error),
                    }
                }
            })
        });
        if let (Err(portolan_store::WatchError::Closed), ..) = select_all(deletions).await {
            return;
        }
    }
}

impl Inner {
    pub(super) async fn bootstrap(&self) -> Result<(), Error> {
        self.registry.services.rebuild().map_err(|e| Error::Store(e.to_string()))?;
        repair::default_cidr(self).await?;
        for name in SYSTEM_NAMESPACES {
            let namespace = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            });
            self.ensure(namespace_kind(), None, name, namespace).await?;
        }
        for (name, value, description) in PRIORITY_CLASSES {
            let class = json!({
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": description,
            });
            self.ensure(kind("scheduling.k8s.io/v1", "PriorityClass"), None, name, class).await?;
        }
        self.bootstrap_policy().await?;
        self.ensure_default_service().await
    }

    /// Writes the roles and bindings that a cluster begins with, as far as their kinds are served; those that are there
    /// stay as somebody may have changed them.
    async fn bootstrap_policy(&self) -> Result<(), Error> {
        let writes = authz::bootstrap_objects().into_iter().filter_map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            let kind = kinds::by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
            let key = kind.key(None, &text(&object["metadata"]["name"]));
            let missing = self.registry.store.get(&key).is_none();
            missing.then(|| {
                let ownership = &Ownership::Server;
                self.registry.create(kind, None, object, ownership, DryRun::Off)
            })
        });
        match try_join_all(writes).await {
            Ok(_) => Ok(()),
            Err(Status { message, .. }) => Err(Error::Store(message)),
        }
    }

    /// `default/kubernetes` with what makes it lead here.
    async fn ensure_default_service(&self) -> Result<(), Error> {
        let address = self.config.advertise;
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.kubernetes_ip().to_string(),
                "ports": [{
                    "name": "https",
                    "port": 443,
                    "protocol": "TCP",
                    "targetPort": address.port(),
                }],
                "sessionAffinity": "None",
            },
        });
        let endpoints = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
                "endpointslice.kubernetes.io/skip-mirror": "true",
            }},
            "subsets": [{
                "addresses": [{"ip": address.ip().to_string()}],
                "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
            }],
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
                "kubernetes.io/service-name": NAME,
            }},
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [address.ip().to_string()],
                "conditions": {"ready": true},
            }],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        });
        for (api_version, kind_name, object) in [
            ("v1", "Service", service),
            ("v1", "Endpoints", endpoints),
            ("discovery.k8s.io/v1", "EndpointSlice", slice),
        ] {
            self.ensure(kind(api_version, kind_name), Some(NAMESPACE), NAME, object).await?;
        }
        Ok(())
    }

    /// Creates an object, or brings the one from an earlier run up to date.
    async fn ensure(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        object: Value,
    ) -> Result<(), Error> {
        let target =
            Target { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() };
        let ownership = Ownership::Update(Writer { manager: MANAGER.into(), subresource: "" });
        let written = match self.registry.get(&target, None) {
            Err(_) => self.registry.create(kind, namespace, object, &ownership, DryRun::Off).await,
            Ok(_) if kind.kind == "Namespace" => return Ok(()),
            Ok(_) => self.registry.update(&target, None, object, &ownership, DryRun::Off).await,
        };
        written.map(|_| ()).map_err(|Status { message, .. }| Error::Store(message))
    }

    /// The first address of the primary service CIDR; that there is one has been checked.
    pub(super) fn kubernetes_ip(&self) -> IpAddr {
        match self.config.service_cidrs[0] {
            IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()).saturating_add(1)).into(),
            IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()).saturating_add(1)).into(),
        }
    }

    /// Whether `default/kubernetes` is there: without it the cluster cannot reach this server.
    pub(crate) fn has_default_service(&self) -> bool {
        self.registry.store.get(&kind("v1", "Service").key(Some(NAMESPACE), NAME)).is_some()
    }
}

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    kinds::by_kind(api_version, kind).expect("the table of kinds has the core kinds")
}
