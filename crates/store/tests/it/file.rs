use portolan_store::{StoreError, salvage};

use super::*;

#[tokio::test]
async fn a_reopened_store_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.commit(vec![create("/a", 1), create("/b", 2)]).await.unwrap();
    let b = store.get("/b").unwrap();
    store.commit(vec![delete("/b", b.revision)]).await.unwrap();
    let (revision, page) = (store.revision(), store.list("/", ListOptions::default()).unwrap());
    drop(store);

    let store = open(&directory);
    assert_eq!(store.revision(), revision);
    assert_eq!(store.list("/", ListOptions::default()).unwrap(), page);
    assert!(store.watch("/", revision).is_ok());
    let past = store.watch("/", Revision(revision.0 - 1));
    assert!(matches!(past, Err(StoreError::Compacted { .. })));
}

#[test]
fn a_file_in_use_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path, Options::default()).unwrap();
    let refused = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(&refused, StoreError::Locked(locked) if *locked == path), "{refused}");
    drop(store);
    Store::open(&path, Options::default()).unwrap();
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let text = "this is no store\n".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let refused = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_file_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(Store::open(&path, Options::default()).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let numbers = redb::TableDefinition::<&str, u64>::new("numbers");
    transaction.open_table(numbers).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Format { found: 99, .. }), "{refused}");
}

#[test]
fn a_path_that_cannot_be_opened_is_a_disk_error() {
    let refused = Store::open("/proc/none/store".as_ref(), Options::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Disk(_)), "{refused:?}");
}

/// Where a page is free, damage does not matter; where it matters it must be told, not crash.
#[tokio::test]
async fn a_damaged_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.commit((0..2000).map(|n| create(&format!("/{n}"), n)).collect()).await.unwrap();
    let sound = store.list("/", ListOptions::default()).unwrap().items.len();
    drop(store);
    let path = directory.path().join("store");
    let file = std::fs::read(&path).unwrap();

    let mut refused = 0;
    let pages = file.len() / 4096;
    for page in (0..pages).step_by((pages / 12).max(1)) {
        let mut damaged = file.clone();
        damaged[page * 4096..][..4096].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, &damaged).unwrap();
        match Store::open(&path, Options::default()) {
            Ok(store) => {
                assert_eq!(store.list("/", ListOptions::default()).unwrap().items.len(), sound)
            }
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("page {page}: {other:?}"),
        }
    }
    assert!(refused > 0);

    std::fs::write(&path, &file[..file.len() / 2]).unwrap();
    let cut = Store::open(&path, Options::default());
    assert!(matches!(cut, Err(StoreError::Corrupt { .. })), "{cut:?}");
}

/// Damage by damage: the original stays, and the new store holds no object that the old one did not.
#[tokio::test]
async fn what_can_be_read_of_a_damaged_file_is_kept_in_a_new_one_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.commit((0..2000).map(|n| create(&format!("/{n:04}"), n)).collect()).await.unwrap();
    let (sound, revision) = (store.list("/", ListOptions::default()).unwrap(), store.revision());
    drop(store);
    let path = directory.path().join("store");
    let file = std::fs::read(&path).unwrap();

    let (mut partly, mut damages) = (0, 0);
    let pages = file.len() / 4096;
    for page in (1..pages).step_by((pages / 40).max(1)) {
        let mut damaged = file.clone();
        damaged[page * 4096..][..4096].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, &damaged).unwrap();
        if Store::open(&path, Options::default()).is_ok() {
            continue;
        }
        std::fs::write(&path, &damaged).unwrap();
        damages += 1;
        let new = directory.path().join(format!("new-{page}"));
        let Ok(found) = salvage(&path, &new) else { continue };
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
        let again = Store::open(&new, Options::default()).unwrap();
        let kept = again.list("/", ListOptions::default()).unwrap();
        assert_eq!(found.kept, kept.items.len() as u64);
        assert!(kept.items.iter().all(|item| sound.items.contains(item)));
        assert!(again.revision() >= revision || kept.items.is_empty(), "{}", again.revision());
        partly += u64::from(!kept.items.is_empty());
        assert!(matches!(salvage(&path, &new), Err(StoreError::Disk(_))), "it was overwritten");
    }
    assert!(damages > 3 && partly > 0, "{damages} {partly}");
}
