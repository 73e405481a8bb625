//! Cluster IPs: one set of taken addresses a family, and the ranges to take new ones from.
//!
//! Ranges come from ServiceCIDR objects, which may overlap or name the same range twice; an address
//! is taken or free whatever range it was found in, so ranges come and go without moving anything
//! (upstream: ipallocator.MetaAllocator).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::bands::{self, Bands};
use super::runs::Runs;
use super::{AllocError, Family, Rng, What};

/// Upstream refuses to allocate from IPv6 ranges that are wider.
const SHORTEST_V6_PREFIX: u8 = 64;

/// All cluster IPs.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    v4: Runs,
    v6: Runs,
    ranges: BTreeMap<IpNet, Range>,
    /// ServiceCIDR → its ranges.
    owners: BTreeMap<String, Vec<IpNet>>,
    /// Prefix lengths that ranges have, so that the ranges of an address are found by looking at
    /// one prefix a length.
    lengths: Vec<(Family, u8)>,
}

/// How full one range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// The range.
    pub net: IpNet,
    /// Addresses taken.
    pub allocated: u64,
    /// Addresses left.
    pub available: u64,
}

#[derive(Clone, Debug)]
struct Range {
    /// None when there is nothing to allocate: too small, or too wide.
    bands: Option<Bands>,
    allocated: u64,
    /// ServiceCIDR → whether it may be allocated from.
    owners: BTreeMap<String, bool>,
}

impl Range {
    fn size(&self) -> u64 {
        self.bands.map_or(0, |bands| bands.size())
    }

    fn is_ready(&self) -> bool {
        self.owners.values().any(|ready| *ready)
    }

    fn contains(&self, number: u128) -> bool {
        self.bands.is_some_and(|bands| bands.contains(number))
    }
}

impl Addresses {
    /// Adds the ranges of a ServiceCIDR or changes them; `ready` says whether they may be allocated
    /// from.
    pub fn set_cidr(&mut self, name: &str, nets: &[IpNet], ready: bool) {
        let nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
        if self.owners.get(name) != Some(&nets) {
            self.remove_cidr(name);
            self.owners.insert(name.to_owned(), nets.clone());
        }
        for net in nets {
            let taken = match Family::of_net(net) {
                Family::V4 => &self.v4,
                Family::V6 => &self.v6,
            };
            let range = self.ranges.entry(net).or_insert_with(|| {
                let bands = bands_of(net);
                let allocated = bands.map_or(0, |bands| bands.taken(taken));
                Range { bands, allocated, owners: BTreeMap::new() }
            });
            range.owners.insert(name.to_owned(), ready);
        }
        self.find_lengths();
    }

    /// Forgets a ServiceCIDR; what was taken from it stays taken.
    pub fn remove_cidr(&mut self, name: &str) {
        for net in self.owners.remove(name).unwrap_or_default() {
            if let Some(range) = self.ranges.get_mut(&net) {
                range.owners.remove(name);
                if range.owners.is_empty() {
                    self.ranges.remove(&net);
                }
            }
        }
        self.find_lengths();
    }

    /// Takes an address, in a range or not; false when it was taken.
    pub fn take(&mut self, ip: IpAddr) -> bool {
        let is_new = self.runs_mut(ip).insert(number(ip));
        if is_new {
            self.ranges_of(ip, |range| range.allocated += 1);
        }
        is_new
    }

    /// Gives an address back; whether it had been taken.
    pub fn release(&mut self, ip: IpAddr) -> bool {
        let was_taken = self.runs_mut(ip).remove(number(ip));
        if was_taken {
            self.ranges_of(ip, |range| range.allocated -= 1);
        }
        was_taken
    }

    /// Takes an address of a range that may be allocated from; answers the range.
    ///
    /// # Errors
    /// [`AllocError::Allocated`], [`AllocError::Mismatched`].
    pub fn allocate(&mut self, ip: IpAddr) -> Result<IpNet, AllocError> {
        let wanted = |range: &Range| range.is_ready() && range.contains(number(ip));
        let net = self.nets_of(ip).find(|net| self.ranges.get(net).is_some_and(wanted));
        let net = net.ok_or(AllocError::Mismatched)?;
        if self.take(ip) { Ok(net) } else { Err(AllocError::Allocated(What::Ip)) }
    }

    /// Takes a random free address of the first range that has one, of its upper (dynamic) band
    /// while that lasts.
    ///
    /// # Errors
    /// [`AllocError::Full`].
    pub fn allocate_next(
        &mut self,
        family: Family,
        rng: Rng<'_>,
    ) -> Result<(IpAddr, IpNet), AllocError> {
        let taken = self.runs(family);
        let found = self
            .ranges
            .iter()
            .filter(|(net, range)| {
                Family::of_net(**net) == family
                    && range.is_ready()
                    && range.allocated < range.size()
            })
            .find_map(|(net, range)| {
                let number = range.bands?.next(taken, rng)?;
                Some((address(family, number), *net))
            });
        let (ip, net) = found.ok_or(AllocError::Full)?;
        self.take(ip);
        Ok((ip, net))
    }

