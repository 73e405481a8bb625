//! The whole content of our table, as a value: rendered from a forwarding table, or read from a dump.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_model::{ForwardingTable, NodePortAddresses, Settings};
use portolan_netlink::nft::{Data, Dump, Element, ElementData, Name, Set};

use crate::layout::{Class, Layout};
use crate::rules::{self, ChainRules};

/// Everything that our table holds; without sets and chains when there is no table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) sets: BTreeMap<Name, Content>,
    pub(crate) chains: BTreeMap<Name, ChainRules>,
}

/// A set with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) set: Arc<Set>,
    pub(crate) elements: BTreeMap<Data, ElementData>,
}

impl Ruleset {
    /// What the kernel should hold for a table of these settings, whose sets are of these classes, but
    /// for what fronts, sets and addresses there are.
    pub(crate) fn skeleton(
        layout: &Layout,
        settings: &Settings,
        classes: &BTreeSet<Class>,
    ) -> Self {
        let mut ruleset = Self::default();
        for set in layout.sets() {
            let content = Content { set: set.clone(), elements: BTreeMap::new() };
            ruleset.sets.insert(set.name.clone(), content);
        }
        for element in layout.refusal_elements() {
            ruleset.add(&layout.refusals, element);
        }
        for class in classes {
            for (lane, map) in &layout.by_size {
                ruleset.add(map, layout.class(*lane, *class));
                ruleset.chain(rules::balance(layout, *lane, *class));
            }
        }
        for chain in rules::fixed(layout, settings) {
            ruleset.chain(chain);
        }
        ruleset
    }

    /// What the kernel should hold for a forwarding table.
    pub(crate) fn render(layout: &Layout, table: &ForwardingTable) -> Self {
        let mut ruleset = Self::skeleton(layout, &table.settings, &classes(table));
        for (key, front) in &table.fronts {
            let (map, element) = layout.front(key, front);
            ruleset.add(map, element);
            if let Some((set, guarded)) = layout.guarded(key, front) {
                ruleset.add(set, guarded);
            }
            let (set, admitted) = layout.admitted(key, front);
            for admitted in admitted {
                ruleset.add(set, Element::new(admitted));
            }
        }
        for (id, set) in &table.sets {
            ruleset.add(&layout.set_sizes, layout.set_size(*id, set));
            for (slot, target) in set.targets.as_slice().iter().enumerate() {
                let (map, element) = layout.slot(*id, set, slot, target);
                ruleset.add(map, element);
                if let Some(live) = layout.live(*id, set, target) {
                    ruleset.add(&layout.live, live);
                }
            }
        }
        for address in &table.cluster_ips {
            ruleset.add(&layout.cluster_ips, layout.address(*address));
        }
        for element in node_port_addresses(layout, &table.settings) {
            ruleset.add(&layout.node_port_addresses, element);
        }
        for address in &table.hairpins {
            ruleset.add(&layout.hairpins, layout.hairpin(*address));
        }
        ruleset
    }

    /// What the kernel holds.
    pub(crate) fn read(dump: Dump) -> Self {
        let mut ruleset = Self::default();
        for (set, elements) in dump.sets {
            let elements = elements.into_iter().map(|element| (element.key, element.data));
            let content = Content { elements: elements.collect(), set: set.clone() };
            ruleset.sets.insert(set.name.clone(), content);
        }
        for chain in dump.chains {
            ruleset.chain(ChainRules { chain, rules: Vec::new() });
        }
        for (_, rule) in dump.rules {
            if let Some(chain) = ruleset.chains.get_mut(&rule.chain) {
                chain.rules.push(rule);
            }
        }
        ruleset
    }

    /// Whether a kernel that holds this can be brought to `wanted` by adding and removing: no set and
    /// no chain of the same name is of another kind.
    pub(crate) fn can_become(&self, wanted: &Self) -> bool {
        let same_sets = wanted.sets.iter().all(|(name, content)| {
            self.sets.get(name).is_none_or(|present| present.set == content.set)
        });
        let same_chains = wanted.chains.iter().all(|(name, chain)| {
            self.chains.get(name).is_none_or(|present| present.chain == chain.chain)
        });
        same_sets && same_chains
    }

    fn add(&mut self, set: &Arc<Set>, element: Element) {
        let content = self
            .sets
            .entry(set.name.clone())
            .or_insert_with(|| Content { set: set.clone(), elements: BTreeMap::new() });
        content.elements.insert(element.key, element.data);
    }

    fn chain(&mut self, chain: ChainRules) {
        self.chains.insert(chain.chain.name.clone(), chain);
    }
}

/// The classes of the table's sets.
pub(crate) fn classes(table: &ForwardingTable) -> BTreeSet<Class> {
    table.sets.values().map(|set| Class::of(set)).collect()
}

/// The addresses at which node ports answer, when they are listed.
pub(crate) fn node_port_addresses(layout: &Layout, settings: &Settings) -> Vec<Element> {
    match &settings.node_port_addresses {
        NodePortAddresses::AllLocal => Vec::new(),
        NodePortAddresses::Only(addresses) => {
            addresses.iter().map(|address| layout.address(*address)).collect()
        }
    }
}
