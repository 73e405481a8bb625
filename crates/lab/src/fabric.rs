//! The fabric: one bridge in the lab's first network namespace, and a veth pair to each member.
//!
//! ```text
//!   lab-init's netns:  bridge `fabric`  172.30.0.1/24   (API server)
//!                        ├── v-node-1 ──── eth0 172.30.0.11/24   in node-1's netns
//!                        ├── v-node-2 ──── eth0 172.30.0.12/24   in node-2's
//!                        └── v-client ──── eth0 172.30.0.254/24  in the outside client's
//! ```
//! No member has a default route: there is no way out of a lab.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    new_connection,
};

use crate::error::LabError;
use crate::namespaces::Namespaces;

const BRIDGE: &str = "fabric";

/// The bridge, and the way to add members to it.
#[derive(Clone)]
pub(crate) struct Fabric {
    links: Handle,
    bridge: u32,
    prefix_len: u8,
}

/// What a member does with packets for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// A node: passes them on to its pods. Its own processes need a route for Services, by which
    /// their packets get as far as the rules that rewrite the destination.
    On {
        /// The range of cluster IPs.
        services: Ipv4Net,
    },
    /// The client: drops them.
    Off,
}

impl Fabric {
    /// Makes the bridge in the network namespace of the calling thread, with the API's address.
    pub(crate) async fn make(address: Ipv4Addr, prefix_len: u8) -> Result<Fabric, LabError> {
        let (connection, links, _) =
            new_connection().map_err(LabError::kernel("open a route socket"))?;
        tokio::spawn(connection);
        up(&links, "lo").await?;
        links
            .link()
            .add(LinkBridge::new(BRIDGE).address(mac(address)).up().build())
            .execute()
            .await
            .map_err(failed("make the bridge `fabric`"))?;
        let bridge = index(&links, BRIDGE).await?;
        add_address(&links, bridge, address, prefix_len).await?;
        Ok(Fabric { links, bridge, prefix_len })
    }

    /// Gives a namespace its `eth0` on the fabric, and its loopback.
    pub(crate) async fn join(
        &self,
        name: &str,
        member: &Namespaces,
        address: Ipv4Addr,
        forwarding: Forwarding,
    ) -> Result<(), LabError> {
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .address(mac(address))
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
        let prefix_len = self.prefix_len;
        member
            .in_network(async move || {
                let (connection, links, _) =
                    new_connection().map_err(LabError::kernel("open a route socket"))?;
                let connection = tokio::spawn(connection);
                if let Forwarding::On { .. } = forwarding {
                    let path = "/proc/sys/net/ipv4/ip_forward";
                    fs::write(path, "1").map_err(LabError::file("write", path))?;
                }
                up(&links, "lo").await?;
                add_address(&links, index(&links, "eth0").await?, address, prefix_len).await?;
                up(&links, "eth0").await?;
                if let Forwarding::On { services } = forwarding {
                    add_route(&links, services, index(&links, "eth0").await?, address).await?;
                }
                connection.abort();
                Ok(())
            })
            .await
    }
}

impl Fabric {
    /// Leads packets of the control plane's namespace for `to` to a member.
    pub(crate) async fn add_route(&self, to: Ipv4Net, via: Ipv4Addr) -> Result<(), LabError> {
        let added = self.links.route().add(route(to, via)).execute().await;
        added.map_err(failed(format!("add the route to {to} via {via}")))
    }

    /// Takes back what [`Fabric::add_route`] added.
    pub(crate) async fn delete_route(&self, to: Ipv4Net, via: Ipv4Addr) -> Result<(), LabError> {
        let deleted = self.links.route().del(route(to, via)).execute().await;
        deleted.map_err(failed(format!("delete the route to {to} via {via}")))
    }
}

fn route(to: Ipv4Net, via: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .gateway(via)
        .build()
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

async fn add_address(
    links: &Handle,
    index: u32,
    address: Ipv4Addr,
    prefix_len: u8,
) -> Result<(), LabError> {
    links
        .address()
        .add(index, address.into(), prefix_len)
        .execute()
        .await
        .map_err(failed(format!("add the address {address}/{prefix_len}")))
}

/// A route on the link itself: what no rule rewrites finds nobody there, and goes no further.
async fn add_route(
    links: &Handle,
    to: Ipv4Net,
    index: u32,
    source: Ipv4Addr,
) -> Result<(), LabError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .output_interface(index)
        .pref_source(source)
        .scope(RouteScope::Link)
        .build();
    let added = links.route().add(route).execute().await;
    added.map_err(failed(format!("add the route to {to}")))
}

fn failed(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LabError {
    let action = action.into();
    move |source| LabError::Fabric { action, source }
}

/// A locally administered address that shows the IPv4 address it belongs to.
fn mac(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x02, 0x50, a, b, c, d]
}
