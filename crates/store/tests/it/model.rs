//! Any sequence of operations leaves the store like a plain map, now, at every past revision, and
//! after a reopen.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Put { key: u8, value: u64 },
    Delete { key: u8 },
    Stale { key: u8 },
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0u8..6, 0u64..1000).prop_map(|(key, value)| Action::Put { key, value }),
        4 => (0u8..6).prop_map(|key| Action::Delete { key }),
        1 => (0u8..6).prop_map(|key| Action::Stale { key }),
        1 => Just(Action::Reopen),
    ]
}

type Model = BTreeMap<String, u64>;

fn contents(store: &Store, at: Option<Revision>) -> Model {
    // Pages of two, so that paging is tested along the way.
    let mut all = Model::new();
    let mut after = None;
    loop {
        let page = store.list("/m/", ListOptions { limit: 2, after, at }).unwrap();
        for item in &page.items {
            all.insert(item.key.to_string(), item.value["n"].as_u64().unwrap());
        }
        after = page.items.last().map(|s| s.key.to_string());
        if page.remaining == 0 {
            return all;
        }
    }
}

/// In memory where the system has such a place: hundreds of commits wait for the disk elsewhere.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

async fn run(actions: Vec<Action>) {
    let directory = directory();
    let mut store = open(&directory);
    let mut model = Model::new();
    let mut past = vec![(store.revision(), model.clone())];
    for action in actions {
        match action {
            Action::Put { key, value } => {
                let key = format!("/m/{key}");
                let op = match store.get(&key) {
                    Some(stored) => update(&key, stored.revision, value),
                    None => create(&key, value),
                };
                store.commit(vec![op]).await.unwrap();
                model.insert(key, value);
            }
            Action::Delete { key } => {
                let key = format!("/m/{key}");
                let revision = store.get(&key).map_or(Revision(0), |s| s.revision);
                let deleted = store.commit(vec![delete(&key, revision)]).await.is_ok();
                assert_eq!(deleted, model.remove(&key).is_some());
            }
            Action::Stale { key } => {
                let key = format!("/m/{key}");
                assert!(store.commit(vec![update(&key, Revision(0), 7)]).await.is_err());
            }
            Action::Reopen => {
                drop(store);
                store = open(&directory);
                past.clear();
            }
        }
        past.push((store.revision(), model.clone()));
        assert_eq!(contents(&store, None), model);
    }
    for (revision, then) in past {
        assert_eq!(contents(&store, Some(revision)), then, "at {revision}");
    }
    drop(store);
    assert_eq!(contents(&open(&directory), None), model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_map(actions in prop::collection::vec(action(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(actions));
    }
}
