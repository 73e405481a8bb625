//! The writes that bring a Service's slices up to date. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::endpoint::{AddressType, Ports, desired};
use super::pack::{held, pack};
use crate::object::{Meta, controller_ref};
use crate::pod::generate_name;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The writes, and the node that a pod names but nobody knows.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    pub(super) missing_node: Option<String>,
}

/// What the plan is made from.
pub(super) struct Input<'a, F> {
    pub(super) service: &'a Service,
    /// The pods that the Service selects.
    pub(super) pods: &'a [Arc<Pod>],
    /// The slices that this controller made for the Service.
    pub(super) slices: &'a [Arc<EndpointSlice>],
    pub(super) node: F,
    /// When what brought this on happened.
    pub(super) trigger: Option<Timestamp>,
    pub(super) max: usize,
}

/// Plans a Service's slices.
pub(super) fn plan<F: Fn(&str) -> Option<Arc<Node>>>(input: Input<'_, F>) -> Plan {
    let Input { service, pods, slices, node, trigger, max } = input;
    let desired = desired(service, pods, node);
    let writer = Writer { service, labels: labels(service), trigger };
    let mut plan = Plan { missing_node: desired.missing_node, ..Plan::default() };

    let mut present: BTreeMap<(&str, Ports), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        let ports = Ports::of(slice.ports.as_deref().unwrap_or_default());
        present.entry((&slice.address_type, ports)).or_default().push(Arc::clone(slice));
    }
    for (family, groups) in desired.groups {
        let mut create: Vec<EndpointSlice> = Vec::new();
        let mut delete: Vec<Arc<EndpointSlice>> = Vec::new();
        let mut updates = 0;
        let mut existing = 0;
        let wanted: BTreeSet<_> = groups.keys().cloned().collect();
        for (ports, endpoints) in groups {
            let old = present.remove(&(family.as_str(), ports.clone())).unwrap_or_default();
            existing += old.len();
            let stale = |s: &EndpointSlice| writer.is_stale(s);
            let packing = pack(&old, endpoints, max, stale);
            create.extend(packing.create.into_iter().map(|e| writer.create(family, &ports, e)));
            updates += packing.update.len();
            plan.update.extend(packing.update.into_iter().map(|(s, e)| writer.update(&s, e)));
            delete.extend(packing.delete);
        }
        present.retain(|(kind, ports), old| {
            let gone = *kind == family.as_str() && !wanted.contains(ports);
            if gone {
                existing += old.len();
                delete.append(old);
            }
            !gone
        });
        // Never without a slice: an empty one says that there is nothing.
        if existing == delete.len() && create.is_empty() && updates == 0 {
            match delete.as_slice() {
                [only] if writer.is_placeholder(only) => delete.clear(),
                _ => create.push(writer.create(family, &Ports::default(), Vec::new())),
            }
        }
        // A slice to make takes over the name of one to delete: one write instead of two.
        let shared = create.len().min(delete.len());
        let fresh = create.split_off(create.len() - shared);
        for (fresh, old) in fresh.into_iter().zip(delete.drain(..shared)) {
            plan.update.push(writer.take_over(fresh, &old));
        }
        plan.create.append(&mut create);
        plan.delete.append(&mut delete);
    }
    // Slices of a family that the Service no longer has.
    plan.delete.extend(present.into_values().flatten());
    plan
}

/// The labels that a Service's slices carry.
pub(super) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// Whether the Service has no cluster IP on purpose.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

struct Writer<'a> {
    service: &'a Service,
    labels: BTreeMap<String, String>,
    trigger: Option<Timestamp>,
}

impl Writer<'_> {
    fn is_stale(&self, slice: &EndpointSlice) -> bool {
        slice.metadata.labels.as_ref() != Some(&self.labels)
    }

    fn is_placeholder(&self, slice: &EndpointSlice) -> bool {
        held(slice).is_empty()
            && slice.ports.as_ref().is_none_or(Vec::is_empty)
            && !self.is_stale(slice)
    }

    fn create(
        &self,
        family: AddressType,
        ports: &Ports,
        endpoints: Vec<Endpoint>,
    ) -> EndpointSlice {
        let mut slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(generate_name(self.service.name())),
                namespace: self.service.metadata.namespace.clone(),
                owner_references: Some(vec![controller_ref(self.service)]),
                ..ObjectMeta::default()
            },
            address_type: family.as_str().to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports.to_api()),
        };
        self.describe(&mut slice);
        slice
    }

    fn update(&self, old: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let mut slice = EndpointSlice { endpoints: Some(endpoints), ..old.clone() };
        self.describe(&mut slice);
        slice
    }

    fn take_over(&self, fresh: EndpointSlice, old: &EndpointSlice) -> EndpointSlice {
        let mut slice = EndpointSlice { metadata: old.metadata.clone(), ..fresh };
        self.describe(&mut slice);
        slice
    }

    fn describe(&self, slice: &mut EndpointSlice) {
        slice.metadata.labels = Some(self.labels.clone());
        let annotations = slice.metadata.annotations.get_or_insert_default();
        match self.trigger {
            Some(trigger) => {
                annotations.insert(TRIGGER_TIME.to_owned(), trigger.to_string());
            }
            None => {
                annotations.remove(TRIGGER_TIME);
            }
        }
        if annotations.is_empty() {
            slice.metadata.annotations = None;
        }
    }
}
