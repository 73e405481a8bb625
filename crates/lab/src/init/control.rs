//! Answers `status`, `down` and `shell` on the data directory's control socket.
//!
//! Whoever can reach the socket may do all of it: the directory is the owner's alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use rustix::net::{SocketFlags, accept_with};
use tokio::io::unix::AsyncFd;

use super::agents::{self, Node};
use super::board::Board;
use super::observe::{Observed, node_is_ready, pod_is_ready};
use super::pods;
use super::publish::Published;
use super::uplink::Uplink;
use crate::channel::{AsyncChannel, Channel, register};
use crate::config::{Config, node_name};
use crate::error::{Failure, LabError};
use crate::message::{Boot, Entry, Namespace, Reply, Request, Target};
use crate::namespaces::Namespaces;
use crate::privilege::Privilege;
use crate::shell::KUBECONFIG_IN_LAB;
use crate::status::{NodeStatus, PodSummary, Status};

/// What never changes while the lab lives.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    config: Config,
    privilege: Privilege,
    data_dir: std::path::PathBuf,
    api_port: u16,
    up_pid: u32,
    started_at: String,
}

impl Facts {
    /// Out of the boot message, begun now.
    pub(super) fn of(boot: &Boot) -> Facts {
        Facts {
            config: boot.config.clone(),
            privilege: boot.privilege,
            data_dir: boot.data_dir.clone(),
            api_port: boot.api_port,
            up_pid: boot.up_pid,
            started_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The control socket's server; cheap to clone.
#[derive(Clone)]
pub(super) struct Control {
    facts: Arc<Facts>,
    board: Board,
    uplink: Uplink,
    pub(super) published: Published,
    /// Absent until the API server runs.
    later: Arc<Mutex<Option<Later>>>,
}

#[derive(Clone)]
struct Later {
    observed: Observed,
    client: Client,
    outside: Namespaces,
    nodes: Vec<Node>,
}

impl Control {
    /// Begins to answer.
    pub(super) fn start(
        listener: OwnedFd,
        facts: Facts,
        board: Board,
        uplink: Uplink,
    ) -> Result<Control, LabError> {
        rustix::io::ioctl_fionbio(&listener, true)
            .map_err(LabError::kernel("use the control socket"))?;
        let listener = register(listener).map_err(LabError::kernel("use the control socket"))?;
        let control = Control {
            facts: Arc::new(facts),
            board,
            uplink,
            published: Published::default(),
            later: Arc::default(),
        };
        let server = control.clone();
        tokio::spawn(async move {
            while let Ok(channel) = accept(&listener).await {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = server.answer(&channel).await {
                        tracing::debug!(%error, "a question was not answered");
                    }
                });
            }
        });
        Ok(control)
    }

    /// From now on there are objects, nodes and a client to tell of.
    pub(super) fn observed(
        &self,
        observed: Observed,
        client: Client,
        outside: &Namespaces,
        nodes: &[Node],
    ) {
        let outside = outside.clone();
        *self.later.lock() = Some(Later { observed, client, outside, nodes: nodes.to_vec() });
    }

    async fn answer(&self, channel: &AsyncChannel) -> io::Result<()> {
        let Some((request, _)) = channel.receive::<Request>().await? else { return Ok(()) };
        match request {
            Request::Status => {
                let status = Box::new(self.status().await);
                channel.send(&Reply::Status(status), &[]).await
            }
            Request::Down => {
                self.uplink.request_stop().await?;
                channel.send(&Reply::Stopping, &[]).await?;
                // Held open until the process ends: the caller waits for that.
                std::future::pending().await
            }
            Request::Shell(target) => match self.enter(&target).await {
                Ok((entry, fds)) => {
                    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
                    channel.send(&Reply::Shell(entry), &fds).await
                }
                Err(LabError::NoTarget { known, .. }) => {
                    channel.send(&Reply::NoTarget { known }, &[]).await
                }
                Err(error) => channel.send(&Reply::Failed(Failure::from(&error)), &[]).await,
            },
        }
    }

    async fn status(&self) -> Status {
        let facts = &self.facts;
        let config = &facts.config;
        let (state, ready_after_millis, components) = self.board.read();
        let later = self.later.lock().clone();
        let pods = match &later {
            Some(later) => summarize(&later.client).await,
            None => PodSummary::default(),
        };
        Status {
            state,
            pid: facts.up_pid,
            started_at: facts.started_at.clone(),
            ready_after_millis,
            data_dir: facts.data_dir.clone(),
            kubeconfig: facts.data_dir.join("kubeconfig"),
            server: format!("https://127.0.0.1:{}", facts.api_port),
            server_in_lab: agents::server_url(config),
            service_cidr: first(config.service_cidr.iter()),
            service_cidrs: all(config.service_cidr.iter()),
            cluster_cidr: first(config.cluster_cidr.iter()),
            cluster_cidrs: all(config.cluster_cidr.iter()),
            fabric_cidr: first(config.fabric.iter()),
            fabric_cidrs: all(config.fabric.iter()),
            client_address: first(config.client_addresses().iter()),
            client_addresses: all(config.client_addresses().iter()),
            nodes: (1..=config.nodes).map(|index| self.node(index, later.as_ref())).collect(),
            pods,
            published: self.published.list(),
            components,
        }
    }

    fn node(&self, index: u16, later: Option<&Later>) -> NodeStatus {
        let name = node_name(index);
        let node = later.and_then(|later| {
            let nodes = later.observed.nodes.store.state();
            nodes.into_iter().find(|node| node.metadata.name.as_deref() == Some(name.as_str()))
        });
        let addresses = self.facts.config.node_addresses(index);
        let spec = node.as_ref().and_then(|node| node.spec.as_ref());
        NodeStatus {
            address: first(addresses.iter()),
            addresses: all(addresses.iter()),
            pod_cidr: spec.and_then(|spec| spec.pod_cidr.clone()),
            pod_cidrs: spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default(),
            zone: agents::zone(index).to_owned(),
            ready: node.is_some_and(|node| node_is_ready(&node)),
            name,
        }
    }

    async fn enter(&self, target: &Target) -> Result<(Entry, Vec<Arc<OwnedFd>>), LabError> {
        let later = self.later.lock().clone();
        let missing =
            |kind, name: &str, known| LabError::NoTarget { kind, name: name.into(), known };
        let later = later.ok_or_else(|| missing("node", "", Vec::new()))?;
        let mut entry = Entry { namespaces: Vec::new(), environment: Vec::new() };
        let mut fds = Vec::new();
        let mut push = |kind, fd| {
            entry.namespaces.push(kind);
            fds.push(fd);
        };
        if self.facts.privilege == Privilege::UserNamespace {
            push(Namespace::User, open_namespace(1, "user")?);
        }
        match target {
            Target::Client | Target::Node(_) => {
                let found = match target {
                    Target::Node(name) => later
                        .nodes
                        .iter()
                        .find(|node| &node.name == name)
                        .map(|node| &node.namespaces)
                        .ok_or_else(|| {
                            let known = later.nodes.iter().map(|node| node.name.clone()).collect();
                            missing("node", name, known)
                        })?,
                    _ => &later.outside,
                };
                push(Namespace::Pid, open_namespace(1, "pid")?);
                push(Namespace::Net, Arc::clone(&found.net));
                push(Namespace::Uts, Arc::clone(&found.uts));
                push(Namespace::Ipc, open_namespace(1, "ipc")?);
                push(Namespace::Mount, Arc::clone(&found.mount));
                if matches!(target, Target::Node(_)) {
                    entry.environment.push(("KUBECONFIG".into(), KUBECONFIG_IN_LAB.into()));
                }
            }
            Target::Pod { namespace, name } => {
                let pid = pods::container_process(&later.client, namespace, name).await?;
                for (kind, file) in [
                    (Namespace::Pid, "pid"),
                    (Namespace::Net, "net"),
                    (Namespace::Uts, "uts"),
                    (Namespace::Ipc, "ipc"),
                    (Namespace::Mount, "mnt"),
                ] {
                    push(kind, open_namespace(pid, file)?);
                }
            }
        }
        Ok((entry, fds))
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<AsyncChannel> {
    loop {
        let mut ready = listener.readable().await?;
        let accepted = ready.try_io(|fd| accept_with(fd, SocketFlags::CLOEXEC).map_err(Into::into));
        if let Ok(socket) = accepted {
            return Channel::from_fd(socket?).into_async();
        }
    }
}

/// As text; of addresses and ranges, whose first is the primary one.
fn all(list: impl Iterator<Item = impl ToString>) -> Vec<String> {
    list.map(|one| one.to_string()).collect()
}

fn first(list: impl Iterator<Item = impl ToString>) -> String {
    all(list.take(1)).concat()
}

fn open_namespace(pid: i32, kind: &str) -> Result<Arc<OwnedFd>, LabError> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let file = File::open(&path).map_err(LabError::file("open", path))?;
    Ok(Arc::new(file.into()))
}

/// Counts all pods; zeroes when the API does not answer.
async fn summarize(client: &Client) -> PodSummary {
    let pods = match Api::<Pod>::all(client.clone()).list(&ListParams::default()).await {
        Ok(pods) => pods.items,
        Err(error) => {
            tracing::warn!(%error, "pods cannot be counted");
            return PodSummary::default();
        }
    };
    let in_phase = |phase: &str| {
        let phase_of = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        pods.iter().filter(|pod| phase_of(pod).as_deref() == Some(phase)).count()
    };
    PodSummary {
        total: pods.len(),
        ready: pods.iter().filter(|pod| pod_is_ready(pod)).count(),
        running: in_phase("Running"),
        pending: in_phase("Pending"),
        succeeded: in_phase("Succeeded"),
        failed: in_phase("Failed"),
    }
}