    /// Whether an address is taken.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.runs(Family::of(ip)).contains(number(ip))
    }

    /// Whether an address is usable in any range, ready or not.
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.nets_of(ip).any(|net| self.ranges.get(&net).is_some_and(|r| r.contains(number(ip))))
    }

    /// An address in use that is in a range of this ServiceCIDR and in no other that may be
    /// allocated from. Ends at the first one; costs what is in use when there is none.
    pub fn homeless_without(&self, name: &str) -> Option<IpAddr> {
        let others = |net: &IpNet| {
            let range = self.ranges.get(net);
            range.is_some_and(|r| r.owners.iter().any(|(owner, ready)| *ready && owner != name))
        };
        let own = self.owners.get(name).into_iter().flatten();
        own.filter(|net| !others(net)).find_map(|net| {
            let bands = self.ranges.get(net)?.bands?;
            let family = Family::of_net(*net);
            let numbers = bands.taken_numbers(self.runs(family));
            numbers.map(|number| address(family, number)).find(|ip| {
                !self.nets_of(*ip).any(|net| {
                    let usable = self.ranges.get(&net).is_some_and(|r| r.contains(number(*ip)));
                    usable && others(&net)
                })
            })
        })
    }

    /// Whether an address is in a range of a ServiceCIDR that may not be allocated from.
    pub fn is_leaving(&self, ip: IpAddr) -> bool {
        let leaving = |range: &Range| range.owners.values().any(|ready| !ready);
        self.nets_of(ip).any(|net| self.ranges.get(&net).is_some_and(leaving))
    }

    /// What is taken: IPv4 first, in order.
    pub fn taken(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|number| address(Family::V4, number));
        v4.chain(self.v6.iter().map(|number| address(Family::V6, number)))
    }

    /// How full the ranges are that an address belongs to.
    pub fn occupancy_of(&self, ip: IpAddr) -> impl Iterator<Item = Occupancy> {
        self.nets_of(ip).filter_map(|net| self.occupancy(net))
    }

    /// How full one range is; none when no ServiceCIDR names it.
    pub fn occupancy(&self, net: IpNet) -> Option<Occupancy> {
        let range = self.ranges.get(&net)?;
        let available = range.size() - range.allocated;
        Some(Occupancy { net, allocated: range.allocated, available })
    }

    /// All ranges.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.ranges.keys().copied()
    }

    fn runs(&self, family: Family) -> &Runs {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn runs_mut(&mut self, ip: IpAddr) -> &mut Runs {
        match Family::of(ip) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Every network that could contain the address and be a range.
    fn nets_of(&self, ip: IpAddr) -> impl Iterator<Item = IpNet> {
        let lengths = self.lengths.iter().filter(move |(family, _)| *family == Family::of(ip));
        lengths.filter_map(move |(_, length)| Some(IpNet::new(ip, *length).ok()?.trunc()))
    }

    fn ranges_of(&mut self, ip: IpAddr, mut change: impl FnMut(&mut Range)) {
        let nets: Vec<IpNet> = self.nets_of(ip).collect();
        for net in nets {
            if let Some(range) = self.ranges.get_mut(&net)
                && range.contains(number(ip))
            {
                change(range);
            }
        }
    }

    fn find_lengths(&mut self) {
        let nets = self.ranges.keys();
        self.lengths = nets.map(|net| (Family::of_net(*net), net.prefix_len())).collect();
        self.lengths.sort_unstable();
        self.lengths.dedup();
    }
}

/// IPv4's network and broadcast addresses and IPv6's first (the subnet-router anycast) are never
/// handed out.
fn bands_of(net: IpNet) -> Option<Bands> {
    let first = number(net.network()).checked_add(1)?;
    let last = match net {
        IpNet::V4(_) => number(net.broadcast()).checked_sub(1)?,
        IpNet::V6(net) if net.prefix_len() < SHORTEST_V6_PREFIX => return None,
        IpNet::V6(_) => number(net.broadcast()),
    };
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let addresses = 1u64.checked_shl(host_bits).unwrap_or(u64::MAX);
    Bands::new(first, last, bands::offset(addresses, 16, 256))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => {
            let number = u32::try_from(number).expect("numbers of IPv4 addresses have 32 bits");
            IpAddr::V4(number.into())
        }
        Family::V6 => IpAddr::V6(number.into()),
    }
}
