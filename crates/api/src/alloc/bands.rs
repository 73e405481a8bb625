//! The numbers of one range, in their two bands.

use super::Rng;
use super::runs::Runs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bands {
    first: u128,
    /// First number of the dynamic band; past `last` when there is none.
    dynamic: u128,
    last: u128,
}

impl Bands {
    /// `first..=last`, of which `offset` numbers are the static band; none when the range is empty.
    pub(super) fn new(first: u128, last: u128, offset: u64) -> Option<Self> {
        let dynamic = first.checked_add(u128::from(offset))?;
        (first <= last).then_some(Self { first, dynamic, last })
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.last - self.first).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(super) fn taken(&self, taken: &Runs) -> u64 {
        taken.count(self.first, self.last)
    }

    pub(super) fn taken_numbers(&self, taken: &Runs) -> impl Iterator<Item = u128> {
        taken.within(self.first, self.last).flat_map(|(first, last)| first..=last)
    }

    /// A free number, of the dynamic band while it lasts.
    pub(super) fn next(&self, taken: &Runs, rng: Rng<'_>) -> Option<u128> {
        from_random_point(taken, self.dynamic, self.last, rng).or_else(|| {
            let end = self.dynamic.checked_sub(1)?.min(self.last);
            from_random_point(taken, self.first, end, rng)
        })
    }
}

/// A random number of the band, or the next free one after it, wrapping around.
fn from_random_point(taken: &Runs, first: u128, last: u128, rng: Rng<'_>) -> Option<u128> {
    let size = last.checked_sub(first)?.saturating_add(1);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let start = first + u128::from(rng(size) % size);
    taken.first_free(start, last).or_else(|| taken.first_free(first, start.checked_sub(1)?))
}

/// Width of the static band: `min(max(16, size / divisor), cap)`, none in a range of 16 or less.
pub(super) fn offset(size: u64, divisor: u64, cap: u64) -> u64 {
    if size <= 16 { 0 } else { (size / divisor).max(16).min(cap) }
}
