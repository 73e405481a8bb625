//! The lab's life: everything is brought up side by side, kept, and stopped in order.
//!
//! ```text
//!   fabric ─┬─▶ API server ──▶ controllers ──────────────┐
//!   PKI ────┤        └──▶ kube-proxy's objects ──────────┤
//!           └─▶ nodes' namespaces ─▶ (API server) agents ┴─▶ Nodes Ready, proxies synced ─▶ up
//! ```

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use portolan_apiserver::pki::{Pki, Usage, write_private};
use portolan_apiserver::{Server, UserInfo};
use portolan_store::Store;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::board::{Board, millis};
use super::control::{Control, Facts};
use super::kube_system::{self, Asked};
use super::observe::Observed;
use super::reaper::Reaper;
use super::relay::Relay;
use super::uplink::Uplink;
use super::{DATA, agents, pod_routes, readiness, stop};
use crate::channel::AsyncChannel;
use crate::config::API_PORT;
use crate::error::LabError;
use crate::fabric::{Fabric, Forwarding};
use crate::host::Attachment;
use crate::message::{Boot, Summary};
use crate::namespaces::Namespaces;

/// How long the parts may take to end before the process ends without them.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long everything may take to be ready, on a slow machine with many nodes.
const START_LIMIT: Duration = Duration::from_secs(120);

/// What lives as long as the lab.
struct Lab {
    boot: Boot,
    board: Board,
    reaper: Reaper,
    uplink: Uplink,
    control: Control,
    /// Cancelled first: agents and publisher.
    agents: CancellationToken,
    agent_tasks: TaskTracker,
    /// Cancelled last: API server and controllers.
    plane: CancellationToken,
    plane_tasks: TaskTracker,
}

/// Brings the lab up and keeps it until `up` says stop; how long the stop took, in milliseconds.
pub(super) async fn live(
    boot: Boot,
    host: Arc<AsyncChannel>,
    api: OwnedFd,
    control: OwnedFd,
) -> Result<u64, LabError> {
    let began = Instant::now();
    let (board, events) = Board::new(began);
    let stop = CancellationToken::new();
    let uplink = Uplink::start(host, events, stop.clone());
    let facts = Facts::of(&boot);
    let lab = Lab {
        board: board.clone(),
        reaper: Reaper::start()?,
        uplink: uplink.clone(),
        control: Control::start(control, facts, board, uplink)?,
        agents: CancellationToken::new(),
        agent_tasks: TaskTracker::new(),
        plane: CancellationToken::new(),
        plane_tasks: TaskTracker::new(),
        boot,
    };
    let risen = tokio::select! {
        risen = lab.rise(api) => risen,
        () = stop.cancelled() => Ok(()),
    };
    if risen.is_ok() {
        stop.cancelled().await;
    }
    let ending = Instant::now();
    lab.fall().await;
    risen.map(|()| millis(ending.elapsed()))
}

impl Lab {
    async fn rise(&self, api: OwnedFd) -> Result<(), LabError> {
        let config = &self.boot.config;
        self.board.starting("fabric");
        let (fabric, pki) = tokio::try_join!(
            Fabric::make(config.fabric.clone(), config.api_addresses()),
            blocking(
                || Pki::load_or_create(&Path::new(DATA).join("pki")).map_err(LabError::ApiServer)
            ),
        )?;
        let pki = Arc::new(pki);
        let client_side = async {
            let name = "client".to_owned();
            let client = Namespaces::make(name, || Ok(())).await?;
            let addresses = config.client_addresses();
            fabric.join("client", &client, addresses, Forwarding::Off).await?;
            self.board.ready("fabric", format!("{}, client {addresses}", config.fabric));
            Ok(client)
        };
        let (server, outside, nodes) = tokio::try_join!(
            self.start_api_server(api, Arc::clone(&pki)),
            client_side,
            self.make_nodes(&fabric, &pki),
        )?;
        self.write_kubeconfig(&pki)?;
        let client = |component: &str| {
            Client::new(server.service(UserInfo::component(component)), "default")
        };
        let lab_client = client("portolan:lab");
        let clients = portolan_controllers::Clients {
            controllers: client("system:kube-controller-manager"),
            scheduler: client("system:kube-scheduler"),
        };
        self.start_controllers(clients, &pki, &server);
        kube_system::reset_nodes(&lab_client, config).await?;
        let observed = Observed::start(&lab_client, &self.plane);
        self.plane_tasks.spawn(pod_routes::keep(
            fabric.clone(),
            observed.nodes.clone(),
            self.plane.clone(),
        ));
        self.control.observed(observed.clone(), lab_client.clone(), &outside, &nodes);
        self.board.starting("kube-proxy");
        for node in &nodes {
            self.agent_tasks.spawn(node.clone().keep_agent(
                self.reaper.clone(),
                self.board.clone(),
                lab_client.clone(),
                self.agents.clone(),
            ));
        }
        let (ready, ready_nodes) = watch::channel(Arc::from([]));
        self.agent_tasks.spawn(self.control.published.clone().keep(
            observed.services.clone(),
            self.uplink.clone(),
            Relay::start(&outside, ready_nodes)?,
            lab_client.clone(),
            self.board.clone(),
            self.agents.clone(),
        ));
        let mode = if self.boot.proxy_mode_given { Asked::Explicitly } else { Asked::ByDefault };
        kube_system::apply_proxy(&lab_client, config, mode).await?;
        let (up, is_up) = oneshot::channel();
        let names = config.node_names().collect();
        self.plane_tasks.spawn(readiness::keep(
            names,
            observed,
            self.board.clone(),
            ready,
            up,
            self.plane.clone(),
        ));
        if self.wait_until_up(is_up).await? {
            self.board.up(|millis| Summary {
                kubeconfig: self.boot.data_dir.join("kubeconfig"),
                server: self.server_on_host(),
                millis,
            });
        }
        Ok(())
    }

