//! The objects of an API server, listed once.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::TraceError;
use crate::objects::{Object, Objects};
use crate::question::{From, Question};

/// Where kubeadm, and a lab, keep the proxy's configuration.
const CONFIGURATION: (&str, &str, &str) = ("kube-system", "kube-proxy", "config.conf");

/// Lists what decides about packets, and the pods that a question needs.
///
/// # Errors
/// When the server refuses or cannot be reached. ServiceCIDRs, which older servers lack, may be
/// missing.
pub async fn objects(
    client: &Client,
    question: Option<&Question>,
) -> Result<(Objects, Vec<String>), TraceError> {
    let mut objects = Objects::default();
    let mut notes = Vec::new();
    for service in list(Api::<core::Service>::all(client.clone()), "Services").await? {
        objects.put(Object::Service(Box::new(service)));
    }
    for slice in
        list(Api::<discovery::EndpointSlice>::all(client.clone()), "EndpointSlices").await?
    {
        objects.put(Object::EndpointSlice(Box::new(slice)));
    }
    for node in list(Api::<core::Node>::all(client.clone()), "Nodes").await? {
        objects.put(Object::Node(Box::new(node)));
    }
    match list(Api::<networking::ServiceCIDR>::all(client.clone()), "ServiceCIDRs").await {
        Ok(cidrs) => {
            for cidr in cidrs {
                objects.put(Object::ServiceCidr(Box::new(cidr)));
            }
        }
        Err(TraceError::List { source, .. }) if is_denied(&source) => {
            notes.push("the server gives no ServiceCIDRs: no address counts as unallocated".into());
        }
        Err(error) => return Err(error),
    }
    match question.map(|question| &question.from) {
        Some(From::Pod(name)) => {
            let pods: Api<core::Pod> = Api::namespaced(client.clone(), &name.namespace);
            if let Some(pod) = optional(&pods, &name.name, "Pods").await? {
                objects.put(Object::Pod(Box::new(pod)));
            }
        }
        Some(From::Address(_)) => {
            for pod in list(Api::<core::Pod>::all(client.clone()), "Pods").await? {
                objects.put(Object::Pod(Box::new(pod)));
            }
        }
        Some(From::Node(_) | From::External) | None => {}
    }
    Ok((objects, notes))
}

/// The proxy's configuration from its ConfigMap, with where it stands.
///
/// # Errors
/// When the server cannot be reached. One that does not show the ConfigMap is no error.
pub async fn configuration(client: &Client) -> Result<Option<(String, String)>, TraceError> {
    let (namespace, name, key) = CONFIGURATION;
    let maps: Api<core::ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = match optional(&maps, name, "ConfigMaps").await {
        Ok(map) => map,
        Err(TraceError::List { source, .. }) if is_denied(&source) => None,
        Err(error) => return Err(error),
    };
    let text = map.and_then(|map| map.data?.remove(key));
    Ok(text.map(|text| (format!("ConfigMap {namespace}/{name}, {key}"), text)))
}

async fn list<K>(api: Api<K>, what: &'static str) -> Result<Vec<K>, TraceError>
where
    K: Clone + Debug + DeserializeOwned + Resource,
{
    let listed = api.list(&ListParams::default()).await;
    let failed = |source| TraceError::List { what, source: Box::new(source) };
    listed.map(|list| list.items).map_err(failed)
}

async fn optional<K>(api: &Api<K>, name: &str, what: &'static str) -> Result<Option<K>, TraceError>
where
    K: Clone + Debug + DeserializeOwned + Resource<Scope = NamespaceResourceScope>,
{
    let failed = |source| TraceError::List { what, source: Box::new(source) };
    api.get_opt(name).await.map_err(failed)
}

fn is_denied(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}
