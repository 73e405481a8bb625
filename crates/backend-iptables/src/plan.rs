//! What is to be said to `iptables-restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portolan_model::{Delta, ForwardingTable, ServicePortName};

use crate::render::{Chains, Jump, Options, Table, fixed, jumps, portals};
use crate::service::{self, Parts};

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
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty() && self.closed.is_empty()
    }

    /// How many chains and rules are said or removed.
    pub fn operations(&self) -> usize {
        let rules = |rules: &Option<Vec<String>>| 1 + rules.as_ref().map_or(0, Vec::len);
        self.chains.values().map(rules).sum::<usize>() + self.jumps.len() + self.closed.len()
    }

    /// How many tables are changed, each at once.
    pub(crate) fn tables(&self) -> usize {
        let of_jumps = self.jumps.iter().map(|(table, ..)| *table);
        let of_jumps = of_jumps.chain(self.closed.iter().map(|(table, ..)| *table));
        self.chains.keys().map(|(table, _)| *table).chain(of_jumps).collect::<BTreeSet<_>>().len()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in Table::ALL {
            let chains = || self.chains.iter().filter(|((of, _), _)| *of == table);
            let jumps = || self.jumps.iter().filter(|(of, ..)| *of == table);
            let closed = || self.closed.iter().filter(|(of, ..)| *of == table);
            if chains().next().is_none() && jumps().next().is_none() && closed().next().is_none() {
                continue;
            }
            writeln!(f, "*{table}")?;
            for ((_, chain), _) in chains() {
                writeln!(f, ":{chain} - [0:0]")?;
            }
            for ((_, chain), rules) in chains() {
                for rule in rules.iter().flatten() {
                    writeln!(f, "-A {chain} {rule}")?;
                }
            }
            for (_, chain, rule) in closed() {
                writeln!(f, "-D {chain} {rule}")?;
            }
            for (_, chain, rule) in jumps() {
                writeln!(f, "-I {chain} {rule}")?;
            }
            for ((_, chain), _) in chains().filter(|(_, rules)| rules.is_none()) {
                writeln!(f, "-X {chain}")?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

/// Makes plans, without a kernel; the family is the table's.
#[derive(Debug, Clone)]
pub struct Planner {
    options: Options,
}

impl Planner {
    /// A planner with these options.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// What makes a kernel without rules of ours hold this table.
    pub fn full(&self, table: &ForwardingTable) -> Plan {
        let chains = self.all(table).into_iter().map(|(key, rules)| (key, Some(rules))).collect();
        let mut jumps = self.jumps(table);
        jumps.reverse();
        Plan { chains, jumps, closed: Vec::new() }
    }

    pub(crate) fn jumps(&self, table: &ForwardingTable) -> Vec<Jump> {
        jumps(table.settings.localhost_node_ports)
    }

    /// Every chain of a table.
    pub(crate) fn all(&self, table: &ForwardingTable) -> Chains {
        let mut chains = fixed(&self.options, table);
        chains.extend(portals(table));
        for (port, parts) in parts(table, |_| true) {
            chains.extend(service::chains(table, &port, &parts));
        }
        chains
    }

    /// What makes a kernel that holds the table before `delta` hold `table`, the one after it: the
    /// chains of the Service ports that changed and, when fronts did, the lists of fronts.
    pub fn delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        let before = undo(table, delta);
        if delta.settings.is_some() {
            return self.between(&before, table);
        }
        let ports = touched(table, delta);
        let (mut old, mut new) = (Chains::new(), Chains::new());
        for (port, parts) in parts(&before, |port| ports.contains(port)) {
            old.extend(service::chains(&before, &port, &parts));
        }
        for (port, parts) in parts(table, |port| ports.contains(port)) {
            new.extend(service::chains(table, &port, &parts));
        }
        if !delta.fronts.is_empty() || !delta.health_checks.is_empty() {
            old.extend(portals(&before));
            new.extend(portals(table));
        }
        Plan { chains: difference(&old, new), jumps: Vec::new(), closed: Vec::new() }
    }

    fn between(&self, before: &ForwardingTable, table: &ForwardingTable) -> Plan {
        let had = self.jumps(before);
        let mut jumps = self.jumps(table);
        jumps.retain(|jump| !had.contains(jump));
        let mut chains = difference(&self.all(before), self.all(table));
        // Ways into a chain are never taken away, so the chain stays, without rules.
        if let Some(rules) = chains.get_mut(&(Table::Filter, "KUBE-FIREWALL".to_owned()))
            && rules.is_none()
        {
            *rules = Some(Vec::new());
        }
        Plan { chains, jumps, closed: Vec::new() }
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

/// The Service ports whose chains a delta may change.
fn touched(table: &ForwardingTable, delta: &Delta) -> BTreeSet<ServicePortName> {
    let fronts = delta.fronts.values().flat_map(|change| [&change.before, &change.after]);
    let sets = delta.sets.values().flat_map(|change| [&change.before, &change.after]);
    let mut ports: BTreeSet<_> = fronts.flatten().map(|front| front.port.clone()).collect();
    ports.extend(sets.flatten().map(|set| set.port.clone()));
    if !delta.hairpins.is_empty() {
        let turned = |set: &portolan_model::EndpointSet| {
            let targets = set.targets.as_slice().iter();
            targets.map(|target| target.address.ip()).any(|ip| delta.hairpins.contains_key(&ip))
        };
        ports.extend(table.sets.values().filter(|set| turned(set)).map(|set| set.port.clone()));
    }
    ports
}

fn parts(
    table: &ForwardingTable,
    wanted: impl Fn(&ServicePortName) -> bool,
) -> BTreeMap<ServicePortName, Parts<'_>> {
    let mut parts = BTreeMap::<_, Parts>::new();
    for (key, front) in table.fronts.iter().filter(|(_, front)| wanted(&front.port)) {
        parts.entry(front.port.clone()).or_default().fronts.push((key, front));
    }
    for set in table.sets.values().filter(|set| wanted(&set.port)) {
        parts.entry(set.port.clone()).or_default().sets.push(set);
    }
    parts
}
