//! What the last look at a Service found, so that the next one costs what has changed since.
//!
//! Nothing here says what is true: the cached pods and slices do. They are compared with those of
//! the last look by pointer, which costs nanoseconds each; endpoints are made and slices are looked
//! into only where that comparison fails. An empty memory gives the same plan, only slower.
//!
//! Invariant of a [`Group`]: every wanted endpoint is either in one settled slice, exactly as it
//! should be, or pending.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoint::{AddressType, Endpoints, Identity, Made, Ports, families, of_pod};
use super::pack::held;
use crate::object::Meta;

/// The last look at one Service.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    basis: Basis,
    families: Vec<AddressType>,
    pods: BTreeMap<String, Seen>,
    groups: BTreeMap<AddressType, BTreeMap<Ports, Group>>,
    /// Pods left out, and the nodes that were not known.
    missing: BTreeMap<String, String>,
}

/// What every endpoint depends on: with another of these, nothing is known any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    uid: String,
    version: String,
    nodes: u64,
    max: usize,
}

impl Basis {
    pub(super) fn new(service: &Service, nodes: u64, max: usize) -> Self {
        let version = service.metadata.resource_version.clone().unwrap_or_default();
        Self { uid: service.uid().to_owned(), version, nodes, max }
    }
}

#[derive(Debug)]
struct Seen {
    pod: Arc<Pod>,
    /// The endpoints that it is.
    at: Vec<(AddressType, Ports, Identity)>,
}

/// The endpoints of one family and port set.
#[derive(Debug, Default)]
pub(super) struct Group {
    desired: Endpoints,
    pending: BTreeSet<Identity>,
    settled: BTreeMap<String, Settled>,
    /// In which settled slice an endpoint is.
    placed: HashMap<Identity, String>,
}

#[derive(Debug)]
struct Settled {
    slice: Arc<EndpointSlice>,
    holds: Vec<Identity>,
}

impl Memory {
    /// Takes note of the Service and its pods, which are in the order of their names.
    pub(super) fn observe(
        &mut self,
        basis: Basis,
        service: &Service,
        pods: &[Arc<Pod>],
        node: impl Fn(&str) -> Option<Arc<Node>>,
    ) {
        if self.basis != basis {
            *self = Self { basis, families: families(service), ..Self::default() };
        }
        let mut fresh = Vec::new();
        let mut gone = Vec::new();
        {
            // Both are in order: one walk tells what differs.
            let mut seen = self.pods.iter().peekable();
            for pod in pods {
                while let Some((name, _)) = seen.next_if(|(name, _)| name.as_str() < pod.name()) {
                    gone.push(name.clone());
                }
                match seen.next_if(|(name, _)| name.as_str() == pod.name()) {
                    Some((_, seen)) if Arc::ptr_eq(&seen.pod, pod) => {}
                    _ => fresh.push(Arc::clone(pod)),
                }
            }
            gone.extend(seen.map(|(name, _)| name.clone()));
        }
        for name in gone {
            self.forget(&name);
        }
        for pod in fresh {
            self.forget(pod.name());
            self.learn(service, pod, &node);
        }
        for groups in self.groups.values_mut() {
            groups.retain(|_, group| !group.desired.is_empty());
        }
    }

    fn forget(&mut self, name: &str) {
        self.missing.remove(name);
        let Some(seen) = self.pods.remove(name) else { return };
        for (family, ports, identity) in seen.at {
            if let Some(group) = self.groups.get_mut(&family).and_then(|g| g.get_mut(&ports)) {
                group.drop(&identity);
            }
        }
    }

    fn learn(
        &mut self,
        service: &Service,
        pod: Arc<Pod>,
        node: &impl Fn(&str) -> Option<Arc<Node>>,
    ) {
        let mut at = Vec::new();
        match of_pod(service, &self.families, &pod, node) {
            Made::NodeMissing(node) => {
                self.missing.insert(pod.name().to_owned(), node);
            }
            Made::Endpoints(endpoints) => {
                for (family, ports, endpoint) in endpoints {
                    let identity = Identity::of(&endpoint);
                    at.push((family, ports.clone(), identity.clone()));
                    let group = self.groups.entry(family).or_default().entry(ports).or_default();
                    group.pending.insert(identity.clone());
                    group.desired.insert(identity, endpoint);
                }
            }
        }
        self.pods.insert(pod.name().to_owned(), Seen { pod, at });
    }

    pub(super) fn families(&self) -> &[AddressType] {
        &self.families
    }

    pub(super) fn groups(&mut self, family: AddressType) -> &mut BTreeMap<Ports, Group> {
        self.groups.entry(family).or_default()
    }

    /// A node that a pod names but nobody knows.
    pub(super) fn missing_node(&self) -> Option<&str> {
        self.missing.values().next().map(String::as_str)
    }
}

impl Group {
    fn drop(&mut self, identity: &Identity) {
        if let Some(slice) = self.placed.get(identity).cloned() {
            self.unsettle(&slice);
        }
        self.pending.remove(identity);
        self.desired.remove(identity);
    }

    fn unsettle(&mut self, slice: &str) {
        let Some(settled) = self.settled.remove(slice) else { return };
        for identity in settled.holds {
            self.placed.remove(&identity);
            self.pending.insert(identity);
        }
    }

    /// Splits the slices into those known to be right and those to be looked into, and says what
    /// the first do not hold.
    pub(super) fn begin(&mut self, slices: Vec<Arc<EndpointSlice>>) -> Begun {
        let present: HashMap<&str, &Arc<EndpointSlice>> =
            slices.iter().map(|s| (s.name(), s)).collect();
        let changed: Vec<String> = self
            .settled
            .iter()
            .filter(|(name, settled)| {
                present.get(name.as_str()).is_none_or(|s| !Arc::ptr_eq(s, &settled.slice))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            self.unsettle(&name);
        }
        let (settled, open) = slices.into_iter().partition(|s| self.settled.contains_key(s.name()));
        let wanted =
            self.pending.iter().filter_map(|i| Some((i.clone(), self.desired.get(i)?.clone())));
        Begun { settled, open, wanted: wanted.collect() }
    }

    /// How many endpoints there are to be.
    pub(super) fn wanted(&self) -> usize {
        self.desired.len()
    }

    /// These slices need no write.
    pub(super) fn settle(&mut self, slices: &[Arc<EndpointSlice>]) {
        for slice in slices {
            if self.settled.contains_key(slice.name()) {
                continue;
            }
            let holds: Vec<_> = held(slice).iter().map(Identity::of).collect();
            for identity in &holds {
                self.pending.remove(identity);
                self.placed.insert(identity.clone(), slice.name().to_owned());
            }
            let settled = Settled { slice: Arc::clone(slice), holds };
            self.settled.insert(slice.name().to_owned(), settled);
        }
    }
}

/// A group's slices and endpoints before packing.
pub(super) struct Begun {
    pub(super) settled: Vec<Arc<EndpointSlice>>,
    pub(super) open: Vec<Arc<EndpointSlice>>,
    pub(super) wanted: Endpoints,
}
