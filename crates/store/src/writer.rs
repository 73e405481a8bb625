//! The writer thread: the one owner of the backend and the one that moves the revision.
//!
//! Each turn takes every waiting transaction (up to a bound), checks them in order against the
//! published objects plus what earlier transactions of the same turn have changed, and writes those
//! that passed as one group with one sync. What is not durable is not published; what happens when
//! the backend fails is in [`durable`].

mod durable;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::backend::Backend;
use crate::error::StoreError;
use crate::fact::{Fact, Written};
use crate::memory::Memory;
use crate::object::{Object, Record};
use crate::store::{Op, WriteCounts};
use crate::{Revision, Stored};
use durable::{Durable, Group, Outcome};

/// Transactions that share one sync at most.
const GROUP: usize = 512;

/// A transaction on its way to the writer. Encoding happens on the caller's thread.
#[derive(Debug)]
pub(crate) struct Request {
    steps: Vec<Step>,
    answer: oneshot::Sender<Result<Vec<Stored>, StoreError>>,
}

#[derive(Debug)]
struct Step {
    key: Arc<str>,
    guard: Guard,
    /// None for a delete.
    put: Option<Object>,
}

#[derive(Debug)]
enum Guard {
    Absent,
    At(Revision),
}

impl Request {
    pub(crate) fn new(
        ops: Vec<Op>,
        answer: oneshot::Sender<Result<Vec<Stored>, StoreError>>,
    ) -> Self {
        let put = |value: Value| Some(Object::from(value));
        let steps = ops.into_iter().map(|op| match op {
            Op::Create { key, value } => {
                Step { key: key.into(), guard: Guard::Absent, put: put(value) }
            }
            Op::Update { key, expected, value } => {
                Step { key: key.into(), guard: Guard::At(expected), put: put(value) }
            }
            Op::Delete { key, expected } => {
                Step { key: key.into(), guard: Guard::At(expected), put: None }
            }
        });
        Self { steps: steps.collect(), answer }
    }
}

/// Serves requests until all senders are gone.
pub(crate) fn run(
    backend: Box<dyn Backend>,
    memory: &Memory,
    counts: &Counts,
    mut queue: mpsc::Receiver<Request>,
) {
    let _ends_watches = CloseOnExit(memory);
    let mut durable = Durable::new(backend);
    let mut turn = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut turn, GROUP) > 0 {
        match durable.settle(Instant::now()) {
            Ok(Some(group)) => publish(memory, counts, group),
            Ok(None) => {}
            Err(error) => {
                for request in turn.drain(..) {
                    let _ = request.answer.send(Err(error.clone()));
                }
                continue;
            }
        }
        commit(&mut durable, memory, counts, turn.drain(..));
    }
}

/// Ends the watches even if the writer panics: a watcher must not wait for what cannot come.
struct CloseOnExit<'a>(&'a Memory);

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn commit(
    durable: &mut Durable,
    memory: &Memory,
    counts: &Counts,
    requests: impl Iterator<Item = Request>,
) {
    let base = memory.revision();
    let mut turn = Turn { memory, revision: base, changed: HashMap::new() };
    let mut written = Vec::new();
    let mut answers = Vec::new();
    for Request { steps, answer } in requests {
        let result = turn.apply(steps).map(|facts| {
            let stored = facts.iter().map(Written::answer).collect();
            written.extend(facts);
            stored
        });
        answers.push((answer, result));
    }

    let mut fault = None;
    if !written.is_empty() {
        match durable.commit(Group { base, revision: turn.revision, written }, Instant::now()) {
            Outcome::Stored(group) => publish(memory, counts, group),
            Outcome::Failed(error) => fault = Some(error),
        }
    }
    for (answer, result) in answers {
        // A refusal stands on what others of the turn have written, so it falls with them.
        let result = match &fault {
            Some(error) => Err(error.clone()),
            None => result,
        };
        // A caller that stopped waiting has dropped its end; the commit stands all the same.
        let _ = answer.send(result);
    }
}

fn publish(memory: &Memory, counts: &Counts, group: Group) {
    counts.transactions.fetch_add(group.revision.0 - group.base.0, Ordering::Relaxed);
    counts.groups.fetch_add(1, Ordering::Relaxed);
    memory.publish(group.revision, group.written);
}

/// What the writer has done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    transactions: AtomicU64,
    groups: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> WriteCounts {
        WriteCounts {
            transactions: self.transactions.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
        }
    }
}

/// What a key holds; none when it is deleted.
type Held = Option<Arc<Record>>;

/// The state that a turn builds up before it is published.
struct Turn<'a> {
    memory: &'a Memory,
    revision: Revision,
    /// Keys touched in this turn.
    changed: HashMap<Arc<str>, Held>,
}

impl Turn<'_> {
    fn current(&self, key: &str) -> Held {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.memory.record(key),
        }
    }

    /// All steps of one transaction, or none.
    fn apply(&mut self, steps: Vec<Step>) -> Result<Vec<Written>, StoreError> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let revision = Revision(self.revision.0 + 1);
        let mut undo: Vec<(Arc<str>, Option<Held>)> = Vec::new();
        let mut written = Vec::with_capacity(steps.len());
        for step in steps {
            let previous = self.current(&step.key);
            if let Err(error) = check(&step, previous.as_deref()) {
                for (key, before) in undo.into_iter().rev() {
                    match before {
                        Some(before) => self.changed.insert(key, before),
                        None => self.changed.remove(&key),
                    };
                }
                return Err(error);
            }
            let (change, after) = change_of(step, previous, revision);
            let key = Arc::clone(change.fact.key());
            undo.push((Arc::clone(&key), self.changed.insert(key, after)));
            written.push(change);
        }
        self.revision = revision;
        Ok(written)
    }
}

fn check(step: &Step, current: Option<&Record>) -> Result<(), StoreError> {
    let key = || step.key.to_string();
    match (&step.guard, current) {
        (Guard::Absent, None) => Ok(()),
        (Guard::Absent, Some(_)) => Err(StoreError::Exists { key: key() }),
        (Guard::At(_), None) => Err(StoreError::NotFound { key: key() }),
        (Guard::At(expected), Some(current)) if *expected == current.revision => Ok(()),
        (Guard::At(expected), Some(current)) => {
            Err(StoreError::Conflict { key: key(), expected: *expected, actual: current.revision })
        }
    }
}

/// The change of one step, and what its key holds afterwards.
fn change_of(step: Step, previous: Held, revision: Revision) -> (Written, Held) {
    let Some(object) = step.put else {
        let record = previous.expect("a delete is checked to meet an object");
        return (Written { fact: Fact::Delete { record, revision }, object: None }, None);
    };
    let (key, create_revision) = match &previous {
        Some(previous) => (Arc::clone(&previous.key), previous.create_revision),
        None => (step.key, revision),
    };
    let record = Arc::new(Record { key, create_revision, revision, json: object.shared_json() });
    let fact = Fact::Put { record: Arc::clone(&record), previous };
    (Written { fact, object: Some(object) }, Some(record))
}
