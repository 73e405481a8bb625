//! KubeProxyConfiguration `kubeproxy.config.k8s.io/v1alpha1`, as it stands in a file.
//!
//! Every field of upstream's type is here, also those that this build takes no notice of, so that
//! a file from a cluster is read whole; [`super::load`] says which ones have no effect.
//!
//! Upstream rule: staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::Span;

/// The file. Times are Go durations; nought or nothing means the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    /// `kubeproxy.config.k8s.io/v1alpha1`.
    pub api_version: String,
    /// `KubeProxyConfiguration`.
    pub kind: String,
    /// Feature gates by name.
    pub feature_gates: BTreeMap<String, bool>,
    /// How to talk to the API server.
    pub client_connection: ClientConnection,
    /// How to log.
    pub logging: Logging,
    /// This node's name; default: the host's name.
    pub hostname_override: String,
    /// The node's address when it has none of its own; default 0.0.0.0.
    pub bind_address: String,
    /// Where /healthz and /livez answer; default `0.0.0.0:10256`.
    pub healthz_bind_address: String,
    /// Where /metrics answers; default `127.0.0.1:10249`.
    pub metrics_bind_address: String,
    /// Whether an address that is taken ends the proxy.
    pub bind_address_hard_fail: bool,
    /// Whether profiles are served.
    pub enable_profiling: bool,
    /// The version whose hidden metrics are shown.
    pub show_hidden_metrics_for_version: String,
    /// `nftables`, `iptables`, `ipvs`; default iptables, as upstream.
    pub mode: String,
    /// Of the mode iptables.
    pub iptables: Iptables,
    /// Of the mode ipvs.
    pub ipvs: Ipvs,
    /// Of the mode nftables.
    pub nftables: Nftables,
    /// Of Windows.
    pub winkernel: Winkernel,
    /// `ClusterCIDR` (default), `NodeCIDR`, `BridgeInterface`, `InterfaceNamePrefix`.
    pub detect_local_mode: String,
    /// What the last two of those look for.
    pub detect_local: DetectLocal,
    /// The ranges of pods' addresses, one for each family, by comma.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// At which addresses node ports answer: CIDRs, or `primary` alone.
    pub node_port_addresses: Vec<String>,
    /// The out-of-memory score adjustment, -1000 to 1000; default -999.
    pub oom_score_adj: Option<i32>,
    /// Settings of connection tracking.
    pub conntrack: Conntrack,
    /// How often everything is read anew; default 15m.
    pub config_sync_period: Span,
    /// Without effect, as upstream.
    pub port_range: String,
    /// Of Windows.
    pub windows_run_as_service: bool,
}

/// How to talk to the API server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// A kubeconfig file; empty: the pod's service account.
    pub kubeconfig: String,
    /// Which media types are accepted.
    pub accept_content_types: String,
    /// Which media type is sent.
    pub content_type: String,
    /// Requests in a second.
    pub qps: f32,
    /// Requests at once.
    pub burst: i32,
}

/// How to log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    /// Nanoseconds, or a duration.
    pub flush_frequency: Value,
    /// How much: 0 to 10.
    pub verbosity: u32,
    /// How much for single files.
    pub vmodule: Value,
    /// Options of the formats.
    pub options: Value,
}

/// Of the mode iptables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    /// The bit of the mark that asks for masquerading, 0 to 31; default 14.
    pub masquerade_bit: Option<i32>,
    /// Whether everything is masqueraded.
    pub masquerade_all: bool,
    /// Whether node ports answer on 127.0.0.1; default true.
    pub localhost_node_ports: Option<bool>,
    /// The longest time between two full syncs; default 30s.
    pub sync_period: Span,
    /// The shortest time between two syncs; default 1s.
    pub min_sync_period: Span,
}

/// Of the mode ipvs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    /// The longest time between two full syncs; default 30s.
    pub sync_period: Span,
    /// The shortest time between two syncs.
    pub min_sync_period: Span,
    /// The kernel's scheduler; default `rr`.
    pub scheduler: String,
    /// Ranges whose virtual servers are left alone.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    /// Whether ARP answers for a link's own addresses only.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    /// How long an idle TCP connection is kept.
    pub tcp_timeout: Span,
    /// How long a TCP connection is kept after FIN.
    pub tcp_fin_timeout: Span,
    /// How long an idle UDP flow is kept.
    pub udp_timeout: Span,
}

/// Of the mode nftables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nftables {
    /// The bit of the mark that asks for masquerading, 0 to 31; default 14.
    pub masquerade_bit: Option<i32>,
    /// Whether everything is masqueraded.
    pub masquerade_all: bool,
    /// The longest time between two full syncs; default 30s.
    pub sync_period: Span,
    /// The shortest time between two syncs; default none, where upstream waits 1s.
    pub min_sync_period: Span,
}

/// Of Windows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    /// The network's name.
    pub network_name: String,
    /// The source of virtual IPs.
    pub source_vip: String,
    /// Direct server return.
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    /// The root endpoint's name.
    pub root_hns_endpoint_name: String,
    /// Whether health checks are forwarded.
    pub forward_health_check_vip: bool,
}

/// What `detectLocalMode` looks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    /// The bridge of the pods.
    pub bridge_interface: String,
    /// How pods' interfaces begin.
    pub interface_name_prefix: String,
}

/// Settings of connection tracking; nothing: left as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// Connections for each core; default 32768, 0: no limit is set.
    pub max_per_core: Option<i32>,
    /// At least so many connections; default 131072.
    pub min: Option<i32>,
    /// How long an established TCP connection may be silent; default 24h, 0: as it is.
    pub tcp_established_timeout: Option<Span>,
    /// How long a TCP connection stays in CLOSE_WAIT; default 1h, 0: as it is.
    pub tcp_close_wait_timeout: Option<Span>,
    /// Whether packets outside a TCP window are let through.
    pub tcp_be_liberal: bool,
    /// How long an unanswered UDP flow is kept; 0: as it is.
    pub udp_timeout: Span,
    /// How long an answered UDP flow is kept; 0: as it is.
    pub udp_stream_timeout: Span,
}

impl Default for KubeProxyConfiguration {
    fn default() -> Self {
        Self {
            api_version: super::API_VERSION.into(),
            kind: super::KIND.into(),
            feature_gates: BTreeMap::new(),
            client_connection: ClientConnection::default(),
            logging: Logging::default(),
            hostname_override: String::new(),
            bind_address: String::new(),
            healthz_bind_address: String::new(),
            metrics_bind_address: String::new(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: Iptables::default(),
            ipvs: Ipvs::default(),
            nftables: Nftables::default(),
            winkernel: Winkernel::default(),
            detect_local_mode: String::new(),
            detect_local: DetectLocal::default(),
            cluster_cidr: String::new(),
            node_port_addresses: Vec::new(),
            oom_score_adj: None,
            conntrack: Conntrack::default(),
            config_sync_period: Span::default(),
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}