    /// Whether everything got ready; a detached lab that does not in time is a failure, since
    /// somebody waits for it, while in the foreground they see what is missing.
    async fn wait_until_up(&self, is_up: oneshot::Receiver<()>) -> Result<bool, LabError> {
        let mut is_up = is_up;
        if let Ok(told) = tokio::time::timeout(START_LIMIT, &mut is_up).await {
            return Ok(told.is_ok());
        }
        let error = LabError::NotReady {
            seconds: START_LIMIT.as_secs(),
            missing: self.board.missing(),
            logs: self.boot.data_dir.clone(),
        };
        if self.boot.attachment == Attachment::Detached {
            return Err(error);
        }
        self.board.warn(error.to_string());
        Ok(is_up.await.is_ok())
    }

    async fn start_api_server(&self, api: OwnedFd, pki: Arc<Pki>) -> Result<Server, LabError> {
        let config = &self.boot.config;
        self.board.starting("API server");
        let store = blocking(|| {
            let path = Path::new(DATA).join("objects.redb");
            Store::open(&path, portolan_store::Options::default()).map_err(LabError::Store)
        })
        .await?;
        let inside = SocketAddr::new(config.api_addresses().primary(), API_PORT);
        let listener = TcpListener::bind(inside)
            .await
            .map_err(|source| LabError::ApiPort { address: inside, source })?;
        let host = std::net::TcpListener::from(api);
        host.set_nonblocking(true).map_err(LabError::kernel("use the host's API socket"))?;
        let host =
            TcpListener::from_std(host).map_err(LabError::kernel("use the host's API socket"))?;
        let server = Server::new(portolan_apiserver::Config {
            store,
            pki,
            service_cidrs: config.service_cidr.iter().collect(),
            node_port_range: config.node_ports.first..=config.node_ports.last,
            advertise: inside,
        })
        .await
        .map_err(LabError::ApiServer)?;
        let (serving, board, shutdown) = (server.clone(), self.board.clone(), self.plane.clone());
        self.plane_tasks.spawn(async move {
            if let Err(error) = serving.serve(vec![listener, host], shutdown).await {
                board.unready("API server", &error.to_string());
            }
        });
        self.board.ready("API server", self.server_on_host());
        Ok(server)
    }

    async fn make_nodes(
        &self,
        fabric: &Fabric,
        pki: &Arc<Pki>,
    ) -> Result<Vec<agents::Node>, LabError> {
        let mut making = JoinSet::new();
        for index in 1..=self.boot.config.nodes {
            self.board.starting(&crate::config::node_name(index));
            let (boot, fabric, pki) = (self.boot.clone(), fabric.clone(), Arc::clone(pki));
            making.spawn(async move {
                let node = agents::make_node(&boot, index, &pki, &fabric).await;
                node.map(|node| (index, node))
            });
        }
        let mut nodes = Vec::new();
        while let Some(made) = making.join_next().await {
            nodes.push(made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
        }
        nodes.sort_by_key(|(index, _)| *index);
        Ok(nodes.into_iter().map(|(_, node)| node).collect())
    }

    fn start_controllers(
        &self,
        clients: portolan_controllers::Clients,
        pki: &Pki,
        server: &Server,
    ) {
        self.board.starting("controllers");
        let config = portolan_controllers::Config::new(
            self.boot.config.cluster_cidr.iter(),
            pki.certificate_pem(),
        );
        let metrics = Arc::clone(&config.metrics);
        server.serve_metrics_of(move || metrics.text());
        let (ready, is_ready) = oneshot::channel();
        let (board, shutdown) = (self.board.clone(), self.plane.clone());
        self.plane_tasks.spawn(async move {
            let run = portolan_controllers::run(clients, config, ready, shutdown);
            let told = async {
                if is_ready.await.is_ok() {
                    board.ready("controllers", "");
                }
            };
            if let (Err(error), ()) = tokio::join!(run, told) {
                board.unready("controllers", &error.to_string());
            }
        });
    }

    fn write_kubeconfig(&self, pki: &Pki) -> Result<(), LabError> {
        let admin = pki
            .issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client)
            .map_err(LabError::ApiServer)?;
        let text = pki.kubeconfig(&self.server_on_host(), "kubernetes-admin", &admin);
        write_private(&Path::new(DATA).join("kubeconfig"), &text).map_err(LabError::ApiServer)
    }

    fn server_on_host(&self) -> String {
        format!("https://127.0.0.1:{}", self.boot.api_port)
    }

    /// Stops everything, in order; what does not end in time is left to the kernel.
    async fn fall(&self) {
        let all = async {
            self.board.stopping("pods");
            self.agents.cancel();
            self.agent_tasks.close();
            self.agent_tasks.wait().await;
            stop::everyone().await;
            self.board.stopping("API server");
            self.plane.cancel();
            self.plane_tasks.close();
            self.plane_tasks.wait().await;
        };
        if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LabError> + Send + 'static,
) -> Result<T, LabError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
