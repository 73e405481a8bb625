//! Constants as `nft` writes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::data::{Data, DataType, SetType};

/// The bits of `ct state` by name.
pub(super) const CT_STATE: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (0x40, "untracked")];

/// The bits of `ct status` by name.
pub(super) const CT_STATUS: [(u32, &str); 7] = [
    (1, "expected"),
    (2, "seen-reply"),
    (4, "assured"),
    (8, "confirmed"),
    (0x10, "snat"),
    (0x20, "dnat"),
    (0x200, "dying"),
];

/// A key or data of a set; with `end` a range.
pub(super) fn key(ty: &SetType, data: &Data, end: Option<&Data>) -> String {
    let mut parts = Vec::with_capacity(ty.fields().len());
    for (field, at, len) in ty.spans() {
        let slice = |data: &Data| data.as_bytes().get(at..at + len).map(<[u8]>::to_vec);
        let Some(first) = slice(data) else { return format!("{data:?}") };
        parts.push(match end.and_then(slice) {
            Some(last) if last != first => range(field, &first, &last),
            _ => one(field, &first),
        });
    }
    parts.join(" . ")
}

/// A range: as a prefix where it is one.
fn range(ty: DataType, first: &[u8], last: &[u8]) -> String {
    if matches!(ty, DataType::Ipv4Addr | DataType::Ipv6Addr) {
        let bits = |bytes: &[u8]| bytes.iter().fold(0_u128, |n, b| (n << 8) | u128::from(*b));
        let (from, to, width) = (bits(first), bits(last), first.len() * 8);
        let host = (from ^ to).count_ones();
        let mask = 1_u128.checked_shl(host).map_or(u128::MAX, |n| n - 1);
        if from & mask == 0 && to & mask == mask && from | mask == to {
            return format!("{}/{}", one(ty, first), width - host as usize);
        }
    }
    format!("{}-{}", one(ty, first), one(ty, last))
}

/// One field's constant.
pub(super) fn one(ty: DataType, bytes: &[u8]) -> String {
    match (ty, bytes) {
        (DataType::Ipv4Addr, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).to_string(),
        (DataType::Ipv6Addr, bytes) => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => Ipv6Addr::from(octets).to_string(),
            Err(_) => hex(bytes),
        },
        (DataType::InetProto, [proto]) => protocol(*proto),
        (DataType::InetService, &[high, low]) => u16::from_be_bytes([high, low]).to_string(),
        (DataType::Mark, &[a, b, c, d]) => format!("{:#x}", u32::from_ne_bytes([a, b, c, d])),
        (DataType::IfIndex, &[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]).to_string(),
        (DataType::IfName, bytes) => interface(bytes),
        (DataType::EtherAddr, bytes) => {
            bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
        }
        (_, bytes) => hex(bytes),
    }
}

/// A protocol's name where every `nft` knows it.
pub(super) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "ipv6-icmp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

/// An interface's name; without a NUL behind it is a prefix.
fn interface(bytes: &[u8]) -> String {
    let name: Vec<u8> = bytes.iter().copied().take_while(|b| *b != 0).collect();
    let star = if name.len() == bytes.len() && bytes.len() < 16 { "*" } else { "" };
    format!("\"{}{star}\"", String::from_utf8_lossy(&name))
}

/// The names of bits, joined by commas; none if a bit has no name.
pub(super) fn bit_names(names: &[(u32, &str)], mut bits: u32) -> Option<String> {
    let mut found = Vec::new();
    for (bit, name) in names {
        if bits & bit != 0 {
            found.push(*name);
            bits &= !bit;
        }
    }
    (bits == 0 && !found.is_empty()).then(|| found.join(","))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("0x{digits}")
}
