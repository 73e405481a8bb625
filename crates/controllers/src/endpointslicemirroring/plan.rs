//! The slices that mirror an Endpoints object. Pure.
//!
//! Each family and port set has one slice, as upstream's reconciler: subsets with the same ports
//! share it, addresses past the limit are left out and counted. A slice in the wrong place lends
//! its name to one to be made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, EndpointAddress, EndpointSubset};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::endpoint::{AddressType, Endpoints, Identity, Ports};
use crate::endpointslice::held;
use crate::endpointslice::plan::{MANAGED_BY, SERVICE_NAME, TRIGGER_TIME};
use crate::object::{Meta, controller_ref};
use crate::pod::generate_name;

pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The writes, and what was left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Addresses that are none.
    pub(super) invalid: usize,
    /// Addresses left out, the invalid ones among them.
    pub(super) skipped: usize,
}

/// Whether the object is to be mirrored, as far as itself tells.
pub(super) fn is_mirrored(endpoints: &core::Endpoints) -> bool {
    endpoints.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// Plans the mirror of `endpoints`; `slices` are those made before, by name.
pub(super) fn plan(endpoints: &core::Endpoints, slices: &[Arc<EndpointSlice>], max: usize) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeMap<(AddressType, Ports), Endpoints> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = Ports::of(&ports(subset));
        let mut added = 0;
        for (address, ready) in addresses(subset) {
            if added == max {
                break;
            }
            let Some((family, endpoint)) = endpoint(address, ready) else {
                plan.invalid += 1;
                continue;
            };
            added += 1;
            let group = wanted.entry((family, ports.clone())).or_default();
            group.insert(Identity::of(&endpoint), endpoint);
        }
        plan.skipped += addresses(subset).count() - added;
    }

    let mirror = Mirror::of(endpoints);
    let mut present: BTreeMap<(Option<AddressType>, Ports), Vec<Arc<EndpointSlice>>> =
        BTreeMap::new();
    for slice in slices {
        let family = AddressType::named(&slice.address_type);
        let ports = Ports::of(slice.ports.as_deref().unwrap_or_default());
        present.entry((family, ports)).or_default().push(Arc::clone(slice));
    }
    for ((family, ports), group) in wanted {
        let group: Vec<_> = group.into_values().take(max).collect();
        let mut old =
            present.remove(&(Some(family), ports.clone())).unwrap_or_default().into_iter();
        match old.next() {
            None => plan.create.push(mirror.create(family, &ports, group)),
            Some(slice) if mirror.shows(&slice, &group) => {}
            Some(slice) => plan.update.push(mirror.update(&slice, &ports, group)),
        }
        plan.delete.extend(old);
    }
    plan.delete.extend(present.into_values().flatten());

    let mut fresh = Vec::new();
    for slice in plan.create.drain(..) {
        let same = |d: &Arc<EndpointSlice>| d.address_type == slice.address_type;
        match plan.delete.iter().position(same) {
            Some(at) => {
                let old = plan.delete.remove(at);
                let ports = Ports::of(slice.ports.as_deref().unwrap_or_default());
                plan.update.push(mirror.update(&old, &ports, held(&slice).to_vec()));
            }
            None => fresh.push(slice),
        }
    }
    plan.create = fresh;
    plan
}

fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)))
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &core::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(AddressType, Endpoint)> {
    let ip = parse(&address.ip)?;
    let family = match ip {
        IpAddr::V4(_) => AddressType::IPv4,
        IpAddr::V6(_) => AddressType::IPv6,
    };
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((family, endpoint))
}

/// Reads an address as Go's `ParseIPSloppy`: leading zeros are decimal, and a mapped IPv4 address is
/// an IPv4 address. Objects written long ago may hold such.
fn parse(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        *octet = digits.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// What all slices of one object have in common.
struct Mirror<'a> {
    endpoints: &'a core::Endpoints,
    labels: BTreeMap<String, String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl<'a> Mirror<'a> {
    fn of(endpoints: &'a core::Endpoints) -> Self {
        let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
        labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|key, _| key != TRIGGER_TIME && key != LAST_APPLIED);
        let annotations = (!annotations.is_empty()).then_some(annotations);
        Self { endpoints, labels, annotations }
    }

    /// Whether the slice says all of this already, in whatever order.
    fn shows(&self, slice: &EndpointSlice, endpoints: &[Endpoint]) -> bool {
        let by_identity = |e: &[Endpoint]| -> BTreeMap<Identity, Endpoint> {
            e.iter().map(|e| (Identity::of(e), e.clone())).collect()
        };
        let annotations = slice.metadata.annotations.as_ref().filter(|a| !a.is_empty());
        slice.metadata.labels.as_ref() == Some(&self.labels)
            && annotations == self.annotations.as_ref()
            && slice.controller().is_some_and(|o| o.uid == self.endpoints.uid())
            && held(slice).len() == endpoints.len()
            && by_identity(held(slice)) == by_identity(endpoints)
    }

    fn create(
        &self,
        family: AddressType,
        ports: &Ports,
        endpoints: Vec<Endpoint>,
    ) -> EndpointSlice {
        self.describe(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(generate_name(self.endpoints.name())),
                namespace: self.endpoints.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            address_type: family.as_str().to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports.to_api()),
        })
    }

    fn update(
        &self,
        old: &EndpointSlice,
        ports: &Ports,
        endpoints: Vec<Endpoint>,
    ) -> EndpointSlice {
        self.describe(EndpointSlice {
            metadata: old.metadata.clone(),
            address_type: old.address_type.clone(),
            endpoints: Some(endpoints),
            ports: Some(ports.to_api()),
        })
    }

    fn describe(&self, mut slice: EndpointSlice) -> EndpointSlice {
        slice.metadata.labels = Some(self.labels.clone());
        slice.metadata.annotations.clone_from(&self.annotations);
        slice.metadata.owner_references = Some(vec![controller_ref(self.endpoints)]);
        slice
    }
}
