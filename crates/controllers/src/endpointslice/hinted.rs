//! Which Services have hints under `topology-mode: Auto`, and what is told of it.
//!
//! Kept besides the slices for two ends: an event when hints come or go, and another look at a
//! Service when the nodes have changed so that a zone has too few endpoints for its share. While
//! no Service asks for hints, a change of the nodes costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::endpoint::{AddressType, ZONE};
use super::plan::Hints;
use super::topology::{Shares, is_overloaded, shares};
use crate::cache::Change;
use crate::event::EventType;
use crate::object::{Key, Meta};

/// The Services that ask for hints, with what they have; nothing for one not planned yet.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    services: HashMap<Key, BTreeMap<AddressType, Hints>>,
    shares: Option<Arc<Shares>>,
    /// Whether `shares` are those of the nodes as they are.
    fresh: bool,
}

/// An event's type, reason and message.
type Told = (EventType, &'static str, String);

/// Whether a node's change can change the zones' shares.
pub(super) fn matters(change: &Change<'_, Node>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let ready = |n: &Node| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
        ready.map(|c| c.status.clone())
    };
    old.metadata.labels != new.metadata.labels
        || ready(old) != ready(new)
        || allocatable(old) != allocatable(new)
        || old.label(ZONE) != new.label(ZONE)
}

impl Hinted {
    /// The zones' shares, for a Service that asks for hints.
    pub(super) fn shares(
        &mut self,
        key: &Key,
        nodes: impl FnOnce() -> Vec<Arc<Node>>,
    ) -> Option<Arc<Shares>> {
        // From here on a change of the nodes brings the Service back.
        self.services.entry(key.clone()).or_default();
        if !self.fresh {
            self.shares = shares(&nodes()).map(Arc::new);
            self.fresh = true;
        }
        self.shares.clone()
    }

    /// The nodes have changed; returns the Services that need another look.
    pub(super) fn nodes_changed(&mut self, nodes: impl FnOnce() -> Vec<Arc<Node>>) -> Vec<Key> {
        if self.services.is_empty() {
            self.fresh = false;
            return Vec::new();
        }
        let new = shares(&nodes());
        if self.fresh && new.as_ref() == self.shares.as_deref() {
            return Vec::new();
        }
        self.shares = new.map(Arc::new);
        self.fresh = true;
        let shares = self.shares.as_deref();
        let suits = |hints: &Hints| match hints {
            Hints::On(allotted) => !is_overloaded(allotted, shares),
            Hints::Off | Hints::Refused(_) => false,
        };
        let mut keys: Vec<_> = self
            .services
            .iter()
            .filter(|(_, families)| families.is_empty() || !families.values().all(suits))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort();
        keys
    }

    /// Takes note of what a plan says of a Service's hints; returns what to tell about it.
    pub(super) fn observe(
        &mut self,
        key: &Key,
        family: AddressType,
        hints: &Hints,
    ) -> Option<Told> {
        let is_on = |hints: &Hints| matches!(hints, Hints::On(_));
        let of = |message: &str| format!("{message}, addressType: {}", family.as_str());
        if *hints == Hints::Off {
            let families = self.services.get_mut(key)?;
            let before = families.remove(&family);
            if families.is_empty() {
                self.services.remove(key);
            }
            let message = of("Topology Aware Hints has been disabled");
            return before
                .filter(is_on)
                .map(|_| (EventType::Warning, "TopologyAwareHintsDisabled", message));
        }
        let families = self.services.entry(key.clone()).or_default();
        let enabled = families.values().any(is_on);
        let before = families.insert(family, hints.clone());
        match hints {
            // Once, and not at every look.
            Hints::Refused(why) => (before.as_ref() != Some(hints))
                .then(|| (EventType::Warning, "TopologyAwareHintsDisabled", of(why))),
            Hints::On(_) => (!enabled).then(|| {
                let message = of("Topology Aware Hints has been enabled");
                (EventType::Normal, "TopologyAwareHintsEnabled", message)
            }),
            Hints::Off => None,
        }
    }

    /// The Service is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.services.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{labels, node};

    fn nodes(zones: &[&str]) -> Vec<Arc<Node>> {
        use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
        let of = |zone: &&str| {
            let mut node = node(zone);
            node.metadata.labels = Some(labels(&[(ZONE, zone)]));
            let cpu = BTreeMap::from([("cpu".to_owned(), Quantity("1".into()))]);
            node.status.as_mut().unwrap().allocatable = Some(cpu);
            Arc::new(node)
        };
        zones.iter().map(of).collect()
    }

    fn on(zones: &[(&str, usize)]) -> Hints {
        Hints::On(zones.iter().map(|(zone, n)| ((*zone).to_owned(), *n)).collect())
    }

    #[test]
    fn each_turn_is_told_once() {
        let mut hinted = Hinted::default();
        let key = Key::new("ns", "web");
        let mut told = |hints: Hints| {
            let told = hinted.observe(&key, AddressType::IPv4, &hints);
            told.map(|(_, reason, message)| (reason, message))
        };
        let few = || Hints::Refused("too few".into());
        let disabled = "TopologyAwareHintsDisabled";
        assert_eq!(told(Hints::Off), None);
        assert_eq!(told(few()), Some((disabled, "too few, addressType: IPv4".into())));
        assert_eq!(told(few()), None);
        let message = "Topology Aware Hints has been enabled, addressType: IPv4".to_owned();
        assert_eq!(told(on(&[("a", 1)])), Some(("TopologyAwareHintsEnabled", message)));
        assert_eq!(told(on(&[("a", 2)])), None);
        let message = "Topology Aware Hints has been disabled, addressType: IPv4".to_owned();
        assert_eq!(told(Hints::Off), Some((disabled, message)));
    }

    #[test]
    fn nodes_bring_back_whom_they_concern() {
        let mut hinted = Hinted::default();
        let (web, db) = (Key::new("ns", "web"), Key::new("ns", "db"));
        assert!(hinted.nodes_changed(|| panic!("nobody asked for hints")).is_empty());
        assert!(hinted.shares(&web, || nodes(&["a", "b"])).is_some());
        let unplanned = hinted.nodes_changed(|| nodes(&["a", "b", "c"]));
        assert_eq!(unplanned, std::slice::from_ref(&web));
        hinted.observe(&web, AddressType::IPv4, &on(&[("a", 6), ("b", 6), ("c", 1)]));
        hinted.observe(&db, AddressType::IPv4, &Hints::Refused("too few".into()));
        assert!(hinted.nodes_changed(|| nodes(&["a", "b", "c"])).is_empty(), "nothing is new");
        assert_eq!(hinted.nodes_changed(|| nodes(&["a", "b"])), std::slice::from_ref(&db));
        assert_eq!(hinted.nodes_changed(|| nodes(&["a", "d"])), [db, web]);
    }
}
