//! What is to be said to `iptables-restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portolan_model::{Delta, ForwardingTable, FrontKey, ServicePortName, SetId};

use crate::render::{
    Accounting, Chains, Jump, List, Options, Table, fixed, health_check, jumps, listed, lists,
};
use crate::service;
use crate::sight::{Has, Index, Sight};

/// Chains to be said anew, chains to go, and ways in to be made. Prints as the text that
/// `iptables-restore --noflush` takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Nothing means that the chain goes.
    pub(crate) chains: BTreeMap<(Table, String), Option<Vec<String>>>,
    /// Put before everything else in the kernel's chain; the last one ends up first.
    pub(crate) jumps: Vec<Jump>,
    /// Ways in that go: table, chain, rule.
    pub(crate) closed: Vec<(Table, String, String)>,
    /// Rules in whose place others come, in the same transaction: among rules that read alike, the first
    /// one is deleted, so that these go before the others are there.
    pub(crate) replaced: Vec<(Table, String, String)>,
    /// How many values of the table were looked at to make this.
    pub(crate) looks: usize,
    /// How many rules each table has less and more after it, those that are said anew in both.
    pub(crate) turnover: BTreeMap<Table, Turnover>,
}

/// How many rules of a table go, and how many come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turnover {
    pub(crate) gone: usize,
    pub(crate) come: usize,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty() && self.taken().next().is_none()
    }

    /// How many chains and rules are said or removed.
    pub fn operations(&self) -> usize {
        let rules = |rules: &Option<Vec<String>>| 1 + rules.as_ref().map_or(0, Vec::len);
        self.chains.values().map(rules).sum::<usize>() + self.jumps.len() + self.taken().count()
    }

    /// All rules that go by themselves.
    fn taken(&self) -> impl Iterator<Item = &(Table, String, String)> {
        self.closed.iter().chain(&self.replaced)
    }

    /// How many values of the table were looked up to make this plan of a delta: what its effort is
    /// measured by.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// How many tables are changed, each at once.
    pub(crate) fn tables(&self) -> usize {
        let of_jumps = self.jumps.iter().map(|(table, ..)| *table);
        let of_jumps = of_jumps.chain(self.taken().map(|(table, ..)| *table));
        self.chains.keys().map(|(table, _)| *table).chain(of_jumps).collect::<BTreeSet<_>>().len()
    }
}

/// One table's part of the text. A table is changed as a whole, one after the other: what is refused
/// in filter is said before nat sends it nowhere any more, and taken back after nat sends it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Section {
    table: Table,
    adds: bool,
    removes: bool,
}

const SECTIONS: [Section; 4] = [
    Section { table: Table::Mangle, adds: true, removes: true },
    Section { table: Table::Filter, adds: true, removes: false },
    Section { table: Table::Nat, adds: true, removes: true },
    Section { table: Table::Filter, adds: false, removes: true },
];

impl Plan {
    fn section(&self, section: Section, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Section { table, adds, removes } = section;
        let here = |of: &Table| *of == table;
        let chains = || self.chains.iter().filter(|((of, _), _)| here(of));
        let kept = || chains().filter(|(_, rules)| rules.is_some() && adds);
        let gone = || chains().filter(|(_, rules)| rules.is_none() && removes);
        let opened = || self.jumps.iter().filter(|(of, ..)| here(of) && adds);
        let closed = || {
            let replaced = self.replaced.iter().filter(|(of, ..)| here(of) && adds);
            replaced.chain(self.closed.iter().filter(|(of, ..)| here(of) && removes))
        };
        if kept().next().is_none()
            && gone().next().is_none()
            && opened().next().is_none()
            && closed().next().is_none()
        {
            return Ok(());
        }
        writeln!(f, "*{table}")?;
        for ((_, chain), _) in
            chains().filter(|(_, rules)| rules.is_some() && adds || rules.is_none() && removes)
        {
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for ((_, chain), rules) in kept() {
            for rule in rules.iter().flatten() {
                writeln!(f, "-A {chain} {rule}")?;
            }
        }
        for (_, chain, rule) in closed() {
            writeln!(f, "-D {chain} {rule}")?;
        }
        for (_, chain, rule) in opened() {
            writeln!(f, "-I {chain} {rule}")?;
        }
        for ((_, chain), _) in gone() {
            writeln!(f, "-X {chain}")?;
        }
        writeln!(f, "COMMIT")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SECTIONS.into_iter().try_for_each(|section| self.section(section, f))
    }
}

/// Makes plans, without a kernel; the family is the table's.
#[derive(Debug, Clone)]
pub struct Planner {
    options: Options,
    /// Of the table that the kernel holds, once it is known to hold one.
    index: Option<Index>,
}

impl Planner {
    /// A planner with these options.
    pub fn new(options: Options) -> Self {
        Self { options, index: None }
    }

