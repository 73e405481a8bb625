//! Hints under `service.kubernetes.io/topology-mode: Auto`: endpoints shared out among the zones in
//! proportion to their CPUs. Pure.
//!
//! Upstream's rule (`topologycache`): a zone may lack at most so many endpoints that each of them
//! is overloaded by 20 %; where that cannot be kept, or where something is not known, no endpoint
//! has a hint. Slices that need no write keep their hints as long as these allow that. Where
//! upstream takes zones in the random order of a Go map, the order here is that of their names.

mod cpu;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};

use self::cpu::cpus;
use super::endpoint::ZONE;
use super::pack::held;
use crate::object::Meta;

const MODE: &str = "service.kubernetes.io/topology-mode";
const DEPRECATED_MODE: &str = "service.kubernetes.io/topology-aware-hints";
/// How much more than its share an endpoint may have to bear.
const OVERLOAD: f64 = 0.2;
const CONTROL_PLANE: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Each zone's share of the CPUs; two zones at least.
pub(crate) type Shares = BTreeMap<String, f64>;
/// How many endpoints are for each zone.
pub(crate) type Allotted = BTreeMap<String, usize>;

/// Whether the Service asks for such hints.
pub(crate) fn is_auto(service: &Service) -> bool {
    let mode = service.annotation(DEPRECATED_MODE).or_else(|| service.annotation(MODE));
    matches!(mode, Some("Auto" | "auto"))
}

/// The zones' shares; none when a ready node does not tell its zone or CPUs, or all are in one.
pub(crate) fn shares(nodes: &[Arc<Node>]) -> Option<Shares> {
    let mut zones = Shares::new();
    for node in nodes {
        if CONTROL_PLANE.iter().any(|l| node.label(l).is_some()) || !is_ready(node) {
            continue;
        }
        let zone = node.label(ZONE).filter(|z| !z.is_empty())?;
        *zones.entry(zone.to_owned()).or_default() += cpus(node)?;
    }
    let all: f64 = zones.values().sum();
    zones.values_mut().for_each(|cpus| *cpus /= all);
    (zones.len() >= 2).then_some(zones)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a zone has too few of a Service's endpoints for its share.
pub(crate) fn is_overloaded(allotted: &Allotted, shares: Option<&Shares>) -> bool {
    if allotted.is_empty() {
        return false;
    }
    let Some(shares) = shares else { return true };
    let total = allotted.values().sum();
    shares
        .iter()
        .any(|(zone, share)| allotted.get(zone).is_none_or(|&has| has < least(total, *share)))
}

/// The slices of one family in one plan.
pub(super) struct Slices<'a> {
    pub(super) create: &'a mut Vec<EndpointSlice>,
    pub(super) update: &'a mut Vec<EndpointSlice>,
    pub(super) untouched: Vec<Arc<EndpointSlice>>,
}

/// Sets the hints of all slices, with writes for those whose hints cannot stay. The error says why
/// none has hints now.
pub(super) fn assign(slices: Slices<'_>, shares: Option<&Shares>) -> Result<Allotted, String> {
    let Slices { create, update, untouched } = slices;
    let ready = create.iter().chain(&*update).chain(untouched.iter().map(|s| &**s));
    let total = ready.map(|s| held(s).iter().filter(|e| is_hinted(e)).count()).sum();
    let bounds = match bounds(total, shares) {
        Ok(bounds) => bounds,
        Err(why) => {
            strip(create, update, &untouched);
            return Err(why);
        }
    };

    let mut allotted = Allotted::new();
    let mut kept = Vec::new();
    for slice in untouched {
        match as_allotted(&slice, &allotted, &bounds) {
            Some(zones) => {
                zones.into_iter().for_each(|(zone, n)| *allotted.entry(zone).or_default() += n);
                kept.push(slice);
            }
            None => update.push((*slice).clone()),
        }
    }

    let zoneless = |e: &Endpoint| is_hinted(e) && e.zone.as_ref().is_none_or(String::is_empty);
    if create.iter().chain(&*update).any(|s| held(s).iter().any(zoneless)) {
        strip(create, update, &kept);
        return Err("One or more endpoints do not have a zone specified".to_owned());
    }
    for endpoint in endpoints(create, update) {
        endpoint.hints = endpoint.zone.clone().filter(|_| is_hinted(endpoint)).map(|zone| {
            *allotted.entry(zone.clone()).or_default() += 1;
            to(zone)
        });
    }

    let (mut giving, mut receiving) = transfers(&bounds, &allotted);
    for endpoint in endpoints(create, update).filter(|e| is_hinted(e)) {
        let Some(zone) = endpoint.zone.as_ref() else { continue };
        let Some((receiver, _)) = receiving.iter().find(|(_, n)| **n > 0) else { break };
        let receiver = receiver.clone();
        if !take(&mut giving, zone) || !take(&mut receiving, &receiver) {
            continue;
        }
        take(&mut allotted, zone);
        *allotted.entry(receiver.clone()).or_default() += 1;
        endpoint.hints = Some(to(receiver));
    }
    if allotted.is_empty() {
        strip(create, update, &kept);
        return Err("No hints allocated for zones".to_owned());
    }
    Ok(allotted)
}

