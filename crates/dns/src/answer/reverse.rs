//! From addresses to names.
//!
//! Upstream rule: coredns plugin/kubernetes/reverse.go, plugin/pkg/dnsutil/reverse.go.

use std::net::IpAddr;

use super::authority::Authority;
use super::nameserver::name;
use crate::wire::Labels;
use crate::zone::{Kind, Service, Slice, Snapshot};

const IN_ADDR_ARPA: &[u8] = b"\x07in-addr\x04arpa\0";
const IP6_ARPA: &[u8] = b"\x03ip6\x04arpa\0";

/// Whether a zone in lower case is one of addresses.
pub(super) fn is_reverse(zone: &[u8]) -> bool {
    [IN_ADDR_ARPA, IP6_ARPA].iter().any(|root| crate::wire::is_suffix(zone, root).is_some())
}

/// The address that a whole name in lower case stands for.
pub(super) fn address_of(lower: &[u8]) -> Option<IpAddr> {
    if let Some(end) = crate::wire::is_suffix(lower, IN_ADDR_ARPA) {
        let mut octets = [0; 4];
        let mut count = 0;
        for label in Labels(&lower[..end]) {
            // From the last octet to the first.
            let octet = octets.len().checked_sub(count + 1)?;
            let is_plain = label == b"0" || !label.starts_with(b"0");
            let digits = label.iter().all(u8::is_ascii_digit) && is_plain;
            let text = std::str::from_utf8(label).ok().filter(|_| digits)?;
            octets[octet] = text.parse().ok()?;
            count += 1;
        }
        return (count == octets.len()).then(|| octets.into());
    }
    let end = crate::wire::is_suffix(lower, IP6_ARPA)?;
    let mut address = 0_u128;
    let mut count = 0;
    for label in Labels(&lower[..end]) {
        let &[nibble] = label else { return None };
        let nibble = char::from(nibble).to_digit(16)?;
        if count == 32 {
            return None;
        }
        address |= u128::from(nibble) << (4 * count);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(address.into()))
}

/// The names of an address: the Service whose cluster IP it is, or else every endpoint's that has it.
pub(super) fn names(ip: IpAddr, snapshot: &Snapshot, authority: &Authority) -> Vec<Vec<u8>> {
    let zone = authority.primary();
    let mut names = Vec::new();
    let mut label = String::new();
    for entry in snapshot.services_at(ip) {
        let labels = [&*entry.key.name, &*entry.key.namespace, "svc"];
        if !authority.exposes(labels[1].as_bytes()) {
            continue;
        }
        let service = entry.service.as_deref();
        if let Some(Service { kind: Kind::ClusterIp(ips), .. }) = service
            && ips.contains(&ip)
        {
            return vec![name(&labels, zone)];
        }
        for endpoint in entry.slices().flat_map(|slice: &Slice| slice.names_of(ip)) {
            endpoint.write(&mut label);
            names.push(name(&[&*label, labels[0], labels[1], labels[2]], zone));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    #[test]
    fn only_whole_names_are_addresses() {
        let six = format!("1.{}d.f.ip6.arpa", "0.".repeat(29));
        for (name, ip) in [
            ("4.3.2.10.in-addr.arpa", Some("10.2.3.4")),
            ("3.2.10.in-addr.arpa", None),
            ("5.4.3.2.10.in-addr.arpa", None),
            ("04.3.2.10.in-addr.arpa", None),
            ("256.3.2.10.in-addr.arpa", None),
            ("+4.3.2.10.in-addr.arpa", None),
            ("in-addr.arpa", None),
            (&six, Some("fd00::1")),
            (&format!("1.{six}"), None),
            ("1.0.ip6.arpa", None),
            ("svc.cluster.local", None),
        ] {
            let wire = Name::parse(name).unwrap().lowercased();
            assert_eq!(address_of(wire.wire()), ip.map(|ip| ip.parse().unwrap()), "{name}");
        }
    }
}
