//! Every kind that controllers watch, once.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::endpointslice;
use crate::kind::Kind;
use crate::object::{Key, Meta, Object};

/// The namespace that holds the nodes' Leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";
/// The ConfigMap that carries the cluster's CA into each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// The ServiceAccount that each namespace has.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// All watched kinds.
pub(crate) struct Kinds {
    pub(crate) client: kube::Client,
    pub(crate) namespaces: Arc<Kind<Namespace>>,
    pub(crate) nodes: Arc<Kind<Node>>,
    pub(crate) pods: Arc<Kind<Pod>>,
    pub(crate) services: Arc<Kind<Service>>,
    pub(crate) endpoints: Arc<Kind<Endpoints>>,
    pub(crate) endpoint_slices: Arc<Kind<EndpointSlice>>,
    pub(crate) deployments: Arc<Kind<Deployment>>,
    pub(crate) replica_sets: Arc<Kind<ReplicaSet>>,
    pub(crate) stateful_sets: Arc<Kind<StatefulSet>>,
    pub(crate) daemon_sets: Arc<Kind<DaemonSet>>,
    /// Only those of [`NODE_LEASES`].
    pub(crate) leases: Arc<Kind<Lease>>,
    /// Only those named [`DEFAULT_ACCOUNT`].
    pub(crate) service_accounts: Arc<Kind<ServiceAccount>>,
    /// Only those named [`ROOT_CA`].
    pub(crate) root_cas: Arc<Kind<ConfigMap>>,
}

impl Kinds {
    pub(crate) fn new(client: &kube::Client) -> Self {
        Self {
            client: client.clone(),
            namespaces: Kind::new(client),
            nodes: Kind::new(client),
            pods: Kind::indexed_by(client, endpointslice::index::of_pod),
            services: Kind::indexed_by(client, endpointslice::index::of_service),
            endpoints: Kind::new(client),
            endpoint_slices: Kind::indexed_by(client, endpointslice::index::of_slice),
            deployments: Kind::new(client),
            replica_sets: Kind::new(client),
            stateful_sets: Kind::new(client),
            daemon_sets: Kind::new(client),
            leases: Kind::new(client),
            service_accounts: Kind::new(client),
            root_cas: Kind::new(client),
        }
    }

    /// Whether a namespace takes no new objects because it is being deleted.
    pub(crate) fn is_ending(&self, namespace: &str) -> bool {
        let found = self.namespaces.cache.find(&Key::cluster(namespace));
        found.is_some_and(|n| n.is_terminating())
    }

    /// Starts every watch.
    pub(crate) fn follow(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let mut start = Start { client: &self.client, tasks, shutdown };
        start.all(&self.namespaces);
        start.all(&self.nodes);
        start.all(&self.pods);
        start.all(&self.services);
        start.all(&self.endpoints);
        start.all(&self.endpoint_slices);
        start.all(&self.deployments);
        start.all(&self.replica_sets);
        start.all(&self.stateful_sets);
        start.all(&self.daemon_sets);
        start.named(&self.service_accounts, DEFAULT_ACCOUNT);
        start.named(&self.root_cas, ROOT_CA);
        let leases = Api::namespaced(self.client.clone(), NODE_LEASES);
        start.watch(&self.leases, leases, watcher::Config::default());
    }

    /// Waits for the first list of every kind.
    pub(crate) async fn synced(&self) {
        self.namespaces.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        self.services.synced().await;
        self.endpoints.synced().await;
        self.endpoint_slices.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.daemon_sets.synced().await;
        self.leases.synced().await;
        self.service_accounts.synced().await;
        self.root_cas.synced().await;
    }
}

struct Start<'a> {
    client: &'a kube::Client,
    tasks: &'a mut JoinSet<()>,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    fn all<K: Object>(&mut self, kind: &Arc<Kind<K>>) {
        let api = Api::all(self.client.clone());
        self.watch(kind, api, watcher::Config::default());
    }

    fn named<K: Object>(&mut self, kind: &Arc<Kind<K>>, name: &str) {
        let api = Api::all(self.client.clone());
        self.watch(kind, api, watcher::Config::default().fields(&format!("metadata.name={name}")));
    }

    fn watch<K: Object>(&mut self, kind: &Arc<Kind<K>>, api: Api<K>, config: watcher::Config) {
        self.tasks.spawn(Arc::clone(kind).follow(api, config, self.shutdown.clone()));
    }
}
