//! The controllers that turn workloads and Services into Pods and EndpointSlices.
//!
//! Each controller is a folder with a *pure* plan (cached objects and the time in, API writes out)
//! and a thin runner that feeds and carries it out. All of them share one watch and one cache per
//! kind, and level-triggered work queues. They speak to the API server only through
//! [`kube::Client`], so they run beside the embedded API server and against any other.

mod accounttokens;
#[doc(hidden)]
pub mod bench;
mod cache;
mod claim;
mod clock;
mod clusterroleaggregation;
mod config;
mod daemonset;
mod deployment;
mod discovery;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod error;
pub mod event;
mod garbage;
mod kind;
mod kinds;
mod metrics;
mod namespace;
mod node;
mod object;
mod pod;
mod podgc;
mod queue;
mod reconcile;
mod replicaset;
mod scheduler;
mod selector;
mod serviceaccount;
mod start;
mod statefulset;
mod template;
#[cfg(test)]
mod testing;

pub use clock::{Clock, SystemClock};
pub use config::Config;
pub use error::{Error, Result};
pub use metrics::Metrics;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// As whom the API server is asked. Reading is shared: the controllers' caches serve the scheduler too.
#[derive(Clone)]
pub struct Clients {
    /// Everything but the scheduler's writes, by custom `system:kube-controller-manager`.
    pub controllers: kube::Client,
    /// What the scheduler writes, by custom `system:kube-scheduler`.
    pub scheduler: kube::Client,
}

impl From<kube::Client> for Clients {
    /// One identity for all.
    fn from(client: kube::Client) -> Clients {
        Clients { scheduler: client.clone(), controllers: client }
    }
}

/// Runs all controllers until `shutdown` is cancelled.
///
/// `ready` fires once every cache has been filled and every worker runs. Returns early only for a
/// configuration that cannot work or a bug; refused and failed API requests are retried.
pub async fn run(
    clients: impl Into<Clients>,
    config: Config,
    ready: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> Result<()> {
    start::run(clients.into(), config, Arc::new(SystemClock), ready, shutdown).await
}
