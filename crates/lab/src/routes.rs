//! The host's own routes, read and never changed: a lab's ranges must stay clear of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{RouteMessageBuilder, new_connection};

use crate::error::LabError;

/// The destinations of all unicast and local routes of both families in all tables, but for default
/// routes, loopback, and what is on every link.
pub(crate) fn of_this_host() -> Result<Vec<IpNet>, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(LabError::kernel("start a runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            new_connection().map_err(LabError::kernel("open a route socket"))?;
        let connection = tokio::spawn(connection);
        let mut destinations = Vec::new();
        for request in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let routes = handle.route().get(request).execute();
            let routes: Vec<_> = routes.try_collect().await.map_err(|source| LabError::Fabric {
                action: "read the host's routes".into(),
                source,
            })?;
            destinations.extend(routes.iter().filter_map(destination));
        }
        connection.abort();
        Ok(destinations)
    })
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let on_every_link = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let net = IpNet::new(address, route.header.destination_prefix_length).ok()?;
    (net.prefix_len() != 0 && !address.is_loopback() && !on_every_link).then_some(net)
}

/// The system's answer within netlink's.
pub(crate) fn io_error(error: &rtnetlink::Error) -> Option<io::Error> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.to_io()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: IpAddr, prefix_len: u8, kind: RouteType) -> RouteMessage {
        let route = RouteMessageBuilder::<IpAddr>::new().kind(kind);
        route.destination_prefix(to, prefix_len).unwrap().build()
    }

    #[test]
    fn routes_that_lead_somewhere_are_told_in_both_families() {
        let told = |to: &str, prefix_len, kind| {
            destination(&route(to.parse().unwrap(), prefix_len, kind)).map(|net| net.to_string())
        };
        let unicast = RouteType::Unicast;
        assert_eq!(told("192.0.2.0", 24, unicast).as_deref(), Some("192.0.2.0/24"));
        assert_eq!(told("fd00::", 64, unicast).as_deref(), Some("fd00::/64"));
        assert_eq!(told("fd00::2", 128, RouteType::Local).as_deref(), Some("fd00::2/128"));
        for (to, prefix_len, kind) in [
            ("0.0.0.0", 0, unicast),
            ("::", 0, unicast),
            ("127.0.0.0", 8, RouteType::Local),
            ("::1", 128, RouteType::Local),
            ("fe80::", 64, unicast),
            ("ff00::", 8, RouteType::Multicast),
            ("fd00::", 8, RouteType::Unreachable),
        ] {
            assert_eq!(told(to, prefix_len, kind), None, "{to}/{prefix_len} {kind:?}");
        }
    }
}
