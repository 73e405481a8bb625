use std::pin::pin;

use futures::FutureExt as _;
use portolan_store::{Event, StoreError, WatchError};

use super::*;

fn small(directory: &tempfile::TempDir, options: Options) -> Store {
    Store::open(&directory.path().join("store"), options).unwrap()
}

#[tokio::test]
async fn a_watch_tells_the_past_then_the_present_without_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let start = store.revision();
    let a = store.commit(vec![create("/p/a", 1)]).await.unwrap()[0].clone();
    store.commit(vec![create("/q/x", 1)]).await.unwrap();
    let mut watch = store.watch("/p/", start).unwrap();
    let a2 = store.commit(vec![update("/p/a", a.revision, 2)]).await.unwrap()[0].clone();
    let gone = store.commit(vec![delete("/p/a", a2.revision)]).await.unwrap()[0].revision;

    assert_eq!(watch.progress(), None);
    let put = |stored: &_, previous: Option<&_>| Event::Put {
        stored: Clone::clone(stored),
        previous: previous.cloned(),
    };
    assert_eq!(watch.next().await.unwrap(), put(&a, None));
    assert_eq!(watch.next().await.unwrap(), put(&a2, Some(&a)));
    assert_eq!(watch.next().await.unwrap(), Event::Delete { stored: a2, revision: gone });
    assert_eq!(watch.progress(), Some(gone));

    let elsewhere = store.commit(vec![create("/q/y", 1)]).await.unwrap()[0].revision;
    assert_eq!(watch.progress(), Some(elsewhere));
}

#[tokio::test]
async fn a_slow_watcher_is_closed_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = small(&directory, Options { watch_queue: 2, ..Options::default() });
    let mut slow = store.watch("/", store.revision()).unwrap();
    let mut other = store.watch("/3", store.revision()).unwrap();
    for n in 0..4 {
        store.commit(vec![create(&format!("/{n}"), n)]).await.unwrap();
    }
    assert_eq!(&**slow.next().await.unwrap().key(), "/0");
    assert_eq!(&**slow.next().await.unwrap().key(), "/1");
    assert_eq!(slow.next().await, Err(WatchError::Lagged));
    assert_eq!(slow.progress(), None);
    assert_eq!(&**other.next().await.unwrap().key(), "/3");
}

#[tokio::test]
async fn who_takes_nothing_can_still_wait_for_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = small(&directory, Options { watch_queue: 2, ..Options::default() });
    let mut slow = store.watch("/a", store.revision()).unwrap();
    let mut patient = store.watch("/b", store.revision()).unwrap();
    let (mut lagged, mut closed) = (pin!(slow.abandoned()), pin!(patient.abandoned()));
    for n in 0..2 {
        store.commit(vec![create(&format!("/a{n}"), n)]).await.unwrap();
    }
    assert_eq!(lagged.as_mut().now_or_never(), None);
    store.commit(vec![create("/a2", 2)]).await.unwrap();
    lagged.await;
    // What was queued can be taken all the same.
    assert_eq!(&**slow.next().await.unwrap().key(), "/a0");
    assert_eq!(closed.as_mut().now_or_never(), None);
    drop(store);
    closed.await;
    assert_eq!(patient.next().await, Err(WatchError::Closed));
    assert_eq!(patient.abandoned().now_or_never(), Some(()));
}

#[tokio::test]
async fn history_is_bounded_by_events_and_by_bytes() {
    let by_events = Options { history: 3, ..Options::default() };
    let by_bytes = Options { history_bytes: 20, ..Options::default() };
    for options in [by_events, by_bytes] {
        let directory = tempfile::tempdir().unwrap();
        let store = small(&directory, options);
        let start = store.revision();
        let mut last = store.commit(vec![create("/a", 0)]).await.unwrap()[0].revision;
        for n in 1..10 {
            last = store.commit(vec![update("/a", last, n)]).await.unwrap()[0].revision;
        }
        let refused = store.watch("/", start).unwrap_err();
        let StoreError::Compacted { oldest, .. } = refused else { panic!("{refused}") };
        assert!(start < oldest && oldest < last);
        let mut watch = store.watch("/", oldest).unwrap();
        assert_eq!(watch.next().await.unwrap().revision(), Revision(oldest.0 + 1));
    }
}

#[tokio::test]
async fn history_forgets_a_revision_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = small(&directory, Options { history: 3, ..Options::default() });
    let start = store.revision();
    store.commit(vec![create("/a", 0), create("/b", 0)]).await.unwrap();
    store.commit(vec![create("/c", 0), create("/d", 0)]).await.unwrap();
    let first = Revision(start.0 + 1);
    assert!(matches!(
        store.watch("/", start),
        Err(StoreError::Compacted { oldest, .. }) if oldest == first
    ));
    assert_eq!(
        keys(&store, "/", ListOptions { at: Some(first), ..ListOptions::default() }),
        ["/a", "/b"]
    );
}

#[tokio::test]
async fn a_watch_ends_when_the_store_does() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut watch = store.watch("/", store.revision()).unwrap();
    drop(store);
    assert_eq!(watch.next().await, Err(WatchError::Closed));
}
