//! What is to be done, in steps; printable as nft text, and packed into transactions.
//!
//! Each step leaves the rules whole when those before it are done, so a plan may be cut between any
//! two. One that fits into one transaction goes as one, but for new chains: a packet that is on its way
//! during a commit can find the way to a chain of the next generation, and sees it without rules. So
//! the transaction ends behind them, before anything leads there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use portolan_netlink::nft::{Batch, Element, ElementData, Name, Op, Script, Set};

use crate::layout::Class;

/// What makes a kernel hold a forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// The classes of sets for which there are chains afterwards that were not there before.
    pub(crate) classes: BTreeSet<Class>,
}

/// Operations that must be in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Tables, sets and chains to make.
    pub(crate) make: Vec<Op>,
    /// Elements to remove, before any is added.
    pub(crate) remove: Vec<(Arc<Set>, Element)>,
    /// Elements to add.
    pub(crate) add: Vec<(Arc<Set>, Element)>,
    /// Rules to write, and chains and sets to remove.
    pub(crate) finish: Vec<Op>,
    /// Whether the transaction goes on behind this step.
    pub(crate) cut: Cut,
}

/// Whether a transaction may go on behind a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cut {
    /// It may.
    #[default]
    May,
    /// It ends.
    Must,
}

impl Step {
    /// Puts an element in the place of the one of the same key, if there is one.
    pub(crate) fn replace(
        &mut self,
        set: &Arc<Set>,
        before: Option<Element>,
        after: Option<Element>,
    ) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.remove.push((set.clone(), Element::new(before.key)));
        }
        if let Some(after) = after {
            self.add.push((set.clone(), after));
        }
    }

    /// Puts another step's operations beside these.
    pub(crate) fn append(&mut self, other: Step) {
        self.make.extend(other.make);
        self.remove.extend(other.remove);
        self.add.extend(other.add);
        self.finish.extend(other.finish);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.operations() == 0
    }

    fn operations(&self) -> usize {
        self.make.len() + self.remove.len() + self.add.len() + self.finish.len()
    }

    /// At most so many bytes as a message, without the header of a message full of elements.
    pub(crate) fn encoded_len(&self) -> usize {
        let ops = self.make.iter().chain(&self.finish).map(Op::encoded_len).sum::<usize>();
        let elements = self.remove.iter().chain(&self.add);
        ops + elements.map(|(_, element)| element_len(element)).sum::<usize>()
    }
}

/// At most so many bytes: five attribute headers around key and data.
fn element_len(element: &Element) -> usize {
    let data = match &element.data {
        ElementData::None => 0,
        ElementData::Value(data) => data.len(),
        ElementData::Verdict(_) => 64,
    };
    32 + element.key.len() + data
}

/// At most so many bytes for the message around elements: header, table and set names.
const ELEMENTS_HEADER: usize = 256;
/// At least so many bytes of elements fit a message.
const ELEMENTS_MESSAGE: usize = 32 << 10;

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(Step::is_empty)
    }

    /// How many objects are made, changed or removed.
    pub fn operations(&self) -> usize {
        self.steps.iter().map(Step::operations).sum()
    }

    pub(crate) fn push(&mut self, step: Step) {
        if !step.is_empty() {
            self.steps.push(step);
        }
    }

    /// The steps as transactions of at most so many bytes, or of one step where that is larger.
    pub fn pack(&self, max_bytes: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut pack = Pack::default();
        for step in &self.steps {
            if !pack.is_empty() && pack.len_with(step) > max_bytes {
                batches.push(std::mem::take(&mut pack).into_batch());
            }
            pack.add(step);
            if step.cut == Cut::Must {
                batches.push(std::mem::take(&mut pack).into_batch());
            }
        }
        if !pack.is_empty() {
            batches.push(pack.into_batch());
        }
        batches
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Script(&self.pack(usize::MAX)).fmt(f)
    }
}

/// Steps put together: elements of one set from all steps go in one operation.
#[derive(Default)]
struct Pack<'a> {
    make: Vec<&'a Op>,
    remove: Vec<(&'a Arc<Set>, Vec<Element>)>,
    add: Vec<(&'a Arc<Set>, Vec<Element>)>,
    finish: Vec<&'a Op>,
    bytes: usize,
}

impl<'a> Pack<'a> {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn len_with(&self, step: &Step) -> usize {
        let bytes = self.bytes + step.encoded_len();
        let sets = self.remove.len() + self.add.len() + step.remove.len() + step.add.len();
        let messages = sets.min(32) + bytes / ELEMENTS_MESSAGE;
        Batch::OVERHEAD + bytes + messages * ELEMENTS_HEADER
    }

    fn add(&mut self, step: &'a Step) {
        self.bytes += step.encoded_len();
        self.make.extend(&step.make);
        group(&mut self.remove, &step.remove);
        group(&mut self.add, &step.add);
        self.finish.extend(&step.finish);
    }

    fn into_batch(self) -> Batch {
        let mut batch = Batch::new();
        batch.extend(self.make.into_iter().cloned());
        let removed = self.remove.into_iter();
        batch.extend(removed.map(|(set, elements)| Op::DeleteElements(set.clone(), elements)));
        let added = self.add.into_iter();
        batch.extend(added.map(|(set, elements)| Op::AddElements(set.clone(), elements)));
        batch.extend(self.finish.into_iter().cloned());
        batch
    }
}

fn group<'a>(groups: &mut Vec<(&'a Arc<Set>, Vec<Element>)>, elements: &'a [(Arc<Set>, Element)]) {
    for (set, element) in elements {
        let name: &Name = &set.name;
        match groups.iter_mut().find(|(group, _)| group.name == *name) {
            Some((_, group)) => group.push(element.clone()),
            None => groups.push((set, vec![element.clone()])),
        }
    }
}