    /// What makes a kernel without rules of ours hold this table.
    pub fn full(&self, table: &ForwardingTable) -> Plan {
        let chains = self.all(table).into_iter().map(|(key, rules)| (key, Some(rules))).collect();
        let mut jumps = self.jumps(table);
        jumps.reverse();
        let mut plan = Plan { chains, jumps, ..Plan::default() };
        plan.count(&Chains::new());
        plan
    }

    pub(crate) fn jumps(&self, table: &ForwardingTable) -> Vec<Jump> {
        jumps(table.settings.localhost_node_ports)
    }

    /// Every chain of a table.
    fn all(&self, table: &ForwardingTable) -> Chains {
        let mut chains = fixed(&self.options, table);
        chains.extend(lists(self.options.accounting, table));
        let sight = Sight::of(table);
        for (port, has) in Index::of(table).ports() {
            let parts = sight.parts(port, &has.fronts, &has.sets);
            chains.extend(service::chains(&sight, port, &parts));
        }
        chains
    }

    /// What makes a kernel that holds the table before `delta` hold `table`, the one after it: the
    /// chains of the Service ports that changed, and the rules that list the fronts that changed. From
    /// [`Planner::holds`] on it costs in proportion to the delta.
    pub fn delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        if delta.settings.is_some() {
            return self.between(&undo(table, delta), table);
        }
        let (before, after) = (Sight::before(table, delta), Sight::of(table));
        let whole;
        let index = match &self.index {
            Some(index) => index,
            None => {
                whole = Index::of(table);
                &whole
            }
        };
        let (mut old, mut new) = (Chains::new(), Chains::new());
        for (port, has) in touched(index, &after, delta) {
            for (sight, chains) in [(&before, &mut old), (&after, &mut new)] {
                let parts = sight.parts(&port, &has.fronts, &has.sets);
                chains.extend(service::chains(sight, &port, &parts));
            }
        }
        let mut plan = Plan { chains: difference(&old, new), ..Plan::default() };
        plan.relist(self.options.accounting, &before, &after, delta);
        plan.count(&old);
        plan.looks = before.looks() + after.looks();
        plan
    }

    /// Takes note that the kernel holds a table.
    pub fn holds(&mut self, table: &ForwardingTable) {
        self.index = Some(Index::of(table));
    }

    /// Takes note that the kernel holds the table after a delta.
    pub fn followed(&mut self, delta: &Delta) {
        if let Some(index) = &mut self.index {
            index.follow(delta);
        }
    }

    /// Takes note that nobody knows what the kernel holds.
    pub fn forget(&mut self) {
        self.index = None;
    }

    fn between(&self, before: &ForwardingTable, table: &ForwardingTable) -> Plan {
        let (had, mut jumps) = (self.jumps(before), self.jumps(table));
        let closed = had.iter().filter(|jump| !jumps.contains(jump));
        let closed = closed.map(|(of, chain, rule)| (*of, (*chain).to_owned(), rule.clone()));
        let closed = closed.collect();
        jumps.retain(|jump| !had.contains(jump));
        let old = self.all(before);
        let chains = difference(&old, self.all(table));
        let mut plan = Plan { chains, jumps, closed, ..Plan::default() };
        plan.count(&old);
        plan
    }
}

