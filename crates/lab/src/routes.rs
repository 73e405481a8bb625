//! The host's own routes, read and never changed: a lab's ranges must stay clear of them.

use std::io;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteType};
use rtnetlink::{RouteMessageBuilder, new_connection};

use crate::error::LabError;

/// The destinations of all IPv4 unicast and local routes in all tables, but for the default route
/// and loopback.
pub(crate) fn of_this_host() -> Result<Vec<Ipv4Net>, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(LabError::kernel("start a runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            new_connection().map_err(LabError::kernel("open a route socket"))?;
        let connection = tokio::spawn(connection);
        let request = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let routes = handle.route().get(request).execute();
        let routes: Vec<_> = routes.try_collect().await.map_err(|source| LabError::Fabric {
            action: "read the host's routes".into(),
            source,
        })?;
        connection.abort();
        Ok(routes
            .iter()
            .filter(|route| matches!(route.header.kind, RouteType::Unicast | RouteType::Local))
            .filter_map(|route| {
                route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        Ipv4Net::new(*address, route.header.destination_prefix_length).ok()
                    }
                    _ => None,
                })
            })
            .filter(|net| net.prefix_len() != 0 && !net.addr().is_loopback())
            .collect())
    })
}

/// The system's answer within netlink's.
pub(crate) fn io_error(error: &rtnetlink::Error) -> Option<io::Error> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.to_io()),
        _ => None,
    }
}
