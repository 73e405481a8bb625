//! The node agents: one process a node, in the node's namespaces, started again when it ends.
//!
//! The namespaces are the lab's, not the agent's: an agent that dies leaves its node's network and
//! its pods as they are, and the next one adopts them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use nix::sys::signal::{Signal, kill};
use portolan_apiserver::pki::{Pki, San, Usage};
use portolan_node::Addresses;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::mounts::{self, NODE_STATE, NodeFiles};
use super::reaper::Reaper;
use super::{BINARY, DATA};
use crate::config::{API_PORT, Config, node_name};
use crate::error::LabError;
use crate::fabric::{Fabric, Forwarding};
use crate::message::Boot;
use crate::namespaces::Namespaces;
use crate::shell::KUBECONFIG_IN_LAB;

/// The pause before an agent is started again; doubles up to the longest, and is forgotten when an
/// agent has lived that long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long an agent may take to end when the lab stops.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A node: where it is, and what its agent is started with.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) addresses: Addresses,
    pub(super) zone: &'static str,
    /// The lab's data directory as the host names it, which no pod may see.
    pub(super) data_dir: PathBuf,
    pub(super) namespaces: Namespaces,
}

/// The zone of node `index`, counted from 1: three in turn.
pub(super) fn zone(index: u16) -> &'static str {
    ["zone-a", "zone-b", "zone-c"][usize::from(index - 1) % 3]
}

/// Makes a node's namespaces and files and joins it to the fabric.
pub(super) async fn make_node(
    boot: &Boot,
    index: u16,
    pki: &Pki,
    fabric: &Fabric,
) -> Result<Node, LabError> {
    let config = &boot.config;
    let name = node_name(index);
    let addresses = config.node_addresses(index);
    let files = NodeFiles {
        name: name.clone(),
        privilege: boot.privilege,
        hosts: hosts(config),
        secrets: secrets(config, &name, &addresses, pki)?,
        files: manifests(config),
    };
    let namespaces = Namespaces::make(name.clone(), move || mounts::furnish_node(&files)).await?;
    let forwarding = Forwarding::On { services: config.service_cidr.clone() };
    fabric.join(&name, &namespaces, addresses, forwarding).await?;
    Ok(Node { name, addresses, zone: zone(index), data_dir: boot.data_dir.clone(), namespaces })
}

/// /etc/hosts beside localhost: the nodes and the API server.
fn hosts(config: &Config) -> Vec<(IpAddr, String)> {
    let api = Addresses::from(config.api_addresses().primary());
    (1..=config.nodes)
        .map(|index| (config.node_addresses(index), node_name(index)))
        .chain([(api, "kube-apiserver".into())])
        .flat_map(|(addresses, name)| {
            addresses.iter().map(|address| (address, name.clone())).collect::<Vec<_>>()
        })
        .collect()
}

const KUBECONFIG: &str = "/run/portolan/credentials/kubelet.conf";
const SERVING_CERT: &str = "/run/portolan/credentials/kubelet.crt";
const SERVING_KEY: &str = "/run/portolan/credentials/kubelet.key";
const CLIENT_CA: &str = "/run/portolan/credentials/ca.crt";

fn secrets(
    config: &Config,
    name: &str,
    addresses: &Addresses,
    pki: &Pki,
) -> Result<Vec<(PathBuf, String)>, LabError> {
    let user = format!("system:node:{name}");
    let client =
        pki.issue(&user, Some("system:nodes"), &[], Usage::Client).map_err(LabError::ApiServer)?;
    let sans: Vec<_> =
        [San::Dns(name.to_owned())].into_iter().chain(addresses.iter().map(San::Ip)).collect();
    let serving = pki
        .issue(&user, Some("system:nodes"), &sans, Usage::Server)
        .map_err(LabError::ApiServer)?;
    let admin = pki
        .issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client)
        .map_err(LabError::ApiServer)?;
    let server = server_url(config);
    Ok(vec![
        (KUBECONFIG_IN_LAB.into(), pki.kubeconfig(&server, "kubernetes-admin", &admin)),
        (KUBECONFIG.into(), pki.kubeconfig(&server, &user, &client)),
        (SERVING_CERT.into(), serving.certificate_pem),
        (SERVING_KEY.into(), serving.key_pem),
        (CLIENT_CA.into(), pki.certificate_pem().to_owned()),
    ])
}

/// The API server as nodes and pods reach it.
pub(super) fn server_url(config: &Config) -> String {
    format!("https://{}", SocketAddr::new(config.api_addresses().primary(), API_PORT))
}

