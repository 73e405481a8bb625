//! One probe of one container instance: when it runs, and what its results mean. Pure; time is
//! an argument.
//!
//! ```text
//!            start + initialDelay           period, or sooner while not yet ready
//!  started ────────────────────▶ due ──probe──▶ result ──▶ (successes or failures in a row reach
//!                                 ▲               │         their threshold: verdict changes)
//!                                 └───────────────┘
//! ```
//!
//! Kubelet probes a container at once, and again whenever the pod's status changes until it is
//! ready; so here a readiness or startup probe that fails in its first period is tried again
//! after 10 ms, 20 ms, … . Such an early failure does not count towards the threshold.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

/// Which question a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Has it started? Holds the others off until it has.
    Startup,
    /// Must it be restarted?
    Liveness,
    /// May it get traffic?
    Readiness,
}

impl Kind {
    /// The word in events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// What one try found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered well.
    Success,
    /// It did not, and why.
    Failure(String),
}

/// What the results so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not enough results for either.
    Unknown,
    /// The success threshold was reached last.
    Good,
    /// The failure threshold was reached last.
    Bad,
}

/// The first wait of an early retry.
const EARLY: Duration = Duration::from_millis(10);

/// The state of a probe.
#[derive(Debug, Clone)]
pub(crate) struct State {
    kind: Kind,
    period: Duration,
    success_threshold: i32,
    failure_threshold: i32,
    verdict: Verdict,
    run: Option<(bool, i32)>,
    /// The end of the first period, and the next early wait.
    early: Option<(Instant, Duration)>,
    next: Instant,
}

impl State {
    /// A probe of a container that started at `started`.
    pub(crate) fn new(kind: Kind, probe: &Probe, started: Instant) -> State {
        let seconds = |value: Option<i32>, default: u32| {
            let value = value.and_then(|value| u32::try_from(value).ok());
            Duration::from_secs(u64::from(value.unwrap_or(default)))
        };
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let first = started + seconds(probe.initial_delay_seconds, 0);
        State {
            kind,
            period,
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            verdict: Verdict::Unknown,
            run: None,
            early: (kind != Kind::Liveness && probe.exec.is_none())
                .then_some((first + period, EARLY)),
            next: first,
        }
    }

    /// When to probe next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Whether a failure at `now` would be an early one, which says nothing.
    pub(crate) fn is_early(&self, now: Instant) -> bool {
        self.early.is_some_and(|(end, wait)| now + wait < end)
    }

    /// Counts a result that came at `now`; the new verdict if it changed.
    pub(crate) fn observe(&mut self, outcome: &Outcome, now: Instant) -> Option<Verdict> {
        let good = *outcome == Outcome::Success;
        self.next = (self.next + self.period).max(now);
        if good {
            self.early = None;
        } else if let Some((end, wait)) = self.early {
            let again = now + wait;
            if again < end {
                self.early = Some((end, wait * 2));
                self.next = again;
                return None;
            }
            self.early = None;
            self.next = end.max(now);
        }
        let count = match self.run {
            Some((same, count)) if same == good => count.saturating_add(1),
            _ => 1,
        };
        self.run = Some((good, count));
        let threshold = if good { self.success_threshold } else { self.failure_threshold };
        let verdict = if good { Verdict::Good } else { Verdict::Bad };
        // A startup probe's success is final; what fails before any threshold says nothing.
        let changed = count >= threshold && self.verdict != verdict;
        if changed {
            self.verdict = verdict;
        }
        changed.then_some(verdict)
    }

    /// Whether there is nothing more to ask: a startup probe that has its answer.
    pub(crate) fn is_over(&self) -> bool {
        match self.kind {
            Kind::Startup => self.verdict != Verdict::Unknown,
            Kind::Liveness => self.verdict == Verdict::Bad,
            Kind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(initial: i32, period: i32, success: i32, failure: i32) -> Probe {
        Probe {
            initial_delay_seconds: Some(initial),
            period_seconds: Some(period),
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        }
    }

    fn fail() -> Outcome {
        Outcome::Failure("no".into())
    }

    #[test]
    fn the_first_probe_waits_for_the_initial_delay_only() {
        let start = Instant::now();
        assert_eq!(State::new(Kind::Readiness, &probe(0, 10, 1, 3), start).next(), start);
        let state = State::new(Kind::Liveness, &probe(5, 10, 1, 3), start);
        assert_eq!(state.next(), start + Duration::from_secs(5));
    }

    #[test]
    fn an_early_failure_is_retried_within_milliseconds_and_counts_for_nothing() {
        let start = Instant::now();
        let mut state = State::new(Kind::Readiness, &probe(0, 10, 1, 1), start);
        assert_eq!(state.observe(&fail(), start), None);
        assert_eq!(state.next(), start + EARLY);
        assert_eq!(state.observe(&Outcome::Success, start + EARLY), Some(Verdict::Good));
    }

    #[test]
    fn after_the_first_period_failures_count_and_come_once_a_period() {
        let start = Instant::now();
        let mut state = State::new(Kind::Startup, &probe(0, 1, 1, 3), start);
        let mut verdicts = Vec::new();
        while !state.is_over() {
            let now = state.next();
            if let Some(verdict) = state.observe(&fail(), now) {
                verdicts.push((verdict, (now - start).as_millis()));
            }
        }
        // The last early try counts, then one a period: as late as kubelet, which counts at 0, 1, 2 s.
        assert_eq!(verdicts.len(), 1);
        let (verdict, after) = verdicts[0];
        assert_eq!(verdict, Verdict::Bad);
        assert_eq!(after, 2000);
    }

    #[test]
    fn a_verdict_changes_only_at_its_threshold() {
        let start = Instant::now();
        let mut state = State::new(Kind::Readiness, &probe(0, 1, 2, 2), start);
        let results = [true, true, false, true, false, false, false, true, true];
        let mut verdicts = Vec::new();
        for (second, good) in (0..).zip(results) {
            let outcome = if good { Outcome::Success } else { fail() };
            let now = start + Duration::from_secs(second);
            verdicts.push(state.observe(&outcome, now));
        }
        let (good, bad) = (Some(Verdict::Good), Some(Verdict::Bad));
        assert_eq!(verdicts, [None, good, None, None, None, bad, None, None, good]);
    }

    #[test]
    fn a_liveness_probe_fails_at_its_threshold_and_is_over() {
        let start = Instant::now();
        let mut state = State::new(Kind::Liveness, &probe(0, 1, 1, 2), start);
        assert_eq!(state.observe(&fail(), start), None);
        assert_eq!(state.observe(&fail(), start), Some(Verdict::Bad));
        assert!(state.is_over());
    }
}
