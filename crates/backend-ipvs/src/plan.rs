//! What is to be done, in steps; printable as lines of ipvsadm, ip and nft.

use std::fmt;
use std::sync::Arc;

use portolan_netlink::address;
use portolan_netlink::ipvs;
use portolan_netlink::nft::{Batch, Element, Op, Script, Set};

use crate::layout::Elements;
use crate::options::LINK;

/// What makes a kernel hold a forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) looks: usize,
}

/// What is done at once, as far as the kernel allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Changes of the nftables table.
    Nft(Changes),
    /// Virtual and real servers.
    Servers(Vec<ipvs::Op>),
    /// Addresses of the dummy link, which is made if need be.
    Addresses(Vec<address::Op>),
}

/// Changes of the nftables table, which go as one transaction if it has room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Tables, sets and chains to make.
    pub(crate) make: Vec<Op>,
    /// Elements to change: of what stands in one entry all in one transaction.
    pub(crate) entries: Vec<Entry>,
    /// Rules to write.
    pub(crate) finish: Vec<Op>,
}

/// Elements that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) remove: Elements,
    pub(crate) add: Elements,
}

impl Entry {
    /// Puts elements in the place of others, and leaves those alone that are in both.
    pub(crate) fn replace(&mut self, before: Elements, after: Elements) {
        let is_in = |list: &Elements, (set, element): &(Arc<Set>, Element)| {
            list.iter().any(|(other, present)| other.name == set.name && present == element)
        };
        let gone = before.iter().filter(|each| !is_in(&after, each));
        // Elements are removed by their keys alone.
        let gone = gone.map(|(set, element)| (set.clone(), Element::new(element.key.clone())));
        self.remove.extend(gone);
        self.add.extend(after.into_iter().filter(|each| !is_in(&before, each)));
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// At most so many bytes as messages.
    fn encoded_len(&self) -> usize {
        const AROUND: usize = 96;
        self.remove.iter().chain(&self.add).map(|(_, element)| AROUND + element.key.len()).sum()
    }
}

impl Changes {
    pub(crate) fn push(&mut self, entry: Entry) {
        if !entry.is_empty() {
            self.entries.push(entry);
        }
    }

    fn operations(&self) -> usize {
        let elements = self.entries.iter().map(|entry| entry.remove.len() + entry.add.len());
        self.make.len() + elements.sum::<usize>() + self.finish.len()
    }

    /// The changes as transactions of about that many bytes at most: what is made comes first, rules
    /// come last.
    pub(crate) fn pack(&self, max_bytes: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut batch = Batch::from(self.make.clone());
        let mut entries = self.entries.iter().peekable();
        while entries.peek().is_some() {
            let (mut remove, mut add) = (Groups::default(), Groups::default());
            let mut bytes = 0;
            // One at least, whatever there is room for.
            while let Some(entry) = entries.next_if(|_| bytes == 0 || bytes < max_bytes / 2) {
                bytes += entry.encoded_len();
                remove.extend(&entry.remove);
                add.extend(&entry.add);
            }
            batch.extend(remove.0.into_iter().map(|(set, list)| Op::DeleteElements(set, list)));
            batch.extend(add.0.into_iter().map(|(set, list)| Op::AddElements(set, list)));
            if entries.peek().is_some() {
                batches.push(std::mem::take(&mut batch));
            }
        }
        batch.extend(self.finish.iter().cloned());
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }
}

/// Elements of each set, in one operation.
#[derive(Default)]
struct Groups(Vec<(Arc<Set>, Vec<Element>)>);

impl Groups {
    fn extend(&mut self, elements: &Elements) {
        for (set, element) in elements {
            match self.0.iter_mut().find(|(group, _)| group.name == set.name) {
                Some((_, group)) => group.push(element.clone()),
                None => self.0.push((set.clone(), vec![element.clone()])),
            }
        }
    }
}

impl Step {
    fn operations(&self) -> usize {
        match self {
            Self::Nft(changes) => changes.operations(),
            Self::Servers(ops) => ops.len(),
            Self::Addresses(ops) => ops.len(),
        }
    }

    fn stages(&self, max_bytes: usize) -> Vec<Stage<'_>> {
        match self {
            Self::Nft(changes) => changes.pack(max_bytes).into_iter().map(Stage::Nft).collect(),
            Self::Servers(ops) => vec![Stage::Servers(ops)],
            Self::Addresses(ops) => vec![Stage::Addresses(ops)],
        }
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many objects are made, changed or removed.
    pub fn operations(&self) -> usize {
        self.steps.iter().map(Step::operations).sum()
    }

    /// How much of the table was looked at to make the plan.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// The changes of virtual and real servers, in order.
    pub fn server_ops(&self) -> impl Iterator<Item = &ipvs::Op> {
        self.steps.iter().flat_map(|step| match step {
            Step::Servers(ops) => ops.as_slice(),
            _ => &[],
        })
    }

    /// The changes of the dummy link's addresses, in order.
    pub fn address_ops(&self) -> impl Iterator<Item = &address::Op> {
        self.steps.iter().flat_map(|step| match step {
            Step::Addresses(ops) => ops.as_slice(),
            _ => &[],
        })
    }

    /// What is to be done, step by step, nftables' changes in transactions of about so many bytes.
    pub fn stages(&self, max_bytes: usize) -> Vec<Stage<'_>> {
        self.steps.iter().flat_map(|step| step.stages(max_bytes)).collect()
    }

    pub(crate) fn push(&mut self, step: Step) {
        if step.operations() > 0 {
            self.steps.push(step);
        }
    }
}

/// A part of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage<'a> {
    /// One transaction of nftables.
    Nft(Batch),
    /// Virtual and real servers.
    Servers(&'a [ipvs::Op]),
    /// Addresses of the dummy link.
    Addresses(&'a [address::Op]),
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in self.stages(usize::MAX) {
            match stage {
                Stage::Nft(batch) => Script(&[batch]).fmt(f)?,
                Stage::Servers(ops) => ops.iter().try_for_each(|op| writeln!(f, "ipvsadm {op}"))?,
                Stage::Addresses(ops) => {
                    ops.iter().try_for_each(|op| writeln!(f, "ip address {op} dev {LINK}"))?;
                }
            }
        }
        Ok(())
    }
}
