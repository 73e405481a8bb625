//! A level-triggered work queue.
//!
//! Invariants: a key waits at most once however often it is added; a key being worked on is never
//! handed to a second worker, and an addition meanwhile makes it wait again afterwards. Failures
//! of one key back off exponentially without holding up other keys (client-go's workqueue).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::queues::QueueMetrics;

/// The first delay after a failure.
const BASE: Duration = Duration::from_millis(5);
/// The longest delay after failures. Upstream goes to 1000 s; on one machine nothing is spared by
/// waiting so long.
const CAP: Duration = Duration::from_secs(30);

/// A queue of keys.
pub(crate) struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that wait, with when they were added.
    waiting: HashMap<K, Instant>,
    /// Keys that are worked on, with when that began.
    running: HashMap<K, Instant>,
    /// Keys due later, by time and a tie-breaking number.
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
    metrics: Option<QueueMetrics>,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: HashMap::new(),
                running: HashMap::new(),
                delayed: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                serial: 0,
                metrics: None,
            }),
            wake: Notify::new(),
        }
    }

    /// Counts from now on; what waits already as just added.
    pub(crate) fn measure(&self, metrics: QueueMetrics) {
        let mut state = self.state.lock();
        for _ in &state.waiting {
            metrics.added();
        }
        state.metrics = Some(metrics);
    }

    /// Adds a key for work at once.
    pub(crate) fn add(&self, key: K) {
        if self.state.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Adds a key for work after `delay`; an earlier appointment of the same key stays.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state.lock().delay(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Waits for a key; `None` once `shutdown` is cancelled. Pair with [`Self::done`].
    pub(crate) async fn next(&self, shutdown: &CancellationToken) -> Option<K> {
        loop {
            let deadline = {
                let mut state = self.state.lock();
                let now = Instant::now();
                state.promote(now);
                if let Some(key) = state.ready.pop_front() {
                    let added = state.waiting.remove(&key);
                    if let (Some(metrics), Some(added)) = (&state.metrics, added) {
                        metrics.taken(now - added);
                    }
                    state.running.insert(key.clone(), now);
                    // Pass the baton: another worker takes what is left, or watches the delays.
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = self.wake.notified() => {}
                () = due => {}
            }
        }
    }

    /// The work on a key succeeded: its failures are forgotten.
    pub(crate) fn succeeded(&self, key: &K) {
        self.state.lock().failures.remove(key);
        self.finish(key);
    }

    /// The work on a key failed: it is added again after a growing delay. Returns how often it has
    /// failed in a row.
    pub(crate) fn failed(&self, key: &K) -> u32 {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            let failures = *failures;
            if let Some(metrics) = &state.metrics {
                metrics.failed();
            }
            state.delay(key.clone(), Instant::now() + backoff(failures));
            failures
        };
        self.finish(key);
        failures
    }

    fn finish(&self, key: &K) {
        let mut state = self.state.lock();
        let begun = state.running.remove(key);
        if let (Some(metrics), Some(begun)) = (&state.metrics, begun) {
            metrics.done(begun.elapsed());
        }
        if state.waiting.contains_key(key) {
            state.ready.push_back(key.clone());
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Returns whether a worker should wake.
    fn add(&mut self, key: K) -> bool {
        if self.waiting.contains_key(&key) {
            return false;
        }
        self.waiting.insert(key.clone(), Instant::now());
        if let Some(metrics) = &self.metrics {
            metrics.added();
        }
        if let Some(at) = self.due.remove(&key) {
            self.delayed.remove(&at);
        }
        if self.running.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn delay(&mut self, key: K, at: Instant) {
        if let Some(earlier) = self.due.get(&key) {
            if earlier.0 <= at {
                return;
            }
            self.delayed.remove(earlier);
        }
        self.serial += 1;
        self.due.insert(key.clone(), (at, self.serial));
        self.delayed.insert((at, self.serial), key);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

fn backoff(failures: u32) -> Duration {
    BASE.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_added_thrice_is_handed_out_once() {
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        for _ in 0..3 {
            queue.add(1);
        }
        queue.add(2);
        assert_eq!(queue.next(&stop).await, Some(1));
        assert_eq!(queue.next(&stop).await, Some(2));
        assert!(queue.state.lock().ready.is_empty());
    }

    #[tokio::test]
    async fn a_key_added_while_it_runs_waits_until_it_is_done() {
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        queue.add(1);
        assert_eq!(queue.next(&stop).await, Some(1));
        queue.add(1);
        queue.add(2);
        assert_eq!(queue.next(&stop).await, Some(2));
        assert!(queue.state.lock().ready.is_empty());
        queue.succeeded(&1);
        assert_eq!(queue.next(&stop).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        queue.add(1);
        for expected in [5, 10, 20, 40] {
            queue.next(&stop).await;
            let before = Instant::now();
            queue.failed(&1);
            queue.next(&stop).await;
            assert!(before.elapsed() >= Duration::from_millis(expected));
            queue.add(1);
            queue.finish(&1);
        }
        queue.next(&stop).await;
        queue.succeeded(&1);
        assert!(queue.state.lock().failures.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_appointment_of_a_key_holds() {
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        let before = Instant::now();
        queue.add_after(1, Duration::from_secs(9));
        queue.add_after(1, Duration::from_secs(3));
        queue.add_after(1, Duration::from_secs(6));
        assert_eq!(queue.next(&stop).await, Some(1));
        assert!(before.elapsed() < Duration::from_secs(4));
        assert!(queue.state.lock().delayed.is_empty());
    }

    #[tokio::test]
    async fn what_waits_and_what_failed_is_counted() {
        let metrics = crate::Metrics::default();
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        queue.add(1);
        queue.measure(metrics.queues.of("letters"));
        for key in [1, 2, 3] {
            queue.add(key);
        }
        queue.next(&stop).await;
        queue.failed(&1);
        queue.next(&stop).await;
        queue.succeeded(&2);
        let text = metrics.text();
        for line in [
            "workqueue_depth{name=\"letters\"} 1",
            "workqueue_adds_total{name=\"letters\"} 3",
            "workqueue_retries_total{name=\"letters\"} 1",
            "workqueue_queue_duration_seconds_count{name=\"letters\"} 2",
            "workqueue_work_duration_seconds_count{name=\"letters\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }

    #[tokio::test]
    async fn cancelling_ends_the_wait() {
        let (queue, stop) = (WorkQueue::<u8>::new(), CancellationToken::new());
        stop.cancel();
        assert_eq!(queue.next(&stop).await, None);
    }

    #[test]
    fn backoff_never_exceeds_its_cap() {
        assert_eq!(backoff(1), BASE);
        assert_eq!(backoff(u32::MAX), CAP);
    }
}
