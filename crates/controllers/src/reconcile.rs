//! Workers that take keys from a queue and reconcile them.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::kind::is_conflict;
use crate::queue::WorkQueue;
use crate::{Error, Metrics, Result};

/// A controller: brings what one key stands for nearer to what is wanted.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// What the queue holds.
    type Key: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static;
    /// The name in logs.
    const NAME: &'static str;

    /// The queue that this controller's event handlers fill.
    fn queue(&self) -> &Arc<WorkQueue<Self::Key>>;

    /// Does the work once. An error brings the key back after a growing delay, a duration after
    /// that time.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Option<Duration>>> + Send;
}

/// Starts the workers of controllers.
pub(crate) struct Workers<'a> {
    pub(crate) tasks: &'a mut JoinSet<()>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) stop: &'a CancellationToken,
}

impl Workers<'_> {
    /// Starts so many for a controller, at least one.
    pub(crate) fn on<R: Reconcile>(&mut self, controller: &Arc<R>, workers: usize) {
        controller.queue().measure(self.metrics.queues.of(R::NAME));
        for _ in 0..workers.max(1) {
            let (controller, stop) = (Arc::clone(controller), self.stop.clone());
            self.tasks.spawn(async move {
                while let Some(key) = controller.queue().next(&stop).await {
                    step(&*controller, &key, &stop).await;
                }
            });
        }
    }
}

async fn step<R: Reconcile>(controller: &R, key: &R::Key, shutdown: &CancellationToken) {
    let outcome = tokio::select! {
        outcome = controller.reconcile(key) => outcome,
        () = shutdown.cancelled() => return,
    };
    match outcome {
        Ok(after) => {
            if let Some(after) = after {
                controller.queue().add_after(key.clone(), after);
            }
            controller.queue().succeeded(key);
        }
        Err(error) => {
            let failures = controller.queue().failed(key);
            let routine = matches!(&error, Error::Api(api) if is_conflict(api)) || failures == 1;
            let detail = describe(&error);
            if routine {
                tracing::debug!(controller = R::NAME, %key, error = detail, "will try again");
            } else {
                tracing::warn!(controller = R::NAME, %key, failures, error = detail, "will try again");
            }
        }
    }
}

/// An error with its sources on one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
