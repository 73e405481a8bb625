//! Addresses of links, many at a time, and dummy links to hold them.
//!
//! [`super::link::Links`] does one thing after the other and needs a runtime; this is for thousands of
//! addresses on one link: [`Socket::apply`] carries many operations out with few system calls, each
//! for itself, and what a refusal means (EEXIST, EADDRNOTAVAIL) is decided above.
//!
//! Upstream rule: include/uapi/linux/if_link.h, if_addr.h and net/ipv4/devinet.c.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use thiserror::Error;

use crate::socket::{Answer, Netlink, Protocol, Request, RequestError};
use crate::wire::{self, Malformed, Table as Attrs, Writer, flag};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// `IFA_F_NODAD`: the address is used at once, without looking for duplicates.
const NO_DUPLICATE_DETECTION: u8 = 2;
const CACHE_INFO: u16 = 6;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `IFA_F_DEPRECATED`.
const DEPRECATED: u8 = 0x20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const DUMMY: &str = "dummy";
/// The length of `struct ifinfomsg` and `struct ifaddrmsg` behind their first four bytes.
const LINK_REST: usize = 12;
const ADDRESS_REST: usize = 4;

/// Why addresses are not as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No rtnetlink socket.
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] Errno),
    /// A name longer than 15 bytes, or empty, or with a NUL.
    #[error("{0:?} cannot be a link's name; hint: 1 to 15 bytes")]
    BadName(String),
    /// The request could not be handed over, or its answer not be read.
    #[error("cannot {what}: {}", errno.desc())]
    Exchange {
        /// What was asked.
        what: &'static str,
        /// The fault.
        errno: Errno,
    },
    /// The kernel refused: EPERM without CAP_NET_ADMIN, EOPNOTSUPP without dummy links.
    #[error("cannot {what}: {}", errno.desc())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// An answer that makes no sense.
    #[error("rtnetlink answered oddly: {0}")]
    Malformed(#[from] Malformed),
    /// What was listed changed meanwhile; ask again.
    #[error("cannot {what}: it changed meanwhile")]
    Unsteady {
        /// What was asked.
        what: &'static str,
    },
}

impl AddressError {
    fn new(what: &'static str, e: RequestError) -> Self {
        match e {
            RequestError::Send(errno) | RequestError::Receive(errno) => {
                Self::Exchange { what, errno }
            }
            RequestError::Refused(answer) => {
                Self::Refused { what, errno: Errno::from_raw(answer.errno) }
            }
            RequestError::Malformed(e) => Self::Malformed(e),
            RequestError::Interrupted => Self::Unsteady { what },
        }
    }
}

/// One operation of [`Socket::apply`], on an address of one host (/32, /128).
///
/// An address is added so that the kernel picks it as a source for nothing but itself: in IPv4 it is of
/// the host's scope (`inet_select_addr`), in IPv6 it is deprecated from the start (RFC 6724, 5, rule 3).
/// Masquerading by a link without an address of its own would take it otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Gives the link an address. EEXIST when it has it. IPv6 addresses are used at once.
    Add(IpAddr),
    /// Takes an address from the link. EADDRNOTAVAIL when it does not have it.
    Remove(IpAddr),
}

impl Op {
    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Add(address) | Self::Remove(address) => *address,
        }
    }
}

/// An operation as arguments of `ip address`, without the link.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(address @ IpAddr::V4(_)) => write!(f, "add {address}/32 scope host"),
            Self::Add(address) => write!(f, "add {address}/128 nodad preferred_lft 0"),
            Self::Remove(address @ IpAddr::V4(_)) => write!(f, "delete {address}/32"),
            Self::Remove(address) => write!(f, "delete {address}/128"),
        }
    }
}

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// The number of its link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// Where to the kernel picks it as a source.
    pub source_of: SourceOf,
}

/// Where to the kernel picks an address as a source, if nobody says which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceOf {
    /// To wherever it is the best one.
    Anything,
    /// To nothing but itself, as those that [`Op::Add`] adds.
    Itself,
}

/// An operation that the kernel refused; those beside it are not touched by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place among the operations.
    pub op: usize,
    /// The kernel's error.
    pub errno: Errno,
}

