use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::backend::Image;
use crate::object::{Object, Record};

/// A storage that answers as told; what it is asked is written down.
#[derive(Debug)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    writes: VecDeque<Result<(), StoreError>>,
    recoveries: VecDeque<Result<Revision, StoreError>>,
    asked: Vec<&'static str>,
}

impl Backend for Scripted {
    fn load(&mut self) -> Result<Image, StoreError> {
        Ok(Image { revision: Revision(1), records: Vec::new() })
    }

    fn write(&mut self, _: Revision, changes: &[Change<'_>]) -> Result<(), StoreError> {
        assert_eq!(changes.len(), 1);
        let mut script = self.0.lock();
        script.asked.push("write");
        script.writes.pop_front().expect("a write that the case does not expect")
    }

    fn recover(&mut self) -> Result<Revision, StoreError> {
        let mut script = self.0.lock();
        script.asked.push("recover");
        script.recoveries.pop_front().expect("a recovery that the case does not expect")
    }
}

fn broken() -> StoreError {
    StoreError::disk(std::io::Error::other("broken"))
}

fn full() -> StoreError {
    StoreError::Full { path: "/store".into(), reason: "no space".into() }
}

/// From revision 5 to 7.
fn group() -> Group {
    let object = Object::from(serde_json::json!({}));
    let record = Arc::new(Record {
        key: "/a".into(),
        create_revision: Revision(7),
        revision: Revision(7),
        json: object.shared_json(),
    });
    let fact = Fact::Put { record, previous: None };
    let written = vec![Written { fact, object: Some(object) }];
    Group { base: Revision(5), revision: Revision(7), written }
}

fn durable(
    writes: Vec<Result<(), StoreError>>,
    recoveries: Vec<Result<Revision, StoreError>>,
) -> (Durable, Arc<Mutex<Script>>) {
    let script = Script { writes: writes.into(), recoveries: recoveries.into(), asked: Vec::new() };
    let script = Arc::new(Mutex::new(script));
    (Durable::new(Box::new(Scripted(Arc::clone(&script)))), script)
}

#[test]
fn a_failed_write_is_what_the_storage_says_it_is() {
    type Case = (
        &'static str,
        Vec<Result<(), StoreError>>,
        Vec<Result<Revision, StoreError>>,
        &'static [&'static str],
        &'static str,
    );
    let (before, after) = (Revision(5), Revision(7));
    let cases: Vec<Case> = vec![
        ("sound", vec![Ok(())], vec![], &["write"], "stored"),
        ("it is in", vec![Err(broken())], vec![Ok(after)], &["write", "recover"], "stored"),
        (
            "not in, and in at the second attempt",
            vec![Err(broken()), Ok(())],
            vec![Ok(before)],
            &["write", "recover", "write"],
            "stored",
        ),
        (
            "never in",
            vec![Err(broken()), Err(broken())],
            vec![Ok(before), Ok(before)],
            &["write", "recover", "write", "recover"],
            "cannot write the store: broken",
        ),
        (
            "a full disk is not tried again",
            vec![Err(full())],
            vec![Ok(before)],
            &["write", "recover"],
            "no space left to write /store: no space",
        ),
        (
            "cannot be opened",
            vec![Err(broken())],
            vec![Err(broken())],
            &["write", "recover"],
            "it is not known whether the write is stored: cannot write the store: broken",
        ),
        (
            "somebody else's",
            vec![Err(broken())],
            vec![Ok(Revision(6))],
            &["write", "recover"],
            "the storage was changed by somebody else: it is at revision 6, not 5",
        ),
    ];
    for (case, writes, recoveries, asked, outcome) in cases {
        let (mut durable, script) = durable(writes, recoveries);
        let found = match durable.commit(group(), Instant::now()) {
            Outcome::Stored(group) => {
                assert_eq!((group.revision, group.written.len()), (after, 1), "{case}");
                "stored".to_owned()
            }
            Outcome::Failed(error) => error.to_string(),
        };
        assert_eq!(found, outcome, "{case}");
        assert_eq!(script.lock().asked, asked, "{case}");
    }
}

#[test]
fn a_write_in_doubt_blocks_later_ones_until_the_storage_tells() {
    for (found, stored) in [(Revision(7), true), (Revision(5), false)] {
        let (mut durable, script) =
            durable(vec![Err(broken())], vec![Err(broken()), Err(full()), Ok(found)]);
        let start = Instant::now();
        assert!(matches!(durable.commit(group(), start), Outcome::Failed(_)));
        // Too early: the storage is not asked.
        assert!(matches!(durable.settle(start), Err(StoreError::Unsettled(_))));
        assert_eq!(script.lock().asked.len(), 2);
        // Asked, and still not readable: the next attempt is later.
        let then = start + FIRST_PAUSE;
        assert!(matches!(durable.settle(then), Err(StoreError::Unsettled(_))));
        assert!(durable.settle(then + FIRST_PAUSE).is_err());
        assert_eq!(script.lock().asked.len(), 3);

        let settled = durable.settle(then + 2 * FIRST_PAUSE).unwrap();
        assert_eq!(settled.map(|group| group.revision), stored.then_some(Revision(7)));
        assert!(durable.settle(then).unwrap().is_none());
    }
}

#[test]
fn a_storage_that_somebody_else_has_written_is_never_written_again() {
    let (mut durable, script) = durable(vec![Err(broken())], vec![Err(broken()), Ok(Revision(9))]);
    let start = Instant::now();
    assert!(matches!(durable.commit(group(), start), Outcome::Failed(_)));
    for _ in 0..3 {
        let refused = durable.settle(start + LONGEST_PAUSE);
        assert!(matches!(refused, Err(StoreError::Diverged { found: Revision(9), .. })));
    }
    assert_eq!(script.lock().asked, ["write", "recover", "recover"]);
}