impl Plan {
    /// The rules that list fronts and health-check node ports that changed.
    fn relist(&mut self, accounting: Accounting, before: &Sight, after: &Sight, delta: &Delta) {
        for key in delta.fronts.keys() {
            let rules = |sight: &Sight| {
                let front = sight.front(key);
                front.map(|front| listed(sight, accounting, key, front)).unwrap_or_default()
            };
            let (old, new) = (rules(before), rules(after));
            for list in List::ALL {
                let of = |rules: &[(List, String)]| -> Vec<String> {
                    let here = rules.iter().filter(|(of, _)| *of == list);
                    here.map(|(_, rule)| rule.clone()).collect()
                };
                self.replace(list, of(&old), of(&new));
            }
        }
        for (port, change) in &delta.health_checks {
            let [old, new] = [&change.before, &change.after]
                .map(|check| check.iter().map(|check| health_check(*port, check)).collect());
            self.replace(List::HealthChecks, old, new);
        }
    }

    /// Counts what comes and goes where these chains, or some more, were.
    fn count(&mut self, old: &Chains) {
        let turnover = &mut self.turnover;
        let mut note = |table: Table, gone: usize, come: usize| {
            let noted = turnover.entry(table).or_default();
            noted.gone += gone;
            noted.come += come;
        };
        for (key, rules) in &self.chains {
            let gone = old.get(key).map_or(0, Vec::len);
            note(key.0, gone, rules.as_ref().map_or(0, Vec::len));
        }
        self.jumps.iter().for_each(|(table, ..)| note(*table, 0, 1));
        let taken = self.closed.iter().chain(&self.replaced);
        taken.for_each(|(table, ..)| note(*table, 1, 0));
    }

    fn replace(&mut self, list: List, old: Vec<String>, new: Vec<String>) {
        if old == new {
            return;
        }
        let (table, chain) = list.chain();
        let taken = if new.is_empty() { &mut self.closed } else { &mut self.replaced };
        taken.extend(old.into_iter().map(|rule| (table, chain.to_owned(), rule)));
        // Each goes before those that are there.
        self.jumps.extend(new.into_iter().rev().map(|rule| (table, chain, rule)));
    }
}

fn difference(old: &Chains, new: Chains) -> BTreeMap<(Table, String), Option<Vec<String>>> {
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), None));
    let mut chains: BTreeMap<_, _> = gone.collect();
    chains.extend(
        new.into_iter()
            .filter(|(key, rules)| old.get(key) != Some(rules))
            .map(|(key, rules)| (key, Some(rules))),
    );
    chains
}

/// The table that a delta was computed from.
fn undo(table: &ForwardingTable, delta: &Delta) -> ForwardingTable {
    let mut back = delta.clone();
    back.fronts.values_mut().for_each(turn);
    back.sets.values_mut().for_each(turn);
    back.cluster_ips.values_mut().for_each(turn);
    back.hairpins.values_mut().for_each(turn);
    back.health_checks.values_mut().for_each(turn);
    back.settings.iter_mut().for_each(turn);
    let mut before = table.clone();
    before.apply(&back);
    before
}

fn turn<T>(change: &mut portolan_model::Change<T>) {
    std::mem::swap(&mut change.before, &mut change.after);
}

/// The Service ports whose chains a delta may change, with all that they have at either end of it.
fn touched(index: &Index, after: &Sight, delta: &Delta) -> BTreeMap<ServicePortName, Has> {
    let mut touched = BTreeMap::new();
    let mut add = |port: &ServicePortName, key: Option<FrontKey>, id: Option<SetId>| {
        let known = || index.has(port).cloned().unwrap_or_default();
        let has = touched.entry(port.clone()).or_insert_with(known);
        has.fronts.extend(key);
        has.sets.extend(id);
    };
    for (key, change) in &delta.fronts {
        let fronts = [&change.before, &change.after].into_iter().flatten();
        fronts.for_each(|front| add(&front.port, Some(*key), None));
    }
    for (id, change) in &delta.sets {
        let sets = [&change.before, &change.after].into_iter().flatten();
        sets.for_each(|set| add(&set.port, None, Some(*id)));
    }
    for ip in delta.hairpins.keys() {
        let sets = index.leading_to(*ip).filter_map(|id| after.set(id));
        sets.for_each(|set| add(&set.port, None, None));
    }
    touched
}
