//! Chance that nobody outside may guess: ids of queries, names of probes.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that follows from the ones before only for who knows this process's secret: SipHash of
/// a counter under a key of the operating system's.
pub(crate) fn unguessable() -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    KEY.get_or_init(RandomState::new).hash_one(count)
}

/// As an id of a query.
pub(crate) fn query_id() -> u16 {
    (unguessable() >> 48) as u16
}

/// As a number below `bound`, which is not 0.
pub(crate) fn below(bound: usize) -> usize {
    place(unguessable(), bound)
}

/// Where among `bound` places a hash belongs.
pub(crate) fn place(hash: u64, bound: usize) -> usize {
    usize::try_from(hash % bound as u64).unwrap_or_default()
}
