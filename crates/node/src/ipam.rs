//! Pod addresses out of the node's podCIDRs, one of each.
//!
//! Pure: who holds which address. The first two addresses of a range and the last stay free
//! (network, gateway by custom, broadcast). Allocation goes round, so that an address that a pod
//! has just given back is the last to be given out again: stale conntrack entries and caches die
//! first. A pod gets an address of every range or none at all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::Addresses;

/// As many addresses of a range are used at most, as a power of two: all of any IPv4 range.
const MOST_BITS: u8 = 32;

/// Addresses and their holders' uids.
#[derive(Debug)]
pub(crate) struct Ipam {
    pools: Vec<Pool>,
}

impl Ipam {
    /// Nobody holds anything. The order of the ranges is that of a pod's addresses.
    pub(crate) fn new(cidrs: impl IntoIterator<Item = IpNet>) -> Ipam {
        Ipam { pools: cidrs.into_iter().map(Pool::new).collect() }
    }

    /// Gives `uid` its addresses: those it has, else those it had `before` where they are free,
    /// else the next free ones. None: in some range all are held, and then it holds nothing.
    pub(crate) fn allocate(&mut self, uid: &str, before: Option<&Addresses>) -> Option<Addresses> {
        let given: Option<Vec<IpAddr>> =
            self.pools.iter_mut().map(|pool| pool.allocate(uid, before)).collect();
        let addresses = given.and_then(|given| Addresses::of(given).ok());
        if addresses.is_none() {
            self.release(uid);
        }
        addresses
    }

    /// Takes certain addresses for `uid` (a pod that runs already), as far as they are ours and
    /// nobody else's.
    pub(crate) fn claim(&mut self, addresses: &Addresses, uid: &str) {
        for pool in &mut self.pools {
            addresses.iter().any(|address| pool.claim(address, uid));
        }
    }

    /// Frees what `uid` holds.
    pub(crate) fn release(&mut self, uid: &str) {
        for pool in &mut self.pools {
            pool.held.retain(|_, holder| holder != uid);
        }
    }
}

/// One range.
#[derive(Debug)]
struct Pool {
    cidr: IpNet,
    held: HashMap<IpAddr, String>,
    /// Where the search for a free address begins, counted from the first usable one.
    next: u64,
}

impl Pool {
    fn new(cidr: IpNet) -> Pool {
        Pool { cidr: cidr.trunc(), held: HashMap::new(), next: 0 }
    }

    /// How many addresses are usable.
    fn count(&self) -> u64 {
        let bits = self.cidr.max_prefix_len() - self.cidr.prefix_len();
        (1_u64 << bits.min(MOST_BITS)).saturating_sub(3)
    }

