//! Links, addresses, routes and neighbours of one network namespace.
//!
//! [`Links`] is a socket to rtnetlink: it belongs to the namespace in which it was opened and acts
//! there from any thread. Links are named by their name there. Adding what is already there as
//! wanted is no fault ([`Links::add_address`], [`Links::add_route`], [`Links::add_neighbour`]);
//! making a link that exists is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use thiserror::Error;
use tokio::task::JoinHandle;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a link, address, route or neighbour is not as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No rtnetlink socket.
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] std::io::Error),
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace: {0}")]
    Namespace(#[source] Errno),
    /// No link of that name.
    #[error("no link named {0} in this network namespace")]
    NoLink(String),
    /// A name longer than 15 bytes, or empty, or with a slash.
    #[error("{0:?} cannot be a link's name; hint: 1 to 15 bytes, no slash, no space")]
    BadName(String),
    /// The kernel refused.
    #[error("cannot {what}: {}", errno.desc())]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// Any other fault of the exchange.
    #[error("cannot {what}: {source}")]
    Exchange {
        /// What was asked.
        what: String,
        /// What went wrong.
        source: rtnetlink::Error,
    },
}

impl LinkError {
    /// The kernel's error, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Namespace(errno) => Some(*errno),
            Self::Open(e) => e.raw_os_error().map(Errno::from_raw),
            Self::NoLink(_) => Some(Errno::ENODEV),
            Self::BadName(_) => Some(Errno::EINVAL),
            Self::Exchange { .. } => None,
        }
    }
}

/// Where the far end of a veth pair goes.
#[derive(Debug, Clone, Copy)]
pub enum Netns<'a> {
    /// It stays beside the near end.
    Here,
    /// Into the namespace of that process.
    Pid(u32),
    /// Into the namespace behind that descriptor (`/proc/PID/ns/net`).
    Fd(BorrowedFd<'a>),
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Its hardware address; the kernel picks one when none is given.
    pub mac: Option<Mac>,
}

/// How far a route's destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteScope {
    /// Anywhere: what a route with a gateway has.
    #[default]
    Global,
    /// On the link itself.
    Link,
    /// This machine.
    Host,
}

/// Whether a gateway must be within a subnet of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gateway {
    /// It must.
    #[default]
    Checked,
    /// It is taken as being on the link, whatever the addresses say.
    Onlink,
}

/// A route of the main table.
#[derive(Debug, Clone)]
pub struct Route<'a> {
    /// Where to; a prefix of length 0 is the default route.
    pub destination: IpNet,
    /// By which link.
    pub device: &'a str,
    /// Over which neighbour.
    pub via: Option<IpAddr>,
    /// Whether that neighbour must be within a subnet of the link.
    pub gateway: Gateway,
    /// The source address that local processes use.
    pub preferred_source: Option<IpAddr>,
    /// How far.
    pub scope: RouteScope,
}

impl<'a> Route<'a> {
    /// To a destination that is on the link.
    #[must_use]
    pub fn on_link(destination: IpNet, device: &'a str) -> Self {
        Self {
            destination,
            device,
            via: None,
            gateway: Gateway::Checked,
            preferred_source: None,
            scope: RouteScope::Link,
        }
    }

    /// To a destination over a neighbour.
    #[must_use]
    pub fn via(destination: IpNet, gateway: IpAddr, device: &'a str) -> Self {
        Self { via: Some(gateway), scope: RouteScope::Global, ..Self::on_link(destination, device) }
    }

    /// The same, with the gateway taken as being on the link.
    #[must_use]
    pub fn onlink(self) -> Self {
        Self { gateway: Gateway::Onlink, ..self }
    }

    /// The same, with a preferred source address.
    #[must_use]
    pub fn prefer(self, source: IpAddr) -> Self {
        Self { preferred_source: Some(source), ..self }
    }
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub is_up: bool,
}

/// An address as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub index: u32,
    /// The address and its prefix.
    pub net: IpNet,
    /// Whether it may be used beyond this link and host.
    pub is_global: bool,
}

