//! The recent past: facts in order, and every so often the whole state, to undo from there.
//!
//! The kept states share all but the changed nodes with the present, and the records that only they
//! and the facts hold are bounded with the facts.

use std::collections::VecDeque;

use crate::Revision;
use crate::error::StoreError;
use crate::fact::Fact;
use crate::tree::Tree;

/// Facts between two kept states: what a list of the past undoes at most, give or take a group.
const STEP: usize = 1024;

#[derive(Debug)]
pub(crate) struct History {
    facts: VecDeque<Fact>,
    /// Of values that only the history keeps alive, as JSON.
    bytes: usize,
    /// Facts up to here are forgotten; this revision itself can still be listed.
    oldest: Revision,
    kept: VecDeque<(Revision, Tree)>,
    since_kept: usize,
    most_facts: usize,
    most_bytes: usize,
}

impl History {
    pub(crate) fn new(revision: Revision, most_facts: usize, most_bytes: usize) -> Self {
        Self {
            facts: VecDeque::new(),
            bytes: 0,
            oldest: revision,
            kept: VecDeque::new(),
            since_kept: 0,
            most_facts: most_facts.max(1),
            most_bytes,
        }
    }

    /// The oldest revision that can be listed and watched from.
    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    pub(crate) fn check_kept(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.oldest {
            return Err(StoreError::Compacted { requested: revision, oldest: self.oldest });
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, fact: Fact) {
        self.bytes += fact.bytes();
        self.facts.push_back(fact);
        self.since_kept += 1;
    }

    /// After a group: keeps the state if it is time to, and forgets what is too much.
    pub(crate) fn trim(&mut self, revision: Revision, objects: &Tree) {
        if self.since_kept >= STEP {
            self.since_kept = 0;
            self.kept.push_back((revision, objects.clone()));
        }
        while self.facts.len() > self.most_facts
            || (self.bytes > self.most_bytes && self.facts.len() > 1)
        {
            self.forget_oldest();
        }
        self.drop_kept();
    }

    pub(crate) fn compact(&mut self, until: Revision) {
        while self.facts.front().is_some_and(|fact| fact.revision() <= until) {
            self.forget_oldest();
        }
        self.oldest = self.oldest.max(until);
        self.drop_kept();
    }

    /// The first kept state that is not before a revision.
    pub(crate) fn nearest(&self, revision: Revision) -> Option<(Revision, Tree)> {
        let at = self.kept.partition_point(|(kept, _)| *kept < revision);
        self.kept.get(at).cloned()
    }

    /// Facts after one revision up to another, oldest first.
    pub(crate) fn between(&self, after: Revision, until: Revision) -> Vec<Fact> {
        let start = self.facts.partition_point(|fact| fact.revision() <= after);
        let end = self.facts.partition_point(|fact| fact.revision() <= until);
        self.facts.range(start..end.max(start)).cloned().collect()
    }

    /// Drops the oldest fact, and with it every other fact of its revision: a revision is in the
    /// history whole or not at all.
    fn forget_oldest(&mut self) {
        let Some(oldest) = self.facts.front().map(Fact::revision) else { return };
        while let Some(fact) = self.facts.pop_front_if(|fact| fact.revision() == oldest) {
            self.bytes -= fact.bytes();
        }
        self.oldest = self.oldest.max(oldest);
    }

    fn drop_kept(&mut self) {
        while self.kept.pop_front_if(|(kept, _)| *kept < self.oldest).is_some() {}
    }
}
