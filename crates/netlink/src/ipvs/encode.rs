//! Operations and their messages.
//!
//! Numbers are in this machine's order, ports and IPv4 masks in the network's. An address takes 16
//! bytes in either family.

use std::net::IpAddr;

use super::attr::{AF_INET, AF_INET6, cmd, dest, flag, service, top};
use super::object::{
    Destination, Granularity, Persistence, RealServer, Service, ServiceFlags, Timeouts,
    VirtualServer,
};
use crate::wire::Writer;

/// One operation of [`super::Socket::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Makes a virtual server. EEXIST when there is one; ENOENT when the kernel does not have the
    /// scheduler.
    AddService(VirtualServer, Service),
    /// Makes a virtual server behave otherwise; its real servers and connections stay. ESRCH
    /// when there is none; ENOENT when the kernel does not have the scheduler.
    SetService(VirtualServer, Service),
    /// Removes a virtual server with its real servers. ESRCH when there is none.
    DeleteService(VirtualServer),
    /// Gives a virtual server a real one. ESRCH when there is no such virtual server, EEXIST when it
    /// has that one, EINVAL when the address is not one host's (none is while the namespace never had
    /// an IPv4 address, not even at its loopback link) or of the other family.
    AddDestination(VirtualServer, RealServer, Destination),
    /// Changes how a real server is used; its connections stay. ESRCH when there is no such virtual
    /// server, ENOENT when it does not have that one.
    SetDestination(VirtualServer, RealServer, Destination),
    /// Takes a real server from a virtual one. ESRCH when there is no such virtual server, ENOENT
    /// when it does not have that one.
    DeleteDestination(VirtualServer, RealServer),
}

impl Op {
    pub(super) const fn command(&self) -> u8 {
        match self {
            Self::AddService(..) => cmd::NEW_SERVICE,
            Self::SetService(..) => cmd::SET_SERVICE,
            Self::DeleteService(..) => cmd::DEL_SERVICE,
            Self::AddDestination(..) => cmd::NEW_DEST,
            Self::SetDestination(..) => cmd::SET_DEST,
            Self::DeleteDestination(..) => cmd::DEL_DEST,
        }
    }

    pub(super) fn body(&self, w: &mut Writer) {
        match self {
            Self::AddService(server, wanted) | Self::SetService(server, wanted) => {
                full_service(w, Key::Server(server), wanted);
            }
            Self::DeleteService(server) => only_key(w, Key::Server(server)),
            Self::AddDestination(server, real, wanted)
            | Self::SetDestination(server, real, wanted) => {
                only_key(w, Key::Server(server));
                destination(w, real, Some(wanted));
            }
            Self::DeleteDestination(server, real) => {
                only_key(w, Key::Server(server));
                destination(w, real, None);
            }
        }
    }
}

/// What names a virtual server.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    /// Where clients connect to.
    Server(&'a VirtualServer),
    /// A firewall mark, of IPv4 packets.
    Mark(u32),
}

/// A virtual server's name alone.
pub(super) fn only_key(w: &mut Writer, of: Key<'_>) {
    w.nest(top::SERVICE, |w| key(w, of));
}

/// A virtual server's name and how it is to behave. The flags replace all that it has, but for the
/// kernel's own.
pub(super) fn full_service(w: &mut Writer, of: Key<'_>, wanted: &Service) {
    let is_v4 = match of {
        Key::Server(server) => server.address.is_ipv4(),
        Key::Mark(_) => true,
    };
    let persistence = wanted.persistence.unwrap_or(Persistence::of_hosts(0));
    w.nest(top::SERVICE, |w| {
        key(w, of);
        w.text(service::SCHED_NAME, wanted.scheduler.as_str());
        let mut flags = [0; 8];
        flags[..4].copy_from_slice(&flag_bits(wanted).to_ne_bytes());
        flags[4..].copy_from_slice(&(!flag::HASHED).to_ne_bytes());
        w.bytes(service::FLAGS, &flags);
        w.ne32(service::TIMEOUT, persistence.timeout);
        w.bytes(service::NETMASK, &netmask(persistence.granularity, is_v4));
    });
}

/// The timeouts that are to be others.
pub(super) fn timeouts(w: &mut Writer, wanted: Timeouts) {
    w.ne32(top::TIMEOUT_TCP, wanted.tcp);
    w.ne32(top::TIMEOUT_TCP_FIN, wanted.tcp_fin);
    w.ne32(top::TIMEOUT_UDP, wanted.udp);
}

fn key(w: &mut Writer, of: Key<'_>) {
    match of {
        Key::Server(server) => {
            w.ne16(service::AF, family(server.address));
            w.ne16(service::PROTOCOL, server.protocol.code());
            w.bytes(service::ADDR, &octets(server.address));
            w.be16(service::PORT, server.port);
        }
        Key::Mark(mark) => {
            w.ne16(service::AF, AF_INET);
            w.ne32(service::FWMARK, mark);
        }
    }
}

fn destination(w: &mut Writer, real: &RealServer, wanted: Option<&Destination>) {
    w.nest(top::DEST, |w| {
        w.bytes(dest::ADDR, &octets(real.address));
        w.be16(dest::PORT, real.port);
        w.ne16(dest::ADDR_FAMILY, family(real.address));
        let Some(wanted) = wanted else { return };
        w.ne32(dest::FWD_METHOD, wanted.forwarding.code());
        w.ne32(dest::WEIGHT, wanted.weight);
        w.ne32(dest::UPPER_THRESHOLD, wanted.upper_threshold);
        w.ne32(dest::LOWER_THRESHOLD, wanted.lower_threshold);
    });
}

fn flag_bits(wanted: &Service) -> u32 {
    let ServiceFlags { one_packet, sched1, sched2, sched3 } = wanted.flags;
    [
        (wanted.persistence.is_some(), flag::PERSISTENT),
        (one_packet, flag::ONE_PACKET),
        (sched1, flag::SCHED1),
        (sched2, flag::SCHED2),
        (sched3, flag::SCHED3),
    ]
    .into_iter()
    .filter_map(|(is_set, bit)| is_set.then_some(bit))
    .sum()
}

/// A mask for IPv4, the number of bits for IPv6.
fn netmask(granularity: Granularity, is_v4: bool) -> [u8; 4] {
    match (granularity, is_v4) {
        (Granularity::Host, true) => [0xff; 4],
        (Granularity::Prefix(bits), true) => {
            let behind = 32_u32.saturating_sub(bits.into());
            u32::MAX.checked_shl(behind).unwrap_or(0).to_be_bytes()
        }
        (Granularity::Mask(mask), true) => mask.octets(),
        (Granularity::Host, false) => 128_u32.to_ne_bytes(),
        (Granularity::Prefix(bits), false) => u32::from(bits).to_ne_bytes(),
        (Granularity::Mask(_), false) => 0_u32.to_ne_bytes(),
    }
}

const fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}
