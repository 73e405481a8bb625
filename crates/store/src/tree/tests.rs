use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Revision;

fn record(key: &str, revision: u64) -> Arc<Record> {
    Arc::new(Record {
        key: key.into(),
        create_revision: Revision(1),
        revision: Revision(revision),
        json: Arc::from(&b"{}"[..]),
    })
}

fn contents(tree: &Tree) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    tree.visit(0..usize::MAX, &mut |record| all.push((record.key.to_string(), record.revision.0)));
    all
}

/// Counts are true, keys are within their bounds, all leaves are at one depth, no node is too wide.
fn check(tree: &Tree) {
    fn walk(node: &Node, least: &str, below: Option<&str>, root: bool) -> (usize, usize) {
        assert!(node.width() <= WIDTH);
        assert!(root || node.width() > 0);
        match node {
            Node::Leaf(records) => {
                assert!(records.windows(2).all(|pair| pair[0].key < pair[1].key));
                assert!(records.iter().all(|record| &*record.key >= least));
                assert!(records.iter().all(|r| below.is_none_or(|below| *r.key < *below)));
                (records.len(), 0)
            }
            Node::Branch(children) => {
                let mut total = 0;
                let mut depths = Vec::new();
                for (at, child) in children.iter().enumerate() {
                    let least = if at == 0 { least } else { &*child.least };
                    let below = children.get(at + 1).map(|next| &*next.least).or(below);
                    let (count, depth) = walk(&child.node, least, below, false);
                    assert_eq!(count, child.count);
                    total += count;
                    depths.push(depth);
                }
                assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
                (total, depths[0] + 1)
            }
        }
    }
    walk(&tree.root, "", None, true);
}

fn key(n: u16) -> String {
    format!("/{}/{n}", n % 7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_is_a_sorted_map_and_a_kept_tree_stays(
        start in prop::collection::btree_set(0u16..400, 0..300),
        changes in prop::collection::vec((any::<bool>(), 0u16..400), 0..400),
        keep_at in 0usize..400,
    ) {
        let mut model: BTreeMap<String, u64> = start.iter().map(|n| (key(*n), 0)).collect();
        let mut tree = Tree::from_sorted(model.keys().map(|key| record(key, 0)).collect());
        let mut kept = None;
        for (n, (put, number)) in changes.into_iter().enumerate() {
            if n == keep_at {
                kept = Some((tree.clone(), contents(&tree)));
            }
            let (key, revision) = (key(number), n as u64 + 1);
            let before = if put {
                let gone = tree.insert(record(&key, revision));
                prop_assert_eq!(gone.map(|g| g.revision.0), model.insert(key.clone(), revision));
                prop_assert_eq!(tree.get(&key).unwrap().revision.0, revision);
                continue;
            } else {
                tree.remove(&key)
            };
            prop_assert_eq!(before.map(|gone| gone.revision.0), model.remove(&key));
            prop_assert!(tree.get(&key).is_none());
        }
        check(&tree);
        prop_assert_eq!(contents(&tree), model.clone().into_iter().collect::<Vec<_>>());
        for prefix in ["", "/", "/3", "/3/", "/3/1", "/9", "0"] {
            for after in [None, Some("/3/10"), Some("/3/24"), Some("/zzz"), Some("")] {
                let expected: Vec<&String> = model
                    .keys()
                    .filter(|k| k.starts_with(prefix) && after.is_none_or(|after| &***k > after))
                    .collect();
                let places = tree.places(prefix, after);
                prop_assert_eq!(places.len(), expected.len(), "{} after {:?}", prefix, after);
                let mut page = Vec::new();
                let some = places.start..places.end.min(places.start + 3);
                tree.visit(some, &mut |record| page.push(record.key.to_string()));
                prop_assert!(page.iter().eq(expected.into_iter().take(3)));
            }
        }
        if let Some((kept, then)) = kept {
            check(&kept);
            prop_assert_eq!(contents(&kept), then);
        }
    }
}

#[test]
fn a_tree_that_is_emptied_is_a_leaf_again() {
    let mut tree = Tree::from_sorted(Vec::new());
    for n in 0..5000 {
        tree.insert(record(&format!("/{n:05}"), n));
    }
    check(&tree);
    for n in (0..5000).rev() {
        assert_eq!(tree.remove(&format!("/{n:05}")).unwrap().revision.0, n);
        if n % 500 == 0 {
            check(&tree);
        }
    }
    assert!(matches!(&*tree.root, Node::Leaf(records) if records.is_empty()));
}