/// A socket to rtnetlink of one network namespace. Needs a tokio runtime while it lives.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Links {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`LinkError::Open`].
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Open)?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// Opens a socket in the network namespace behind a descriptor; the calling thread stays
    /// where it is.
    ///
    /// # Errors
    /// [`LinkError::Namespace`] when it cannot be entered, or as [`Links::open`].
    pub fn open_in(netns: impl AsFd) -> Result<Self, LinkError> {
        let runtime = tokio::runtime::Handle::current();
        let netns = netns.as_fd();
        std::thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).map_err(LinkError::Namespace)?;
                let _inside = runtime.enter();
                Self::open()
            });
            entered.join().expect("opening a socket does not panic")
        })
    }

    /// Makes a veth pair, its far end in another namespace from the start.
    ///
    /// # Errors
    /// EEXIST when either name is taken, ESRCH when the process is gone, EPERM without
    /// CAP_NET_ADMIN over both namespaces.
    pub async fn add_veth(
        &self,
        near: VethEnd<'_>,
        far: VethEnd<'_>,
        far_netns: Netns<'_>,
    ) -> Result<(), LinkError> {
        check_name(near.name)?;
        check_name(far.name)?;
        let mut peer = LinkUnspec::new_with_name(far.name);
        if let Some(mac) = far.mac {
            peer = peer.address(mac.0.to_vec());
        }
        peer = match far_netns {
            Netns::Here => peer,
            Netns::Pid(pid) => peer.setns_by_pid(pid),
            Netns::Fd(fd) => peer.setns_by_fd(fd.as_raw_fd()),
        };
        let info = InfoData::Veth(InfoVeth::Peer(peer.build()));
        let mut link = LinkVeth::new(near.name, far.name).set_info_data(info);
        if let Some(mac) = near.mac {
            link = link.address(mac.0.to_vec());
        }
        let what = || format!("make the veth pair {} and {}", near.name, far.name);
        self.handle.link().add(link.build()).execute().await.or_refused(what)
    }

    /// Makes a bridge, up, without spanning tree.
    ///
    /// # Errors
    /// EEXIST when the name is taken.
    pub async fn add_bridge(&self, name: &str, mac: Option<Mac>) -> Result<(), LinkError> {
        check_name(name)?;
        let mut link = LinkBridge::new(name);
        if let Some(mac) = mac {
            link = link.address(mac.0.to_vec());
        }
        let what = || format!("make the bridge {name}");
        self.handle.link().add(link.build()).execute().await.or_refused(what)
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// [`LinkError::NoLink`] for either.
    pub async fn set_master(&self, name: &str, bridge: &str) -> Result<(), LinkError> {
        let (port, bridge_index) = (self.index(name).await?, self.index(bridge).await?);
        let link = LinkUnspec::new_with_index(port).controller(bridge_index).build();
        self.set(link, || format!("make {name} a port of {bridge}")).await
    }

    /// Takes a link up.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn set_up(&self, name: &str) -> Result<(), LinkError> {
        let link = LinkUnspec::new_with_index(self.index(name).await?).up().build();
        self.set(link, || format!("take {name} up")).await
    }

    /// Takes a link down.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn set_down(&self, name: &str) -> Result<(), LinkError> {
        let link = LinkUnspec::new_with_index(self.index(name).await?).down().build();
        self.set(link, || format!("take {name} down")).await
    }

    /// Moves a link into another namespace, where it keeps its name.
    ///
    /// # Errors
    /// [`LinkError::NoLink`]; EEXIST when the name is taken there.
    pub async fn move_to(&self, name: &str, netns: Netns<'_>) -> Result<(), LinkError> {
        let link = LinkUnspec::new_with_index(self.index(name).await?);
        let link = match netns {
            Netns::Here => return Ok(()),
            Netns::Pid(pid) => link.setns_by_pid(pid),
            Netns::Fd(fd) => link.setns_by_fd(fd.as_raw_fd()),
        };
        self.set(link.build(), || format!("move {name} to another network namespace")).await
    }

    async fn set(&self, link: LinkMessage, what: impl FnOnce() -> String) -> Result<(), LinkError> {
        self.handle.link().set(link).execute().await.or_refused(what)
    }

    /// Removes a link; of a veth pair both ends go.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn delete(&self, name: &str) -> Result<(), LinkError> {
        let index = self.index(name).await?;
        self.handle.link().del(index).execute().await.or_refused(|| format!("remove {name}"))
    }

    /// Gives a link an address. An IPv6 address is used at once, without looking for duplicates.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn add_address(&self, name: &str, net: IpNet) -> Result<(), LinkError> {
        use rtnetlink::packet_route::address::AddressHeaderFlags;
        let index = self.index(name).await?;
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len()).replace();
        if net.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.or_refused(|| format!("give {name} the address {net}"))
    }

    /// Adds a route to the main table, in the place of one to the same destination.
    ///
    /// # Errors
    /// [`LinkError::NoLink`]; ENETUNREACH when the gateway is not on the link, EINVAL when the
    /// preferred source is not an address of this machine.
    pub async fn add_route(&self, route: &Route<'_>) -> Result<(), LinkError> {
        let message = self.route_message(route).await?;
        self.handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .or_refused(|| format!("add the route to {} by {}", route.destination, route.device))
    }

    /// Removes a route from the main table.
    ///
    /// # Errors
    /// ESRCH when there is no such route.
    pub async fn delete_route(&self, route: &Route<'_>) -> Result<(), LinkError> {
        let message = self.route_message(route).await?;
        self.handle
            .route()
            .del(message)
            .execute()
            .await
            .or_refused(|| format!("remove the route to {} by {}", route.destination, route.device))
    }

    async fn route_message(&self, wanted: &Route<'_>) -> Result<route::RouteMessage, LinkError> {
        let index = self.index(wanted.device).await?;
        let scope = match wanted.scope {
            RouteScope::Global => route::RouteScope::Universe,
            RouteScope::Link => route::RouteScope::Link,
            RouteScope::Host => route::RouteScope::Host,
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).scope(scope);
        if wanted.gateway == Gateway::Onlink {
            builder = builder.onlink();
        }
        let mut message = builder.build();
        // The builder refuses mixed families with a panic or an error of its own; the kernel's
        // answer is the one to show, so the attributes are written here.
        let family = match wanted.destination {
            IpNet::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
            IpNet::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = wanted.destination.prefix_len();
        let mut attach = |attribute| message.attributes.push(attribute);
        if wanted.destination.prefix_len() > 0 {
            attach(route::RouteAttribute::Destination(wanted.destination.network().into()));
        }
        if let Some(via) = wanted.via {
            attach(route::RouteAttribute::Gateway(via.into()));
        }
        if let Some(source) = wanted.preferred_source {
            attach(route::RouteAttribute::PrefSource(source.into()));
        }
        Ok(message)
    }

    /// Adds a permanent neighbour entry, in the place of one for the same address.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn add_neighbour(
        &self,
        name: &str,
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), LinkError> {
        let index = self.index(name).await?;
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac.0);
        let what = || format!("add the neighbour {address} at {mac} on {name}");
        request.replace().execute().await.or_refused(what)
    }

    /// The number of the link of that name.
    ///
    /// # Errors
    /// [`LinkError::NoLink`].
    pub async fn index(&self, name: &str) -> Result<u32, LinkError> {
        check_name(name)?;
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await.or_refused(|| format!("look {name} up")) {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(LinkError::NoLink(name.into())),
            Err(e) if e.errno() == Some(Errno::ENODEV) => Err(LinkError::NoLink(name.into())),
            Err(e) => Err(e),
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub async fn links(&self) -> Result<Vec<Link>, LinkError> {
        let list = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let list = list.or_refused(|| "list the links".into())?;
        Ok(list.into_iter().filter_map(link).collect())
    }

    /// All addresses of the namespace.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub async fn addresses(&self) -> Result<Vec<Address>, LinkError> {
        let list = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let list = list.or_refused(|| "list the addresses".into())?;
        let read = |message: rtnetlink::packet_route::address::AddressMessage| {
            // On a point-to-point link `Address` is the other side and `Local` this one.
            let find = |local| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(ip) if local => Some(*ip),
                    AddressAttribute::Address(ip) if !local => Some(*ip),
                    _ => None,
                })
            };
            let ip = find(true).or_else(|| find(false))?;
            Some(Address {
                index: message.header.index,
                net: IpNet::new(ip, message.header.prefix_len).ok()?,
                is_global: message.header.scope == AddressScope::Universe,
            })
        };
        Ok(list.into_iter().filter_map(read).collect())
    }

    /// The number of the link by which the default route goes; none without such a route.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub async fn default_route_link(
        &self,
        family: AddressFamily,
    ) -> Result<Option<u32>, LinkError> {
        let message = match family {
            AddressFamily::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            AddressFamily::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes = self.handle.route().get(message).execute().try_collect::<Vec<_>>().await;
        let routes = routes.or_refused(|| "list the routes".into())?;
        Ok(routes.into_iter().filter(|r| r.header.destination_prefix_length == 0).find_map(|r| {
            r.attributes.into_iter().find_map(|attribute| match attribute {
                route::RouteAttribute::Oif(index) => Some(index),
                _ => None,
            })
        }))
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut found = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Address(mac) => found.mac = mac.try_into().ok().map(Mac),
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn check_name(name: &str) -> Result<(), LinkError> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(LinkError::BadName(name.into()));
    }
    Ok(())
}

/// Names what was asked when the exchange fails.
trait OrRefused<T> {
    fn or_refused(self, what: impl FnOnce() -> String) -> Result<T, LinkError>;
}

impl<T> OrRefused<T> for Result<T, rtnetlink::Error> {
    fn or_refused(self, what: impl FnOnce() -> String) -> Result<T, LinkError> {
        self.map_err(|source| match &source {
            rtnetlink::Error::NetlinkError(message) => LinkError::Refused {
                what: what(),
                errno: Errno::from_raw(message.raw_code().saturating_neg()),
            },
            _ => LinkError::Exchange { what: what(), source },
        })
    }
}
