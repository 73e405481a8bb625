//! What the node agent is told at its start; immutable afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::Addresses;

/// The node agent's configuration.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The Node's name, a DNS subdomain.
    pub name: String,
    /// Labels of the Node beside those the agent sets itself (hostname, os, arch): region, zone.
    pub labels: BTreeMap<String, String>,
    /// The kubeconfig with the agent's client certificate.
    pub kubeconfig: PathBuf,
    /// The Node's InternalIPs; the agent serves on the primary one, whose family comes first in
    /// pods too.
    pub node_ips: Addresses,
    /// Port of the agent's HTTPS server; 10250 by kubelet's custom.
    pub port: u16,
    /// Where pods' directories, logs and sockets live; survives restarts. Created when missing.
    pub state_dir: PathBuf,
    /// Address of the cluster's DNS Service, written to pods' resolv.conf; none: the node's own.
    pub cluster_dns: Option<IpAddr>,
    /// The cluster's DNS domain, `cluster.local` by default.
    pub cluster_domain: String,
    /// The serving certificate of the HTTPS server, PEM.
    pub serving_cert: PathBuf,
    /// The serving certificate's key, PEM.
    pub serving_key: PathBuf,
    /// The CA that the HTTPS server's clients must present a certificate of, PEM.
    pub client_ca: PathBuf,
    /// The portolan binary, which runs the pods' first processes and is shown to pods.
    pub portolan: PathBuf,
    /// Directories that are this node's own, not the host's: a hostPath volume below them may be
    /// written. `/run`, `/tmp` and `/etc` in the lab; everything else is read-only.
    pub private_dirs: Vec<PathBuf>,
    /// Directories that no pod may see, `state_dir` beside: the lab's data directory, with its keys.
    pub hidden_dirs: Vec<PathBuf>,
    /// How many Pods the node takes; 110 by kubelet's default.
    pub max_pods: u32,
}

impl NodeOptions {
    /// Port that kubelet serves on.
    pub const DEFAULT_PORT: u16 = 10250;
}
