//! An API server in this process, the controllers on it, and a stand-in for the node agents.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Server, UserInfo};
use portolan_controllers::{Clients, Config};
use portolan_store::{Options, Store};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// The controllers as they run.
struct Controllers {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<portolan_controllers::Result<()>>,
}

impl Controllers {
    async fn start(clients: &Clients, config: Config) -> Self {
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let run = portolan_controllers::run(clients.clone(), config, ready, stop.clone());
        let task = tokio::spawn(run);
        tokio::time::timeout(PATIENCE, is_ready).await.unwrap().unwrap();
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// The configuration that tests start from.
pub(crate) fn config() -> Config {
    Config::new(["10.244.0.0/16", "fd00:10:244::/48"].map(|cidr| cidr.parse().unwrap()), "the CA")
}

/// A cluster without machines.
pub(crate) struct World {
    /// The administrator's.
    pub(crate) client: Client,
    clients: Clients,
    stop: CancellationToken,
    controllers: Controllers,
    pub(crate) server: Server,
    pki: Arc<Pki>,
    dir: tempfile::TempDir,
}

impl World {
    /// Starts everything and waits until the controllers are ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(config()).await
    }

    /// As [`Self::start`], the controllers configured so.
    pub(crate) async fn start_with(config: Config) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), Options::default()).unwrap();
        let pki = Arc::new(Pki::ephemeral().unwrap());
        let server = Server::new(portolan_apiserver::Config {
            store,
            pki: Arc::clone(&pki),
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            node_port_range: 30000..=32767,
            advertise: "172.30.0.1:6443".parse().unwrap(),
        })
        .await
        .unwrap();
        let client = |user| Client::new(server.service(user), "default");
        let clients = Clients {
            controllers: client(UserInfo::component("system:kube-controller-manager")),
            scheduler: client(UserInfo::component("system:kube-scheduler")),
        };
        let client = client(UserInfo::admin());
        let stop = CancellationToken::new();
        let controllers = Controllers::start(&clients, config).await;
        Self { client, clients, stop, controllers, server, pki, dir }
    }

    /// Adds ready nodes, and a stand-in for their agents: pods placed on them run and are ready
    /// at once, and end at once when deleted.
    pub(crate) async fn nodes(&self, names: &[&str]) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for name in names {
            create(&nodes, json!({ "metadata": { "name": name } })).await;
            let status = json!({ "status": { "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": Time(Timestamp::now()),
                "lastTransitionTime": Time(Timestamp::now()),
            }]}});
            nodes
                .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
                .await
                .unwrap();
        }
        tokio::spawn(run_pods(self.client.clone(), self.stop.clone()));
    }

    /// Serves TLS on loopback; returns the administrator's kubeconfig.
    pub(crate) async fn serve(&self) -> PathBuf {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let admin = self.pki.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let kubeconfig = self.dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, self.pki.kubeconfig(&url, "admin", &admin)).unwrap();
        let (server, stop) = (self.server.clone(), self.stop.clone());
        tokio::spawn(async move { server.serve(vec![listener], stop).await });
        kubeconfig
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        create(&namespaces, json!({ "metadata": { "name": name } })).await;
    }

    /// Stops everything and checks that the controllers ended well.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.controllers.stop().await;
    }

    /// Ends the controllers and starts them anew on what is there.
    pub(crate) async fn restart_controllers(mut self) -> Self {
        self.controllers.stop().await;
        self.controllers = Controllers::start(&self.clients, config()).await;
        self
    }
}

/// Creates an object from JSON.
pub(crate) async fn create<K>(api: &Api<K>, value: Value) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(value).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Waits until the objects, watched, satisfy `wanted`; returns them by name.
pub(crate) async fn until<K>(api: &Api<K>, what: &str, wanted: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut objects: BTreeMap<String, K> = BTreeMap::new();
    let name = |o: &K| format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
    let mut stream =
        std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
    let watching = async {
        let mut listing = false;
        loop {
            match stream.next().await.unwrap() {
                Ok(watcher::Event::Init) => {
                    objects.clear();
                    listing = true;
                }
                Ok(watcher::Event::InitDone) => listing = false,
                Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o)) => {
                    objects.insert(name(&o), o);
                }
                Ok(watcher::Event::Delete(o)) => {
                    objects.remove(&name(&o));
                }
                Err(error) => eprintln!("watch: {error}"),
            }
            let list: Vec<K> = objects.values().cloned().collect();
            if !listing && wanted(&list) {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, watching).await.is_err() {
        let left = objects.values();
        panic!("{what}: not so after {PATIENCE:?}; there is {:#?}", left.collect::<Vec<_>>());
    }
    objects.into_values().collect()
}

/// As [`until`], for a single named object.
pub(crate) async fn until_one<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    wanted: impl Fn(&K) -> bool,
) -> K
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let found =
        until(api, what, |list| list.iter().any(|o| o.name_any() == name && wanted(o))).await;
    found.into_iter().find(|o| o.name_any() == name).unwrap()
}

async fn run_pods(client: Client, stop: CancellationToken) {
    let addresses = Arc::new(AtomicU32::new(1));
    let all: Api<Pod> = Api::all(client.clone());
    let stream = watcher(all, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream.take_until(stop.cancelled_owned()));
    while let Some(event) = stream.next().await {
        if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event {
            let pods = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            let addresses = Arc::clone(&addresses);
            tokio::spawn(attend(pods, pod, addresses));
        }
    }
}

async fn attend(pods: Api<Pod>, pod: Pod, addresses: Arc<AtomicU32>) {
    let name = pod.name_any();
    if pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_none() {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = pods
            .delete(
                &name,
                &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
            )
            .await;
        return;
    }
    if pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_some() {
        return;
    }
    let n = addresses.fetch_add(1, Ordering::Relaxed);
    let ip = format!("10.244.{}.{}", n / 250, n % 250 + 1);
    let ready = if pod.labels().get("ready").is_some_and(|r| r == "no") { "False" } else { "True" };
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{
            "type": "Ready", "status": ready, "lastTransitionTime": Time(Timestamp::now()),
        }],
    }});
    if let Err(error) =
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await
    {
        eprintln!("status of {name}: {error}");
    }
}

/// Runs a test on a multi-threaded runtime.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
