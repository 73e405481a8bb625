//! Connection tracking: reading UDP flows, and forgetting single ones.
//!
//! A flow is deleted by its full original tuple and its id, so that another flow that took the
//! tuple's place meanwhile is left alone.
//!
//! Upstream rule: include/uapi/linux/netfilter/nfnetlink_conntrack.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use thiserror::Error;

use crate::socket::{Netlink, Protocol, RequestError};
use crate::wire::{self, Malformed, Message, Table as Attrs, Writer, flag};

/// `NFNL_SUBSYS_CTNETLINK`, shifted to its place.
const SUBSYSTEM: u16 = 1 << 8;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// `CTA_FILTER_ORIG_FLAGS`, and in it "by protocol number".
const FILTER_ORIGINAL: u16 = 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;

const UDP: u8 = 17;

/// Why connection tracking did not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConntrackError {
    /// No netlink socket.
    #[error("cannot open a netfilter socket: {0}")]
    Open(#[source] Errno),
    /// A request that was refused, or not answered.
    #[error("cannot {what}: {}", errno.desc())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// An answer that makes no sense.
    #[error("connection tracking answered oddly: {0}")]
    Malformed(#[from] Malformed),
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn code(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
}

/// What passed in one direction; only where `nf_conntrack_acct` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// So many packets.
    pub packets: u64,
    /// So many bytes.
    pub bytes: u64,
}

/// A UDP flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet went, before any rewriting.
    pub original: Tuple,
    /// As answers come: from where the flow really leads to.
    pub reply: Tuple,
    /// `enum ip_conntrack_status`.
    pub status: u32,
    /// After how many seconds of silence it is forgotten.
    pub timeout: u32,
    /// What passed as the first packet went.
    pub sent: Option<Counters>,
    /// What passed the other way.
    pub received: Option<Counters>,
    id: Option<u32>,
    zone: Option<u16>,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The flow is forgotten.
    Yes,
    /// It was gone by itself.
    Already,
}

/// A way to connection tracking of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    netfilter: Netlink,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ConntrackError::Open`].
    pub fn open() -> Result<Self, ConntrackError> {
        let opened = Netlink::open(Protocol::Netfilter);
        opened.map(|netfilter| Self { netfilter }).map_err(ConntrackError::Open)
    }

    /// Shows every UDP flow of a family once. Kernels before 5.8 list the other protocols too,
    /// which are left out here.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub fn dump_udp(
        &mut self,
        family: Family,
        mut each: impl FnMut(Flow),
    ) -> Result<(), ConntrackError> {
        let mut show = |message: &Message<'_>| {
            if let Some(flow) = flow(message)? {
                each(flow);
            }
            Ok(())
        };
        let filter = |w: &mut Writer| {
            w.nest(TUPLE_ORIGINAL, |w| w.nest(TUPLE_PROTO, |w| w.u8(PROTO_NUM, UDP)));
            w.nest(FILTER, |w| w.bytes(FILTER_ORIGINAL, &FILTER_PROTO_NUM.to_ne_bytes()));
        };
        match self.request(MSG_GET, flag::DUMP, family, filter, &mut show) {
            Err(RequestError::Refused(answer))
                if [libc::EOPNOTSUPP, libc::EINVAL].contains(&answer.errno) =>
            {
                self.request(MSG_GET, flag::DUMP, family, |_| {}, &mut show)
            }
            other => other,
        }
        .map_err(|e| failed("list the flows", e))
    }

    /// Forgets a flow.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub fn delete(&mut self, flow: &Flow) -> Result<Deleted, ConntrackError> {
        let family = if flow.original.source.is_ipv4() { Family::V4 } else { Family::V6 };
        let body = |w: &mut Writer| {
            w.nest(TUPLE_ORIGINAL, |w| tuple_out(w, &flow.original));
            if let Some(id) = flow.id {
                w.be32(ID, id);
            }
            if let Some(zone) = flow.zone {
                w.be16(ZONE, zone);
            }
        };
        match self.request(MSG_DELETE, flag::ACK, family, body, |_| Ok(())) {
            Ok(()) => Ok(Deleted::Yes),
            Err(RequestError::Refused(answer)) if answer.errno == libc::ENOENT => {
                Ok(Deleted::Already)
            }
            Err(e) => Err(failed("forget a flow", e)),
        }
    }

    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), RequestError> {
        let seq = self.netfilter.sequence(1);
        let mut w = Writer::default();
        let nfgen = [family.code(), 0, 0, 0];
        w.message(SUBSYSTEM | kind, flag::REQUEST | flags, seq, nfgen, body);
        let bytes = w.finish().expect("two tuples are shorter than an attribute can be");
        self.netfilter.request(seq, &bytes, each)
    }
}

