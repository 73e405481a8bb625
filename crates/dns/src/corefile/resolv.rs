//! resolv.conf, as far as a forwarder needs it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// How many name servers are taken from one file.
const MOST: usize = 15;

/// The name servers of a resolv.conf, at port 53. An IPv6 address may have a numeric scope.
#[must_use]
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split(['#', ';']).next()?.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()).flatten()
    });
    servers.filter_map(address).take(MOST).collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 53));
    }
    let (ip, scope) = text.split_once('%')?;
    let (ip, scope) = (ip.parse::<Ipv6Addr>().ok()?, scope.parse().ok()?);
    Some(SocketAddrV6::new(ip, 53, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_count() {
        let text = "# nameserver 10.0.0.9\nsearch a b\n nameserver 10.0.0.1 # one\n\
                    nameserver fd00::1%3\nnameserver nonsense\noptions ndots:5\nnameserver";
        let servers: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fd00::1%3]:53"]);
    }
}
