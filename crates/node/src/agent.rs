//! The node agent's life: connect, register, follow, serve, until told to stop.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;
use portolan_client::Source;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::network::Network;
use crate::node::Node;
use crate::objects::Objects;
use crate::pod::launch::Ids;
use crate::recorder::{Recorder, Severity};
use crate::runtime::Runtime;
use crate::{NodeError, NodeOptions, register, server, watches};

/// Runs the node agent until it is told to stop (SIGTERM, SIGINT), on a Tokio runtime of its own.
/// Pods go on running without the agent; a new one adopts them.
///
/// # Errors
/// What the agent needs to start at all is missing: its state directory, kubeconfig, network.
pub fn node_main(options: NodeOptions) -> Result<ExitCode, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| NodeError::System { what: "start", source })?;
    runtime.block_on(run(options))
}

async fn run(options: NodeOptions) -> Result<ExitCode, NodeError> {
    let system = |what: &'static str| move |source| NodeError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("handle SIGINT"))?;
    let pods = options.state_dir.join("pods");
    std::fs::create_dir_all(&pods).map_err(|source| NodeError::File {
        what: "cannot make the directory",
        path: pods,
        source,
    })?;
    let client = portolan_client::connect(Source::Kubeconfig(options.kubeconfig.clone())).await?;
    let network = Network::open(options.node_ips)?;
    network.prepare().await?;

    // A node's credentials and the lab's keys are none of a pod's business.
    let own = [options.state_dir.clone(), PathBuf::from("/etc/kubernetes")];
    let hidden: HashSet<PathBuf> = options.hidden_dirs.iter().cloned().chain(own).collect();
    let node = Arc::new(Node {
        recorder: Recorder::start(client.clone(), options.name.clone()),
        objects: Objects::new(client.clone()),
        runtime: Runtime::default(),
        network,
        pods: RwLock::default(),
        ipam: watch::Sender::new(None),
        services: watch::Sender::new(None),
        doubted: Notify::new(),
        ids: Ids::read(),
        hidden: hidden.into_iter().collect(),
        allocatable: register::capacity(&options),
        client: client.clone(),
        options: options.clone(),
    });
    node.recorder.node(
        &options.name,
        Severity::Normal,
        "ResourcesNotEnforced",
        "Requests and limits of Pods are recorded and not enforced on this node",
    );
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    let listed = node.clone();
    let pods: server::PodSource =
        Arc::new(move || listed.pods.read().values().map(|pod| Pod::clone(pod)).collect());
    let bound = server::Server::bind(&options, node.runtime.clone(), pods, stop.clone()).await?;
    let serving = tokio::spawn(bound.run());
    tasks.spawn(watches::services(node.clone()));
    tasks.spawn(watches::nodes(node.clone()));
    tasks.spawn(watches::pods(node.clone()));
    let heart = async {
        let object = register::register(&client, &options).await;
        let uid = object.metadata.uid.unwrap_or_default();
        register::heartbeat(&node, uid).await;
    };
    tokio::select! {
        () = heart => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Ending the tasks leaves the pods as they are.
    tasks.shutdown().await;
    stop.cancel();
    let _ = serving.await;
    Ok(ExitCode::SUCCESS)
}
