//! A model of the kernel that takes the text of `iptables-restore --noflush` and walks packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use portolan_model::{Arrival, Packet};

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Sent { to: SocketAddr, masqueraded: bool },
    Rejected,
    Dropped,
    Passed,
}

type Rule = Vec<String>;

/// The rules of every chain, by table and chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    chains: BTreeMap<(String, String), Vec<Rule>>,
}

const BUILTIN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Chains that list fronts.
const LISTS: [&str; 4] =
    ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"];

/// How a walk through one chain may end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Back { marked: bool },
    Sent { to: SocketAddr, marked: bool },
    Rejected,
    Dropped,
    Accepted,
}

impl Machine {
    /// Takes a text; each table is changed as a whole or not at all.
    pub(crate) fn restore(&mut self, text: &str) -> Result<(), String> {
        let mut table = None;
        let mut next = self.chains.clone();
        for line in text.lines() {
            let chain = |name: &str| {
                let table: Option<String> = table.clone();
                table.map(|table| (table, name.to_owned())).ok_or(format!("no table: {line}"))
            };
            if let Some(name) = line.strip_prefix('*') {
                table = Some(name.to_owned());
                for each in BUILTIN {
                    next.entry((name.to_owned(), each.to_owned())).or_default();
                }
            } else if let Some(rest) = line.strip_prefix(':') {
                let name = rest.strip_suffix(" - [0:0]").ok_or(line)?;
                if name.len() > 28 {
                    return Err(format!("chain name too long: {name}"));
                }
                next.insert(chain(name)?, Vec::new());
            } else if line == "COMMIT" {
                self.chains = sound(next.clone())?;
            } else {
                let words = words(line)?;
                let [verb, name, rule @ ..] = words.as_slice() else { return Err(line.into()) };
                let key = chain(name)?;
                let Some(rules) = next.get_mut(&key) else {
                    return Err(format!("no chain: {line}"));
                };
                match verb.as_str() {
                    "-A" => rules.push(rule.to_vec()),
                    "-I" => rules.insert(0, rule.to_vec()),
                    "-D" => {
                        let at = rules.iter().position(|there| there == rule);
                        rules.remove(at.ok_or_else(|| format!("no such rule: {line}"))?);
                    }
                    "-X" if rules.is_empty() => drop(next.remove(&key)),
                    _ => return Err(format!("not understood: {line}")),
                }
            }
        }
        Ok(())
    }

    /// Every chain with its rules; those of chains that list fronts in any order.
    pub(crate) fn chains(&self) -> BTreeMap<(String, String), Vec<Rule>> {
        let mut chains = self.chains.clone();
        for ((_, chain), rules) in &mut chains {
            if LISTS.contains(&chain.as_str()) {
                rules.sort();
            }
        }
        chains
    }

    /// What may become of the first packet of a connection on a node with these addresses.
    pub(crate) fn fates(&self, packet: &Packet, local: &[IpAddr]) -> BTreeSet<Fate> {
        let hook = match packet.arrival {
            Arrival::SentHere => "OUTPUT",
            Arrival::Interface(_) => "PREROUTING",
        };
        let way = Way { machine: self, packet, local };
        let mut fates = BTreeSet::new();
        for end in way.walk("nat", hook, false) {
            match end {
                End::Sent { to, marked } => {
                    fates.insert(Fate::Sent { to, masqueraded: way.is_masqueraded(marked) });
                }
                _ => fates.extend(way.filtered()),
            }
        }
        fates
    }
}

/// Refuses what the kernel would: a rule that leads nowhere.
fn sound(
    chains: BTreeMap<(String, String), Vec<Rule>>,
) -> Result<BTreeMap<(String, String), Vec<Rule>>, String> {
    for ((table, chain), rules) in &chains {
        for rule in rules {
            let target = rule.iter().position(|word| word == "-j").and_then(|at| rule.get(at + 1));
            let Some(target) = target else { continue };
            let is_ours = target.starts_with("KUBE-");
            if is_ours && !chains.contains_key(&(table.clone(), target.clone())) {
                return Err(format!("{table} {chain} leads to {target}, which is not there"));
            }
        }
    }
    Ok(chains)
}

fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    let is_whole = line.matches('"').count().is_multiple_of(2);
    is_whole.then_some(words).ok_or(format!("open quotes: {line}"))
}

struct Way<'a> {
    machine: &'a Machine,
    packet: &'a Packet,
    local: &'a [IpAddr],
}

