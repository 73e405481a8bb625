//! Which Services have hints under `topology-mode: Auto`, and what is told of it.
//!
//! Kept besides the slices for two ends: an event when hints come or go, and another look at a
//! Service when the nodes have changed so that a zone has too few endpoints for its share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::endpoint::{AddressType, ZONE};
use super::plan::Hints;
use super::topology::{Allotted, Shares, is_overloaded, shares};
use crate::cache::Change;
use crate::event::EventType;
use crate::object::{Key, Meta};

/// The Services that ask for hints; none allotted to one that cannot have them.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    services: HashMap<Key, BTreeMap<AddressType, Option<Allotted>>>,
    shares: Option<Arc<Shares>>,
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
    pub(super) fn shares(&self) -> Option<Arc<Shares>> {
        self.shares.clone()
    }

    /// These are the nodes now; returns the Services that need another look.
    pub(super) fn nodes_are(&mut self, nodes: &[Arc<Node>]) -> Vec<Key> {
        let fresh = shares(nodes);
        if fresh.as_ref() == self.shares.as_deref() {
            return Vec::new();
        }
        self.shares = fresh.map(Arc::new);
        let shares = self.shares.as_deref();
        let mut keys: Vec<_> = self
            .services
            .iter()
            .filter(|(_, families)| {
                families.values().any(|f| f.as_ref().is_none_or(|a| is_overloaded(a, shares)))
            })
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
        let had = |families: &BTreeMap<AddressType, Option<Allotted>>| {
            families.values().any(Option::is_some)
        };
        let of = |message: &str| format!("{message}, addressType: {}", family.as_str());
        match hints {
            Hints::Off => {
                let families = self.services.get_mut(key)?;
                let had = families.remove(&family).is_some_and(|allotted| allotted.is_some());
                if families.is_empty() {
                    self.services.remove(key);
                }
                let message = of("Topology Aware Hints has been disabled");
                had.then_some((EventType::Warning, "TopologyAwareHintsDisabled", message))
            }
            Hints::Refused(why) => {
                self.services.entry(key.clone()).or_default().insert(family, None);
                Some((EventType::Warning, "TopologyAwareHintsDisabled", of(why)))
            }
            Hints::On(allotted) => {
                let families = self.services.entry(key.clone()).or_default();
                let before = had(families);
                families.insert(family, Some(allotted.clone()));
                let message = of("Topology Aware Hints has been enabled");
                (!before).then_some((EventType::Normal, "TopologyAwareHintsEnabled", message))
            }
        }
    }

    /// The Service is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.services.remove(key);
    }
}
