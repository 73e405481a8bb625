//! A persistent hash map: copies share what they have in common.
//!
//! A branch has sixteen children, a leaf up to [`LEAF`] entries, or more when their hashes are the
//! same. Changing one entry copies one leaf and the branches above it that others share, and no more.

use std::sync::Arc;

/// How many entries a leaf has before it is split.
const LEAF: usize = 8;
/// How many bits of the hash choose a child.
const BITS: u32 = 4;

/// What can be kept: an entry knows the hash of its key.
pub(super) trait Entry: Clone {
    /// The hash of the key.
    fn hash(&self) -> u64;
}

#[derive(Debug, Clone)]
enum Node<T> {
    Leaf(Vec<T>),
    Branch(Box<[Option<Arc<Node<T>>>; 1 << BITS]>),
}

/// The map. Several entries may have the same key.
#[derive(Debug, Clone)]
pub(super) struct Trie<T> {
    root: Option<Arc<Node<T>>>,
    len: usize,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

fn child(hash: u64, depth: u32) -> usize {
    (hash >> (depth * BITS) & ((1 << BITS) - 1)) as usize
}

impl<T: Entry> Trie<T> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entries that may have this hash: all that have, and few others.
    pub(super) fn near(&self, hash: u64) -> &[T] {
        let (mut node, mut depth) = (self.root.as_deref(), 0);
        loop {
            match node {
                None => return &[],
                Some(Node::Leaf(entries)) => return entries,
                Some(Node::Branch(children)) => {
                    node = children[child(hash, depth)].as_deref();
                    depth += 1;
                }
            }
        }
    }

    /// Adds an entry, or replaces the one with the same key, of which `is` tells true.
    pub(super) fn put(&mut self, entry: T, is: impl Fn(&T) -> bool) {
        let hash = entry.hash();
        if put(&mut self.root, entry, hash, 0, &is) {
            self.len += 1;
        }
    }

    /// Removes the entry of which `is` tells true.
    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        // What is not there must not cost copies.
        if !self.near(hash).iter().any(&is) {
            return None;
        }
        let removed = remove(&mut self.root, hash, 0, &is);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

fn put<T: Entry>(
    place: &mut Option<Arc<Node<T>>>,
    entry: T,
    hash: u64,
    depth: u32,
    is: &impl Fn(&T) -> bool,
) -> bool {
    let node = Arc::make_mut(place.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new()))));
    match node {
        Node::Branch(children) => {
            put(&mut children[child(hash, depth)], entry, hash, depth + 1, is)
        }
        Node::Leaf(entries) => {
            if let Some(known) = entries.iter_mut().find(|known| is(known)) {
                *known = entry;
                return false;
            }
            let alike = entries.iter().all(|known| known.hash() == hash);
            if entries.len() < LEAF || alike || depth >= u64::BITS / BITS {
                entries.reserve_exact(1);
                entries.push(entry);
                return true;
            }
            let mut branch = Node::Branch(Box::default());
            for known in entries.drain(..) {
                let hash = known.hash();
                push(&mut branch, known, hash, depth);
            }
            *node = branch;
            let Node::Branch(children) = node else { return false };
            put(&mut children[child(hash, depth)], entry, hash, depth + 1, is)
        }
    }
}

/// Adds to a new branch, where there is nothing to share or to replace.
fn push<T: Entry>(branch: &mut Node<T>, entry: T, hash: u64, depth: u32) {
    let Node::Branch(children) = branch else { return };
    put(&mut children[child(hash, depth)], entry, hash, depth + 1, &|_| false);
}

fn remove<T: Entry>(
    place: &mut Option<Arc<Node<T>>>,
    hash: u64,
    depth: u32,
    is: &impl Fn(&T) -> bool,
) -> Option<T> {
    let node = Arc::make_mut(place.as_mut()?);
    let (removed, is_empty) = match node {
        Node::Branch(children) => {
            let removed = remove(&mut children[child(hash, depth)], hash, depth + 1, is);
            (removed, children.iter().all(Option::is_none))
        }
        Node::Leaf(entries) => {
            let at = entries.iter().position(is)?;
            let removed = entries.swap_remove(at);
            (Some(removed), entries.is_empty())
        }
    };
    if is_empty {
        *place = None;
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    impl Entry for (u16, u32) {
        fn hash(&self) -> u64 {
            // Poor on purpose: leaves with more entries than they should have.
            u64::from(self.0 % 97) << 60 | u64::from(self.0 % 97)
        }
    }

    fn get(trie: &Trie<(u16, u32)>, key: u16) -> Option<u32> {
        trie.near((key, 0).hash()).iter().find(|entry| entry.0 == key).map(|entry| entry.1)
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Number(u64);

    impl Entry for Number {
        fn hash(&self) -> u64 {
            self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15).swap_bytes()
        }
    }

    fn nodes(node: &Arc<Node<Number>>, all: &mut HashSet<*const Node<Number>>) {
        all.insert(Arc::as_ptr(node));
        if let Node::Branch(children) = &**node {
            children.iter().flatten().for_each(|child| nodes(child, all));
        }
    }

    #[test]
    fn a_change_copies_the_way_to_its_leaf_and_no_more() {
        let mut trie = Trie::default();
        for i in 0..100_000 {
            trie.put(Number(i), |known| known.0 == i);
        }
        let before = trie.clone();
        trie.put(Number(4711), |known| known.0 == 4711);
        trie.remove(Number(815).hash(), |known| known.0 == 815);
        let [mut old, mut new] = [HashSet::new(), HashSet::new()];
        nodes(before.root.as_ref().unwrap(), &mut old);
        nodes(trie.root.as_ref().unwrap(), &mut new);
        assert!(old.len() > 10_000 && new.difference(&old).count() <= 2 * 8, "{}", new.len());
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_and_copies_stay(
            steps in proptest::collection::vec((0_u16..400, proptest::option::of(any::<u32>())), 0..600)
        ) {
            let (mut trie, mut map) = (Trie::default(), HashMap::new());
            let mut before = (trie.clone(), map.clone());
            for (i, (key, value)) in steps.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        trie.put((key, value), |entry: &(u16, u32)| entry.0 == key);
                        map.insert(key, value);
                    }
                    None => {
                        let removed = trie.remove((key, 0).hash(), |entry| entry.0 == key);
                        prop_assert_eq!(removed.map(|entry| entry.1), map.remove(&key));
                    }
                }
                if i == 200 {
                    before = (trie.clone(), map.clone());
                }
            }
            for (trie, map) in [(trie, map), before] {
                prop_assert_eq!(trie.len(), map.len());
                for key in 0..400 {
                    prop_assert_eq!(get(&trie, key), map.get(&key).copied());
                }
            }
        }
    }
}
