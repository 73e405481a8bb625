//! Allocation of cluster IPs and node ports: sets over a range that is split into two bands.
//!
//! The lower band is left to those who ask for a certain number; random choice takes the upper one
//! first and the lower only when that is full (KEP-3070 and KEP-3668; BEHAVIOUR, ranges). Pure: the
//! randomness comes in as a closure, and whoever persists the objects rebuilds the set from them.
//!
//! ```text
//! |<- reserved ->|<--- static band: offset --->|<------- dynamic band ------->|
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

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
    /// Outside of the range; carries the range's text.
    #[error("provided {0} is not in the valid range. The range of valid {1} is {2}")]
    NotInRange(What, &'static str, String),
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

/// Numbers `0..size`, the first `offset` of them being the static band.
#[derive(Clone, Debug)]
struct Bands {
    size: u64,
    offset: u64,
    taken: BTreeSet<u64>,
}

impl Bands {
    fn new(size: u64, offset: u64) -> Self {
        Self { size, offset, taken: BTreeSet::new() }
    }

    fn next(&mut self, rng: Rng<'_>) -> Option<u64> {
        let found = self
            .free_from_random_point(self.offset..self.size, rng)
            .or_else(|| self.free_from_random_point(0..self.offset, rng))?;
        self.taken.insert(found);
        Some(found)
    }

    /// A random number of the band, or the next free one after it, wrapping around.
    fn free_from_random_point(&self, band: std::ops::Range<u64>, rng: Rng<'_>) -> Option<u64> {
        let size = band.end.checked_sub(band.start).filter(|size| *size > 0)?;
        let start = band.start + rng(size) % size;
        self.first_free(start..band.end).or_else(|| self.first_free(band.start..start))
    }

    fn first_free(&self, range: std::ops::Range<u64>) -> Option<u64> {
        let mut candidate = range.start;
        for taken in self.taken.range(range.clone()) {
            if *taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate < range.end).then_some(candidate)
    }

    fn free(&self) -> u64 {
        self.size - self.taken.len() as u64
    }
}

/// Width of the static band: `min(max(16, size / divisor), cap)`, none in a range of 16 or less.
fn band_offset(size: u64, divisor: u64, cap: u64) -> u64 {
    if size <= 16 { 0 } else { (size / divisor).max(16).min(cap) }
}

/// Addresses of one service CIDR. IPv4's network and broadcast addresses and IPv6's first
/// (the subnet-router anycast) are never handed out.
#[derive(Clone, Debug)]
pub struct IpAllocator {
    net: IpNet,
    /// Number zero of the bands.
    first: u128,
    bands: Bands,
}

impl IpAllocator {
    /// An empty allocator.
    pub fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        // Upstream bounds IPv6 ranges likewise; 2^63 addresses are enough.
        let addresses = 1u64 << host_bits.min(63);
        let reserved = match net {
            IpNet::V4(_) => 2,
            IpNet::V6(_) => 1,
        };
        let size = addresses.saturating_sub(reserved);
        let bands = Bands::new(size, band_offset(size, 16, 256));
        Self { net, first: number(net.network()) + 1, bands }
    }

    /// The range.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// Takes one address.
    ///
    /// # Errors
    /// [`AllocError::Allocated`], [`AllocError::NotInRange`].
    pub fn allocate(&mut self, ip: IpAddr) -> Result<(), AllocError> {
        let index = self
            .index(ip)
            .ok_or_else(|| AllocError::NotInRange(What::Ip, "IPs", self.net.to_string()))?;
        if self.bands.taken.insert(index) { Ok(()) } else { Err(AllocError::Allocated(What::Ip)) }
    }

    /// Takes a random free address, of the upper (dynamic) band while it lasts.
    ///
    /// # Errors
    /// [`AllocError::Full`].
    pub fn allocate_next(&mut self, rng: Rng<'_>) -> Result<IpAddr, AllocError> {
        let index = self.bands.next(rng).ok_or(AllocError::Full)?;
        let number = self.first + u128::from(index);
        Ok(match self.net {
            IpNet::V4(_) => {
                let number = u32::try_from(number).expect("an address of an IPv4 net has 32 bits");
                IpAddr::V4(number.into())
            }
            IpNet::V6(_) => IpAddr::V6(number.into()),
        })
    }

    /// Gives an address back; whether it had been taken.
    pub fn release(&mut self, ip: IpAddr) -> bool {
        self.index(ip).is_some_and(|index| self.bands.taken.remove(&index))
    }

    /// Whether an address is taken.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.index(ip).is_some_and(|index| self.bands.taken.contains(&index))
    }

    /// How many are free.
    pub fn free(&self) -> u64 {
        self.bands.free()
    }

    fn index(&self, ip: IpAddr) -> Option<u64> {
        if ip.is_ipv4() != self.net.network().is_ipv4() {
            return None;
        }
        let index = u64::try_from(number(ip).checked_sub(self.first)?).ok()?;
        (index < self.bands.size).then_some(index)
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// Node ports.
#[derive(Clone, Debug)]
pub struct PortAllocator {
    range: RangeInclusive<u16>,
    bands: Bands,
}

impl PortAllocator {
    /// An empty allocator.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let size = range.len() as u64;
        Self { range, bands: Bands::new(size, band_offset(size, 32, 128)) }
    }

    /// Takes one port.
    ///
    /// # Errors
    /// [`AllocError::Allocated`], [`AllocError::NotInRange`].
    pub fn allocate(&mut self, port: u16) -> Result<(), AllocError> {
        let index = self.index(port).ok_or_else(|| {
            let range = format!("{}-{}", self.range.start(), self.range.end());
            AllocError::NotInRange(What::Port, "ports", range)
        })?;
        if self.bands.taken.insert(index) { Ok(()) } else { Err(AllocError::Allocated(What::Port)) }
    }

    /// Takes a random free port, of the upper (dynamic) band while it lasts.
    ///
    /// # Errors
    /// [`AllocError::Full`].
    pub fn allocate_next(&mut self, rng: Rng<'_>) -> Result<u16, AllocError> {
        let index = self.bands.next(rng).ok_or(AllocError::Full)?;
        let index = u16::try_from(index).expect("a range of ports has at most 65536 numbers");
        Ok(self.range.start() + index)
    }

    /// Gives a port back; whether it had been taken.
    pub fn release(&mut self, port: u16) -> bool {
        self.index(port).is_some_and(|index| self.bands.taken.remove(&index))
    }

    /// Whether a port is taken.
    pub fn has(&self, port: u16) -> bool {
        self.index(port).is_some_and(|index| self.bands.taken.contains(&index))
    }

    /// How many are free.
    pub fn free(&self) -> u64 {
        self.bands.free()
    }

    fn index(&self, port: u16) -> Option<u64> {
        self.range.contains(&port).then(|| u64::from(port - self.range.start()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn bands_have_upstreams_widths() {
        let offset = |text| IpAllocator::new(net(text)).bands.offset;
        assert_eq!(offset("10.96.0.0/12"), 256);
        assert_eq!(offset("10.96.0.0/20"), 255);
        assert_eq!(offset("10.96.0.0/24"), 16);
        assert_eq!(offset("10.96.0.0/28"), 0);
        assert_eq!(PortAllocator::new(30000..=32767).bands.offset, 86);
        assert_eq!(PortAllocator::new(30000..=30015).bands.offset, 0);
    }

    #[test]
    fn reserved_addresses_are_out_of_range() {
        let mut v4 = IpAllocator::new(net("10.0.0.0/29"));
        assert_eq!(v4.free(), 6);
        for reserved in ["10.0.0.0", "10.0.0.7", "10.0.0.8", "fd00::1"] {
            let refused = v4.allocate(reserved.parse().unwrap());
            assert!(matches!(refused, Err(AllocError::NotInRange(..))), "{reserved}");
        }
        let mut v6 = IpAllocator::new(net("fd00::/112"));
        assert_eq!(v6.free(), 65535);
        assert!(v6.allocate("fd00::".parse().unwrap()).is_err());
        assert_eq!(v6.allocate("fd00::ffff".parse().unwrap()), Ok(()));
    }

    #[test]
    fn messages_are_upstreams() {
        let mut ports = PortAllocator::new(30000..=32767);
        ports.allocate(30080).unwrap();
        let text = |result: Result<(), AllocError>| result.unwrap_err().to_string();
        assert_eq!(text(ports.allocate(30080)), "provided port is already allocated");
        assert_eq!(
            text(ports.allocate(80)),
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
        let mut ips = IpAllocator::new(net("10.96.0.0/12"));
        assert_eq!(
            text(ips.allocate([192, 168, 0, 1].into())),
            "provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/12"
        );
    }

    #[test]
    fn the_static_band_is_used_last() {
        let mut ports = PortAllocator::new(30000..=30099);
        let mut draw = 0;
        let mut rng = |bound: u64| {
            draw += 7;
            draw % bound
        };
        let drawn: Vec<u16> = (0..100).map(|_| ports.allocate_next(&mut rng).unwrap()).collect();
        assert!(drawn[..84].iter().all(|port| *port >= 30016));
        assert!(drawn[84..].iter().all(|port| *port < 30016));
        assert_eq!(ports.allocate_next(&mut rng), Err(AllocError::Full));
    }

    proptest! {
        #[test]
        fn an_allocator_behaves_like_a_set(
            steps in prop::collection::vec((0u8..3, 0u16..40, any::<u64>()), 0..200),
        ) {
            let mut ports = PortAllocator::new(100..=130);
            let mut model = BTreeSet::new();
            for (step, number, seed) in steps {
                let port = 95 + number;
                let inside = (100..=130).contains(&port);
                match step {
                    0 => prop_assert_eq!(
                        ports.allocate(port).is_ok(), inside && model.insert(port)
                    ),
                    1 => prop_assert_eq!(ports.release(port), model.remove(&port)),
                    _ => match ports.allocate_next(&mut |bound| seed % bound) {
                        Ok(port) => prop_assert!((100..=130).contains(&port) && model.insert(port)),
                        Err(_) => prop_assert_eq!(model.len(), 31),
                    },
                }
                prop_assert_eq!(ports.has(port), model.contains(&port));
                prop_assert_eq!(ports.free(), 31 - model.len() as u64);
            }
        }
    }
}
