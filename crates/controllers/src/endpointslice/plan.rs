//! The writes that bring a Service's slices up to date. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::endpoint::{AddressType, Ports};
use super::memory::{Basis, Memory};
use super::pack::{held, pack};
use super::topology::{Allotted, Shares, Slices, assign, is_auto};
use crate::object::{Meta, controller_ref};
use crate::pod::generate_name;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The writes, and the node that a pod names but nobody knows.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
    pub(crate) missing_node: Option<String>,
    /// What became of the hints that `topology-mode` asks for, by family.
    pub(crate) hints: Vec<(AddressType, Hints)>,
    pub(crate) counts: Counts,
}

/// The plan in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Endpoints that no slice had.
    pub(crate) added: usize,
    /// Endpoints in slices that are no more.
    pub(crate) removed: usize,
    /// Endpoints that there are to be.
    pub(crate) desired: usize,
    /// Slices afterwards.
    pub(crate) slices: usize,
    /// Slices that would do, were they all full.
    pub(crate) ideal: usize,
}

/// Hints under `topology-mode: Auto`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Hints {
    /// Nobody asked for them.
    Off,
    /// There are none, and this is why.
    Refused(String),
    /// So many endpoints are for each zone.
    On(Allotted),
}

/// What the plan is made from.
pub(crate) struct Input<'a, F> {
    pub(crate) service: &'a Service,
    /// The pods that the Service selects, by name.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The slices that this controller made for a Service of this name, by name.
    pub(crate) slices: &'a [Arc<EndpointSlice>],
    pub(crate) node: F,
    /// Grows whenever `node` may answer differently.
    pub(crate) nodes: u64,
    /// The zones' shares of the CPUs, if they are known.
    pub(crate) shares: Option<&'a Shares>,
    /// When what brought this on happened.
    pub(crate) trigger: Option<Timestamp>,
    pub(crate) max: usize,
}

/// Plans a Service's slices; `memory` is of the last plan for the same Service, or empty.
pub(crate) fn plan<F: Fn(&str) -> Option<Arc<Node>>>(
    memory: &mut Memory,
    input: Input<'_, F>,
) -> Plan {
    let Input { service, pods, slices, node, nodes, shares, trigger, max } = input;
    memory.observe(Basis::new(service, nodes, max), service, pods, node);
    let writer = Writer { service, labels: labels(service), trigger };
    let auto = is_auto(service);
    let mut plan =
        Plan { missing_node: memory.missing_node().map(str::to_owned), ..Plan::default() };

    let mut present: BTreeMap<(&str, Ports), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        // One of a Service of this name that is gone.
        if slice.controller().is_some_and(|owner| owner.uid != service.uid()) {
            plan.delete.push(Arc::clone(slice));
            continue;
        }
        let ports = Ports::of(slice.ports.as_deref().unwrap_or_default());
        present.entry((&slice.address_type, ports)).or_default().push(Arc::clone(slice));
    }
    for family in memory.families().to_vec() {
        let mut create: Vec<EndpointSlice> = Vec::new();
        let mut update: Vec<EndpointSlice> = Vec::new();
        let mut delete: Vec<Arc<EndpointSlice>> = Vec::new();
        let mut untouched: Vec<Arc<EndpointSlice>> = Vec::new();
        let mut existing = 0;
        let groups = memory.groups(family);
        for (ports, group) in &mut *groups {
            let old = present.remove(&(family.as_str(), ports.clone())).unwrap_or_default();
            existing += old.len();
            let stale = |s: &EndpointSlice| writer.is_stale(s);
            let same =
                |a: &Endpoint, b: &Endpoint| if auto { same_but_hints(a, b) } else { a == b };
            let begun = group.begin(old);
            let packing = pack(begun.settled, &begun.open, begun.wanted, max, stale, same);
            group.settle(&packing.untouched);
            plan.counts.added += packing.added;
            plan.counts.removed += packing.removed;
            plan.counts.desired += group.wanted();
            plan.counts.ideal += group.wanted().div_ceil(max);
            create.extend(packing.create.into_iter().map(|e| writer.create(family, ports, e)));
            update.extend(packing.update.into_iter().map(|(s, e)| writer.update(&s, e)));
            delete.extend(packing.delete);
            untouched.extend(packing.untouched);
        }
        present.retain(|(kind, ports), old| {
            let gone = *kind == family.as_str() && !groups.contains_key(ports);
            if gone {
                existing += old.len();
                plan.counts.removed += old.iter().map(|s| held(s).len()).sum::<usize>();
                delete.append(old);
            }
            !gone
        });
        // Never without a slice: an empty one says that there is nothing.
        if existing == delete.len() && create.is_empty() && update.is_empty() {
            match delete.as_slice() {
                [only] if writer.is_placeholder(only) => delete.clear(),
                _ => create.push(writer.create(family, &Ports::default(), Vec::new())),
            }
        }
        let hints = if auto {
            let all = Slices { create: &mut create, update: &mut update, untouched };
            assign(all, shares).map_or_else(Hints::Refused, Hints::On)
        } else {
            Hints::Off
        };
        plan.hints.push((family, hints));
        // A slice to make takes over the name of one to delete: one write instead of two.
        let shared = create.len().min(delete.len());
        let fresh = create.split_off(create.len() - shared);
        for (fresh, old) in fresh.into_iter().zip(delete.drain(..shared)) {
            update.push(writer.take_over(fresh, &old));
        }
        plan.create.append(&mut create);
        plan.update.append(&mut update);
        plan.delete.append(&mut delete);
    }
    // Slices of a family that the Service no longer has.
    plan.delete.extend(present.into_values().flatten());
    plan.counts.slices = (slices.len() + plan.create.len()).saturating_sub(plan.delete.len());
    plan.counts.ideal = plan.counts.ideal.max(1);
    plan
}

fn same_but_hints(a: &Endpoint, b: &Endpoint) -> bool {
    let Endpoint { addresses, conditions, deprecated_topology, hints: _, hostname, .. } = a;
    *addresses == b.addresses
        && *conditions == b.conditions
        && *deprecated_topology == b.deprecated_topology
        && *hostname == b.hostname
        && a.node_name == b.node_name
        && a.target_ref == b.target_ref
        && a.zone == b.zone
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