/// What a zone must, may and should have.
struct Bounds {
    least: usize,
    most: usize,
    desired: f64,
}

fn bounds(total: usize, shares: Option<&Shares>) -> Result<BTreeMap<String, Bounds>, String> {
    let Some(shares) = shares else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one \
                    or more nodes"
            .to_owned());
    };
    let counts = format!("({total} endpoints, {} zones)", shares.len());
    if shares.len() > total {
        return Err(format!("Insufficient number of endpoints {counts}"));
    }
    let needed: usize = shares.values().map(|share| least(total, *share)).sum();
    let Some(spare) = total.checked_sub(needed) else {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding \
             overload threshold {counts}"
        ));
    };
    let bounds = shares.iter().map(|(zone, share)| {
        let least = least(total, *share);
        let desired = (share * real(total)).max(real(least));
        (zone.clone(), Bounds { least, most: least + spare, desired })
    });
    Ok(bounds.collect())
}

/// The fewest endpoints that a zone of this share can do with.
fn least(total: usize, share: f64) -> usize {
    let least = (share * real(total) * (1.0 / (1.0 + OVERLOAD))).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is at most one, so this is between zero and the total"
    )]
    let least = least as usize;
    least
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The hints in a slice by zone; none when they cannot stay.
fn as_allotted(
    slice: &EndpointSlice,
    before: &Allotted,
    bounds: &BTreeMap<String, Bounds>,
) -> Option<Allotted> {
    let mut zones = Allotted::new();
    for endpoint in held(slice).iter().filter(|e| is_hinted(e)) {
        let hints = endpoint.hints.as_ref()?.for_zones.as_ref().filter(|z| !z.is_empty())?;
        for zone in hints {
            bounds.get(&zone.name)?;
            *zones.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = zones.iter().all(|(zone, n)| {
        let already = before.get(zone).copied().unwrap_or_default();
        bounds.get(zone).is_some_and(|b| n + already <= b.most)
    });
    fits.then_some(zones)
}

/// How many endpoints each zone gives to others and gets from others.
fn transfers(bounds: &BTreeMap<String, Bounds>, allotted: &Allotted) -> (Allotted, Allotted) {
    let mut surplus: BTreeMap<&str, f64> = BTreeMap::new();
    let mut want: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, bounds) in bounds {
        debug_assert!(bounds.desired >= real(bounds.least), "a zone wants what it must have");
        let over = real(allotted.get(zone).copied().unwrap_or_default()) - bounds.desired;
        if over > 0.0 {
            surplus.insert(zone, over);
        } else if over < 0.0 {
            want.insert(zone, -over);
        }
    }
    let (mut giving, mut receiving) = (Allotted::new(), Allotted::new());
    while let (Some((from, gives)), Some((to, gets))) = (most(&surplus), most(&want)) {
        if (gives < 1.0 && gets < 1.0) || gives < 0.5 || gets < 0.5 {
            break;
        }
        *giving.entry(from.to_owned()).or_default() += 1;
        *receiving.entry(to.to_owned()).or_default() += 1;
        surplus.insert(from, gives - 1.0);
        want.insert(to, gets - 1.0);
    }
    (giving, receiving)
}

fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    let positive = zones.iter().filter(|(_, n)| **n > 0.0);
    positive.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0))).map(|(zone, n)| (*zone, *n))
}

/// Takes one away, if there is one.
fn take(counts: &mut Allotted, zone: &str) -> bool {
    let Some(count) = counts.get_mut(zone).filter(|n| **n > 0) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(zone);
    }
    true
}

fn strip(
    create: &mut [EndpointSlice],
    update: &mut Vec<EndpointSlice>,
    untouched: &[Arc<EndpointSlice>],
) {
    let hinted = untouched.iter().filter(|s| held(s).iter().any(|e| e.hints.is_some()));
    update.extend(hinted.map(|s| (**s).clone()));
    endpoints(create, update).for_each(|e| e.hints = None);
}

fn endpoints<'a>(
    create: &'a mut [EndpointSlice],
    update: &'a mut [EndpointSlice],
) -> impl Iterator<Item = &'a mut Endpoint> {
    create.iter_mut().chain(update).flat_map(|s| s.endpoints.iter_mut().flatten())
}

/// Only ready endpoints have hints.
fn is_hinted(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true))
}

fn to(zone: String) -> EndpointHints {
    EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None }
}
