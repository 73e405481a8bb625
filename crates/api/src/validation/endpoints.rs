//! Endpoints and EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_ZONE_HINTS: usize = 8;

pub(super) fn endpoints(causes: &mut Causes, endpoints: &Value) {
    let list = Path::new("subsets");
    for (index, subset) in endpoints.items("subsets").iter().enumerate() {
        let path = list.index(index);
        let (ready, other) = (subset.items("addresses"), subset.items("notReadyAddresses"));
        if ready.is_empty() && other.is_empty() {
            causes.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", other)] {
            let list = path.child(field);
            for (index, address) in addresses.iter().enumerate() {
                endpoint_address(causes, &list.index(index), address);
            }
        }
        let ports = subset.items("ports");
        let list = path.child("ports");
        for (index, port) in ports.iter().enumerate() {
            let path = list.index(index);
            match port.text("name") {
                "" if ports.len() > 1 => causes.required(&path.child("name"), ""),
                "" => {}
                name => causes.all(&path.child("name"), name, formats::dns_label(name)),
            }
            causes.port_number(&path.child("port"), port.number("port"));
            causes.one_of(&path.child("protocol"), port.text("protocol"), &PROTOCOLS);
        }
    }
}

fn endpoint_address(causes: &mut Causes, path: &Path<'_>, address: &Value) {
    let ip = address.text("ip");
    let messages = match formats::ip(ip) {
        none if none.is_empty() => formats::non_special_ip(ip),
        messages => messages,
    };
    causes.all(&path.child("ip"), ip, messages);
    let hostname = address.text("hostname");
    if !hostname.is_empty() {
        causes.all(&path.child("hostname"), hostname, formats::dns_label(hostname));
    }
    let node = address.text("nodeName");
    if !node.is_empty() {
        causes.all(&path.child("nodeName"), node, formats::dns_subdomain(node));
    }
}

pub(super) fn slice(causes: &mut Causes, slice: &Value) {
    let kind = slice.text("addressType");
    causes.one_of(&Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    let list = Path::new("endpoints");
    let endpoints = slice.items("endpoints");
    if endpoints.len() > MOST_ENDPOINTS {
        causes.too_many(&list, endpoints.len(), MOST_ENDPOINTS);
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(causes, &list.index(index), endpoint, kind);
        }
    }
    slice_ports(causes, slice.items("ports"));
}

fn slice_endpoint(causes: &mut Causes, path: &Path<'_>, endpoint: &Value, kind: &str) {
    let addresses = endpoint.items("addresses");
    let list = path.child("addresses");
    if addresses.is_empty() {
        causes.required(&list, "must contain at least 1 address");
    } else if addresses.len() > MOST_ADDRESSES {
        causes.too_many(&list, addresses.len(), MOST_ADDRESSES);
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let parsed = address.parse::<IpAddr>();
        let messages = match (kind, parsed) {
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                formats::non_special_ip(address)
            }
            ("IPv4", Ok(_)) => vec!["must be an IPv4 address".to_owned()],
            ("IPv6", Ok(_)) => vec!["must be an IPv6 address".to_owned()],
            ("IPv4" | "IPv6", Err(_)) => formats::ip(address),
            ("FQDN", _) => formats::dns_subdomain(address),
            _ => Vec::new(),
        };
        causes.all(&list.index(index), address, messages);
    }
    for (field, format) in [
        ("hostname", formats::dns_label as fn(&str) -> Vec<String>),
        ("nodeName", formats::dns_subdomain),
        ("zone", formats::label_value),
    ] {
        if endpoint.has(field) {
            let text = endpoint.text(field);
            causes.all(&path.child(field), text, format(text));
        }
    }
    let hints = path.child("hints");
    for field in ["forZones", "forNodes"] {
        let list = hints.child(field);
        let named = endpoint["hints"].items(field);
        if named.len() > MOST_ZONE_HINTS {
            causes.too_many(&list, named.len(), MOST_ZONE_HINTS);
        }
        let mut seen = HashSet::new();
        for (index, hint) in named.iter().enumerate() {
            let path = list.index(index);
            let name = hint.text("name");
            if !seen.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
            causes.all(&path.child("name"), name, formats::label_value(name));
        }
    }
}

fn slice_ports(causes: &mut Causes, ports: &[Value]) {
    let list = Path::new("ports");
    if ports.len() > MOST_PORTS {
        causes.too_many(&list, ports.len(), MOST_PORTS);
        return;
    }
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = list.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            causes.all(&path.child("name"), name, formats::dns_label(name));
        }
        if !names.insert(name) {
            causes.duplicate(&path.child("name"), name);
        }
        causes.one_of(&path.child("protocol"), port.text("protocol"), &PROTOCOLS);
        if port.has("port") {
            causes.port_number(&path.child("port"), port.number("port"));
        }
        if port.has("appProtocol") {
            let protocol = port.text("appProtocol");
            causes.all(&path.child("appProtocol"), protocol, formats::qualified_name(protocol));
        }
    }
}