/// A socket to rtnetlink of the network namespace in which it was opened.
///
/// Calls block for as long as the kernel works: run them on a thread that may.
#[derive(Debug)]
pub struct Socket {
    netlink: Netlink,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`AddressError::Open`].
    pub fn open() -> Result<Self, AddressError> {
        let netlink = Netlink::open(Protocol::Route).map_err(AddressError::Open)?;
        Ok(Self { netlink })
    }

    /// The number of the link of that name; none when there is none.
    ///
    /// # Errors
    /// [`AddressError::BadName`], and faults of the exchange.
    pub fn index(&mut self, name: &str) -> Result<Option<u32>, AddressError> {
        check_name(name)?;
        let mut found = None;
        let asked = self.request(
            Request { kind: GET_LINK, flags: flag::ACK, subheader: [0; 4] },
            |w| {
                w.header(&[0; LINK_REST]);
                w.text(LINK_NAME, name);
            },
            |kind, body| {
                if kind == NEW_LINK {
                    found = Some(
                        body.get(4..8).ok_or(Malformed("a link cut off")).and_then(wire::ne32)?,
                    );
                }
                Ok(())
            },
        );
        match asked {
            Ok(()) => Ok(found),
            Err(RequestError::Refused(answer)) if answer.errno == libc::ENODEV => Ok(None),
            Err(e) => Err(AddressError::new("look a link up", e)),
        }
    }

    /// Makes a dummy link, down, as a link that only holds addresses may be.
    ///
    /// # Errors
    /// [`AddressError::BadName`]; EEXIST when the name is taken, EOPNOTSUPP when this kernel has no
    /// dummy links.
    pub fn add_dummy(&mut self, name: &str) -> Result<(), AddressError> {
        check_name(name)?;
        let flags = flag::ACK | flag::CREATE | flag::EXCL;
        let asked = self.request(
            Request { kind: NEW_LINK, flags, subheader: [0; 4] },
            |w| {
                w.header(&[0; LINK_REST]);
                w.text(LINK_NAME, name);
                w.nest(LINK_INFO, |w| w.text(LINK_INFO_KIND, DUMMY));
            },
            |_, _| Ok(()),
        );
        asked.map_err(|e| AddressError::new("make a dummy link", e))
    }

    /// Removes the link of that number, with its addresses.
    ///
    /// # Errors
    /// ENODEV when there is none.
    pub fn delete(&mut self, index: u32) -> Result<(), AddressError> {
        let asked = self.request(
            Request { kind: DELETE_LINK, flags: flag::ACK, subheader: [0; 4] },
            |w| {
                let mut rest = [0; LINK_REST];
                rest[..4].copy_from_slice(&index.to_ne_bytes());
                w.header(&rest);
            },
            |_, _| Ok(()),
        );
        asked.map_err(|e| AddressError::new("remove a link", e))
    }

    /// All addresses of the namespace.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub fn addresses(&mut self) -> Result<Vec<Held>, AddressError> {
        let mut found = Vec::new();
        let asked = self.request(
            Request { kind: GET_ADDRESS, flags: flag::DUMP, subheader: [0; 4] },
            |w| w.header(&[0; ADDRESS_REST]),
            |kind, body| {
                if kind == NEW_ADDRESS {
                    found.extend(address(body)?);
                }
                Ok(())
            },
        );
        asked.map_err(|e| AddressError::new("list the addresses", e))?;
        Ok(found)
    }

    /// Carries the operations out on the link of that number, one after the other, each whatever
    /// became of those before it; gives those that were refused, in order.
    ///
    /// # Errors
    /// Faults of the exchange: some of the operations may have been carried out.
    pub fn apply(&mut self, index: u32, ops: &[Op]) -> Result<Vec<Refusal>, AddressError> {
        let requests = ops.iter().map(|op| {
            let (kind, flags) = match op {
                Op::Add(_) => (NEW_ADDRESS, flag::CREATE | flag::EXCL),
                Op::Remove(_) => (DELETE_ADDRESS, 0),
            };
            let subheader = match op.address() {
                IpAddr::V4(_) => [AF_INET, 32, 0, SCOPE_HOST],
                IpAddr::V6(_) => [AF_INET6, 128, NO_DUPLICATE_DETECTION, 0],
            };
            let body = move |w: &mut Writer| {
                w.header(&index.to_ne_bytes());
                match op.address() {
                    IpAddr::V4(address) => {
                        w.bytes(LOCAL, &address.octets());
                        w.bytes(ADDRESS, &address.octets());
                    }
                    IpAddr::V6(address) => {
                        w.bytes(LOCAL, &address.octets());
                        if matches!(op, Op::Add(_)) {
                            w.bytes(CACHE_INFO, &cache_info());
                        }
                    }
                }
            };
            (Request { kind, flags, subheader }, body)
        });
        let refused = self.netlink.request_all(requests);
        let refused = refused.map_err(|e| AddressError::new("change addresses", e))?;
        let refusal =
            |(op, answer): (usize, Answer)| Refusal { op, errno: Errno::from_raw(answer.errno) };
        Ok(refused.into_iter().map(refusal).collect())
    }

    fn request(
        &mut self,
        request: Request,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(u16, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), RequestError> {
        let seq = self.netlink.sequence(1);
        let mut w = Writer::default();
        w.message(request.kind, flag::REQUEST | request.flags, seq, request.subheader, body);
        let bytes = w.finish().ok_or(RequestError::Send(Errno::EMSGSIZE))?;
        self.netlink.request(seq, &bytes, |message| each(message.kind, message.body))
    }
}

/// An address with its link and prefix length; none of a family that is not ours. On a point-to-point
/// link `ADDRESS` is the other side and `LOCAL` this one.
fn address(body: &[u8]) -> Result<Option<Held>, Malformed> {
    let cut_off = Malformed("an address cut off");
    let [family, prefix, flags, scope, rest @ ..] = body else { return Err(cut_off) };
    let (index, attrs) = rest.split_at_checked(ADDRESS_REST).ok_or(cut_off)?;
    let found = Attrs::<3>::parse(attrs)?;
    let Some(bytes) = found.optional(LOCAL).or(found.optional(ADDRESS)) else { return Ok(None) };
    let wrong = |_| Malformed("an address of a wrong length");
    let address = match *family {
        AF_INET => <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into()),
        AF_INET6 => <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into()),
        _ => return Ok(None),
    };
    let is_for_itself = match *family {
        AF_INET => *scope == SCOPE_HOST,
        _ => flags & DEPRECATED != 0,
    };
    let source_of = if is_for_itself { SourceOf::Itself } else { SourceOf::Anything };
    let (link, address) = (wire::ne32(index)?, address.map_err(wrong)?);
    Ok(Some(Held { link, address, prefix: *prefix, source_of }))
}

/// `struct ifa_cacheinfo` of an address that is deprecated and stays: for how long it is preferred, for
/// how long it is valid, and two times that are only read.
fn cache_info() -> [u8; 16] {
    let mut info = [0; 16];
    info[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    info
}

fn check_name(name: &str) -> Result<(), AddressError> {
    match name.len() {
        1..=15 if !name.contains('\0') => Ok(()),
        _ => Err(AddressError::BadName(name.chars().take(32).collect())),
    }
}
