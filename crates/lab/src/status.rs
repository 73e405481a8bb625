//! What `portolan status` tells, and in JSON promises: fields are added, never renamed or removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::message::Protocol;

/// A running lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether everything is up.
    pub state: LabState,
    /// `portolan up`'s process on the host.
    pub pid: u32,
    /// When the lab's first process began, RFC 3339.
    pub started_at: String,
    /// How long everything took to be ready, in milliseconds; absent until then.
    pub ready_after_millis: Option<u64>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The API server as the host reaches it.
    pub server: String,
    /// The API server as nodes and pods reach it.
    pub server_in_lab: String,
    /// The addresses of Services, of the primary family.
    pub service_cidr: String,
    /// The same of every family, the primary first.
    pub service_cidrs: Vec<String>,
    /// The addresses of pods, of the primary family.
    pub cluster_cidr: String,
    /// The same of every family, the primary first.
    pub cluster_cidrs: Vec<String>,
    /// The addresses of the nodes' own network, of the primary family.
    pub fabric_cidr: String,
    /// The same of every family, the primary first.
    pub fabric_cidrs: Vec<String>,
    /// The outside client's address, of the primary family.
    pub client_address: String,
    /// The same of every family, the primary first.
    pub client_addresses: Vec<String>,
    /// The nodes, in order.
    pub nodes: Vec<NodeStatus>,
    /// How many pods, by what they do.
    pub pods: PodSummary,
    /// Node ports on the host's loopback, in order of port and protocol.
    pub published: Vec<PublishedPort>,
    /// The lab's parts, in order of name.
    pub components: Vec<Component>,
}

/// A lab's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabState {
    /// Not everything is ready for the first time.
    Starting,
    /// Everything has been ready.
    Running,
    /// It was told to stop.
    Stopping,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The Node's name.
    pub name: String,
    /// Its InternalIP, of the primary family.
    pub address: String,
    /// Its InternalIPs, the primary first.
    pub addresses: Vec<String>,
    /// The addresses of its pods, of the primary family; absent until allocated.
    pub pod_cidr: Option<String>,
    /// The same of every family, the primary first; empty until allocated.
    pub pod_cidrs: Vec<String>,
    /// Its zone.
    pub zone: String,
    /// Its Ready condition.
    pub ready: bool,
}

/// How many pods there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSummary {
    /// All of them.
    pub total: usize,
    /// Those that are Ready.
    pub ready: usize,
    /// In phase Running.
    pub running: usize,
    /// In phase Pending.
    pub pending: usize,
    /// In phase Succeeded.
    pub succeeded: usize,
    /// In phase Failed.
    pub failed: usize,
}

/// A node port on the host's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The Service, as namespace/name.
    pub service: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node port, and the port on the host's loopback.
    pub port: u16,
    /// The host's loopback address that it is at: 127.0.0.1 or ::1, by the Service's families.
    pub address: String,
    /// Why it does not answer on the host; absent when it does.
    pub error: Option<String>,
}

/// A part of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: ComponentState,
    /// Where it is to be found, or why it is not ready.
    pub detail: String,
    /// How long its start took, in milliseconds; absent until ready.
    pub ready_after_millis: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
}

/// A part's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComponentState {
    /// On its way.
    Starting,
    /// Ready.
    Ready,
    /// It ended, and is started again after a pause.
    Restarting,
    /// It ended for good.
    Stopped,
}
