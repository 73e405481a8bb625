//! Reading what `iptables-save` prints, as far as it tells our rules apart.

use std::collections::BTreeMap;

use crate::render::Table;

/// The rules of every chain, in order, of the tables that we use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Saved {
    pub(crate) chains: BTreeMap<(Table, String), Vec<Gist>>,
    /// Rules that lead from one chain into another.
    pub(crate) jumps: Vec<Way>,
}

/// A rule that leads from one chain into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) table: Table,
    pub(crate) from: String,
    pub(crate) to: String,
    /// As printed, without `-A` and the chain's name.
    pub(crate) rule: String,
}

/// What of a rule every version of iptables prints alike: match and target options that say which
/// packets it is about and where they go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gist(BTreeMap<String, String>);

/// The options that make up a gist.
const TELLING: [&str; 10] = [
    "-s",
    "-d",
    "-i",
    "-j",
    "-p",
    "--dport",
    "--comment",
    "--to-destination",
    "--seconds",
    "--dst-type",
];

impl Gist {
    /// Of a rule without `-A` and the chain's name.
    pub(crate) fn of(rule: &str) -> Self {
        let words = words(rule);
        let mut gist = BTreeMap::new();
        let mut negated = "";
        for (index, word) in words.iter().enumerate() {
            if word == "!" {
                negated = "! ";
                continue;
            }
            if TELLING.contains(&word.as_str())
                && let Some(value) = words.get(index + 1)
            {
                let value = value.trim_end_matches(match word.as_str() {
                    "-s" | "-d" if value.contains(':') => "/128",
                    "-s" | "-d" => "/32",
                    _ => "",
                });
                gist.insert(word.clone(), format!("{negated}{value}"));
            }
            negated = "";
        }
        Self(gist)
    }
}

impl Gist {
    /// Whether it is a rule that must stand after all others.
    pub(crate) fn leads_to_node_ports(&self) -> bool {
        self.0.get("-j").is_some_and(|to| to == "KUBE-NODEPORTS")
    }
}

/// A rule's words; quotes hold words together, a backslash keeps the next letter.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = rule.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

impl Saved {
    /// What `iptables-save` printed.
    pub(crate) fn read(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.to_string() == name.trim());
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                saved.chains.entry((table, name.to_owned())).or_default();
            } else if let Some((chain, rule)) =
                line.strip_prefix("-A ").map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
            {
                let rules = saved.chains.entry((table, chain.to_owned())).or_default();
                let gist = Gist::of(rule);
                if let Some(to) = gist.0.get("-j") {
                    let (from, to, rule) = (chain.to_owned(), to.clone(), rule.to_owned());
                    saved.jumps.push(Way { table, from, to, rule });
                }
                rules.push(gist);
            }
        }
        saved
    }

    /// Whether a chain has a rule.
    pub(crate) fn has(&self, table: Table, chain: &str, rule: &str) -> bool {
        let rules = self.chains.get(&(table, chain.to_owned()));
        rules.is_some_and(|rules| rules.contains(&Gist::of(rule)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_prints_another_way_is_the_same() {
        let ours = "-m comment --comment \"a b\" -m tcp -p tcp -d 10.0.0.1 --dport 80 -j REJECT";
        let theirs = "-d 10.0.0.1/32 -p tcp -m comment --comment \"a b\" -m tcp --dport 80 \
                      -j REJECT --reject-with icmp-port-unreachable";
        assert_eq!(Gist::of(ours), Gist::of(theirs));
        assert_ne!(Gist::of("! -s 10.0.0.0/8 -j X"), Gist::of("-s 10.0.0.0/8 -j X"));
        assert_eq!(Gist::of("-s fd00::1 -j X"), Gist::of("-s fd00::1/128 -j X"));
    }

    #[test]
    fn chains_without_rules_are_seen() {
        let saved =
            Saved::read("*nat\n:KUBE-A - [0:0]\n-A OUTPUT -j KUBE-A\nCOMMIT\n*raw\n:X - [0:0]\n");
        assert!(saved.chains[&(Table::Nat, "KUBE-A".to_owned())].is_empty());
        assert!(saved.has(Table::Nat, "OUTPUT", "-j KUBE-A"));
        assert_eq!(saved.chains.len(), 2);
    }
}
