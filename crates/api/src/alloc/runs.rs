//! A set of numbers as its runs: neighbours share one entry, so the first free number after any
//! point is found by one look, and a full range costs no more than a single number.

use std::collections::BTreeMap;

/// Invariant: runs are maximal, there is a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u128, u128>);

impl Runs {
    pub(super) fn contains(&self, number: u128) -> bool {
        self.run_of(number).is_some()
    }

    /// Adds a number; false when it was there.
    pub(super) fn insert(&mut self, number: u128) -> bool {
        if self.contains(number) {
            return false;
        }
        let before = self.0.range(..number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(number) => first,
            _ => number,
        };
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, after.unwrap_or(number));
        true
    }

    /// Removes a number; false when it was not there.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let Some((first, last)) = self.run_of(number) else { return false };
        if first == number {
            self.0.remove(&first);
        } else {
            self.0.insert(first, number - 1);
        }
        if number < last {
            self.0.insert(number + 1, last);
        }
        true
    }

    /// The first number that is not in the set, of `from..=to`.
    pub(super) fn first_free(&self, from: u128, to: u128) -> Option<u128> {
        let candidate = match self.run_of(from) {
            Some((_, last)) => last.checked_add(1)?,
            None => from,
        };
        (candidate <= to).then_some(candidate)
    }

    /// How many numbers of `from..=to` are in the set.
    pub(super) fn count(&self, from: u128, to: u128) -> u64 {
        let numbers: u128 = self.within(from, to).map(|(first, last)| last - first + 1).sum();
        u64::try_from(numbers).unwrap_or(u64::MAX)
    }

    /// The runs of the set, cut to `from..=to`.
    pub(super) fn within(&self, from: u128, to: u128) -> impl Iterator<Item = (u128, u128)> {
        let inside = self.run_of(from).map(|(_, last)| (from, last)).into_iter();
        let starting = match from.checked_add(1) {
            Some(next) if next <= to => Some(self.0.range(next..=to)),
            _ => None,
        };
        let starting = starting.into_iter().flatten().map(|(first, last)| (*first, *last));
        inside.chain(starting).map(move |(first, last)| (first, last.min(to)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u128> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.0.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }
}
