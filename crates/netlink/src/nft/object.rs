//! Tables, chains, sets, elements and rules.
//!
//! Values only: two are equal when the kernel would hold the same thing. What the kernel adds by
//! itself (handles, use counts) is kept beside them in a dump, never inside.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::data::{Data, SetType};
use super::expr::Expr;

/// The name of a table, chain, set or map; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Name {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The number by which the kernel knows a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A table's address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `inet`: IPv4 and IPv6.
    Inet,
    /// `ip`: IPv4.
    Ip,
    /// `ip6`: IPv6.
    Ip6,
}

/// The kernel's numbers for the hooks, `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// After routing.
    Postrouting,
}

/// The priorities that nftables names (`enum nf_ip_hook_priorities`).
pub mod priority {
    /// `raw`: before connection tracking.
    pub const RAW: i32 = -300;
    /// `mangle`.
    pub const MANGLE: i32 = -150;
    /// `dstnat`: where destinations are rewritten.
    pub const DSTNAT: i32 = -100;
    /// `filter`.
    pub const FILTER: i32 = 0;
    /// `srcnat`: where sources are rewritten.
    pub const SRCNAT: i32 = 100;
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: sees the first packet of a connection only.
    Nat,
    /// `route`: reroutes a packet whose mark or addresses changed, on output.
    Route,
}

/// What happens to a packet that reaches the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It goes on.
    Accept,
    /// It is dropped.
    Drop,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// Lower comes first; see [`priority`].
    pub priority: i32,
    /// At its end.
    pub policy: Policy,
}

/// A table's family and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableRef {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: Name,
}

impl TableRef {
    /// The table of that family and name.
    #[must_use]
    pub fn new(family: Family, name: impl Into<Name>) -> Self {
        Self { family, name: name.into() }
    }
}

/// A chain's table and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainRef {
    /// The table.
    pub table: TableRef,
    /// The name.
    pub name: Name,
}

/// A set's table and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetRef {
    /// The table.
    pub table: TableRef,
    /// The name.
    pub name: Name,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its family and name.
    pub id: TableRef,
    /// A comment, kept by the kernel for people to read.
    pub comment: Option<String>,
}

/// A chain: a base chain hangs on a hook, any other is jumped to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    /// The table.
    pub table: TableRef,
    /// The name.
    pub name: Name,
    /// Where it hangs, for a base chain.
    pub base: Option<BaseChain>,
    /// A comment.
    pub comment: Option<String>,
}

impl Chain {
    /// What names this chain.
    #[must_use]
    pub fn id(&self) -> ChainRef {
        ChainRef { table: self.table.clone(), name: self.name.clone() }
    }
}

/// What a set holds beside its keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SetData {
    /// Nothing: a set.
    None,
    /// Data of a type: a map.
    Map(SetType),
    /// Verdicts: a verdict map.
    Verdict,
}

/// How a set behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SetFlags {
    /// Keys may be ranges.
    pub interval: bool,
    /// Elements may have a timeout.
    pub timeout: bool,
    /// Rules may add elements as packets pass.
    pub dynamic: bool,
    /// Elements do not change once a rule uses the set.
    pub constant: bool,
}

/// A set, map or verdict map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// The table.
    pub table: TableRef,
    /// The name.
    pub name: Name,
    /// The type of its keys.
    pub key: SetType,
    /// What belongs to a key.
    pub data: SetData,
    /// How it behaves.
    pub flags: SetFlags,
    /// After how long an element without a timeout of its own goes.
    pub timeout: Option<Duration>,
    /// At most so many elements; none: unbounded, which [`SetFlags::dynamic`] does not allow.
    pub size: Option<u32>,
    /// A comment.
    pub comment: Option<String>,
}

impl Set {
    /// A set of plain keys, without flags or bounds.
    #[must_use]
    pub fn new(table: TableRef, name: impl Into<Name>, key: impl Into<SetType>) -> Self {
        Self {
            table,
            name: name.into(),
            key: key.into(),
            data: SetData::None,
            flags: SetFlags::default(),
            timeout: None,
            size: None,
            comment: None,
        }
    }

    /// A map from keys to data.
    #[must_use]
    pub fn map(
        table: TableRef,
        name: impl Into<Name>,
        key: impl Into<SetType>,
        data: impl Into<SetType>,
    ) -> Self {
        Self { data: SetData::Map(data.into()), ..Self::new(table, name, key) }
    }

    /// A map from keys to verdicts.
    #[must_use]
    pub fn verdict_map(table: TableRef, name: impl Into<Name>, key: impl Into<SetType>) -> Self {
        Self { data: SetData::Verdict, ..Self::new(table, name, key) }
    }

    /// What names this set.
    #[must_use]
    pub fn id(&self) -> SetRef {
        SetRef { table: self.table.clone(), name: self.name.clone() }
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// On, past this hook's chain.
    Accept,
    /// Nowhere.
    Drop,
    /// To the next rule.
    Continue,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back after it.
    Jump(Name),
    /// To a chain, for good.
    Goto(Name),
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ElementData {
    /// Nothing: an element of a set.
    None,
    /// Data: an element of a map.
    Value(Data),
    /// A verdict: an element of a verdict map.
    Verdict(Verdict),
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, or the first one of a range.
    pub key: Data,
    /// The last key of a range, included; only in sets with [`SetFlags::interval`].
    pub key_end: Option<Data>,
    /// What it maps to.
    pub data: ElementData,
    /// After how long it goes, if not the set's default.
    pub timeout: Option<Duration>,
    /// A comment.
    pub comment: Option<Box<str>>,
}

impl Element {
    /// An element of a set.
    #[must_use]
    pub fn new(key: impl Into<Data>) -> Self {
        Self {
            key: key.into(),
            key_end: None,
            data: ElementData::None,
            timeout: None,
            comment: None,
        }
    }

    /// An element of a map.
    #[must_use]
    pub fn map(key: impl Into<Data>, value: impl Into<Data>) -> Self {
        Self { data: ElementData::Value(value.into()), ..Self::new(key) }
    }

    /// An element of a verdict map.
    #[must_use]
    pub fn verdict(key: impl Into<Data>, verdict: Verdict) -> Self {
        Self { data: ElementData::Verdict(verdict), ..Self::new(key) }
    }
}

/// A rule: expressions run in order until one breaks off or gives a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The table.
    pub table: TableRef,
    /// The chain.
    pub chain: Name,
    /// What it does.
    pub exprs: Vec<Expr>,
    /// A comment.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule of that chain, without a comment.
    #[must_use]
    pub fn new(chain: &ChainRef, exprs: Vec<Expr>) -> Self {
        Self { table: chain.table.clone(), chain: chain.name.clone(), exprs, comment: None }
    }

    /// The same rule with a comment.
    #[must_use]
    pub fn with_comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}
