//! Time and randomness as arguments.
//!
//! Plans take the time as a value; runners take it from here, so that tests can drive both.
//! Intervals and retries run on tokio's clock, which tests can pause.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

/// Where runners read the time of day from.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The whole seconds of `at`, the precision of `metav1.Time`.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a timestamp's own second is in range")
}

/// How long after `from` it is, or zero when `from` lies ahead.
pub(crate) fn elapsed(from: Timestamp, now: Timestamp) -> std::time::Duration {
    now.duration_since(from).try_into().unwrap_or_default()
}
