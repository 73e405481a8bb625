//! The intermediate form as `nft` text, one operation after the other, as `nft -f` reads it.
//!
//! What the syntax can express is written so that `nft -c -f` accepts it; what only netlink can
//! express (a concatenation with part of a map's data, say) is written in the same manner for
//! people to read.

mod rule;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::batch::{Batch, Op};
use super::object::{
    BaseChain, Chain, ChainKind, Element, ElementData, Family, Hook, Policy, Rule, Set, SetData,
    Table, TableRef, Verdict,
};

/// The types of sets by table and name, so that a rule's text knows how long a key is.
type SetTypes<'a> = HashMap<(&'a TableRef, &'a str), &'a Set>;

/// Batches one after the other: what one of them says of a set is known to the others.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a>(pub &'a [Batch]);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Script(std::slice::from_ref(self)).fmt(f)
    }
}

impl fmt::Display for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ops = || self.0.iter().flat_map(|batch| &batch.ops);
        let sets: SetTypes<'_> = ops()
            .filter_map(|op| match op {
                Op::AddSet(set)
                | Op::CreateSet(set)
                | Op::AddElements(set, _)
                | Op::CreateElements(set, _)
                | Op::DeleteElements(set, _) => Some(((&set.table, set.name.as_str()), &**set)),
                _ => None,
            })
            .collect();
        ops().try_for_each(|op| {
            write_op(f, op, &sets)?;
            f.write_str("\n")
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_op(f, self, &SetTypes::new())
    }
}

fn write_op(f: &mut fmt::Formatter<'_>, op: &Op, sets: &SetTypes<'_>) -> fmt::Result {
    match op {
        Op::AddTable(table) => write!(f, "add {table}"),
        Op::CreateTable(table) => write!(f, "create {table}"),
        Op::DeleteTable(table) => write!(f, "delete table {table}"),
        Op::AddChain(chain) => write!(f, "add {chain}"),
        Op::CreateChain(chain) => write!(f, "create {chain}"),
        Op::DeleteChain(chain) => write!(f, "delete chain {} {}", chain.table, chain.name),
        Op::FlushChain(chain) => write!(f, "flush chain {} {}", chain.table, chain.name),
        Op::AddSet(set) => write!(f, "add {set}"),
        Op::CreateSet(set) => write!(f, "create {set}"),
        Op::DeleteSet(set) => write!(f, "delete set {} {}", set.table, set.name),
        Op::FlushSet(set) => write!(f, "flush set {} {}", set.table, set.name),
        Op::AddElements(set, elements) => write_elements(f, "add", set, elements),
        Op::CreateElements(set, elements) => write_elements(f, "create", set, elements),
        Op::DeleteElements(set, elements) => write_elements(f, "delete", set, elements),
        Op::AddRule(rule) => write_rule(f, "add rule", "", rule, sets),
        Op::InsertRule(rule) => write_rule(f, "insert rule", "", rule, sets),
        Op::ReplaceRule(handle, rule) => {
            write_rule(f, "replace rule", &format!(" handle {}", handle.0), rule, sets)
        }
        Op::DeleteRule(chain, handle) => {
            write!(f, "delete rule {} {} handle {}", chain.table, chain.name, handle.0)
        }
    }
}

fn write_rule(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    handle: &str,
    rule: &Rule,
    sets: &SetTypes<'_>,
) -> fmt::Result {
    write!(f, "{verb} {} {}{handle} ", rule.table, rule.chain)?;
    f.write_str(&rule::text(rule, sets))?;
    write_comment(f, " comment ", rule.comment.as_deref(), "")
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rule::text(self, &SetTypes::new()))?;
        write_comment(f, " comment ", self.comment.as_deref(), "")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}", self.id)?;
        write_comment(f, " { comment ", self.comment.as_deref(), "; }")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} {}", self.table, self.name)?;
        if self.base.is_none() && self.comment.is_none() {
            return Ok(());
        }
        f.write_str(" {")?;
        if let Some(base) = &self.base {
            write!(f, " {base}")?;
        }
        write_comment(f, " comment ", self.comment.as_deref(), ";")?;
        f.write_str(" }")
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        write!(f, "type {kind} hook {hook} priority {}; policy {policy};", self.priority)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.data == SetData::None { "set" } else { "map" };
        write!(f, "{kind} {} {} {{ type {}", self.table, self.name, self.key)?;
        match &self.data {
            SetData::None => {}
            SetData::Map(ty) => write!(f, " : {ty}")?,
            SetData::Verdict => f.write_str(" : verdict")?,
        }
        f.write_str(";")?;
        let flags = [
            (self.flags.constant, "constant"),
            (self.flags.interval, "interval"),
            (self.flags.timeout, "timeout"),
            (self.flags.dynamic, "dynamic"),
        ];
        let flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !flags.is_empty() {
            write!(f, " flags {};", flags.join(","))?;
        }
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {};", Span(timeout))?;
        }
        if let Some(size) = self.size {
            write!(f, " size {size};")?;
        }
        write_comment(f, " comment ", self.comment.as_deref(), ";")?;
        f.write_str(" }")
    }
}

fn write_elements(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    set: &Set,
    elements: &[Element],
) -> fmt::Result {
    write!(f, "{verb} element {} {} {{", set.table, set.name)?;
    let (before, after) = if elements.len() > 1 { ("\n  ", "\n") } else { (" ", " ") };
    for (i, element) in elements.iter().enumerate() {
        f.write_str(if i > 0 { "," } else { "" })?;
        f.write_str(before)?;
        write_element(f, set, element)?;
    }
    write!(f, "{after}}}")
}

fn write_element(f: &mut fmt::Formatter<'_>, set: &Set, element: &Element) -> fmt::Result {
    f.write_str(&value::key(&set.key, &element.key, element.key_end.as_ref()))?;
    if let Some(timeout) = element.timeout {
        write!(f, " timeout {}", Span(timeout))?;
    }
    write_comment(f, " comment ", element.comment.as_deref(), "")?;
    match (&element.data, &set.data) {
        (ElementData::None, _) => Ok(()),
        (ElementData::Verdict(verdict), _) => write!(f, " : {verdict}"),
        (ElementData::Value(data), SetData::Map(ty)) => {
            write!(f, " : {}", value::key(ty, data, None))
        }
        (ElementData::Value(data), _) => write!(f, " : {data:?}"),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

fn write_comment(
    f: &mut fmt::Formatter<'_>,
    before: &str,
    comment: Option<&str>,
    after: &str,
) -> fmt::Result {
    match comment {
        // nft's strings have no escapes.
        Some(text) => write!(f, "{before}\"{}\"{after}", text.replace('"', "'")),
        None => Ok(()),
    }
}

/// A time span as nftables writes it.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (seconds, 0) => write!(f, "{seconds}s"),
            (0, millis) => write!(f, "{millis}ms"),
            (seconds, millis) => write!(f, "{seconds}s{millis}ms"),
        }
    }
}