impl Way<'_> {
    fn filtered(&self) -> Vec<Fate> {
        let here = self.is_local(self.packet.destination);
        let hook = match self.packet.arrival {
            Arrival::SentHere => "OUTPUT",
            Arrival::Interface(_) if here => "INPUT",
            Arrival::Interface(_) => "FORWARD",
        };
        let fate = |end| match end {
            End::Rejected => Fate::Rejected,
            End::Dropped => Fate::Dropped,
            _ => Fate::Passed,
        };
        self.walk("filter", hook, false).into_iter().map(fate).collect()
    }

    fn is_masqueraded(&self, marked: bool) -> bool {
        let ends = self.walk("nat", "POSTROUTING", marked);
        ends.contains(&End::Accepted)
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.local.contains(&ip)
    }

    /// Every way in which a chain may end for the packet.
    fn walk(&self, table: &str, chain: &str, marked: bool) -> BTreeSet<End> {
        let key = (table.to_owned(), chain.to_owned());
        let mut marks = BTreeSet::from([marked]);
        let mut ends = BTreeSet::new();
        for rule in self.machine.chains.get(&key).into_iter().flatten() {
            let mut after = BTreeSet::new();
            for marked in marks {
                let Some(is_random) = self.matches(rule, marked) else {
                    after.insert(marked);
                    continue;
                };
                if is_random {
                    after.insert(marked);
                }
                for end in self.target(table, rule, marked) {
                    match end {
                        Some(End::Back { marked }) => drop(after.insert(marked)),
                        Some(end) => drop(ends.insert(end)),
                        None => drop(ends.insert(End::Back { marked })),
                    }
                }
            }
            marks = after;
        }
        ends.extend(marks.into_iter().map(|marked| End::Back { marked }));
        ends
    }

    /// Whether a rule is about the packet: nothing if not, and whether by chance.
    fn matches(&self, rule: &Rule, marked: bool) -> Option<bool> {
        let mut is_random = false;
        let mut negated = false;
        let mut words = rule.iter();
        while let Some(word) = words.next() {
            if word == "!" {
                negated = true;
                continue;
            }
            let mut value = || words.next().map(String::as_str).unwrap_or_default();
            let transport = self.packet.transport;
            let holds = match word.as_str() {
                "-m" | "--comment" | "--mode" | "--name" | "--seconds" | "--nfacct-name" => {
                    !value().is_empty()
                }
                "--set" | "--reap" => true,
                // Any client may have been here before.
                "--rcheck" => {
                    is_random = true;
                    true
                }
                "-i" => is_named(value(), &self.packet.arrival),
                "--probability" => {
                    is_random = value().parse::<f64>().unwrap() < 1.0;
                    true
                }
                "-s" => contains(value(), self.packet.source),
                "-d" => contains(value(), self.packet.destination),
                "-p" => {
                    let name = value();
                    transport.is_some_and(|t| t.protocol.to_string().to_lowercase() == name)
                }
                "--dport" => {
                    let port = value().parse().ok();
                    transport.is_some_and(|t| Some(t.port) == port)
                }
                "--dst-type" => value() == "LOCAL" && self.is_local(self.packet.destination),
                "--src-type" => value() == "LOCAL" && self.is_local(self.packet.source),
                "--ctstate" => value().split(',').any(|state| state == "NEW"),
                "--mark" => value() == "0x4000/0x4000" && marked,
                "-j" => break,
                other => panic!("not understood: {other} in {rule:?}"),
            };
            if holds == negated {
                return None;
            }
            negated = false;
        }
        Some(is_random)
    }

    /// What a rule's target does; nothing is a return.
    fn target(&self, table: &str, rule: &Rule, marked: bool) -> Vec<Option<End>> {
        let Some(at) = rule.iter().position(|word| word == "-j") else {
            return vec![Some(End::Back { marked })];
        };
        let rest: Vec<_> = rule[at + 1..].iter().map(String::as_str).collect();
        match rest.as_slice() {
            ["RETURN"] => vec![None],
            ["DROP"] => vec![Some(End::Dropped)],
            ["REJECT"] | ["REJECT", "--reject-with", "tcp-reset"] => vec![Some(End::Rejected)],
            ["ACCEPT"] | ["MASQUERADE", "--random-fully"] => vec![Some(End::Accepted)],
            ["MARK", "--or-mark", "0x4000"] => vec![Some(End::Back { marked: true })],
            ["MARK", "--xor-mark", "0x4000"] => vec![Some(End::Back { marked: !marked })],
            ["DNAT", "--to-destination", to] => {
                vec![Some(End::Sent { to: to.parse().unwrap(), marked })]
            }
            [chain] => self.walk(table, chain, marked).into_iter().map(Some).collect(),
            other => panic!("not understood: {other:?}"),
        }
    }
}

/// Whether a packet came in at an interface of this name; a plus at its end stands for any rest.
fn is_named(name: &str, arrival: &Arrival) -> bool {
    match (arrival, name.strip_suffix('+')) {
        (Arrival::SentHere, _) => false,
        (Arrival::Interface(at), Some(prefix)) => at.starts_with(prefix),
        (Arrival::Interface(at), None) => **at == *name,
    }
}

fn contains(range: &str, ip: IpAddr) -> bool {
    let (base, length) = range.split_once('/').unwrap_or((range, "128"));
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let base: IpAddr = base.parse().unwrap();
    let ((base_bits, width), (ip_bits, _)) = (bits(base), bits(ip));
    let length = length.parse::<u32>().unwrap().min(width);
    let same = (base_bits ^ ip_bits).leading_zeros() >= length;
    base.is_ipv4() == ip.is_ipv4() && same
}
