use portolan_store::StoreError;

use super::*;

#[tokio::test]
async fn a_transaction_is_one_revision_and_happens_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let before = store.revision();
    let stored = store.commit(vec![create("/a", 1), create("/b", 2)]).await.unwrap();
    assert_eq!(stored[0].revision, Revision(before.0 + 1));
    assert_eq!(stored[0].revision, stored[1].revision);

    let refused = store.commit(vec![create("/c", 3), create("/a", 4)]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exists { key } if key == "/a"));
    assert!(store.get("/c").is_none());
    assert_eq!(store.revision(), stored[0].revision);
}

#[tokio::test]
async fn one_transaction_may_touch_a_key_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let next = Revision(store.revision().0 + 1);
    store.commit(vec![create("/a", 1), update("/a", next, 2)]).await.unwrap();
    assert_eq!(store.get("/a").unwrap().value["n"], 2);
}

#[tokio::test]
async fn a_stale_writer_gets_a_conflict_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = store.commit(vec![create("/a", 1)]).await.unwrap()[0].revision;
    let second = store.commit(vec![update("/a", first, 2)]).await.unwrap()[0].clone();
    assert_eq!(second.create_revision, first);

    for stale in [update("/a", first, 3), delete("/a", first)] {
        let refused = store.commit(vec![stale]).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Conflict { actual, .. } if actual == second.revision)
        );
    }
    assert_eq!(store.get("/a"), Some(second));
    let missing = store.commit(vec![update("/b", first, 3)]).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotFound { .. }));
}

#[tokio::test]
async fn a_deleted_key_comes_back_as_a_new_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = store.commit(vec![create("/a", 1)]).await.unwrap()[0].revision;
    let gone = store.commit(vec![delete("/a", first)]).await.unwrap()[0].clone();
    assert_eq!((gone.revision.0, &gone.value["n"]), (first.0 + 1, &json!(1)));
    let again = store.commit(vec![create("/a", 2)]).await.unwrap()[0].clone();
    assert_eq!(again.create_revision, again.revision);
}

#[tokio::test]
async fn of_many_writers_of_one_revision_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = store.commit(vec![create("/a", 0)]).await.unwrap()[0].revision;
    let writers = (1..=50).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(vec![update("/a", first, n)]).await.is_ok() })
    });
    let won = futures::future::join_all(writers).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
}

#[tokio::test]
async fn a_list_is_continued_at_its_own_revision() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for key in ["/p/a", "/p/b", "/p/c", "/q/x"] {
        store.commit(vec![create(key, 1)]).await.unwrap();
    }
    let first = store.list("/p/", ListOptions { limit: 1, ..ListOptions::default() }).unwrap();
    assert_eq!((&*first.items[0].key, first.remaining), ("/p/a", 2));

    let b = store.get("/p/b").unwrap();
    store.commit(vec![delete("/p/b", b.revision), create("/p/bb", 1)]).await.unwrap();
    let c = store.get("/p/c").unwrap();
    store.commit(vec![update("/p/c", c.revision, 2)]).await.unwrap();

    let rest = ListOptions { limit: 0, after: Some("/p/a".into()), at: Some(first.revision) };
    let page = store.list("/p/", rest.clone()).unwrap();
    assert_eq!(page.items, [b, c]);
    assert_eq!(page.revision, first.revision);
    assert_eq!(keys(&store, "/p/", ListOptions::default()), ["/p/a", "/p/bb", "/p/c"]);

    store.compact(store.revision()).unwrap();
    assert!(matches!(store.list("/p/", rest), Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_revision_of_the_future_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let future = Revision(store.revision().0 + 1);
    let list = store.list("/", ListOptions { at: Some(future), ..ListOptions::default() });
    assert!(matches!(list, Err(StoreError::Future { .. })));
    assert!(matches!(store.watch("/", future), Err(StoreError::Future { .. })));
    assert!(matches!(store.compact(future), Err(StoreError::Future { .. })));
}
