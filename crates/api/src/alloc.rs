//! Allocation of cluster IPs and node ports: sets over ranges that are split into two bands.
//!
//! The lower band is left to those who ask for a certain number; random choice takes the upper one
//! first and the lower only when that is full (KEP-3070 and KEP-3668; BEHAVIOUR, ranges). Pure: the
//! randomness comes in as a closure, and whoever persists the objects rebuilds the set from them.
//! Every operation is logarithmic in what is taken, however full a band is.
//!
//! ```text
//! |<- reserved ->|<--- static band: offset --->|<------- dynamic band ------->|
//! ```

mod addresses;
mod bands;
mod ports;
mod runs;

pub use self::addresses::{Addresses, Occupancy};
pub use self::ports::PortAllocator;

/// Why a number could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// Nothing is left.
    #[error("range is full")]
    Full,
    /// Taken by someone else.
    #[error("provided {0} is already allocated")]
    Allocated(What),
    /// No range that may be allocated from has this address.
    #[error("the provided network does not match the current range")]
    Mismatched,
    /// Outside of the range of node ports; carries the range's text.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotInRange(String),
}

/// What is allocated, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An address.
    Ip,
    /// A node port.
    Port,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ip => "IP",
            Self::Port => "port",
        })
    }
}

/// Source of randomness: a number below the given bound, which is never zero.
pub type Rng<'a> = &'a mut dyn FnMut(u64) -> u64;

/// Family of an address, as `spec.ipFamilies` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `IPv4`
    V4,
    /// `IPv6`
    V6,
}

impl Family {
    /// Both, in no order of preference.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(ip: std::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a range.
    pub fn of_net(net: ipnet::IpNet) -> Self {
        Self::of(net.addr())
    }

    /// The family that a field names.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == text)
    }

    /// Kubernetes' word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

#[cfg(test)]
mod tests;
