//! The API server that a test's proxy follows: one of the test's own, or one that is there already.
//!
//! Either listens at the node's address inside the test's network namespace. One that is there already,
//! of any kind and version, is named by a kubeconfig in [`GIVEN`]; its connections go through a relay
//! whose far half stays outside of the namespace. The suite keeps to a namespace of its own there, which
//! it empties, to the node `node-1`, and to one test at a time. That server's Services must have the
//! networks 10.96.0.0/12 and fd00:10:96::/112, as kubeadm's have, and whoever the kubeconfig names needs
//! all rights.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, Resource};
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Config, Server};
use portolan_client::{Source, connect};
use portolan_store::{Options, Store};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The environment variable with the path of a kubeconfig.
pub(crate) const GIVEN: &str = "PORTOLAN_TEST_KUBECONFIG";
/// The suite's namespace in an API server that was there already.
const NAMESPACE: &str = "portolan-proxy-suite";

/// What a test brings along of the API server from outside of its network namespace.
pub(crate) enum Origin {
    Own,
    Given {
        path: PathBuf,
        relay: Arc<Relay>,
        /// Tests share the server, so they take turns.
        _turn: MutexGuard<'static, ()>,
    },
}

impl Origin {
    /// As the environment says it; to be asked for where the server can be reached from.
    pub(crate) fn of_environment() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let Some(path) = std::env::var_os(GIVEN).map(PathBuf::from) else { return Self::Own };
        let relay = Arc::new(Relay::open(&path));
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self::Given { path, relay, _turn: turn }
    }

    pub(crate) fn relay(&self) -> Option<Arc<Relay>> {
        match self {
            Self::Own => None,
            Self::Given { relay, .. } => Some(relay.clone()),
        }
    }

    /// Leaves nothing of the suite behind but the namespace.
    pub(crate) fn close(&self) {
        let Self::Given { path, .. } = self else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = connect(Source::Kubeconfig(path.clone())).await.unwrap();
            sweep(&client).await;
        });
    }
}

/// Removes what tests made of an API server that was there already.
async fn sweep(client: &Client) {
    let services: Api<core::Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<discovery::EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let endpoints: Api<core::Endpoints> = Api::namespaced(client.clone(), NAMESPACE);
    let told: Api<events::Event> = Api::namespaced(client.clone(), NAMESPACE);
    let told_of_nodes: Api<events::Event> = Api::namespaced(client.clone(), "default");
    for event in told_of_nodes.list(&ListParams::default()).await.unwrap() {
        if event.regarding.is_some_and(|of| of.name.as_deref() == Some("node-1")) {
            remove(&told_of_nodes, &event.metadata.name.unwrap()).await;
        }
    }
    remove_all(&told).await;
    remove_all(&services).await;
    remove_all(&endpoints).await;
    remove_all(&slices).await;
    remove(&Api::<core::Node>::all(client.clone()), "node-1").await;
}

async fn remove_all<K>(api: &Api<K>)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    for object in api.list(&ListParams::default()).await.unwrap() {
        remove(api, object.meta().name.as_deref().unwrap()).await;
    }
}

/// Removes an object, unless somebody else did.
async fn remove<K>(api: &Api<K>, name: &str)
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(e) => panic!("{name} cannot be deleted: {e}"),
    }
}

/// The outer half of a relay to an API server.
pub(crate) struct Relay {
    kubeconfig: Kubeconfig,
    /// Connections to be carried to the server.
    carry: mpsc::Sender<TcpStream>,
}

impl Relay {
    /// Reads the kubeconfig.
    fn open(path: &Path) -> Self {
        let mut kubeconfig = Kubeconfig::read_from(path).unwrap();
        let current = kubeconfig.current_context.clone().expect("a current context");
        let context = kubeconfig.contexts.iter_mut().find(|named| named.name == current);
        let context = context.and_then(|named| named.context.as_mut()).expect("that context");
        context.namespace = Some(NAMESPACE.to_owned());
        let cluster = context.cluster.clone();
        let cluster = kubeconfig.clusters.iter_mut().find(|named| named.name == cluster);
        let cluster = cluster.and_then(|named| named.cluster.as_mut()).expect("its cluster");
        let url: http::Uri = cluster.server.as_ref().expect("a server").parse().unwrap();
        let host = url.host().expect("a host").trim_matches(['[', ']']).to_owned();
        let to = (host.clone(), url.port_u16().unwrap_or(443));
        // Its certificate is not of the address at which the test sees it.
        cluster.tls_server_name.get_or_insert(host);
        let (carry, accepted) = mpsc::channel::<TcpStream>();
        std::thread::spawn(move || {
            for near in accepted {
                // A server that is away is what a closed connection says.
                let Ok(far) = TcpStream::connect((to.0.as_str(), to.1)) else { continue };
                if let Err(e) = join(near, far) {
                    println!("a connection could not be carried: {e}");
                }
            }
        });
        Self { kubeconfig, carry }
    }

