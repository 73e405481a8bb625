//! A transaction: operations that the kernel carries out together or not at all.

use std::sync::Arc;

use super::object::{Chain, ChainRef, Element, Handle, Rule, Set, SetRef, Table, TableRef};

/// One operation of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes the table unless it is there.
    AddTable(Table),
    /// Makes the table; EEXIST if it is there.
    CreateTable(Table),
    /// Removes the table with all that is in it; ENOENT if it is not there.
    DeleteTable(TableRef),
    /// Makes the chain unless it is there.
    AddChain(Chain),
    /// Makes the chain; EEXIST if it is there.
    CreateChain(Chain),
    /// Removes an empty chain that nothing refers to (else EBUSY).
    DeleteChain(ChainRef),
    /// Removes all rules of the chain.
    FlushChain(ChainRef),
    /// Makes the set unless it is there; EEXIST if it is there and differs.
    AddSet(Arc<Set>),
    /// Makes the set; EEXIST if it is there.
    CreateSet(Arc<Set>),
    /// Removes a set that nothing refers to (else EBUSY).
    DeleteSet(SetRef),
    /// Removes all elements of the set.
    FlushSet(SetRef),
    /// Adds elements; those that are there with the same data stay, other data is EEXIST.
    AddElements(Arc<Set>, Vec<Element>),
    /// Adds elements; EEXIST if any is there.
    CreateElements(Arc<Set>, Vec<Element>),
    /// Removes elements; ENOENT if any is not there.
    DeleteElements(Arc<Set>, Vec<Element>),
    /// Appends a rule to its chain.
    AddRule(Rule),
    /// Puts a rule before all others of its chain.
    InsertRule(Rule),
    /// Puts a rule in the place of another.
    ReplaceRule(Handle, Rule),
    /// Removes a rule.
    DeleteRule(ChainRef, Handle),
}

/// Operations that are carried out together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they are carried out.
    pub ops: Vec<Op>,
}

impl Batch {
    /// A batch that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation at the end.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl From<Vec<Op>> for Batch {
    fn from(ops: Vec<Op>) -> Self {
        Self { ops }
    }
}

impl Extend<Op> for Batch {
    fn extend<I: IntoIterator<Item = Op>>(&mut self, ops: I) {
        self.ops.extend(ops);
    }
}
