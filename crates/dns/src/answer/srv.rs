//! SRV records and the addresses of their targets.
//!
//! Upstream rule: coredns plugin/backend_lookup.go `SRV`: targets share a weight of 100, each
//! target and port once, each target and address once.

use std::collections::{HashMap, HashSet};

use super::lookup::Item;
use super::reply::Reply;
use crate::wire::{Section, Target, rtype};

/// Writes the records of some targets.
pub(super) fn write(mut reply: Reply<'_, '_>, items: &[Item<'_>]) -> u16 {
    let weight = weight(items.len());
    let zone = reply.zone();
    let ttl = reply.ttl();
    let mut label = String::new();
    // Where each target's name stands in the message.
    let mut targets = HashMap::with_capacity(items.len());
    let mut seen = HashSet::with_capacity(items.len());
    let mut is_cut = false;
    for item in items {
        let Some(port) = item.port else { continue };
        if !seen.insert((item.endpoint, port)) {
            continue;
        }
        let at = reply.writer.len() + Reply::HEAD + 6;
        let key = &item.service.key;
        let own = [key.name.as_bytes(), key.namespace.as_bytes(), b"svc"];
        if let Some(endpoint) = item.endpoint {
            endpoint.write(&mut label);
        }
        let with_endpoint = [label.as_bytes(), own[0], own[1], own[2]];
        let labels = if item.endpoint.is_some() { &with_endpoint[..] } else { &own[..] };
        let target = Target { labels, rest: zone };
        is_cut = !reply.writer.record(Section::Answer, Reply::OWNER, (rtype::SRV, ttl), |out| {
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&weight.to_be_bytes());
            out.extend_from_slice(&port.to_be_bytes());
            target.write(out);
        });
        if is_cut {
            break;
        }
        targets.entry(item.endpoint).or_insert(at);
    }
    if targets.is_empty() && !is_cut {
        return reply.nothing(crate::wire::rcode::NOERROR);
    }
    let mut seen = HashSet::with_capacity(items.len());
    // Addresses only help: where they do not fit, the answer is still whole.
    for item in items.iter().filter(|_| !is_cut) {
        let Some(&at) = targets.get(&item.endpoint) else { continue };
        let Some(pointer) = u16::try_from(at).ok().filter(|at| *at < 0x4000) else { break };
        if !seen.insert((item.endpoint, item.ip)) {
            continue;
        }
        let owner = (0xC000 | pointer).to_be_bytes();
        let owner = Target { labels: &[], rest: &owner };
        if !reply.writer.address(Section::Additional, owner, ttl, item.ip) {
            break;
        }
    }
    reply.finish(is_cut)
}

/// The weight of each of so many targets.
fn weight(count: usize) -> u16 {
    u16::try_from(100 / count.max(1)).unwrap_or_default().max(1)
}
