//! Loss of power and failing disks: whatever happens below, an acknowledged write stays, a
//! transaction is whole, and memory agrees with the disk.

use std::time::Duration;

use portolan_store::{File, StoreError};

use super::load::{reached, step};
use super::platter::{Platter, Random, Seed};
use super::*;

const WRITERS: usize = 4;

fn open(platter: &Platter) -> Result<Store, StoreError> {
    let file = File::open(platter.clone(), 1 << 20)?;
    Store::open_on(Box::new(file), Options::default())
}

/// Each writer goes on from where it is until an error or its goal; returns how far each got.
async fn work(store: &Store, from: &[u64], steps: u64) -> Vec<u64> {
    let writers = from.iter().enumerate().map(|(writer, from)| async move {
        for n in from + 1..=from + steps {
            if step(store, writer as u64, n).await.is_err() {
                return n - 1;
            }
        }
        from + steps
    });
    futures::future::join_all(writers).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// 40 disks, each of which loses its power a dozen times in the middle of a load, also while it is
/// being repaired.
#[test]
fn power_loss_takes_nothing_that_was_acknowledged_and_halves_nothing() {
    let (mut cuts, mut written, mut during_open) = (0, 0, 0);
    for seed in 0..40 {
        let _told = Seed(seed);
        let mut random = Random(seed ^ 0xda7a);
        let platter = Platter::new(seed);
        let mut acknowledged = vec![0; WRITERS];
        for _ in 0..12 {
            platter.cut_after(random.below(120));
            match open(&platter) {
                Ok(store) => acknowledged = runtime().block_on(work(&store, &acknowledged, 40)),
                Err(error) => {
                    assert!(platter.has_lost_power(), "{error}");
                    during_open += 1;
                }
            }
            cuts += u64::from(platter.has_lost_power());
            platter.power_on();
            let store = open(&platter).unwrap();
            for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
                let n = reached(&store, writer as u64);
                assert!(
                    n == *acknowledged || n == *acknowledged + 1,
                    "writer {writer} was told of {acknowledged}, and {n} is there"
                );
                *acknowledged = n;
            }
        }
        written += acknowledged.iter().sum::<u64>();
    }
    // Else the load was too small to show anything.
    assert!(cuts > 300 && written > 5000 && during_open > 5, "{cuts} {written} {during_open}");
}

/// Every operation of a load fails once, one at a time: the store goes on without a restart.
#[test]
fn after_an_io_error_at_any_operation_the_store_goes_on_and_agrees_with_the_disk() {
    let runtime = runtime();
    let mut failed = 0;
    for at in 0..250 {
        let _told = Seed(at);
        let platter = Platter::new(at);
        let store = open(&platter).unwrap();
        let mut done = runtime.block_on(work(&store, &[0; WRITERS], 3));
        platter.fail_after(at);
        for _ in 0..6 {
            let before = done.clone();
            done = runtime.block_on(work(&store, &done, 3));
            for (writer, n) in done.iter_mut().enumerate() {
                let shown = reached(&store, writer as u64);
                assert!(shown == *n || shown == *n + 1, "told of {n}, shown {shown}");
                *n = shown;
            }
            assert!(platter.has_failed() || done != before, "no progress before the fault");
        }
        failed += u64::from(platter.has_failed());
        let stuck = runtime.block_on(work(&store, &done, 1));
        assert!(stuck.iter().zip(&done).all(|(now, then)| *now == then + 1), "it does not go on");

        let (revision, page) = (store.revision(), store.list("/", ListOptions::default()).unwrap());
        drop(store);
        platter.power_on();
        let again = open(&platter).unwrap();
        assert_eq!(again.list("/", ListOptions::default()).unwrap(), page);
        assert_eq!(again.revision(), revision);
    }
    assert!(failed > 200, "{failed}");
}

/// After a failed sync the page cache shows what is not on the disk. Only what is on the disk counts,
/// for many pages are written once and never again.
#[tokio::test]
async fn what_a_failed_sync_has_not_written_is_not_believed() {
    let mut stored = 0;
    for seed in 0..40 {
        let _told = Seed(seed);
        let platter = Platter::new(seed);
        let store = open(&platter).unwrap();
        let all = |n: u64| {
            let op = |key: u64| {
                let (key, value) = (format!("/{key:03}"), json!({ "n": n, "x": "x".repeat(900) }));
                match store.get(&key) {
                    Some(stored) => Op::Update { key, expected: stored.revision, value },
                    None => Op::Create { key, value },
                }
            };
            store.commit((0..100).map(op).collect())
        };
        all(1).await.unwrap();
        platter.fail_next_sync();
        let told = all(2).await;
        stored += u64::from(told.is_ok());
        let page = store.list("/", ListOptions::default()).unwrap();
        let n = if told.is_ok() { 2 } else { 1 };
        assert!(page.items.iter().all(|item| item.value["n"] == n));
        platter.cut_after(0);
        drop(store);
        platter.power_on();
        assert_eq!(open(&platter).unwrap().list("/", ListOptions::default()).unwrap(), page);
    }
    assert!(stored > 10, "{stored}");
}

