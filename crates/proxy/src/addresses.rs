//! The addresses of this node at which node ports answer.
//!
//! Upstream rule: `NodePortAddresses` of pkg/proxy/util/nodeport_addresses.go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::NodePortAddresses;
use portolan_netlink::link::{Address, AddressFamily, LinkError, Links};

use crate::config::NodePorts;

/// Resolves the setting: `primary` are the addresses of the node's object, as far as it has some.
///
/// # Errors
/// When the addresses of this machine cannot be read.
pub(crate) async fn resolve(
    setting: &NodePorts,
    primary: &BTreeSet<IpAddr>,
) -> Result<NodePortAddresses, LinkError> {
    let only = match setting {
        NodePorts::All => return Ok(NodePortAddresses::AllLocal),
        NodePorts::Primary if !primary.is_empty() => primary.clone(),
        NodePorts::Primary => {
            let links = Links::open()?;
            let addresses = own(links.addresses().await?);
            let mut found = BTreeSet::new();
            for family in [AddressFamily::V4, AddressFamily::V6] {
                found.extend(first(&addresses, family, links.default_route_link(family).await?));
            }
            found
        }
        NodePorts::Within(ranges) => {
            let addresses = own(Links::open()?.addresses().await?);
            let ips = addresses.iter().map(|address| address.net.addr());
            ips.filter(|ip| ranges.iter().any(|range| range.contains(ip))).collect()
        }
    };
    Ok(NodePortAddresses::Only(only))
}

/// Those that are the node's own: the addresses of Services, which mode ipvs keeps on a link, are not.
fn own(mut addresses: Vec<Address>) -> Vec<Address> {
    if let Ok(link) = nix::net::if_::if_nametoindex(portolan_backend_ipvs::LINK) {
        addresses.retain(|address| address.index != link);
    }
    addresses
}

/// The first address that reaches beyond this machine, on the link of the default route if there
/// is such a route.
fn first(addresses: &[Address], family: AddressFamily, link: Option<u32>) -> Option<IpAddr> {
    let usable = |address: &&Address| {
        let ip = address.net.addr();
        address.is_global && !ip.is_loopback() && ip.is_ipv4() == (family == AddressFamily::V4)
    };
    let mut candidates = addresses.iter().filter(usable);
    let on_link = |address: &&Address| link.is_none_or(|link| address.index == link);
    candidates.find(on_link).map(|address| address.net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32, net: &str, is_global: bool) -> Address {
        Address { index, net: net.parse().unwrap(), is_global }
    }

    #[test]
    fn the_default_routes_link_comes_first() {
        let all = [
            address(1, "127.0.0.1/8", false),
            address(2, "10.0.0.5/24", true),
            address(3, "192.168.0.5/24", true),
            address(2, "fe80::1/64", false),
        ];
        let v4 = |link| first(&all, AddressFamily::V4, link);
        assert_eq!(v4(Some(3)), Some("192.168.0.5".parse().unwrap()));
        assert_eq!(v4(None), Some("10.0.0.5".parse().unwrap()));
        assert_eq!(first(&all, AddressFamily::V6, None), None);
    }
}
