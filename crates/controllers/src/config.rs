//! What the controllers are told at their start.
//!
//! Immutable afterwards. Every default is the one kube-controller-manager or kube-scheduler uses,
//! unless its documentation says otherwise.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::Metrics;

/// Configuration of all controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ranges that nodes' pod CIDRs are cut from: one, or one of each family, the primary first.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of one node's IPv4 pod CIDR; default 24.
    pub node_cidr_mask_ipv4: u8,
    /// Prefix length of one node's IPv6 pod CIDR; default 64.
    pub node_cidr_mask_ipv6: u8,
    /// The cluster's CA certificates in PEM, published as ConfigMap `kube-root-ca.crt` in every
    /// namespace.
    pub root_ca: String,
    /// How long a node's Lease may stay unrenewed before its Ready turns Unknown; default 40 s.
    pub node_monitor_grace_period: Duration,
    /// How often orphaned and finished pods are looked for; default 20 s.
    pub pod_gc_period: Duration,
    /// How many finished pods are kept before the oldest are deleted; default 12500.
    pub terminated_pod_threshold: usize,
    /// Workers of each controller; default 5.
    pub workers: usize,
    /// Endpoints in one EndpointSlice at most; default 100.
    pub max_endpoints_per_slice: usize,
    /// Addresses mirrored from one subset of an Endpoints object at most; default 1000.
    pub mirroring_max_endpoints_per_subset: usize,
    /// What the controllers count; keep a clone to read it.
    pub metrics: Arc<Metrics>,
}

impl Config {
    /// The defaults for a cluster with these pod addresses and this CA.
    pub fn new(cluster_cidrs: impl IntoIterator<Item = IpNet>, root_ca: impl Into<String>) -> Self {
        Self {
            cluster_cidrs: cluster_cidrs.into_iter().collect(),
            node_cidr_mask_ipv4: 24,
            node_cidr_mask_ipv6: 64,
            root_ca: root_ca.into(),
            node_monitor_grace_period: Duration::from_secs(40),
            pod_gc_period: Duration::from_secs(20),
            terminated_pod_threshold: 12_500,
            workers: 5,
            max_endpoints_per_slice: 100,
            mirroring_max_endpoints_per_subset: 1000,
            metrics: Arc::default(),
        }
    }
}
