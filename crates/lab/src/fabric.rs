//! The fabric: one bridge in the lab's first network namespace, and a veth pair to each member.
//!
//! ```text
//!   lab-init's netns:  bridge `fabric`  172.30.0.1/24, fd00:172:30::1/64   (API server)
//!                        ├── v-node-1 ──── eth0 172.30.0.11/24, …::11/64    in node-1's netns
//!                        ├── v-node-2 ──── eth0 172.30.0.12/24, …::12/64    in node-2's
//!                        └── v-client ──── eth0 172.30.0.254/24, …::254/64  in the outside client's
//! ```
//! No member has a default route: there is no way out of a lab. IPv6 addresses are used at once,
//! without looking for duplicates: all are ours.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use ipnet::IpNet;
use portolan_netlink::sysctl;
use portolan_node::Addresses;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    new_connection,
};

use crate::error::LabError;
use crate::namespaces::Namespaces;
use crate::nets::{Family, Nets};

const BRIDGE: &str = "fabric";

/// The bridge, and the way to add members to it.
#[derive(Clone)]
pub(crate) struct Fabric {
    links: Handle,
    bridge: u32,
    nets: Nets,
}

/// What a member does with packets for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// A node: passes them on to its pods. Its own processes need routes for Services, by which
    /// their packets get as far as the rules that rewrite the destination.
    On {
        /// The ranges of cluster IPs.
        services: Nets,
    },
    /// The client: drops them.
    Off,
}

impl Fabric {
    /// Makes the bridge in the network namespace of the calling thread, with the API's addresses.
    pub(crate) async fn make(nets: Nets, addresses: Addresses) -> Result<Fabric, LabError> {
        sysctl::plain_ipv6()?;
        let (connection, links, _) =
            new_connection().map_err(LabError::kernel("open a route socket"))?;
        tokio::spawn(connection);
        up(&links, "lo").await?;
        links
            .link()
            .add(LinkBridge::new(BRIDGE).address(mac(addresses.primary())).up().build())
            .execute()
            .await
            .map_err(failed("make the bridge `fabric`"))?;
        let bridge = index(&links, BRIDGE).await?;
        add_addresses(&links, bridge, &addresses, &nets).await?;
        Ok(Fabric { links, bridge, nets })
    }

    /// Gives a namespace its `eth0` on the fabric, and its loopback.
    pub(crate) async fn join(
        &self,
        name: &str,
        member: &Namespaces,
        addresses: Addresses,
        forwarding: Forwarding,
    ) -> Result<(), LabError> {
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .address(mac(addresses.primary()))
            .setns_by_fd(member.net.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(&format!("v-{name}"), "eth0")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .controller(self.bridge)
            .up()
            .build();
        self.links
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(failed(format!("make the link of {name}")))?;
        let nets = self.nets.clone();
        member
            .in_network(async move || {
                let (connection, links, _) =
                    new_connection().map_err(LabError::kernel("open a route socket"))?;
                let connection = tokio::spawn(connection);
                if let Forwarding::On { .. } = forwarding {
                    for family in nets.families() {
                        sysctl::write(forwarding_setting(family), 1)?;
                    }
                }
                up(&links, "lo").await?;
                let eth0 = index(&links, "eth0").await?;
                // Up first: an IPv6 subnet's route is not added to a link that is down.
                up(&links, "eth0").await?;
                add_addresses(&links, eth0, &addresses, &nets).await?;
                if let Forwarding::On { services } = forwarding {
                    for net in services.iter() {
                        add_route(&links, net, eth0, &addresses).await?;
                    }
                }
                connection.abort();
                Ok(())
            })
            .await
    }
}

impl Fabric {
    /// Leads packets of the control plane's namespace for `to` to a member.
    pub(crate) async fn add_route(&self, to: IpNet, via: IpAddr) -> Result<(), LabError> {
        let action = format!("add the route to {to} via {via}");
        let route = route(to, &action)?.gateway(via).map_err(|e| mixed(&action, &e))?.build();
        self.links.route().add(route).execute().await.map_err(failed(action))
    }

    /// Takes back what [`Fabric::add_route`] added.
    pub(crate) async fn delete_route(&self, to: IpNet, via: IpAddr) -> Result<(), LabError> {
        let action = format!("delete the route to {to} via {via}");
        let route = route(to, &action)?.gateway(via).map_err(|e| mixed(&action, &e))?.build();
        self.links.route().del(route).execute().await.map_err(failed(action))
    }
}

fn route(to: IpNet, action: &str) -> Result<RouteMessageBuilder<IpAddr>, LabError> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to.network(), to.prefix_len())
        .map_err(|e| mixed(action, &e))
}

/// The setting that makes a node pass on a family's packets.
fn forwarding_setting(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "net/ipv4/ip_forward",
        Family::Ipv6 => "net/ipv6/conf/all/forwarding",
    }
}

async fn up(links: &Handle, name: &str) -> Result<(), LabError> {
    let message = LinkUnspec::new_with_index(index(links, name).await?).up().build();
    links.link().set(message).execute().await.map_err(failed(format!("bring {name} up")))
}

async fn index(links: &Handle, name: &str) -> Result<u32, LabError> {
    let found = links.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found.map_err(failed(format!("find {name}")))? {
        Some(link) => Ok(link.header.index),
        None => Err(failed(format!("find {name}"))(rtnetlink::Error::RequestFailed)),
    }
}

async fn add_addresses(
    links: &Handle,
    index: u32,
    addresses: &Addresses,
    nets: &Nets,
) -> Result<(), LabError> {
    for (address, net) in addresses.iter().zip(nets.iter()) {
        let mut adding = links.address().add(index, address, net.prefix_len());
        if address.is_ipv6() {
            adding.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let added = adding.execute().await;
        added.map_err(failed(format!("add the address {address}/{}", net.prefix_len())))?;
    }
    Ok(())
}

/// A route on the link itself: what no rule rewrites finds nobody there, and goes no further.
async fn add_route(
    links: &Handle,
    to: IpNet,
    index: u32,
    addresses: &Addresses,
) -> Result<(), LabError> {
    let action = format!("add the route to {to}");
    let Some(source) = addresses.like(to.addr()) else { return Ok(()) };
    let route = route(to, &action)?.pref_source(source).map_err(|e| mixed(&action, &e))?;
    let route = route.output_interface(index).scope(RouteScope::Link).build();
    links.route().add(route).execute().await.map_err(failed(action))
}

fn failed(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LabError {
    let action = action.into();
    move |source| LabError::Fabric { action, source }
}

/// Addresses of two families in one route: a Node's object says so.
fn mixed(action: &str, error: &dyn std::fmt::Display) -> LabError {
    LabError::Route { action: action.to_owned(), problem: error.to_string() }
}

/// A locally administered address that shows the address it belongs to, or its end.
fn mac(address: IpAddr) -> Vec<u8> {
    let [.., a, b, c, d] = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    vec![0x02, 0x50, a, b, c, d]
}