fn failed(what: &'static str, e: RequestError) -> ConntrackError {
    match e {
        RequestError::Send(errno) | RequestError::Receive(errno) => {
            ConntrackError::Refused { what, errno }
        }
        RequestError::Refused(answer) => {
            ConntrackError::Refused { what, errno: Errno::from_raw(answer.errno) }
        }
        RequestError::Interrupted => ConntrackError::Refused { what, errno: Errno::EINTR },
        RequestError::Malformed(e) => ConntrackError::Malformed(e),
    }
}

fn tuple_out(w: &mut Writer, tuple: &Tuple) {
    w.nest(TUPLE_IP, |w| {
        for (offset, end) in [(0, tuple.source), (1, tuple.destination)] {
            match end.ip() {
                IpAddr::V4(ip) => w.bytes(1 + offset, &ip.octets()),
                IpAddr::V6(ip) => w.bytes(3 + offset, &ip.octets()),
            }
        }
    });
    w.nest(TUPLE_PROTO, |w| {
        w.u8(PROTO_NUM, UDP);
        w.be16(PROTO_SRC_PORT, tuple.source.port());
        w.be16(PROTO_DST_PORT, tuple.destination.port());
    });
}

/// The flow of a message; none when it is not UDP.
fn flow(message: &Message<'_>) -> Result<Option<Flow>, Malformed> {
    let (_, rest) = message.netfilter()?;
    let found = Attrs::<26>::parse(rest)?;
    let Some(original) = tuple(found.required(TUPLE_ORIGINAL)?)? else { return Ok(None) };
    let Some(reply) = tuple(found.required(TUPLE_REPLY)?)? else { return Ok(None) };
    Ok(Some(Flow {
        original,
        reply,
        status: found.be32_or(STATUS, 0)?,
        timeout: found.be32_or(TIMEOUT, 0)?,
        sent: found.optional(COUNTERS_ORIGINAL).map(counters).transpose()?,
        received: found.optional(COUNTERS_REPLY).map(counters).transpose()?,
        id: found.optional(ID).map(wire::be32).transpose()?,
        zone: found.optional(ZONE).map(wire::be16).transpose()?,
    }))
}

fn tuple(bytes: &[u8]) -> Result<Option<Tuple>, Malformed> {
    let found = Attrs::<4>::parse(bytes)?;
    let proto = Attrs::<10>::parse(found.required(TUPLE_PROTO)?)?;
    if proto.u8(PROTO_NUM)? != UDP {
        return Ok(None);
    }
    let ip = Attrs::<5>::parse(found.required(TUPLE_IP)?)?;
    let end = |offset: u16, port: u16| {
        let ip: IpAddr = match (ip.optional(1 + offset), ip.optional(3 + offset)) {
            (Some(v4), _) => {
                let octets: [u8; 4] = v4.try_into().map_err(|_| Malformed("an address"))?;
                Ipv4Addr::from(octets).into()
            }
            (None, Some(v6)) => {
                let octets: [u8; 16] = v6.try_into().map_err(|_| Malformed("an address"))?;
                Ipv6Addr::from(octets).into()
            }
            (None, None) => return Err(Malformed("a tuple without an address")),
        };
        Ok(SocketAddr::new(ip, wire::be16(proto.required(port)?)?))
    };
    Ok(Some(Tuple { source: end(0, PROTO_SRC_PORT)?, destination: end(1, PROTO_DST_PORT)? }))
}

fn counters(bytes: &[u8]) -> Result<Counters, Malformed> {
    let found = Attrs::<3>::parse(bytes)?;
    Ok(Counters { packets: found.be64(1)?, bytes: found.be64(2)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in wire::messages(&bytes).flatten() {
                let _ = flow(&message);
            }
            let _ = tuple(&bytes);
            let _ = counters(&bytes);
        }
    }
}
