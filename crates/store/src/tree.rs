//! The live objects in key order: a B-tree that counts and that can be kept.
//!
//! Every child carries the number of records below it, so the place of a key, and with it how many
//! records a page leaves behind, is one descent. Nodes are shared: a clone of the tree is one
//! reference, stays as it is for ever, and costs a later write only the nodes on that write's path.
//! So a list holds no lock while it runs, and the past can be kept at the price of what changed.
//!
//! ```text
//!            [ 21 from "" │ 17 from "/b" ]            branch: count and least key of each child
//!              │                  │
//!   [/a/1 /a/2 …]               [/b/1 …]              leaf: records in key order
//! ```
//!
//! All leaves are at one depth. The least key of a child is a bound: keys below it are in earlier
//! children, but it need not itself be there.

use std::ops::Range;
use std::sync::Arc;

use crate::object::Record;

/// Entries of one node at most. Small, since a write under a kept tree copies the nodes of its path.
const WIDTH: usize = 32;

/// Records in key order, each key once.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Arc<Record>>),
    Branch(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    count: usize,
    least: Arc<str>,
    node: Arc<Node>,
}

impl Tree {
    /// Of records that are in key order already.
    pub(crate) fn from_sorted(records: Vec<Arc<Record>>) -> Self {
        let mut level: Vec<Child> = chunks(records, |leaf| Child {
            count: leaf.len(),
            least: Arc::clone(&leaf[0].key),
            node: Arc::new(Node::Leaf(leaf)),
        });
        while level.len() > 1 {
            level = chunks(level, |children| Child {
                count: children.iter().map(|child| child.count).sum(),
                least: Arc::clone(&children[0].least),
                node: Arc::new(Node::Branch(children)),
            });
        }
        let root = level.pop().map_or_else(|| Arc::new(Node::Leaf(Vec::new())), |top| top.node);
        Self { root }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Record>> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(records) => {
                    let at = records.binary_search_by(|record| (*record.key).cmp(key)).ok()?;
                    return Some(&records[at]);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// Puts a record in its place; returns the one that held its key.
    pub(crate) fn insert(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        let (replaced, split) = self.root_mut().insert(record);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let left = Child { count: left.count(), least: Arc::from(""), node: left };
            self.root = Arc::new(Node::Branch(vec![left, right]));
        }
        replaced
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Record>> {
        // Looked up first: a removal of what is not there copies no node.
        self.get(key)?;
        let removed = self.root_mut().remove(key);
        while let Node::Branch(children) = &*self.root {
            match children.as_slice() {
                [] => self.root = Arc::new(Node::Leaf(Vec::new())),
                [only] => self.root = Arc::clone(&only.node),
                _ => break,
            }
        }
        removed
    }

    fn root_mut(&mut self) -> &mut Node {
        Arc::make_mut(&mut self.root)
    }

    /// Places of the records whose keys start with a prefix and, if given, come after a key.
    pub(crate) fn places(&self, prefix: &str, after: Option<&str>) -> Range<usize> {
        let end = self.place(|key| key < prefix || key.starts_with(prefix));
        let start = match after {
            Some(after) if after >= prefix => self.place(|key| key <= after),
            _ => self.place(|key| key < prefix),
        };
        start.min(end)..end
    }

    /// How many records come before the first one that `before` does not hold for; it must hold for
    /// all keys up to some point and for none beyond.
    fn place(&self, before: impl Fn(&str) -> bool) -> usize {
        let mut node = &*self.root;
        let mut place = 0;
        loop {
            match node {
                Node::Leaf(records) => {
                    return place + records.partition_point(|record| before(&record.key));
                }
                Node::Branch(children) => {
                    let at = children[1..].partition_point(|child| before(&child.least));
                    place += children[..at].iter().map(|child| child.count).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }

    /// Shows the records at some places, in order.
    pub(crate) fn visit<'a>(&'a self, places: Range<usize>, show: &mut impl FnMut(&'a Record)) {
        self.root.visit(places, show);
    }
}

/// The child that a key belongs to.
fn child_of(children: &[Child], key: &str) -> usize {
    children[1..].partition_point(|child| &*child.least <= key)
}

impl Node {
    fn width(&self) -> usize {
        match self {
            Self::Leaf(records) => records.len(),
            Self::Branch(children) => children.len(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Leaf(records) => records.len(),
            Self::Branch(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    /// What held the key, and the right half if this node had to be split.
    fn insert(&mut self, record: Arc<Record>) -> (Option<Arc<Record>>, Option<Child>) {
        match self {
            Self::Leaf(records) => {
                match records.binary_search_by(|other| other.key.cmp(&record.key)) {
                    Ok(at) => return (Some(std::mem::replace(&mut records[at], record)), None),
                    Err(at) => records.insert(at, record),
                }
                let split = split_off(records).map(|right| Child {
                    count: right.len(),
                    least: Arc::clone(&right[0].key),
                    node: Arc::new(Self::Leaf(right)),
                });
                (None, split)
            }
            Self::Branch(children) => {
                let at = child_of(children, &record.key);
                let child = &mut children[at];
                let (replaced, split) = Arc::make_mut(&mut child.node).insert(record);
                child.count += usize::from(replaced.is_none());
                if let Some(right) = split {
                    child.count -= right.count;
                    children.insert(at + 1, right);
                }
                let split = split_off(children).map(|right| Child {
                    count: right.iter().map(|child| child.count).sum(),
                    least: Arc::clone(&right[0].least),
                    node: Arc::new(Self::Branch(right)),
                });
                (replaced, split)
            }
        }
    }

    fn remove(&mut self, key: &str) -> Option<Arc<Record>> {
        match self {
            Self::Leaf(records) => {
                let at = records.binary_search_by(|record| (*record.key).cmp(key)).ok()?;
                Some(records.remove(at))
            }
            Self::Branch(children) => {
                let at = child_of(children, key);
                let child = &mut children[at];
                let removed = Arc::make_mut(&mut child.node).remove(key)?;
                child.count -= 1;
                if child.count == 0 {
                    children.remove(at);
                } else if !join(children, at) && at > 0 {
                    join(children, at - 1);
                }
                Some(removed)
            }
        }
    }

    fn visit<'a>(&'a self, places: Range<usize>, show: &mut impl FnMut(&'a Record)) {
        match self {
            Self::Leaf(records) => {
                let end = places.end.min(records.len());
                records[places.start.min(end)..end].iter().for_each(|record| show(record));
            }
            Self::Branch(children) => {
                let mut first = 0;
                for child in children {
                    let beyond = first + child.count;
                    if beyond > places.start && first < places.end {
                        let start = places.start.saturating_sub(first);
                        child.node.visit(start..places.end - first, show);
                    }
                    first = beyond;
                }
            }
        }
    }
}

/// Joins a child with its right neighbour when both together fill half a node, so that what is
/// left of many removals is not a chain of almost empty nodes.
fn join(children: &mut Vec<Child>, at: usize) -> bool {
    let [left, right, ..] = &children[at..] else { return false };
    if left.node.width() + right.node.width() > WIDTH / 2 {
        return false;
    }
    let right = children.remove(at + 1);
    let left = &mut children[at];
    left.count += right.count;
    match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
        (Node::Branch(left), Node::Branch(mut right_children)) => {
            // The bound of a first child is never asked for and may be too high; now it counts.
            right_children[0].least = right.least;
            left.extend(right_children);
        }
        _ => unreachable!("all leaves are at one depth"),
    }
    true
}

/// The part of an overfull node that moves to a new neighbour. Keys that come in order fill the
/// nodes behind them.
fn split_off<T>(entries: &mut Vec<T>) -> Option<Vec<T>> {
    (entries.len() > WIDTH).then(|| {
        let right = entries.split_off(WIDTH - WIDTH / 4);
        entries.shrink_to(WIDTH);
        right
    })
}

fn chunks<T>(entries: Vec<T>, node: impl Fn(Vec<T>) -> Child) -> Vec<Child> {
    let mut entries = entries.into_iter().peekable();
    let mut nodes = Vec::new();
    while entries.peek().is_some() {
        nodes.push(node(entries.by_ref().take(WIDTH - WIDTH / 4).collect()));
    }
    nodes
}

#[cfg(test)]
mod tests;
