//! Forgetting stale UDP flows on a thread of its own, off the way of syncs.
//!
//! Changes that come while a clean-up runs are merged: one burst of changes costs one dump.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use portolan_model::Family;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::Pages;
use crate::stale::StaleUdp;

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<BTreeMap<Family, StaleUdp>>,
    changed: Notify,
}

/// Where changes of UDP Services go.
#[derive(Debug, Clone)]
pub(crate) struct Cleaner {
    shared: Arc<Shared>,
}

impl Cleaner {
    /// Starts the task; it ends at `stop`.
    pub(crate) fn start(pages: Arc<Pages>, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared::default());
        let this = Self { shared: Arc::clone(&shared) };
        tasks.spawn(async move {
            while stop.run_until_cancelled(shared.changed.notified()).await.is_some() {
                let pending = std::mem::take(&mut *shared.pending.lock());
                for (family, stale) in pending {
                    clean(family, stale, &pages).await;
                }
            }
        });
        this
    }

    /// Forgets stale flows soon.
    pub(crate) fn clean(&self, family: Family, stale: StaleUdp) {
        let mut pending = self.shared.pending.lock();
        match pending.get_mut(&family) {
            Some(before) => before.merge(stale),
            None => {
                pending.insert(family, stale);
            }
        }
        drop(pending);
        self.shared.changed.notify_one();
    }
}

async fn clean(family: Family, stale: StaleUdp, pages: &Pages) {
    let began = Instant::now();
    match tokio::task::spawn_blocking(move || stale.clean()).await {
        Ok(Ok(deleted)) => {
            pages.metrics.conntrack(family, began.elapsed(), deleted);
            if deleted > 0 {
                tracing::info!(%family, deleted, "Forgot UDP flows to endpoints that are gone");
            }
        }
        // The next change of a UDP Service tries again; rules are right all the same.
        Ok(Err(e)) => tracing::error!(%family, "cannot forget stale UDP flows: {e}"),
        Err(e) => tracing::error!(%family, "the clean-up of UDP flows crashed: {e}"),
    }
}