/// The control plane's parts as a node of a kubeadm cluster shows them, for those who look there
/// for the cluster's ranges. The lab runs both in its first process, not from these files.
fn manifests(config: &Config) -> Vec<(PathBuf, String)> {
    let pod = |name: &str, flags: &[String]| {
        let mut text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    component: {name}\n    tier: \
             control-plane\n  name: {name}\n  namespace: kube-system\nspec:\n  containers:\n  - \
             command:\n    - {name}\n"
        );
        for flag in flags {
            text.push_str(&format!("    - {flag}\n"));
        }
        text.push_str(&format!(
            "    name: {name}\n  hostNetwork: true\n  priorityClassName: system-node-critical\n"
        ));
        (Path::new("/etc/kubernetes/manifests").join(format!("{name}.yaml")), text)
    };
    vec![
        pod(
            "kube-apiserver",
            &[
                format!("--advertise-address={}", config.api_addresses().primary()),
                format!("--secure-port={API_PORT}"),
                format!("--service-cluster-ip-range={}", config.service_cidr),
                format!("--service-node-port-range={}", config.node_ports),
            ],
        ),
        pod(
            "kube-controller-manager",
            &[
                "--allocate-node-cidrs=true".into(),
                format!("--cluster-cidr={}", config.cluster_cidr),
                format!("--service-cluster-ip-range={}", config.service_cidr),
            ],
        ),
    ]
}

impl Node {
    /// Runs the agent, again whenever it ends, until `shutdown`.
    pub(super) async fn keep_agent(
        self,
        reaper: Reaper,
        board: Board,
        client: Client,
        shutdown: CancellationToken,
    ) {
        let mut pause = SHORTEST_PAUSE;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let why = match reaper.spawn(&mut self.command()) {
                Err(error) => format!("the agent cannot be started: {error}"),
                Ok(mut agent) => tokio::select! {
                    ended = &mut agent.ended => match ended {
                        Ok(status) => format!("the agent ended ({status})"),
                        Err(_) => return,
                    },
                    () = shutdown.cancelled() => {
                        // ESRCH: it has just ended by itself.
                        let _ = kill(agent.pid, Signal::SIGTERM);
                        if tokio::time::timeout(STOP_LIMIT, &mut agent.ended).await.is_err() {
                            let _ = kill(agent.pid, Signal::SIGKILL);
                        }
                        return;
                    }
                },
            };
            if began.elapsed() > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
            board.restarting(&self.name, &why);
            let told = self.report(&client, &why);
            tokio::select! {
                () = async { tokio::join!(told, tokio::time::sleep(pause)); } => {}
                () = shutdown.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn report(&self, client: &Client, why: &str) {
        let reporter = Reporter { controller: "portolan".into(), instance: None };
        let node = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.name.clone()),
            uid: Some(self.name.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: "NodeAgentRestarted".into(),
            note: Some(why.to_owned()),
            action: "Restart".into(),
            secondary: None,
        };
        if let Err(error) = Recorder::new(client.clone(), reporter).publish(&event, &node).await {
            tracing::warn!(%error, "an event could not be written");
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["internal", "node", "--name", &self.name])
            .args(["--node-ip", &self.addresses.to_string()])
            .args(["--label", "topology.kubernetes.io/region=lab"])
            .args(["--label", &format!("topology.kubernetes.io/zone={}", self.zone)])
            .args(["--kubeconfig", KUBECONFIG])
            .args(["--serving-cert", SERVING_CERT])
            .args(["--serving-key", SERVING_KEY])
            .args(["--client-ca", CLIENT_CA])
            .args(["--state-dir", NODE_STATE])
            .args(["--portolan", BINARY])
            .arg("--hidden-dir")
            .arg(&self.data_dir)
            .current_dir("/")
            .process_group(0);
        if let Ok(log) = open_log(&self.name) {
            if let Ok(copy) = log.try_clone() {
                command.stdout(copy);
            }
            command.stderr(log);
        }
        enter(&mut command, &self.namespaces);
        command
    }
}

fn open_log(node: &str) -> std::io::Result<std::fs::File> {
    let path = Path::new(DATA).join("nodes").join(node).join("agent.log");
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Lets a command begin inside a node's namespaces.
fn enter(command: &mut Command, namespaces: &Namespaces) {
    let Namespaces { net, mount, uts } = namespaces.clone();
    let enter = move |fd: &OwnedFd| {
        // SAFETY: a system call on a descriptor that this closure holds open.
        match unsafe { libc::setns(fd.as_raw_fd(), 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only system calls are made, nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            enter(&net)?;
            enter(&uts)?;
            enter(&mount)
        });
    }
}
