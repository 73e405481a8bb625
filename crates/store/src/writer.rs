//! The writer thread: the one owner of the file and the one that moves the revision.
//!
//! Each turn takes every waiting transaction (up to a bound), checks them in order against the
//! published objects plus what earlier transactions of the same turn have changed, and writes those
//! that passed in one redb commit. When that commit fails nothing is published and all callers of
//! the turn get the error; the revisions are used again.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::file::{Change, File};
use crate::memory::Memory;
use crate::store::{Op, Revision, Stored};
use crate::watch::Event;

/// Transactions that share one redb commit at most.
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
    put: Option<(Arc<Value>, Vec<u8>)>,
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
        let encode = |value: Value| {
            let json = serde_json::to_vec(&value).expect("a Value has string keys and no NaN");
            Some((Arc::new(value), json))
        };
        let steps = ops.into_iter().map(|op| match op {
            Op::Create { key, value } => {
                Step { key: key.into(), guard: Guard::Absent, put: encode(value) }
            }
            Op::Update { key, expected, value } => {
                Step { key: key.into(), guard: Guard::At(expected), put: encode(value) }
            }
            Op::Delete { key, expected } => {
                Step { key: key.into(), guard: Guard::At(expected), put: None }
            }
        });
        Self { steps: steps.collect(), answer }
    }
}

/// An event together with what the file and the history's budget need to know of it.
pub(crate) struct Written {
    pub(crate) event: Event,
    /// The new value as JSON; empty for a delete.
    pub(crate) json: Vec<u8>,
}

/// Serves requests until all senders are gone.
pub(crate) fn run(file: &File, memory: &Memory, mut queue: mpsc::Receiver<Request>) {
    let _ends_watches = CloseOnExit(memory);
    let mut turn = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut turn, GROUP) > 0 {
        commit(file, memory, turn.drain(..));
    }
}

/// Ends the watches even if the writer panics: a watcher must not wait for what cannot come.
struct CloseOnExit<'a>(&'a Memory);

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn commit(file: &File, memory: &Memory, requests: impl Iterator<Item = Request>) {
    let mut group = Group { memory, revision: memory.revision(), changed: HashMap::new() };
    let mut written = Vec::new();
    let mut answers = Vec::new();
    for Request { steps, answer } in requests {
        let result = group.apply(steps).map(|events| {
            let stored = events.iter().map(|w| result_of(&w.event)).collect();
            written.extend(events);
            stored
        });
        answers.push((answer, result));
    }

    let durable = if written.is_empty() {
        Ok(())
    } else {
        file.write(group.revision, written.iter().map(change_of)).map_err(StoreError::disk)
    };
    match &durable {
        Ok(()) => memory.publish(group.revision, written),
        Err(error) => tracing::error!(%error, "a commit failed; nothing of it is visible"),
    }
    for (answer, result) in answers {
        // A caller that stopped waiting has dropped its end; the commit stands all the same.
        let _ = answer.send(durable.clone().and(result));
    }
}

/// The state that a turn builds up before it is published.
struct Group<'a> {
    memory: &'a Memory,
    revision: Revision,
    /// Keys touched in this turn; none when deleted.
    changed: HashMap<Arc<str>, Option<Stored>>,
}

impl Group<'_> {
    fn current(&self, key: &str) -> Option<Stored> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.memory.get(key),
        }
    }

    /// All steps of one transaction, or none.
    fn apply(&mut self, steps: Vec<Step>) -> Result<Vec<Written>, StoreError> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let revision = Revision(self.revision.0 + 1);
        let mut undo: Vec<(Arc<str>, Option<Option<Stored>>)> = Vec::new();
        let mut written = Vec::with_capacity(steps.len());
        for step in steps {
            let previous = self.current(&step.key);
            if let Err(error) = check(&step, previous.as_ref()) {
                for (key, before) in undo.into_iter().rev() {
                    match before {
                        Some(before) => self.changed.insert(key, before),
                        None => self.changed.remove(&key),
                    };
                }
                return Err(error);
            }
            let (event, after, json) = event_of(step, previous, revision);
            let key = Arc::clone(event.key());
            undo.push((Arc::clone(&key), self.changed.insert(key, after)));
            written.push(Written { event, json });
        }
        self.revision = revision;
        Ok(written)
    }
}

fn check(step: &Step, current: Option<&Stored>) -> Result<(), StoreError> {
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

fn event_of(
    step: Step,
    previous: Option<Stored>,
    revision: Revision,
) -> (Event, Option<Stored>, Vec<u8>) {
    let Some((value, json)) = step.put else {
        let stored = previous.expect("a delete is checked to meet an object");
        return (Event::Delete { stored, revision }, None, Vec::new());
    };
    let (key, create_revision) = match &previous {
        Some(previous) => (Arc::clone(&previous.key), previous.create_revision),
        None => (step.key, revision),
    };
    let stored = Stored { key, create_revision, revision, value };
    (Event::Put { stored: stored.clone(), previous }, Some(stored), json)
}

fn result_of(event: &Event) -> Stored {
    match event {
        Event::Put { stored, .. } => stored.clone(),
        Event::Delete { stored, revision } => Stored { revision: *revision, ..stored.clone() },
    }
}

fn change_of(written: &Written) -> Change<'_> {
    match &written.event {
        Event::Put { stored, .. } => Change::Put { stored, json: &written.json },
        Event::Delete { stored, .. } => Change::Delete { key: &stored.key },
    }
}
