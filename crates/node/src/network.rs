//! A pod's place in the network: a routed veth pair, no bridge, no ARP and no neighbour discovery.
//!
//! ```text
//!  pod netns                                    node netns
//!  eth0  10.244.1.7/32, fd00:…::7/128           vethXXXX
//!  default via <node IP> onlink            ──── <pod IP> dev vethXXXX src <node IP>
//!  <node IP> lladdr … permanent                 <pod IP> lladdr … permanent
//! ```
//!
//! All of it once for each family that the pod has an address of. MAC addresses are derived from
//! the pod's primary address, so both ends know each other's.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use portolan_netlink::sysctl::{self, SysctlError};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::Addresses;

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The kernel refused a change.
    #[error("{what}: {source}")]
    Refused {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// A setting of a network namespace could not be written.
    #[error(transparent)]
    Setting(#[from] SysctlError),
    /// An address of a family that the node has none of.
    #[error("this node has no address of the family of {0}")]
    Family(IpAddr),
    /// Addresses of two families in one route: a bug of ours.
    #[error("a route of two families: {0}")]
    Route(String),
}

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Refused { what, source }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::System { what, source }
}

/// Runs `work` in another network namespace, on a thread of its own that ends with it. Sockets
/// it makes stay in that namespace.
pub(crate) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _entered = runtime.enter();
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

/// This node's side of the network.
#[derive(Clone)]
pub(crate) struct Network {
    handle: Handle,
    node: Addresses,
}

impl Network {
    /// Opens the node's network; the caller's network namespace is the node's.
    pub(crate) fn open(node: Addresses) -> Result<Network, NetworkError> {
        let opened = rtnetlink::new_connection().map_err(system("open a netlink socket"))?;
        let (connection, handle, _) = opened;
        tokio::spawn(connection);
        Ok(Network { handle, node })
    }

    /// Turns forwarding on and brings the loopback up.
    pub(crate) async fn prepare(&self) -> Result<(), NetworkError> {
        up(&self.handle, 1).await?;
        for address in self.node.iter() {
            sysctl::write(forwarding(address), 1)?;
        }
        Ok(sysctl::plain_ipv6()?)
    }

    /// The node's own address of the family of `other`.
    fn own(&self, other: IpAddr) -> Result<IpAddr, NetworkError> {
        self.node.like(other).ok_or(NetworkError::Family(other))
    }

    /// Connects a pod's new network namespace.
    pub(crate) async fn connect(
        &self,
        netns: &OwnedFd,
        interface: &str,
        addresses: &Addresses,
    ) -> Result<(), NetworkError> {
        let macs = Macs::of(addresses.primary());
        self.disconnect(interface).await?;
        // Settings first: links take them over when they are made.
        let entered = within(netns.as_fd(), || {
            sysctl::plain_ipv6().map_err(io::Error::other)?;
            rtnetlink::new_connection()
        });
        let (connection, inside, _) = entered.map_err(system("enter the pod's network"))?;
        let connection = tokio::spawn(connection);
        let done = async {
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name("eth0")
                .address(macs.pod.to_vec())
                .setns_by_fd(netns.as_raw_fd())
                .build();
            let veth = LinkMessageBuilder::<LinkVeth>::new(interface, "eth0")
                .address(macs.node.to_vec())
                .up()
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            let made = self.handle.link().add(veth).execute().await;
            made.map_err(refused("make the veth pair"))?;
            let node = self.configure_node(interface, addresses, &macs);
            let pod = self.configure_pod(&inside, addresses, &macs);
            futures::future::try_join(node, pod).await.map(|_| ())
        };
        let done = done.await;
        connection.abort();
        done
    }

    /// The node's end: each of the pod's addresses is behind it.
    async fn configure_node(
        &self,
        interface: &str,
        addresses: &Addresses,
        macs: &Macs,
    ) -> Result<(), NetworkError> {
        let link = index(&self.handle, interface).await?;
        for pod in addresses.iter() {
            add_neighbour(&self.handle, link, pod, macs.pod).await?;
            let route = to(pod.into(), self.own(pod)?)?
                .output_interface(link)
                .scope(RouteScope::Link)
                .build();
            let added = self.handle.route().add(route).replace().execute().await;
            added.map_err(refused("add the pod's route"))?;
        }
        Ok(())
    }

