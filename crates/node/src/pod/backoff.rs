//! How long a container that ended waits for its next start.
//!
//! Kubelet's rule: the first restart is at once; then at least 10 s lie between an end and the
//! next start, doubled each time up to 5 min; 10 min of peace forget it all.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
const FORGET: Duration = Duration::from_secs(600);

/// One container's restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backoff {
    /// What must lie between the last end and the next start, and when it last grew.
    delay: Option<(Duration, Instant)>,
}

impl Backoff {
    /// When a container that ended at `ended` may start; `None`: now.
    pub(crate) fn until(&self, ended: Instant, now: Instant) -> Option<Instant> {
        let (delay, grew) = self.delay?;
        let until = ended + delay;
        (until > now && now.duration_since(grew) < FORGET).then_some(until)
    }

    /// The delay in force.
    pub(crate) fn delay(&self) -> Duration {
        self.delay.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// The container is started again.
    pub(crate) fn restart(&mut self, now: Instant) {
        let delay = match self.delay {
            Some((delay, grew)) if now.duration_since(grew) < FORGET => (delay * 2).min(MOST),
            _ => FIRST,
        };
        self.delay = Some((delay, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_then_delays_double_to_five_minutes() {
        let start = Instant::now();
        let mut now = start;
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let ended = now;
            let until = backoff.until(ended, now).unwrap_or(now);
            delays.push((until - ended).as_secs());
            now = until;
            backoff.restart(now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_peace_forget_it_all() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.restart(now);
        backoff.restart(now);
        assert_eq!(backoff.delay(), 2 * FIRST);
        let later = now + FORGET;
        assert_eq!(backoff.until(later, later), None);
        backoff.restart(later);
        assert_eq!(backoff.delay(), FIRST);
    }
}
