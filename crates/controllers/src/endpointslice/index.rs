//! Who belongs to whom, found without a walk through the namespace.
//!
//! Pods stand under each of their labels, so a Service finds its pods under the rarest label that
//! it selects; Services stand under one label of their selector, so a pod finds them by its own
//! labels; slices stand under the Service that they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::plan::{MANAGED_BY, SERVICE_NAME};
use super::selected_labels;
use crate::cache::Cache;
use crate::object::{Key, Meta};
use crate::selector::Selector;

fn pair((key, value): (&String, &String)) -> String {
    format!("{key}={value}")
}

/// A pod's labels.
pub(crate) fn of_pod(pod: &Pod) -> Vec<String> {
    pod.metadata.labels.iter().flatten().map(pair).collect()
}

/// One label that a pod of the Service must have.
pub(crate) fn of_service(service: &Service) -> Vec<String> {
    selected_labels(service).and_then(BTreeMap::first_key_value).map(pair).into_iter().collect()
}

/// The Service that a slice is of.
pub(crate) fn of_slice(slice: &EndpointSlice) -> Vec<String> {
    slice.label(SERVICE_NAME).map(str::to_owned).into_iter().collect()
}

/// The pods that the Service selects, by name.
pub(crate) fn pods(pods: &Cache<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let Some(labels) = selected_labels(service) else { return Vec::new() };
    let pairs: Vec<_> = labels.iter().map(pair).collect();
    let mut pods = pods.rarest(service.namespace(), &pairs);
    if let [_, _, ..] = pairs.as_slice() {
        let selector = Selector::equal(labels);
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
    }
    pods
}

/// The Services that may select a pod with these labels; their whole selector is not checked.
pub(super) fn candidates(services: &Cache<Service>, pod: &Pod) -> Vec<Arc<Service>> {
    of_pod(pod).iter().flat_map(|label| services.indexed(pod.namespace(), label)).collect()
}

/// The slices of a Service that `manager` made and nobody is deleting, by name.
pub(crate) fn slices(
    slices: &Cache<EndpointSlice>,
    service: &Key,
    manager: &str,
) -> Vec<Arc<EndpointSlice>> {
    let mut slices = slices.indexed(&service.namespace, &service.name);
    slices.retain(|s| s.label(MANAGED_BY) == Some(manager) && !s.is_terminating());
    slices
}
