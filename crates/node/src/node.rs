//! What all pods' workers share: the node's side of things.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::{Mutex, RwLock};
use portolan_client::informer::ObjectKey;
use tokio::sync::watch;

use crate::ipam::Ipam;
use crate::network::Network;
use crate::objects::Objects;
use crate::pod::launch::Ids;
use crate::recorder::Recorder;
use crate::runtime::Runtime;
use crate::{Addresses, NodeOptions};

/// The Services of the cluster, as far as they are known.
pub(crate) type Services = HashMap<ObjectKey, Arc<Service>>;

/// Shared by all workers.
pub(crate) struct Node {
    pub(crate) options: NodeOptions,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Runtime,
    pub(crate) recorder: Recorder,
    pub(crate) objects: Objects,
    pub(crate) network: Network,
    /// The Pods that are to run here, as the API server last said.
    pub(crate) pods: RwLock<HashMap<ObjectKey, Arc<Pod>>>,
    /// The pods' addresses; none until the Node has podCIDRs.
    pub(crate) ipam: watch::Sender<Option<Arc<Mutex<Ipam>>>>,
    /// The cluster's Services; none until they have been listed.
    pub(crate) services: watch::Sender<Option<Arc<Services>>>,
    /// Woken when the API server holds something else than Ready for this node.
    pub(crate) doubted: tokio::sync::Notify,
    pub(crate) ids: Ids,
    /// What no pod may see.
    pub(crate) hidden: Vec<PathBuf>,
    /// What the node offers, as its status says.
    pub(crate) allocatable:
        std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
}

impl Node {
    /// Where a pod's files are.
    pub(crate) fn pod_directory(&self, uid: &str) -> PathBuf {
        self.options.state_dir.join("pods").join(uid)
    }

    /// Gives a pod addresses, those of `before` if they are free; waits for the node's podCIDRs.
    /// None: a range is full.
    pub(crate) async fn allocate(&self, uid: &str, before: Option<Addresses>) -> Option<Addresses> {
        self.ranges().await?.lock().allocate(uid, before.as_ref())
    }

    /// Takes note of the addresses of a pod that runs already; waits for the node's podCIDRs.
    pub(crate) async fn hold(&self, uid: &str, addresses: &Addresses) {
        if let Some(ipam) = self.ranges().await {
            ipam.lock().claim(addresses, uid);
        }
    }

    async fn ranges(&self) -> Option<Arc<Mutex<Ipam>>> {
        let mut receiver = self.ipam.subscribe();
        // The sender is ours, so waiting cannot fail.
        receiver.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Takes a pod's addresses back.
    pub(crate) fn release(&self, uid: &str) {
        if let Some(ipam) = &*self.ipam.borrow() {
            ipam.lock().release(uid);
        }
    }

    /// The cluster's Services; waits for their first list.
    pub(crate) async fn services(&self) -> Arc<Services> {
        let mut receiver = self.services.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(services) => services.clone().unwrap_or_default(),
            Err(_) => Arc::default(),
        }
    }
}
