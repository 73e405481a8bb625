//! When a family may be synced next, and what waits for that.
//!
//! ```text
//!            queued                begin                      done
//!   resting ───────▶ due at once ───────▶ syncing ─────────────────────────▶ resting
//!                        ▲                   │ refused: the changes wait on,
//!                        └── not_before ◀────┘          for longer each time
//! ```
//!
//! Each family has a turn of its own, so that one whose rules the kernel refuses holds no other up.

use std::time::Duration;

use jiff::Timestamp;
use portolan_model::Family;
use tokio::time::Instant;

/// The first wait after a refused sync.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Changes that wait for a sync.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) services: usize,
    pub(super) slices: usize,
    /// When the changes began whose latency is to be measured.
    pub(super) triggers: Vec<Timestamp>,
    /// Whether a sync is due for any other reason.
    pub(super) asked: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.services == 0 && self.slices == 0 && !self.asked
    }

    fn add(&mut self, other: Waiting) {
        self.services += other.services;
        self.slices += other.slices;
        self.triggers.extend(other.triggers);
        self.asked |= other.asked;
    }
}

/// One family's.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) family: Family,
    pub(super) waiting: Waiting,
    pub(super) has_synced: bool,
    /// When the next sync may be, after a refusal or by `minSyncPeriod`.
    not_before: Instant,
    retry: Duration,
}

impl Turn {
    /// A first sync is due.
    pub(super) fn new(family: Family, now: Instant) -> Self {
        let waiting = Waiting { asked: true, ..Waiting::default() };
        Self { family, waiting, has_synced: false, not_before: now, retry: FIRST_RETRY }
    }

    /// When a sync is due; nothing when there is no reason for one.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.not_before)
    }

    /// No sync before this moment.
    pub(super) fn put_off(&mut self, until: Instant) {
        self.not_before = self.not_before.max(until);
    }

    /// A sync begins; what waited for it goes with it.
    pub(super) fn begin(&mut self, now: Instant, min_period: Duration) -> Waiting {
        self.not_before = now + min_period;
        std::mem::take(&mut self.waiting)
    }

    /// The kernel holds what it should.
    pub(super) fn done(&mut self) {
        self.retry = FIRST_RETRY;
        self.has_synced = true;
    }

    /// The kernel refused: what waited waits on. Says for how long.
    pub(super) fn refused(
        &mut self,
        waiting: Waiting,
        now: Instant,
        longest: Duration,
    ) -> Duration {
        let wait = self.retry;
        self.put_off(now + wait);
        self.retry = (wait * 2).min(longest);
        self.waiting.add(waiting);
        self.waiting.asked = true;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(100);

    #[test]
    fn a_sync_is_due_while_something_waits_and_not_sooner_than_the_period() {
        let now = Instant::now();
        let mut turn = Turn::new(Family::Ipv6, now);
        assert_eq!(turn.due(), Some(now));
        let period = Duration::from_secs(1);
        assert!(turn.begin(now, period).asked);
        turn.done();
        assert_eq!(turn.due(), None);
        turn.waiting.services = 1;
        assert_eq!(turn.due(), Some(now + period));
    }

    #[test]
    fn a_refused_family_waits_longer_each_time_and_loses_no_change() {
        let now = Instant::now();
        let mut turn = Turn::new(Family::Ipv4, now);
        turn.waiting = Waiting { services: 2, ..Waiting::default() };
        turn.waiting.triggers.push(Timestamp::UNIX_EPOCH);
        let mut waits = Vec::new();
        for _ in 0..5 {
            let waiting = turn.begin(now, Duration::ZERO);
            turn.waiting.slices = 1;
            waits.push(turn.refused(waiting, now, LONGEST).as_millis());
            assert!(turn.due() > Some(now));
        }
        assert_eq!(waits, [20, 40, 80, 100, 100]);
        assert_eq!((turn.waiting.services, turn.waiting.slices), (2, 5));
        assert_eq!(turn.waiting.triggers.len(), 1);
        turn.begin(now, Duration::ZERO);
        turn.done();
        assert_eq!(turn.refused(Waiting::default(), now, LONGEST).as_millis(), 20);
    }
}
