//! The subsets of an Endpoints object: canonical, and cut to what one object may hold. Pure.
//!
//! As upstream's `RepackSubsets`: every port has its set of addresses, ready and not ready; ports
//! with the same set share a subset, so an address stands in as many subsets as it has kinds of
//! ports. Addresses are in the order of their text, then of the pod's uid. Ports and subsets are in
//! the order of their values (upstream: of a hash).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// Addresses that one object holds at most.
pub(super) const CAPACITY: usize = 1000;

/// A port: name, number, protocol, application protocol.
pub(super) type Port = (String, i32, String, Option<String>);

/// A pod's address, and the ports that it serves; none at all for a headless Service without ports.
pub(super) struct Entry {
    pub(super) address: EndpointAddress,
    pub(super) ready: bool,
    pub(super) ports: Vec<Port>,
}

/// The subsets of all entries.
pub(super) fn repack(entries: Vec<Entry>) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<(String, String), EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<Port>, BTreeMap<(String, String), bool>> = BTreeMap::new();
    for Entry { address, ready, ports } in entries {
        let uid = address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
        let key = (address.ip.clone(), uid);
        let none = ports.is_empty().then_some(None);
        for port in ports.into_iter().map(Some).chain(none) {
            // Ready where all say so.
            *by_port.entry(port).or_default().entry(key.clone()).or_insert(true) &= ready;
        }
        addresses.entry(key).or_insert(address);
    }
    let number: BTreeMap<_, usize> = addresses.keys().zip(0..).collect();
    let mut groups: BTreeMap<Vec<(usize, bool)>, BTreeSet<Port>> = BTreeMap::new();
    for (port, held) in &by_port {
        let set = held.iter().map(|(key, ready)| (number[key], *ready)).collect();
        groups.entry(set).or_default().extend(port.clone());
    }
    let addresses: Vec<_> = addresses.values().collect();
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(_, a), (_, b)| a.cmp(b));
    groups
        .into_iter()
        .map(|(set, ports)| {
            let side = |wanted: bool| -> Option<Vec<EndpointAddress>> {
                let side = set.iter().filter(|(_, ready)| *ready == wanted);
                let side: Vec<_> = side.map(|(number, _)| addresses[*number].clone()).collect();
                (!side.is_empty()).then_some(side)
            };
            EndpointSubset {
                addresses: side(true),
                not_ready_addresses: side(false),
                ports: (!ports.is_empty()).then(|| ports.into_iter().map(api_port).collect()),
            }
        })
        .collect()
}

fn api_port((name, port, protocol, app_protocol): Port) -> EndpointPort {
    EndpointPort {
        name: (!name.is_empty()).then_some(name),
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

/// Cuts the subsets to the capacity of one object; returns whether that was needed. Ready addresses
/// stay first; those that share the room do so in proportion to their subsets' sizes
/// (`truncateEndpoints`).
pub(super) fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let count = |side: &Option<Vec<EndpointAddress>>| side.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let (total, room) =
        if ready > CAPACITY { (ready, CAPACITY) } else { (not_ready, CAPACITY - ready) };
    let mut left = room;
    for subset in &mut *subsets {
        let side = if ready > CAPACITY {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let share = (count(side) * room).div_ceil(total).min(left);
        left -= share;
        if let Some(addresses) = side {
            addresses.truncate(share);
        }
        side.take_if(|addresses| addresses.is_empty());
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    true
}