    /// A usable address by its number.
    fn at(&self, offset: u64) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(network) => {
                // A usable one's number is less than 2^32.
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from(u32::from(network).saturating_add(2).saturating_add(offset)).into()
            }
            IpAddr::V6(network) => {
                let number = u128::from(network).saturating_add(2).saturating_add(offset.into());
                Ipv6Addr::from(number).into()
            }
        }
    }

    /// A usable address's number; none when it is not one of ours.
    fn offset(&self, address: IpAddr) -> Option<u64> {
        let from = match (self.cidr.network(), address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u128::from(u32::from(address)).checked_sub(u32::from(network).into())
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                u128::from(address).checked_sub(network.into())
            }
            _ => None,
        };
        let offset = u64::try_from(from?.checked_sub(2)?).ok()?;
        (offset < self.count()).then_some(offset)
    }

    fn allocate(&mut self, uid: &str, before: Option<&Addresses>) -> Option<IpAddr> {
        if let Some((address, _)) = self.held.iter().find(|(_, holder)| *holder == uid) {
            return Some(*address);
        }
        let before = before.and_then(|before| before.like(self.cidr.addr()));
        if let Some(before) = before.filter(|before| self.claim(*before, uid)) {
            return Some(before);
        }
        let count = self.count();
        for step in 0..count {
            let offset = (self.next + step) % count;
            if let Entry::Vacant(free) = self.held.entry(self.at(offset)) {
                let address = *free.key();
                free.insert(uid.to_owned());
                self.next = (offset + 1) % count;
                return Some(address);
            }
        }
        None
    }

    fn claim(&mut self, address: IpAddr, uid: &str) -> bool {
        let ours = self.offset(address).is_some();
        let free = self.held.get(&address).is_none_or(|holder| holder == uid);
        if ours && free {
            self.held.insert(address, uid.to_owned());
        }
        ours && free
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(cidrs: &[&str]) -> Ipam {
        Ipam::new(cidrs.iter().map(|cidr| cidr.parse().unwrap()))
    }

    fn given(ipam: &mut Ipam, uid: &str) -> Option<String> {
        ipam.allocate(uid, None).map(|addresses| addresses.to_string())
    }

    #[test]
    fn a_pod_has_an_address_of_every_range_in_their_order() {
        let mut both = ipam(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(given(&mut both, "a").as_deref(), Some("10.244.1.2,fd00:10:244:1::2"));
        assert_eq!(given(&mut both, "b").as_deref(), Some("10.244.1.3,fd00:10:244:1::3"));
        assert_eq!(given(&mut both, "a").as_deref(), Some("10.244.1.2,fd00:10:244:1::2"));
        let mut turned = ipam(&["fd00:10:244:1::/64", "10.244.1.0/24"]);
        assert_eq!(given(&mut turned, "a").as_deref(), Some("fd00:10:244:1::2,10.244.1.2"));
    }

    #[test]
    fn a_pod_without_room_in_one_range_holds_nothing_in_the_other() {
        let mut ipam = ipam(&["10.244.1.0/24", "fd00::/126"]);
        assert_eq!(given(&mut ipam, "a").as_deref(), Some("10.244.1.2,fd00::2"));
        assert_eq!(given(&mut ipam, "b"), None);
        ipam.release("a");
        let before: Addresses = "10.244.1.3,fd00::2".parse().unwrap();
        assert_eq!(ipam.allocate("c", Some(&before)), Some(before));
    }

    #[test]
    fn an_address_of_before_is_given_again_where_it_is_free() {
        let mut ipam = ipam(&["10.244.1.0/24", "fd00::/64"]);
        let before: Addresses = "10.244.1.9,fd00::9".parse().unwrap();
        ipam.claim(&"fd00::9".parse().unwrap(), "other");
        let now = ipam.allocate("a", Some(&before)).map(|addresses| addresses.to_string());
        assert_eq!(now.as_deref(), Some("10.244.1.9,fd00::2"));
    }

    #[test]
    fn an_address_given_back_is_given_out_last() {
        for cidr in ["10.244.1.0/29", "fd00::/125"] {
            let mut ipam = ipam(&[cidr]);
            let a = ipam.allocate("a", None).unwrap();
            ipam.release("a");
            let others = ["b", "c", "d", "e"].map(|uid| ipam.allocate(uid, None).unwrap());
            assert!(!others.contains(&a));
            assert_eq!(ipam.allocate("f", None), Some(a));
            assert_eq!(ipam.allocate("g", None), None);
        }
    }

    #[test]
    fn a_cidr_without_room_gives_nothing() {
        for cidr in [
            "10.0.0.0/32",
            "10.0.0.0/31",
            "10.0.0.0/30",
            "255.255.255.255/32",
            "fd00::/128",
            "fd00::/126",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ] {
            let given = ipam(&[cidr]).allocate("a", None);
            let has_room = cidr.ends_with("/30") || cidr.ends_with("/126");
            assert_eq!(given.is_some(), has_room, "{cidr}: {given:?}");
        }
        assert_eq!(ipam(&[]).allocate("a", None), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u8),
        Release(u8),
        Claim(u8, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40u8).prop_map(Step::Allocate),
            (0..40u8).prop_map(Step::Release),
            (any::<u8>(), 0..40u8).prop_map(|(host, uid)| Step::Claim(host, uid)),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_address_is_ever_held_twice_or_outside(v6: bool, steps in steps()) {
            let cidr: IpNet = if v6 { "fd00::300/123" } else { "10.244.3.0/27" }.parse().unwrap();
            let host = |number: u8| match cidr {
                IpNet::V4(_) => IpAddr::from([10, 244, 3, number]),
                IpNet::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x300 + u16::from(number)).into(),
            };
            let usable: Vec<IpAddr> = (2..31).map(host).collect();
            let mut ipam = Ipam::new([cidr]);
            let mut model: HashMap<String, IpAddr> = HashMap::new();
            for step in steps {
                match step {
                    Step::Allocate(uid) => {
                        let uid = uid.to_string();
                        if let Some(addresses) = ipam.allocate(&uid, None) {
                            let address = addresses.primary();
                            prop_assert!(usable.contains(&address));
                            prop_assert!(!model.iter().any(|(o, a)| *a == address && *o != uid));
                            model.insert(uid, address);
                        } else {
                            prop_assert_eq!(model.len(), usable.len());
                        }
                    }
                    Step::Release(uid) => {
                        ipam.release(&uid.to_string());
                        model.remove(&uid.to_string());
                    }
                    Step::Claim(number, uid) => {
                        let (uid, address) = (uid.to_string(), host(number));
                        if !model.contains_key(&uid) {
                            ipam.claim(&address.into(), &uid);
                            let free = !model.values().any(|held| *held == address);
                            if free && usable.contains(&address) {
                                model.insert(uid, address);
                            }
                        }
                    }
                }
            }
        }
    }
}
