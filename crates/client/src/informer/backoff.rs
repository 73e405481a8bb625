//! How long to wait after a fault: doubling, bounded, and a little different for everyone.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The bounds of the waits after faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for Backoff {
    /// From 10 ms to 5 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(10), longest: Duration::from_secs(5) }
    }
}

impl Backoff {
    pub(super) fn start(self) -> Waits {
        Waits { bounds: self, next: self.first, seed: RandomState::new(), count: 0 }
    }
}

/// The waits of one follower.
#[derive(Debug)]
pub(super) struct Waits {
    bounds: Backoff,
    next: Duration,
    seed: RandomState,
    count: u64,
}

impl Waits {
    /// The next wait: up to a quarter shorter or longer than its turn, so that clients which lost
    /// their server together do not come back together.
    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.bounds.longest);
        self.count += 1;
        let percent = u32::try_from(self.seed.hash_one(self.count) % 51).expect("below 51");
        wait * (75 + percent) / 100
    }

    pub(super) fn reset(&mut self) {
        self.next = self.bounds.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let bounds =
            Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
        let mut waits = bounds.start();
        for turn in [10, 20, 40, 80, 100, 100] {
            let wait = waits.next_wait().as_micros();
            assert!((turn * 750..=turn * 1250).contains(&wait), "{wait} µs for {turn} ms");
        }
        waits.reset();
        assert!(waits.next_wait() <= Duration::from_micros(12_500));
    }
}
