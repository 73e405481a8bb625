//! Virtual servers, real servers and what belongs to each.

use std::net::{IpAddr, Ipv4Addr};

use super::scheduler::Scheduler;

/// The protocol of a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub(super) const fn from_code(code: u16) -> Option<Self> {
        match code {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// Where clients connect to: no two virtual servers of a namespace are the same in this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServer {
    /// The address.
    pub address: IpAddr,
    /// The port; 0, for any, is for persistent ones only.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// How a virtual server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// How it picks a real server.
    pub scheduler: Scheduler,
    /// Whether and how long a client stays with a real server.
    pub persistence: Option<Persistence>,
    /// What else.
    pub flags: ServiceFlags,
}

/// Session affinity: a client's connections go to one real server for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// For so many seconds after the last of its connections ended. The kernel counts in ticks, at
    /// most 1,000 a second, in 32 bits: above 4,294,967 seconds it loses count.
    pub timeout: u32,
    /// What of an address makes a client.
    pub granularity: Granularity,
}

impl Persistence {
    /// That of single addresses.
    #[must_use]
    pub const fn of_hosts(timeout: u32) -> Self {
        Self { timeout, granularity: Granularity::Host }
    }
}

/// Which clients are taken as one: the netmask of persistence. What is read back is the first of these
/// that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// None but the same address.
    #[default]
    Host,
    /// Those whose first bits are the same. More bits than an IPv4 address has are all of them; IPv6
    /// has 1 to 128, and EINVAL for others.
    Prefix(u8),
    /// Those equal under an IPv4 mask of any form; EINVAL for an IPv6 address.
    Mask(Ipv4Addr),
}

/// Flags of a virtual server, but for `IP_VS_SVC_F_PERSISTENT`, which is [`Service::persistence`], and
/// `IP_VS_SVC_F_HASHED`: that one is the kernel's own and a service sent with it is never found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ServiceFlags {
    /// Each UDP datagram is scheduled for itself.
    pub one_packet: bool,
    /// The scheduler's first flag: `sh-fallback`, `mh-fallback`.
    pub sched1: bool,
    /// The scheduler's second flag: `sh-port`, `mh-port`.
    pub sched2: bool,
    /// The scheduler's third flag.
    pub sched3: bool,
}

/// Where connections go to: no two of a virtual server are the same in this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServer {
    /// The address, of the virtual server's family where the method is to masquerade.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// How a real server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its share, where the scheduler counts shares; 0 takes no new connection. ERANGE from
    /// 2³¹ up.
    pub weight: u32,
    /// How packets get there.
    pub forwarding: ForwardingMethod,
    /// Takes no new connection above so many; 0 is without bound.
    pub upper_threshold: u32,
    /// Takes new ones again below so many; 0 is three quarters of the upper one, and more than that
    /// one is ERANGE.
    pub lower_threshold: u32,
}

impl Destination {
    /// Masquerading, with that share.
    #[must_use]
    pub const fn masquerade(weight: u32) -> Self {
        let forwarding = ForwardingMethod::Masquerade;
        Self { weight, forwarding, upper_threshold: 0, lower_threshold: 0 }
    }
}

/// How packets get to a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// Their destination is rewritten; so is the source of the answers.
    Masquerade,
    /// It is this machine.
    LocalNode,
    /// In a tunnel.
    Tunnel,
    /// To its link address, nothing rewritten.
    DirectRoute,
    /// Past IPVS.
    Bypass,
    /// One of 5 to 7, which the kernel does not know but keeps. Others are cut to three bits.
    Other(u8),
}

impl ForwardingMethod {
    /// `IP_VS_CONN_F_FWD_MASK`.
    const MASK: u32 = 7;

    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::LocalNode => 1,
            Self::Tunnel => 2,
            Self::DirectRoute => 3,
            Self::Bypass => 4,
            Self::Other(code) => code as u32 & Self::MASK,
        }
    }

    pub(super) const fn from_code(code: u32) -> Self {
        match code & Self::MASK {
            0 => Self::Masquerade,
            1 => Self::LocalNode,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            5 => Self::Other(5),
            6 => Self::Other(6),
            _ => Self::Other(7),
        }
    }
}

/// A real server as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedDestination {
    /// Which one.
    pub server: RealServer,
    /// How it is used.
    pub destination: Destination,
    /// How busy it is.
    pub connections: Connections,
}

/// How many connections a real server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Connections {
    /// Established.
    pub active: u32,
    /// Being closed, or of UDP.
    pub inactive: u32,
    /// Clients that stay with it.
    pub persistent: u32,
}

/// After how many seconds of silence connections are forgotten, all virtual servers' alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Timeouts {
    /// Established ones of TCP.
    pub tcp: u32,
    /// Those of TCP that one side has closed.
    pub tcp_fin: u32,
    /// Those of UDP.
    pub udp: u32,
}

/// What the kernel's IPVS says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Info {
    /// Its version: three numbers.
    pub version: [u8; 3],
    /// How many heads the hash table of connections has.
    pub connection_table_size: u32,
}
