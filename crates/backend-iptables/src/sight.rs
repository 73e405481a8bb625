//! A table as it is, or as it was before a delta, looked at key by key.
//!
//! Invariant: nothing here goes through a table as a whole; [`Index`] does so once, and follows every
//! delta from then on.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    Delta, EndpointSet, ForwardingTable, Front, FrontKey, ServicePortName, SetId,
};

use crate::service::Parts;

/// A table, at one of the two ends of a delta that leaves its settings as they are.
#[derive(Debug)]
pub(crate) struct Sight<'a> {
    table: &'a ForwardingTable,
    /// What to look back over.
    delta: Option<&'a Delta>,
    looks: Cell<usize>,
}

impl<'a> Sight<'a> {
    pub(crate) fn of(table: &'a ForwardingTable) -> Self {
        Self { table, delta: None, looks: Cell::new(0) }
    }

    /// The table before `delta`, which led to `table`.
    pub(crate) fn before(table: &'a ForwardingTable, delta: &'a Delta) -> Self {
        Self { delta: Some(delta), ..Self::of(table) }
    }

    /// The table whose settings and family these are; its maps are those after the delta.
    pub(crate) fn table(&self) -> &'a ForwardingTable {
        self.table
    }

    /// How many values were looked up.
    pub(crate) fn looks(&self) -> usize {
        self.looks.get()
    }

    pub(crate) fn front(&self, key: &FrontKey) -> Option<&'a Front> {
        self.looks.set(self.looks.get() + 1);
        match self.delta.and_then(|delta| delta.fronts.get(key)) {
            Some(change) => change.before.as_ref(),
            None => self.table.fronts.get(key),
        }
    }

    pub(crate) fn set(&self, id: SetId) -> Option<&'a Arc<EndpointSet>> {
        self.looks.set(self.looks.get() + 1);
        match self.delta.and_then(|delta| delta.sets.get(&id)) {
            Some(change) => change.before.as_ref(),
            None => self.table.sets.get(&id),
        }
    }

    pub(crate) fn may_reach_itself(&self, ip: IpAddr) -> bool {
        self.looks.set(self.looks.get() + 1);
        match self.delta.and_then(|delta| delta.hairpins.get(&ip)) {
            Some(change) => change.before.is_some(),
            None => self.table.hairpins.contains(&ip),
        }
    }

    /// What a Service port has, out of what it may have.
    pub(crate) fn parts(
        &self,
        port: &ServicePortName,
        keys: &BTreeSet<FrontKey>,
        ids: &BTreeSet<SetId>,
    ) -> Parts<'a> {
        let front = |key: &FrontKey| Some((*key, self.front(key)?));
        let fronts = keys.iter().filter_map(front).filter(|(_, front)| front.port == *port);
        let sets = ids.iter().filter_map(|id| self.set(*id)).filter(|set| set.port == *port);
        Parts { fronts: fronts.collect(), sets: sets.collect() }
    }
}

/// What each Service port has, and which sets lead to an address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    ports: BTreeMap<ServicePortName, Has>,
    sets: BTreeMap<IpAddr, BTreeSet<SetId>>,
}

/// What a Service port has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Has {
    pub(crate) fronts: BTreeSet<FrontKey>,
    pub(crate) sets: BTreeSet<SetId>,
}

impl Index {
    /// Goes through a whole table.
    pub(crate) fn of(table: &ForwardingTable) -> Self {
        let mut index = Self::default();
        table.fronts.iter().for_each(|(key, front)| index.add_front(*key, front));
        table.sets.iter().for_each(|(id, set)| index.add_set(*id, set));
        index
    }

    pub(crate) fn has(&self, port: &ServicePortName) -> Option<&Has> {
        self.ports.get(port)
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = (&ServicePortName, &Has)> {
        self.ports.iter()
    }

    /// The sets that lead to an address.
    pub(crate) fn leading_to(&self, ip: IpAddr) -> impl Iterator<Item = SetId> + '_ {
        self.sets.get(&ip).into_iter().flatten().copied()
    }

    /// Takes note of a delta.
    pub(crate) fn follow(&mut self, delta: &Delta) {
        for (key, change) in &delta.fronts {
            if let Some(front) = &change.before {
                self.lose(&front.port, |has| has.fronts.remove(key));
            }
            if let Some(front) = &change.after {
                self.add_front(*key, front);
            }
        }
        for (id, change) in &delta.sets {
            if let Some(set) = &change.before {
                self.lose(&set.port, |has| has.sets.remove(id));
                for target in set.targets.as_slice() {
                    let ip = target.address.ip();
                    let Some(ids) = self.sets.get_mut(&ip) else { continue };
                    ids.remove(id);
                    if ids.is_empty() {
                        self.sets.remove(&ip);
                    }
                }
            }
            if let Some(set) = &change.after {
                self.add_set(*id, set);
            }
        }
    }

    fn add_front(&mut self, key: FrontKey, front: &Front) {
        self.ports.entry(front.port.clone()).or_default().fronts.insert(key);
    }

    fn add_set(&mut self, id: SetId, set: &EndpointSet) {
        self.ports.entry(set.port.clone()).or_default().sets.insert(id);
        for target in set.targets.as_slice() {
            self.sets.entry(target.address.ip()).or_default().insert(id);
        }
    }

    fn lose(&mut self, port: &ServicePortName, lose: impl FnOnce(&mut Has) -> bool) {
        let Some(has) = self.ports.get_mut(port) else { return };
        lose(has);
        if *has == Has::default() {
            self.ports.remove(port);
        }
    }
}
