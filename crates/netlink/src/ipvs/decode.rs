//! Reading what the kernel lists. Nothing of it is trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attr::{AF_INET, AF_INET6, dest, flag, info, service, top};
use super::object::{
    Connections, Destination, ForwardingMethod, Granularity, Info, ListedDestination, Persistence,
    Protocol, RealServer, Service, ServiceFlags, Timeouts, VirtualServer,
};
use super::scheduler::Scheduler;
use crate::wire::{self, Malformed, Table as Attrs};

/// A virtual server; none when it goes by a firewall mark or is of another protocol.
pub(super) fn service(attrs: &[u8]) -> Result<Option<(VirtualServer, Service)>, Malformed> {
    let found = Attrs::<2>::parse(attrs)?;
    let found = Attrs::<10>::parse(found.required(top::SERVICE)?)?;
    if found.optional(service::FWMARK).is_some() {
        return Ok(None);
    }
    let Some(protocol) = Protocol::from_code(found.ne16(service::PROTOCOL)?) else {
        return Ok(None);
    };
    let family = found.ne16(service::AF)?;
    let address = address(family, found.required(service::ADDR)?)?;
    let port = wire::be16(found.required(service::PORT)?)?;
    let scheduler = Scheduler::of_kernel(found.text(service::SCHED_NAME)?)
        .ok_or(Malformed("the name of a scheduler"))?;
    // The flags, and behind them which of them count: all, in an answer.
    let bits = found.required(service::FLAGS)?.get(..4).ok_or(Malformed("flags cut off"))?;
    let bits = wire::ne32(bits)?;
    let has = |bit| bits & bit != 0;
    let mut persistence = None;
    if has(flag::PERSISTENT) {
        let timeout = found.ne32(service::TIMEOUT)?;
        let granularity = granularity(found.required(service::NETMASK)?, address.is_ipv4())?;
        persistence = Some(Persistence { timeout, granularity });
    }
    let flags = ServiceFlags {
        one_packet: has(flag::ONE_PACKET),
        sched1: has(flag::SCHED1),
        sched2: has(flag::SCHED2),
        sched3: has(flag::SCHED3),
    };
    let server = VirtualServer { address, port, protocol };
    Ok(Some((server, Service { scheduler, persistence, flags })))
}

/// A real server of that virtual server.
pub(super) fn destination(
    attrs: &[u8],
    of: &VirtualServer,
) -> Result<ListedDestination, Malformed> {
    let found = Attrs::<3>::parse(attrs)?;
    let found = Attrs::<12>::parse(found.required(top::DEST)?)?;
    // Kernels before 3.18 have one family for both.
    let family = match found.optional(dest::ADDR_FAMILY) {
        Some(family) => wire::ne16(family)?,
        None if of.address.is_ipv4() => AF_INET,
        None => AF_INET6,
    };
    let server = RealServer {
        address: address(family, found.required(dest::ADDR)?)?,
        port: wire::be16(found.required(dest::PORT)?)?,
    };
    let destination = Destination {
        weight: found.ne32(dest::WEIGHT)?,
        forwarding: ForwardingMethod::from_code(found.ne32(dest::FWD_METHOD)?),
        upper_threshold: found.ne32(dest::UPPER_THRESHOLD)?,
        lower_threshold: found.ne32(dest::LOWER_THRESHOLD)?,
    };
    let count = |kind| found.optional(kind).map_or(Ok(0), wire::ne32);
    let connections = Connections {
        active: count(dest::ACTIVE_CONNS)?,
        inactive: count(dest::INACTIVE_CONNS)?,
        persistent: count(dest::PERSISTENT_CONNS)?,
    };
    Ok(ListedDestination { server, destination, connections })
}

/// The timeouts; those of a protocol that the kernel was built without are nought.
pub(super) fn timeouts(attrs: &[u8]) -> Result<Timeouts, Malformed> {
    let found = Attrs::<7>::parse(attrs)?;
    let seconds = |kind| found.optional(kind).map_or(Ok(0), wire::ne32);
    Ok(Timeouts {
        tcp: seconds(top::TIMEOUT_TCP)?,
        tcp_fin: seconds(top::TIMEOUT_TCP_FIN)?,
        udp: seconds(top::TIMEOUT_UDP)?,
    })
}

pub(super) fn info(attrs: &[u8]) -> Result<Info, Malformed> {
    let found = Attrs::<3>::parse(attrs)?;
    let [_, version @ ..] = found.ne32(info::VERSION)?.to_be_bytes();
    Ok(Info { version, connection_table_size: found.ne32(info::CONN_TAB_SIZE)? })
}

fn address(family: u16, bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let cut_off = Malformed("an address cut off");
    match family {
        AF_INET => {
            let octets: [u8; 4] = *bytes.first_chunk().ok_or(cut_off)?;
            Ok(Ipv4Addr::from(octets).into())
        }
        AF_INET6 => {
            let octets: [u8; 16] = *bytes.first_chunk().ok_or(cut_off)?;
            Ok(Ipv6Addr::from(octets).into())
        }
        _ => Err(Malformed("an address of an unknown family")),
    }
}

fn granularity(bytes: &[u8], is_v4: bool) -> Result<Granularity, Malformed> {
    if is_v4 {
        let mask = wire::be32(bytes)?;
        let bits = mask.leading_ones();
        return Ok(match u8::try_from(bits) {
            Ok(32) => Granularity::Host,
            Ok(prefix) if bits + mask.trailing_zeros() == 32 => Granularity::Prefix(prefix),
            _ => Granularity::Mask(Ipv4Addr::from(mask)),
        });
    }
    match wire::ne32(bytes)? {
        128 => Ok(Granularity::Host),
        bits => u8::try_from(bits)
            .map(Granularity::Prefix)
            .map_err(|_| Malformed("a prefix longer than an address")),
    }
}

#[cfg(test)]
mod tests;
