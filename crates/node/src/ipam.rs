//! Pod addresses out of the node's podCIDR.
//!
//! Pure: who holds which address. The first two addresses and the last stay free (network,
//! gateway by custom, broadcast). Allocation goes round, so that an address that a pod has just
//! given back is the last to be given out again: stale conntrack entries and caches die first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses and their holders' uids.
#[derive(Debug)]
pub(crate) struct Ipam {
    cidr: Ipv4Net,
    held: HashMap<Ipv4Addr, String>,
    next: u32,
}

impl Ipam {
    /// Nobody holds anything.
    pub(crate) fn new(cidr: Ipv4Net) -> Ipam {
        Ipam { cidr, held: HashMap::new(), next: 0 }
    }

    fn first(&self) -> u32 {
        u32::from(self.cidr.network()).saturating_add(2)
    }

    fn count(&self) -> u32 {
        u32::from(self.cidr.broadcast()).saturating_sub(self.first())
    }

    /// Gives `uid` an address: the one it has, else the next free one. None: all are held.
    pub(crate) fn allocate(&mut self, uid: &str) -> Option<Ipv4Addr> {
        if let Some((address, _)) = self.held.iter().find(|(_, holder)| *holder == uid) {
            return Some(*address);
        }
        let count = self.count();
        for step in 0..count {
            let offset = (self.next + step) % count;
            let address = Ipv4Addr::from(self.first() + offset);
            if let Entry::Vacant(free) = self.held.entry(address) {
                free.insert(uid.to_owned());
                self.next = (offset + 1) % count;
                return Some(address);
            }
        }
        None
    }

    /// Takes a certain address for `uid` (a pod that runs already); `false` when it is another's
    /// or not one of ours.
    pub(crate) fn claim(&mut self, address: Ipv4Addr, uid: &str) -> bool {
        let ours = u32::from(address)
            .checked_sub(self.first())
            .is_some_and(|offset| offset < self.count());
        let free = self.held.get(&address).is_none_or(|holder| holder == uid);
        if ours && free {
            self.held.insert(address, uid.to_owned());
        }
        ours && free
    }

    /// Frees what `uid` holds.
    pub(crate) fn release(&mut self, uid: &str) {
        self.held.retain(|_, holder| holder != uid);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_given_back_is_given_out_last() {
        let mut ipam = Ipam::new("10.244.1.0/29".parse().unwrap());
        let a = ipam.allocate("a").unwrap();
        ipam.release("a");
        let others: Vec<_> = ["b", "c", "d", "e"].map(|uid| ipam.allocate(uid).unwrap()).into();
        assert!(!others.contains(&a));
        assert_eq!(ipam.allocate("f"), Some(a));
        assert_eq!(ipam.allocate("g"), None);
    }

    #[test]
    fn a_cidr_without_room_gives_nothing() {
        for cidr in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30", "255.255.255.255/32"] {
            let mut ipam = Ipam::new(cidr.parse().unwrap());
            let given = ipam.allocate("a");
            assert_eq!(given.is_some(), cidr.ends_with("/30"), "{cidr}: {given:?}");
        }
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
        fn no_address_is_ever_held_twice_or_outside(steps in steps()) {
            let cidr: Ipv4Net = "10.244.3.0/27".parse().unwrap();
            let mut ipam = Ipam::new(cidr);
            let mut model: HashMap<String, Ipv4Addr> = HashMap::new();
            for step in steps {
                match step {
                    Step::Allocate(uid) => {
                        let uid = uid.to_string();
                        if let Some(address) = ipam.allocate(&uid) {
                            prop_assert!(cidr.hosts().skip(1).any(|host| host == address));
                            prop_assert!(!model.iter().any(|(o, a)| *a == address && *o != uid));
                            model.insert(uid, address);
                        } else {
                            prop_assert_eq!(model.len(), 29);
                        }
                    }
                    Step::Release(uid) => {
                        ipam.release(&uid.to_string());
                        model.remove(&uid.to_string());
                    }
                    Step::Claim(host, uid) => {
                        let uid = uid.to_string();
                        let address = Ipv4Addr::new(10, 244, 3, host);
                        if !model.contains_key(&uid) && ipam.claim(address, &uid) {
                            prop_assert!(!model.values().any(|held| *held == address));
                            model.insert(uid, address);
                        }
                    }
                }
            }
        }
    }
}