    /// The pod's end: its addresses, and the node as the way to everybody else.
    async fn configure_pod(
        &self,
        inside: &Handle,
        addresses: &Addresses,
        macs: &Macs,
    ) -> Result<(), NetworkError> {
        up(inside, 1).await?;
        let eth0 = index(inside, "eth0").await?;
        // Not at its making: the kernel brings a veth's peer up before it has its own (ENOTCONN).
        up(inside, eth0).await?;
        for pod in addresses.iter() {
            let node = self.own(pod)?;
            let mut adding = inside.address().add(eth0, pod, IpNet::from(pod).prefix_len());
            if pod.is_ipv6() {
                adding.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            adding.execute().await.map_err(refused("add the pod's address"))?;
            add_neighbour(inside, eth0, node, macs.node).await?;
            let everywhere = IpNet::new(pod, 0).map_or(IpNet::from(pod), |net| net.trunc());
            let default =
                to(everywhere, pod)?.gateway(node).map_err(mixed)?.output_interface(eth0).onlink();
            let added = inside.route().add(default.build()).execute().await;
            added.map_err(refused("add the pod's default route"))?;
        }
        Ok(())
    }

    /// Takes a pod's interface away, if it is there; its end in the pod goes with it.
    pub(crate) async fn disconnect(&self, interface: &str) -> Result<(), NetworkError> {
        match index(&self.handle, interface).await {
            Ok(index) => {
                let deleted = self.handle.link().del(index).execute().await;
                deleted.map_err(refused("delete the veth pair"))
            }
            Err(_) => Ok(()),
        }
    }

    /// Leads another node's pods' addresses to that node.
    pub(crate) async fn add_route(&self, to: IpNet, via: IpAddr) -> Result<(), NetworkError> {
        self.handle
            .route()
            .add(self.route(to, via)?)
            .replace()
            .execute()
            .await
            .map_err(refused("add a node's route"))
    }

    /// Takes such a route away; one that is gone already is no error.
    pub(crate) async fn delete_route(&self, to: IpNet, via: IpAddr) -> Result<(), NetworkError> {
        match self.handle.route().del(self.route(to, via)?).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => {
                Ok(())
            }
            other => other.map_err(refused("delete a node's route")),
        }
    }

    fn route(&self, net: IpNet, via: IpAddr) -> Result<RouteMessage, NetworkError> {
        Ok(to(net, self.own(net.addr())?)?.gateway(via).map_err(mixed)?.build())
    }
}

/// A route to a range, with the source address that local processes use for it.
fn to(net: IpNet, source: IpAddr) -> Result<RouteMessageBuilder<IpAddr>, NetworkError> {
    let route = RouteMessageBuilder::<IpAddr>::new();
    let route = route.destination_prefix(net.network(), net.prefix_len()).map_err(mixed)?;
    route.pref_source(source).map_err(mixed)
}

fn mixed(error: impl std::fmt::Display) -> NetworkError {
    NetworkError::Route(error.to_string())
}

/// The setting that makes a node pass on packets of the family of `address`.
fn forwarding(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "net/ipv4/ip_forward",
        IpAddr::V6(_) => "net/ipv6/conf/all/forwarding",
    }
}

async fn add_neighbour(
    handle: &Handle,
    link: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> Result<(), NetworkError> {
    let adding = handle.neighbours().add(link, address).link_layer_address(&mac);
    let added = adding.state(NeighbourState::Permanent).replace().execute().await;
    added.map_err(refused("add a neighbour entry"))
}

/// The hardware addresses of a veth pair's ends.
struct Macs {
    node: [u8; 6],
    pod: [u8; 6],
}

impl Macs {
    /// Derived from the last four bytes of the pod's address: unlike on the node's other pairs.
    fn of(pod: IpAddr) -> Macs {
        let [.., a, b, c, d] = match pod {
            IpAddr::V4(pod) => pod.to_ipv6_mapped().octets(),
            IpAddr::V6(pod) => pod.octets(),
        };
        Macs { node: [0x0a, 0x57, a, b, c, d], pod: [0x0a, 0x58, a, b, c, d] }
    }
}

async fn up(handle: &Handle, index: u32) -> Result<(), NetworkError> {
    let link = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(link).execute().await.map_err(refused("bring an interface up"))
}

async fn index(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await.map_err(refused("find an interface"))? {
        Some(link) => Ok(link.header.index),
        None => Err(NetworkError::System {
            what: "find an interface",
            source: io::ErrorKind::NotFound.into(),
        }),
    }
}

/// The name of a pod's interface on the node: unique by the Pod's uid.
pub(crate) fn interface(uid: &str) -> String {
    // FNV-1a: stable over versions, unlike the standard library's hasher.
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:010x}", hash & 0xff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pairs_ends_have_addresses_of_their_own_by_the_pods() {
        let macs = |ip: &str| Macs::of(ip.parse().unwrap());
        assert_eq!(macs("10.244.1.7").pod, [0x0a, 0x58, 10, 244, 1, 7]);
        assert_eq!(macs("10.244.1.7").node, [0x0a, 0x57, 10, 244, 1, 7]);
        assert_eq!(macs("fd00:10:244:1::7").pod, [0x0a, 0x58, 0, 0, 0, 7]);
        assert_ne!(macs("fd00:10:244:1::7").pod, macs("fd00:10:244:1::8").pod);
    }

    #[test]
    fn a_route_is_of_one_family() {
        let net: IpNet = "fd00:10:244:2::/64".parse().unwrap();
        let six: IpAddr = "fd00:172:30::11".parse().unwrap();
        assert!(to(net, six).is_ok_and(|route| route.gateway(six).is_ok()));
        assert!(matches!(to(net, [172, 30, 0, 11].into()), Err(NetworkError::Route(_))));
    }

    #[test]
    fn an_interface_name_fits_the_kernel() {
        let name = interface("5f0c1f6e-8d3c-4c9e-9a63-0e5a2f1b7d11");
        assert!(name.len() <= 15, "{name}");
        assert_ne!(name, interface("5f0c1f6e-8d3c-4c9e-9a63-0e5a2f1b7d12"));
    }
}
