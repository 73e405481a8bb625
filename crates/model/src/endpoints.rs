//! Which endpoints of a Service port can be used from this node.
//!
//! Upstream rule: `pkg/proxy/topology.go` (`CategorizeEndpoints`, `topologyModeFromHints`) and
//! `pkg/proxy/endpointslicecache.go` (joining slices, duplicates).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::input::{Conditions, EndpointSlice, Hints};
use crate::table::{Location, Selection, Target, Topology};
use crate::{Family, Protocol};

/// An endpoint of one Service port, joined from all slices.
#[derive(Debug, Clone)]
pub(crate) struct Joined<'a> {
    conditions: Conditions,
    location: Location,
    hints: &'a Hints,
}

/// Who and where this node is, for choosing endpoints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) zone: Option<&'a Arc<str>>,
}

/// The endpoints that a set holds, and why those.
#[derive(Debug, Clone)]
pub(crate) struct Selected {
    pub(crate) targets: BTreeSet<Target>,
    pub(crate) selection: Selection,
    pub(crate) topology: Topology,
}

/// Joins a port's endpoints from all slices of its Service.
///
/// An address may be there twice: while the controller moves an endpoint to another slice, or when a
/// new pod has got the address of one that still terminates. As upstream, the one that does not
/// terminate is preferred; where upstream leaves it open, the one that is ready, then the first.
pub(crate) fn join<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    (name, protocol): (&str, Protocol),
    family: Family,
    here: Here<'_>,
) -> BTreeMap<SocketAddr, Joined<'a>> {
    let mut joined: BTreeMap<SocketAddr, Joined<'a>> = BTreeMap::new();
    for slice in slices {
        for port in slice.ports.iter().filter(|p| &*p.name == name && p.protocol == protocol) {
            for endpoint in slice.endpoints.iter().filter(|e| Family::of(e.address) == family) {
                let location = match &endpoint.node_name {
                    Some(node) if node == here.node => Location::ThisNode,
                    _ => Location::Elsewhere,
                };
                let candidate =
                    Joined { conditions: endpoint.conditions, location, hints: &endpoint.hints };
                joined
                    .entry(SocketAddr::new(endpoint.address, port.port.get()))
                    .and_modify(|present| {
                        if preference(&candidate) > preference(present) {
                            *present = candidate.clone();
                        }
                    })
                    .or_insert(candidate);
            }
        }
    }
    joined
}

fn preference(endpoint: &Joined<'_>) -> impl Ord + use<> {
    let Conditions { ready, serving, terminating } = endpoint.conditions;
    (!terminating, ready, serving)
}

/// The endpoints for traffic that may go to any node: the ready ones, narrowed down by hints; when
/// there is none, those that are terminating but still serving, without regard to hints.
pub(crate) fn cluster(joined: &BTreeMap<SocketAddr, Joined<'_>>, here: Here<'_>) -> Selected {
    let topology = topology(joined, here);
    let ready = targets(joined, |endpoint| {
        endpoint.conditions.ready
            && match &topology {
                Topology::Anywhere => true,
                Topology::SameZone(zone) => endpoint.hints.zones.contains(zone),
                Topology::SameNode(node) => endpoint.hints.nodes.contains(node),
            }
    });
    if ready.is_empty() {
        let targets = targets(joined, |e| e.conditions.serving && e.conditions.terminating);
        let selection = Selection::ServingTerminating;
        return Selected { targets, selection, topology: Topology::Anywhere };
    }
    Selected { targets: ready, selection: Selection::Ready, topology }
}

/// The endpoints for traffic that must stay on this node; hints do not matter.
pub(crate) fn local(joined: &BTreeMap<SocketAddr, Joined<'_>>) -> Selected {
    let here = |endpoint: &Joined<'_>| endpoint.location == Location::ThisNode;
    let ready = targets(joined, |e| here(e) && e.conditions.ready);
    let (targets, selection) = if ready.is_empty() {
        let draining =
            targets(joined, |e| here(e) && e.conditions.serving && e.conditions.terminating);
        (draining, Selection::ServingTerminating)
    } else {
        (ready, Selection::Ready)
    };
    Selected { targets, selection, topology: Topology::Anywhere }
}

fn targets(
    joined: &BTreeMap<SocketAddr, Joined<'_>>,
    usable: impl Fn(&Joined<'_>) -> bool,
) -> BTreeSet<Target> {
    joined
        .iter()
        .filter(|(_, endpoint)| usable(endpoint))
        .map(|(address, endpoint)| Target { address: *address, location: endpoint.location })
        .collect()
}

/// Hints count only when every ready endpoint has one and some are for this node or zone, so that a
/// half-updated set of slices never leaves a zone without endpoints.
fn topology(joined: &BTreeMap<SocketAddr, Joined<'_>>, here: Here<'_>) -> Topology {
    let ready = || joined.values().filter(|endpoint| endpoint.conditions.ready);
    let for_node = || ready().any(|endpoint| endpoint.hints.nodes.contains(here.node));
    if ready().all(|endpoint| !endpoint.hints.nodes.is_empty()) && for_node() {
        return Topology::SameNode(here.node.clone());
    }
    if let Some(zone) = here.zone
        && ready().all(|endpoint| !endpoint.hints.zones.is_empty())
        && ready().any(|endpoint| endpoint.hints.zones.contains(zone))
    {
        return Topology::SameZone(zone.clone());
    }
    Topology::Anywhere
}

#[cfg(test)]
mod tests;