    /// Carries what connects, until it is stopped; then all connections are closed.
    async fn carry(&self, listener: TcpListener, stop: CancellationToken) {
        let mut carried = Vec::new();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let near = accepted.unwrap().0.into_std().unwrap();
            near.set_nonblocking(false).unwrap();
            carried.push(near.try_clone().unwrap());
            self.carry.send(near).unwrap();
        }
        for near in carried {
            // It may be closed already.
            let _ = near.shutdown(Shutdown::Both);
        }
    }
}

/// Carries both ways until one end closes.
fn join(near: TcpStream, far: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        std::thread::spawn(move || {
            // Whatever ends it, the other end is told.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

/// The API server of a test.
pub(crate) struct ApiServer {
    behind: Behind,
    running: Option<Running>,
}

/// What answers.
#[derive(Clone)]
enum Behind {
    Own { pki: Arc<Pki>, state: PathBuf },
    Given(Arc<Relay>),
}

/// What serves, and how it is stopped.
struct Running {
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

impl ApiServer {
    /// One whose files, if it has any, are in this directory.
    pub(crate) fn new(relay: Option<Arc<Relay>>, dir: &Path) -> Self {
        let own =
            || Behind::Own { pki: Arc::new(Pki::ephemeral().unwrap()), state: dir.join("state") };
        Self { behind: relay.map_or_else(own, Behind::Given), running: None }
    }

    /// The administrator's kubeconfig for the server at this address; as another user, if one is named.
    pub(crate) fn kubeconfig(&self, address: SocketAddr, user: Option<&str>) -> String {
        let url = format!("https://{address}");
        let mut kubeconfig = match &self.behind {
            Behind::Own { pki, .. } => {
                let masters = Some("system:masters");
                let pair = pki.issue("kubernetes-admin", masters, &[], Usage::Client).unwrap();
                Kubeconfig::from_yaml(&pki.kubeconfig(&url, "admin", &pair)).unwrap()
            }
            Behind::Given(relay) => relay.kubeconfig.clone(),
        };
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(url.clone());
        }
        for info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            info.impersonate = user.map(str::to_owned);
        }
        serde_saphyr::to_string(&kubeconfig).unwrap()
    }

    /// The namespace of the test's objects, made and empty.
    pub(crate) async fn namespace(&self, client: &Client) -> &'static str {
        if matches!(self.behind, Behind::Own { .. }) {
            return "default";
        }
        let namespaces: Api<core::Namespace> = Api::all(client.clone());
        let mut namespace = core::Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.to_owned());
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(e) => panic!("{NAMESPACE} cannot be made: {e}"),
        }
        sweep(client).await;
        NAMESPACE
    }

    /// Serves at this listener's address. It has a thread and runtime of its own: when it stops, all of it
    /// goes, as the process of a real one would.
    pub(crate) fn serve(&mut self, listener: TcpListener, address: SocketAddr) {
        let stop = CancellationToken::new();
        let (behind, token) = (self.behind.clone(), stop.clone());
        let listener = listener.into_std().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                match behind {
                    Behind::Own { pki, state } => {
                        let serving = own(pki, &state, address, listener);
                        token.run_until_cancelled(serving).await;
                    }
                    Behind::Given(relay) => relay.carry(listener, token).await,
                }
            });
        });
        self.running = Some(Running { thread, stop });
    }

    /// Stops serving; clients see broken connections and refused ones.
    pub(crate) fn stop(&mut self) {
        let Running { thread, stop } = self.running.take().expect("the server runs");
        stop.cancel();
        thread.join().unwrap();
    }
}

async fn own(pki: Arc<Pki>, state: &Path, advertise: SocketAddr, listener: TcpListener) {
    let networks = ["10.96.0.0/12", "fd00:10:96::/112"];
    let config = Config {
        store: Store::open(state, Options::default()).unwrap(),
        pki,
        service_cidrs: networks.map(|network| network.parse().unwrap()).into(),
        node_port_range: 30000..=32767,
        advertise,
    };
    let server = Server::new(config).await.unwrap();
    server.serve(vec![listener], CancellationToken::new()).await.unwrap();
}