#[tokio::test]
async fn a_full_disk_is_told_reads_go_on_and_writes_do_when_there_is_room() {
    let platter = Platter::new(1);
    let store = open(&platter).unwrap();
    store.commit(vec![create("/first", 1)]).await.unwrap();
    platter.set_size(platter.length() + 400_000);
    let value = json!({ "text": "x".repeat(50_000) });
    let mut kept = Vec::new();
    let refused = loop {
        let key = format!("/big/{:04}", kept.len());
        let op = Op::Create { key: key.clone(), value: value.clone() };
        match store.commit(vec![op]).await {
            Ok(_) => kept.push(key),
            Err(error) => break error,
        }
        assert!(kept.len() < 10_000, "the disk never gets full");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(refused.to_string().starts_with("no space left to write /platter"), "{refused}");
    assert_eq!(keys(&store, "/big/", ListOptions::default()), kept);
    assert!(!kept.is_empty());
    // What is asked for now may find room inside of the file or not; either way the answer is true.
    let first = store.get("/first").unwrap();
    let answer = store.commit(vec![delete("/first", first.revision)]).await;
    match answer {
        Ok(_) => assert!(store.get("/first").is_none()),
        Err(StoreError::Full { .. }) => assert_eq!(store.get("/first"), Some(first)),
        Err(other) => panic!("{other}"),
    }

    platter.set_size(u64::MAX);
    for n in 0..50 {
        store
            .commit(vec![Op::Create { key: format!("/{n}"), value: value.clone() }])
            .await
            .unwrap();
    }
    let page = store.list("/", ListOptions::default()).unwrap();
    drop(store);
    platter.power_on();
    assert_eq!(open(&platter).unwrap().list("/", ListOptions::default()).unwrap(), page);
}

/// The disk comes back after a while: the write that nobody knew the fate of shows, or does not,
/// and the store agrees with the disk.
#[tokio::test]
async fn a_disk_that_cannot_be_read_for_a_while_stops_writes_only() {
    for seed in 0..30 {
        let _told = Seed(seed);
        let platter = Platter::new(seed);
        let store = open(&platter).unwrap();
        let mut watch = store.watch("/", store.revision()).unwrap();
        store.commit(vec![create("/a", 1)]).await.unwrap();
        watch.next().await.unwrap();
        // Once in the commit, at a write or at the sync.
        platter.fail_after(seed % 8);
        platter.set_unreadable(true);
        let told = store.commit(vec![create("/b", 2)]).await;
        if !platter.has_failed() {
            told.unwrap();
            continue;
        }
        assert!(matches!(told, Err(StoreError::Unsettled(_))), "{told:?}");
        assert!(matches!(store.commit(vec![create("/c", 3)]).await, Err(StoreError::Unsettled(_))));
        assert!(store.get("/a").is_some() && store.get("/b").is_none());

        platter.set_unreadable(false);
        // The store waits a moment between its attempts, so this asks again, for a bounded time.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.commit(vec![create("/d", 4)]).await {
            assert!(matches!(error, StoreError::Unsettled(_)), "{error}");
            assert!(tokio::time::Instant::now() < deadline, "still: {error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let page = store.list("/", ListOptions::default()).unwrap();
        if store.get("/b").is_some() {
            assert_eq!(&**watch.next().await.unwrap().key(), "/b");
        }
        assert_eq!(&**watch.next().await.unwrap().key(), "/d");
        drop((store, watch));
        platter.power_on();
        assert_eq!(open(&platter).unwrap().list("/", ListOptions::default()).unwrap(), page);
    }
}

#[tokio::test]
async fn many_waiting_writers_share_a_sync() {
    let platter = Platter::new(1);
    let store = open(&platter).unwrap();
    let (before, operations) = (platter.syncs(), platter.operations());
    let commits = (0..200).map(|n| store.commit(vec![create(&format!("/{n}"), n)]));
    for done in futures::future::join_all(commits).await {
        done.unwrap();
    }
    let written = store.written();
    assert_eq!(written.transactions, 200);
    assert!(written.groups < 100, "{written:?}");
    assert_eq!(platter.syncs() - before, written.groups);
    assert!(platter.operations() > operations);
}
