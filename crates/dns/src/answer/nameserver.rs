//! Who serves the zone: the Services whose endpoint this server is, or else `ns.dns.ZONE`.
//!
//! Upstream rule: coredns plugin/kubernetes/ns.go `nsAddrs`.

use std::net::IpAddr;

use super::authority::Authority;
use crate::zone::{Kind, Slice, Snapshot};

/// A name server: its name in wire form, and an address.
pub(super) type Server = (Vec<u8>, IpAddr);

/// The name servers of a zone, which is given in wire form.
pub(super) fn names(zone: &[u8], snapshot: &Snapshot, authority: &Authority) -> Vec<Server> {
    let mut servers = Vec::new();
    for ip in &authority.local_ips {
        for entry in snapshot.services_at(*ip) {
            let is_endpoint = entry.slices().any(|slice| slice.contains(*ip));
            let Some(service) = entry.service.as_deref().filter(|_| is_endpoint) else { continue };
            let labels = [&*entry.key.name, &*entry.key.namespace, "svc"];
            match &service.kind {
                Kind::ClusterIp(ips) => {
                    servers.extend(ips.iter().map(|ip| (name(&labels, zone), *ip)));
                }
                Kind::Headless => {
                    let mut label = String::new();
                    for (endpoint, ip) in entry.slices().flat_map(Slice::endpoints) {
                        endpoint.write(&mut label);
                        let labels = [&*label, labels[0], labels[1], labels[2]];
                        servers.push((name(&labels, zone), ip));
                    }
                }
                Kind::ExternalName(_) | Kind::Nothing => {}
            }
        }
    }
    if servers.is_empty() {
        let own = name(&["ns", "dns"], zone);
        servers.extend(authority.local_ips.iter().map(|ip| (own.clone(), *ip)));
    }
    servers.sort();
    servers.dedup();
    servers
}

/// Their addresses.
pub(super) fn addresses(zone: &[u8], snapshot: &Snapshot, authority: &Authority) -> Vec<IpAddr> {
    let mut ips: Vec<_> = names(zone, snapshot, authority).into_iter().map(|(_, ip)| ip).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// A name of labels that are short enough, and the rest.
pub(super) fn name(labels: &[&str], rest: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(64);
    for label in labels {
        let label = &label.as_bytes()[..label.len().min(63)];
        wire.push(u8::try_from(label.len()).unwrap_or_default());
        wire.extend_from_slice(label);
    }
    wire.extend_from_slice(rest);
    wire
}
