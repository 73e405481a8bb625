//! A pod's place in the network: a routed veth pair, no bridge, no ARP.
//!
//! ```text
//!  pod netns                           node netns
//!  eth0  10.244.1.7/32                 vethXXXX
//!  default via <node IP> onlink   ──── 10.244.1.7/32 dev vethXXXX src <node IP>
//!  <node IP> lladdr … permanent        10.244.1.7 lladdr … permanent
//! ```
//!
//! MAC addresses are derived from the pod's address, so both ends know each other's.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

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
    /// An address of a family that pods do not have yet.
    #[error("IPv6 pods are not supported: {0}")]
    Family(IpAddr),
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
    node: Ipv4Addr,
}

impl Network {
    /// Opens the node's network; the caller's network namespace is the node's.
    pub(crate) fn open(node: IpAddr) -> Result<Network, NetworkError> {
        let IpAddr::V4(node) = node else { return Err(NetworkError::Family(node)) };
        let opened = rtnetlink::new_connection().map_err(system("open a netlink socket"))?;
        let (connection, handle, _) = opened;
        tokio::spawn(connection);
        Ok(Network { handle, node })
    }

    /// Turns forwarding on and brings the loopback up.
    pub(crate) async fn prepare(&self) -> Result<(), NetworkError> {
        up(&self.handle, 1).await?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(system("set ip_forward"))
    }

    /// Connects a pod's new network namespace.
    pub(crate) async fn connect(
        &self,
        netns: &OwnedFd,
        interface: &str,
        address: IpAddr,
    ) -> Result<(), NetworkError> {
        let IpAddr::V4(pod) = address else { return Err(NetworkError::Family(address)) };
        let ours = mac(0x57, pod);
        let theirs = mac(0x58, pod);
        self.disconnect(interface).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .address(theirs.to_vec())
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let veth = LinkMessageBuilder::<LinkVeth>::new(interface, "eth0")
            .address(ours.to_vec())
            .up()
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle.link().add(veth).execute().await.map_err(refused("make the veth pair"))?;

        let inside = within(netns.as_fd(), rtnetlink::new_connection);
        let (connection, inside, _) = inside.map_err(system("open the pod's netlink socket"))?;
        let connection = tokio::spawn(connection);
        let done = self.configure(&inside, interface, pod, ours, theirs).await;
        connection.abort();
        done
    }

    async fn configure(
        &self,
        inside: &Handle,
        interface: &str,
        pod: Ipv4Addr,
        ours: [u8; 6],
        theirs: [u8; 6],
    ) -> Result<(), NetworkError> {
        let outside = index(&self.handle, interface).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pod, 32)
            .output_interface(outside)
            .scope(RouteScope::Link)
            .pref_source(self.node)
            .build();
        let node = async {
            self.handle
                .neighbours()
                .add(outside, pod.into())
                .link_layer_address(&theirs)
                .state(NeighbourState::Permanent)
                .replace()
                .execute()
                .await
                .map_err(refused("add the pod's neighbour entry"))?;
            let added = self.handle.route().add(route).replace().execute().await;
            added.map_err(refused("add the pod's route"))
        };
        let pod = async {
            up(inside, 1).await?;
            let eth0 = index(inside, "eth0").await?;
            // Not at its making: the kernel brings a veth's peer up before it has its own (ENOTCONN).
            up(inside, eth0).await?;
            let address =
                AddressMessageBuilder::<Ipv4Addr>::new().index(eth0).address(pod, 32).build();
            let mut adding = inside.address().add(eth0, pod.into(), 32);
            *adding.message_mut() = address;
            adding.execute().await.map_err(refused("add the pod's address"))?;
            inside
                .neighbours()
                .add(eth0, self.node.into())
                .link_layer_address(&ours)
                .state(NeighbourState::Permanent)
                .replace()
                .execute()
                .await
                .map_err(refused("add the node's neighbour entry"))?;
            let default = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(self.node)
                .output_interface(eth0)
                .onlink()
                .build();
            let added = inside.route().add(default).execute().await;
            added.map_err(refused("add the pod's default route"))
        };
        futures::future::try_join(node, pod).await.map(|_| ())
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

    fn route(
        &self,
        to: IpNet,
        via: IpAddr,
    ) -> Result<rtnetlink::packet_route::route::RouteMessage, NetworkError> {
        match (to, via) {
            (IpNet::V4(to), IpAddr::V4(via)) => Ok(RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .pref_source(self.node)
                .build()),
            _ => Err(NetworkError::Family(via)),
        }
    }
}

fn mac(end: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, end, a, b, c, d]
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
    fn an_interface_name_fits_the_kernel() {
        let name = interface("5f0c1f6e-8d3c-4c9e-9a63-0e5a2f1b7d11");
        assert!(name.len() <= 15, "{name}");
        assert_ne!(name, interface("5f0c1f6e-8d3c-4c9e-9a63-0e5a2f1b7d12"));
    }
}
