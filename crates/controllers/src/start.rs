//! Wiring: caches, then controllers on them, then watches, then workers.
//!
//! Controllers subscribe before any watch begins, so none misses a change; workers begin once
//! every cache is full, so none acts on half a picture.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounttokens::AccountTokens;
use crate::clock::Clock;
use crate::clusterroleaggregation::ClusterRoleAggregation;
use crate::daemonset::DaemonSets;
use crate::deployment::Deployments;
use crate::endpoints::EndpointsController;
use crate::endpointslice::EndpointSlices;
use crate::endpointslicemirroring::Mirroring;
use crate::event::Recorder;
use crate::garbage::GarbageCollector;
use crate::kinds::Kinds;
use crate::namespace::Namespaces;

use crate::node::eviction::TaintEviction;
use crate::node::ipam::NodeIpam;
use crate::node::lifecycle::NodeLifecycle;
use crate::reconcile::{Reconcile, Workers};
use crate::replicaset::ReplicaSets;
use crate::scheduler::Scheduler;
use crate::serviceaccount::NamespaceContents;
use crate::statefulset::StatefulSets;
use crate::{Clients, Config, Result, podgc};

/// Bindings in flight at most; each waits only for the API server.
const BINDERS: usize = 16;

/// Workers of the garbage collector, as upstream.
const COLLECTORS: usize = 20;

pub(crate) async fn run(
    clients: Clients,
    config: Config,
    clock: Arc<dyn Clock>,
    ready: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> Result<()> {
    let Clients { controllers: client, scheduler: scheduler_client } = clients;
    let kinds = Arc::new(Kinds::new(&client));
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let (recorder, writer) =
        Recorder::new(client.clone(), "controllers", Arc::clone(&clock), stop.clone());
    tasks.spawn(writer);
    let (scheduler_recorder, writer) =
        Recorder::new(scheduler_client.clone(), "scheduler", Arc::clone(&clock), stop.clone());
    tasks.spawn(writer);

    let namespaces = Namespaces::new(&kinds, &clock);
    let garbage_collector = GarbageCollector::new(&kinds, namespaces.queue());
    let node_ipam = NodeIpam::new(&kinds, &recorder, &config)?;
    let node_lifecycle =
        NodeLifecycle::new(&kinds, &recorder, &clock, config.node_monitor_grace_period);
    let taint_eviction = TaintEviction::new(&kinds, &recorder, &clock);
    let contents = NamespaceContents::new(&kinds, &config.root_ca);
    let account_tokens = AccountTokens::new(&client, &config.root_ca);
    let aggregation = ClusterRoleAggregation::new(&client);
    let scheduler = Scheduler::new(&kinds, scheduler_client, &scheduler_recorder, &clock);
    let endpoint_slices = EndpointSlices::new(
        &kinds,
        &recorder,
        &config.metrics,
        config.max_endpoints_per_slice.clamp(1, 1000),
    );
    let endpoints = EndpointsController::new(&kinds);
    let mirroring =
        Mirroring::new(&kinds, &recorder, config.mirroring_max_endpoints_per_subset.clamp(1, 1000));
    let replica_sets = ReplicaSets::new(&kinds, &recorder, &clock);
    let stateful_sets = StatefulSets::new(&kinds, &recorder, &clock);
    let daemon_sets = DaemonSets::new(&kinds, &recorder, &clock);
    let deployments = Deployments::new(&kinds, &recorder, &clock);

    kinds.follow(&mut tasks, &stop);
    account_tokens.follow(&mut tasks, &stop);
    aggregation.follow(&mut tasks, &stop);
    tasks.spawn(Arc::clone(&garbage_collector).follow(stop.clone()));
    let synced = async {
        kinds.synced().await;
        garbage_collector.synced().await;
        account_tokens.synced().await;
        aggregation.synced().await;
    };
    tokio::select! {
        () = synced => {}
        () = stop.cancelled() => return finish(tasks, &stop).await,
    }

    let workers = config.workers;
    let mut work = Workers { tasks: &mut tasks, metrics: &config.metrics, stop: &stop };
    work.on(&namespaces, workers);
    work.on(&garbage_collector, COLLECTORS);
    // One worker: no slice of the cluster CIDR is given twice.
    work.on(&node_ipam, 1);
    work.on(&node_lifecycle, workers);
    work.on(&taint_eviction, workers);
    work.on(&contents, workers);
    work.on(&account_tokens, workers);
    work.on(&aggregation, 1);
    work.on(&scheduler, BINDERS);
    work.on(&endpoint_slices, workers);
    work.on(&endpoints, workers);
    work.on(&mirroring, workers);
    work.on(&replica_sets, workers);
    work.on(&stateful_sets, workers);
    work.on(&daemon_sets, workers);
    work.on(&deployments, workers);
    tasks.spawn(podgc::collect(
        Arc::clone(&kinds),
        Arc::clone(&clock),
        config.pod_gc_period,
        config.terminated_pod_threshold,
        stop.clone(),
    ));
    // Whoever asked may have stopped caring.
    let _ = ready.send(());
    finish(tasks, &stop).await
}

/// Waits for the end; a task that panicked brings it about.
async fn finish(mut tasks: JoinSet<()>, stop: &CancellationToken) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller task failed");
            stop.cancel();
            if outcome.is_ok() {
                outcome = Err(error.into());
            }
        }
    }
    outcome
}
