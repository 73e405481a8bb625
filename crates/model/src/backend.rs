//! What a proxy asks of a backend: plans, which are pure and can be shown, and carrying them out.

use std::error::Error;
use std::fmt::Display;
use std::time::Instant;

use crate::{Delta, ForwardingTable};

/// Turns forwarding tables of one family into rules of a kernel.
///
/// The caller makes the first call [`Backend::start`], then [`Backend::apply`] for each delta that is
/// not empty, and `start` again after an error or for its periodic full sync: it looks at what the
/// kernel holds and changes only what differs, without ever taking working rules away first.
pub trait Backend {
    /// What is to be done; printable for people and golden files.
    type Plan: Display;
    /// Why it could not be done.
    type Error: Error + Send + Sync + 'static;

    /// What makes an empty kernel hold this table.
    fn plan_full(&self, table: &ForwardingTable) -> Self::Plan;

    /// What makes a kernel that holds the table before `delta` hold `table`, the one after it.
    fn plan_delta(&self, table: &ForwardingTable, delta: &Delta) -> Self::Plan;

    /// Makes the kernel hold this table, whatever it holds now, by changing what differs.
    fn start(&mut self, table: &ForwardingTable) -> Result<Applied, Self::Error>;

    /// Makes the kernel hold `table` by changing what `delta` says. When the kernel turns out not to
    /// hold the table before (somebody changed it), all of it is put right: [`Drift::Repaired`].
    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, Self::Error>;

    /// Looks after what changes have left to end by itself; gives when to look again, nothing when nothing
    /// is left. To be called after every [`Backend::start`] and [`Backend::apply`].
    fn tend(&mut self, _now: Instant) -> Result<Option<Instant>, Self::Error> {
        Ok(None)
    }

    /// How many rules the kernel holds and how many were said last, by table; nothing where their number
    /// does not follow the Services.
    fn rules(&self) -> Vec<RuleCount> {
        Vec::new()
    }

    /// Removes everything of this backend from the kernel.
    fn cleanup(&mut self) -> Result<(), Self::Error>;
}

/// How many rules a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleCount {
    /// The table's name.
    pub table: &'static str,
    /// How many rules of ours it has.
    pub total: usize,
    /// How many of them the last change said or took back.
    pub last: usize,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many transactions it took; none when there was nothing to do.
    pub commits: usize,
    /// How many objects were added, changed or removed.
    pub operations: usize,
    /// Whether the kernel held what it should have held.
    pub drift: Drift,
}

/// Whether the kernel held what it should have held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// It did.
    #[default]
    None,
    /// It did not, and was put right. Worth an event and a metric.
    Repaired,
}
