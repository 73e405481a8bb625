//! How many requests are answered at a time, so that a crowd of clients waits in line and does not take the memory.
//!
//! Requests that change something and those that only read have a limit each, as upstream's `--max-requests-inflight` and
//! `--max-mutating-requests-inflight`. Whoever finds it reached waits, as with upstream's priority and fairness; when the
//! line is full, or the wait is too long, the answer is 429 with `Retry-After`. Administrators, probes and requests that
//! last by design are not counted in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Counted, RequestKind};
use crate::status::{Result, Status};

const READ_ONLY: usize = 400;
const MUTATING: usize = 200;
/// A quarter of the request timeout, as upstream.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

pub(crate) struct Limits {
    read_only: Lane,
    mutating: Lane,
    longest_wait: Duration,
}

/// A request's turn, which ends when the last holder lets go: a list that is sent in pieces goes on after its response has
/// begun.
#[derive(Clone)]
pub(crate) struct Turn {
    _held: Arc<(Option<OwnedSemaphorePermit>, Counted)>,
}

impl Turn {
    /// `permit` is none for those who need not wait.
    pub(crate) fn new(permit: Option<OwnedSemaphorePermit>, counted: Counted) -> Turn {
        Turn { _held: Arc::new((permit, counted)) }
    }
}

/// As many may wait as may run.
struct Lane {
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Lane {
    fn new(limit: usize) -> Lane {
        Lane { running: Arc::new(Semaphore::new(limit)), waiting: Semaphore::new(limit) }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(READ_ONLY, MUTATING, LONGEST_WAIT)
    }
}

impl Limits {
    fn new(read_only: usize, mutating: usize, longest_wait: Duration) -> Limits {
        Limits { read_only: Lane::new(read_only), mutating: Lane::new(mutating), longest_wait }
    }

    /// Waits for its turn; the turn ends when the permit is dropped.
    ///
    /// # Errors
    /// 429 when too many wait already, or for too long.
    pub(crate) async fn enter(&self, kind: RequestKind) -> Result<OwnedSemaphorePermit> {
        let lane = match kind {
            RequestKind::ReadOnly => &self.read_only,
            RequestKind::Mutating => &self.mutating,
        };
        if let Ok(permit) = lane.running.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let Ok(_place) = lane.waiting.try_acquire() else {
            return Err(Status::too_many_requests());
        };
        let turn = lane.running.clone().acquire_owned();
        match tokio::time::timeout(self.longest_wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Status::too_many_requests()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn beyond_the_limit_requests_wait_and_beyond_the_line_they_are_refused() {
        let limits = Limits::new(1, 2, Duration::from_secs(600));
        let enter = || limits.enter(RequestKind::Mutating);
        let (first, _second) = (enter().await.unwrap(), enter().await.unwrap());
        let mut third = Box::pin(enter());
        let mut fourth = Box::pin(enter());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(fourth.as_mut().now_or_never().is_none());
        let refused = enter().await.unwrap_err();
        assert_eq!((refused.code.as_u16(), refused.reason), (429, "TooManyRequests"));
        // The other kind has a limit of its own.
        drop(limits.enter(RequestKind::ReadOnly).await.unwrap());
        drop(first);
        drop(third.await.unwrap());
        assert!(fourth.as_mut().now_or_never().is_some(), "the third's turn is over at once");
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused() {
        let limits = Limits::new(1, 1, Duration::from_millis(1));
        let _held = limits.enter(RequestKind::ReadOnly).await.unwrap();
        assert_eq!(limits.enter(RequestKind::ReadOnly).await.unwrap_err().code, 429);
    }
}
