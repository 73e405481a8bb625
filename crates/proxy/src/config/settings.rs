//! The configuration, checked and with its defaults: what the proxy runs by.
//!
//! Upstream rule: pkg/proxy/apis/config/v1alpha1/defaults.go and …/validation. The one difference:
//! `minSyncPeriod` is nought unless it is given, so that a change is applied at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use portolan_model::{
    Config, InvalidPackets, LocalDetector, LocalhostNodePorts, MasqueradeAll, ModeProfile,
    SourceRangesHold,
};
use thiserror::Error;

use super::duration::Span;
use super::types::KubeProxyConfiguration;

/// The feature gate by which node ports answer at 127.0.0.1 in mode nftables, too (upstream's of 1.37).
const LOCALHOST_NODE_PORTS: &str = "KubeProxyNFTablesLocalhostNodePorts";
/// The feature gate by which `loadBalancerSourceRanges` hold at a Service's node ports, too. Ours.
const RANGES_AT_NODE_PORTS: &str = "LoadBalancerSourceRangesOnNodePorts";

/// Which backend carries the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// iptables, what upstream takes when none is named.
    Iptables,
    /// IPVS.
    Ipvs,
    /// nftables.
    Nftables,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Iptables, Self::Ipvs, Self::Nftables];

    /// As it stands in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.profile().mode
    }

    /// What it does differently on purpose.
    #[must_use]
    pub const fn profile(self) -> ModeProfile {
        match self {
            Self::Iptables => ModeProfile::IPTABLES,
            Self::Ipvs => ModeProfile::IPVS,
            Self::Nftables => ModeProfile::NFTABLES,
        }
    }
}

/// How a pod's packets are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's ranges.
    ClusterCidr(Vec<IpNet>),
    /// By the ranges of this node's object.
    NodeCidr,
    /// By the bridge.
    Bridge(String),
    /// By how the interface's name begins.
    InterfacePrefix(String),
}

/// At which addresses node ports answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePorts {
    /// At every address of the node.
    All,
    /// At the node's primary address of each family.
    Primary,
    /// At the node's addresses within these ranges.
    Within(Vec<IpNet>),
}

/// What the proxy runs by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which backend.
    pub mode: Mode,
    /// This node's name.
    pub node_name: String,
    /// The kubeconfig; none: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// How a pod's packets are known.
    pub detect_local: DetectLocal,
    /// Whether everything is masqueraded.
    pub masquerade_all: bool,
    /// The mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// At which addresses node ports answer.
    pub node_ports: NodePorts,
    /// Whether they answer at 127.0.0.1, too.
    pub localhost_node_ports: LocalhostNodePorts,
    /// Where `loadBalancerSourceRanges` hold.
    pub source_ranges_hold: SourceRangesHold,
    /// The longest time between two full syncs that healthz allows for.
    pub sync_period: Duration,
    /// The shortest time between two syncs.
    pub min_sync_period: Duration,
    /// How often everything is listed anew.
    pub config_sync_period: Duration,
    /// Where /healthz answers.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics answers.
    pub metrics: Option<SocketAddr>,
    /// Whether an address that is taken ends the proxy.
    pub bind_address_hard_fail: bool,
    /// The out-of-memory score adjustment.
    pub oom_score_adj: i32,
    /// How much is logged.
    pub verbosity: u8,
    /// The flags that were given, with their values, for /flagz.
    pub flags: Vec<(String, String)>,
    /// The configuration with its defaults, for /configz and --write-config-to.
    pub effective: KubeProxyConfiguration,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value out of its bounds.
    #[error("{field}: Invalid value: {value:?}: {must}")]
    Invalid {
        /// The field.
        field: String,
        /// The value.
        value: String,
        /// What it must be.
        must: String,
    },
}

fn invalid(
    field: impl Into<String>,
    value: impl ToString,
    must: impl Into<String>,
) -> SettingsError {
    SettingsError::Invalid { field: field.into(), value: value.to_string(), must: must.into() }
}

impl KubeProxyConfiguration {
    /// Fills upstream's defaults in.
    pub fn set_defaults(&mut self) {
        let text = |field: &mut String, value: &str| {
            if field.is_empty() {
                value.clone_into(field);
            }
        };
        let span = |field: &mut Span, seconds| {
            if field.0.is_zero() {
                field.0 = Duration::from_secs(seconds);
            }
        };
        text(&mut self.bind_address, "0.0.0.0");
        let host = if self.bind_address.contains(':') { "[::]" } else { "0.0.0.0" };
        let local = if self.bind_address.contains(':') { "[::1]" } else { "127.0.0.1" };
        with_port(&mut self.healthz_bind_address, host, 10256);
        with_port(&mut self.metrics_bind_address, local, 10249);
        text(&mut self.mode, "iptables");
        text(&mut self.detect_local_mode, "ClusterCIDR");
        text(&mut self.ipvs.scheduler, "rr");
        text(&mut self.logging.format, "text");
        text(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        self.oom_score_adj.get_or_insert(-999);
        span(&mut self.config_sync_period, 15 * 60);
        span(&mut self.iptables.sync_period, 30);
        span(&mut self.ipvs.sync_period, 30);
        span(&mut self.nftables.sync_period, 30);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.nftables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        let hours = |hours: u64| Span(Duration::from_secs(hours * 3600));
        conntrack.tcp_established_timeout.get_or_insert(hours(24));
        conntrack.tcp_close_wait_timeout.get_or_insert(hours(1));
    }
}

/// An address without a port gets the default one; an empty one is all of it.
fn with_port(field: &mut String, host: &str, port: u16) {
    if field.is_empty() {
        *field = format!("{host}:{port}");
    } else if let Ok(ip) = field.parse::<IpAddr>() {
        *field = SocketAddr::new(ip, port).to_string();
    } else if field.starts_with(':') {
        *field = format!("{host}{field}");
    }
}

impl Settings {
    /// The ranges whose virtual servers mode ipvs leaves alone.
    pub(crate) fn exclude_cidrs(&self) -> Vec<IpNet> {
        let ranges = &self.effective.ipvs.exclude_cidrs;
        ranges.iter().filter_map(|range| range.trim().parse().ok()).collect()
    }

    /// Checks a configuration whose defaults are filled in.
    ///
    /// # Errors
    /// Every setting that cannot be, in the order of the file.
    pub fn check(
        effective: KubeProxyConfiguration,
        host_name: &str,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut errors = Vec::new();
        let mut note = |result: Result<(), SettingsError>| errors.extend(result.err());
        let KubeProxyConfiguration { iptables, ipvs, nftables, conntrack, .. } = &effective;
        for (field, masquerade_bit) in [
            ("iptables.masqueradeBit", iptables.masquerade_bit),
            ("nftables.masqueradeBit", nftables.masquerade_bit),
        ] {
            note(bit(field, masquerade_bit));
        }
        note(periods("iptables", iptables.sync_period, iptables.min_sync_period));
        note(periods("ipvs", ipvs.sync_period, ipvs.min_sync_period));
        note(periods("nftables", nftables.sync_period, nftables.min_sync_period));
        note(cidrs("ipvs.excludeCIDRs", &ipvs.exclude_cidrs).map(drop));
        note(not_negative("conntrack.maxPerCore", conntrack.max_per_core));
        note(not_negative("conntrack.min", conntrack.min));
        note(not_negative("clientConnection.burst", Some(effective.client_connection.burst)));
        note(oom_score(effective.oom_score_adj));
        if effective.bind_address.parse::<IpAddr>().is_err() {
            let must = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            note(Err(invalid("bindAddress", &effective.bind_address, must)));
        }
        let node_name = match effective.hostname_override.trim() {
            "" => host_name.trim().to_lowercase(),
            name => name.to_lowercase(),
        };
        if node_name.is_empty() {
            note(Err(invalid("hostnameOverride", "", "the node's name must not be empty")));
        }
        let detect_local = Self::keep(detect_local(&effective), &mut errors);
        let mode = Self::keep(mode(&effective.mode), &mut errors);
        let node_ports = Self::keep(node_ports(&effective.node_port_addresses), &mut errors);
        let healthz =
            Self::keep(address("healthzBindAddress", &effective.healthz_bind_address), &mut errors);
        let metrics =
            Self::keep(address("metricsBindAddress", &effective.metrics_bind_address), &mut errors);
        let (Some(mode), Some(detect_local), Some(node_ports), Some(healthz), Some(metrics), true) =
            (mode, detect_local, node_ports, healthz, metrics, errors.is_empty())
        else {
            return Err(errors);
        };
        // An empty list is upstream's default of each mode.
        let node_ports = node_ports.unwrap_or(match mode {
            Mode::Nftables => NodePorts::Primary,
            Mode::Iptables | Mode::Ipvs => NodePorts::All,
        });
        let of_mode = OfMode::of(mode, &effective);
        let kubeconfig = &effective.client_connection.kubeconfig;
        Ok(Self {
            mode,
            node_name,
            kubeconfig: (!kubeconfig.is_empty()).then(|| kubeconfig.into()),
            detect_local,
            masquerade_all: of_mode.masquerade_all,
            masquerade_mark: 1 << of_mode.masquerade_bit.unwrap_or(14).clamp(0, 31),
            localhost_node_ports: localhost_node_ports(mode, &effective, &node_ports),
            node_ports,
            source_ranges_hold: match gate(&effective, RANGES_AT_NODE_PORTS) {
                true => SourceRangesHold::AtNodePortsToo,
                false => SourceRangesHold::AtLoadBalancerIps,
            },
            sync_period: of_mode.sync_period.0,
            min_sync_period: of_mode.min_sync_period.0,
            config_sync_period: effective.config_sync_period.0,
            healthz,
            metrics,
            bind_address_hard_fail: effective.bind_address_hard_fail,
            oom_score_adj: effective.oom_score_adj.unwrap_or(-999),
            verbosity: u8::try_from(effective.logging.verbosity).unwrap_or(u8::MAX),
            flags: Vec::new(),
            effective,
        })
    }

    fn keep<T>(result: Result<T, SettingsError>, errors: &mut Vec<SettingsError>) -> Option<T> {
        result.map_err(|e| errors.push(e)).ok()
    }

    /// Which settings of the file have no effect in this build, a line each.
    #[must_use]
    pub fn without_effect(&self) -> Vec<String> {
        let c = &self.effective;
        let fields = [
            (c.ipvs.strict_arp, "ipvs.strictARP", "it belongs to mode ipvs"),
            (!c.ipvs.exclude_cidrs.is_empty(), "ipvs.excludeCIDRs", "it belongs to mode ipvs"),
            (c.logging.format == "json", "logging.format", "logs are text"),
            (c.enable_profiling, "enableProfiling", "this build keeps no profiles"),
            (c.windows_run_as_service, "windowsRunAsService", "this is not Windows"),
            (!c.winkernel.network_name.is_empty(), "winkernel", "this is not Windows"),
            (!c.port_range.is_empty(), "portRange", "it has none upstream either"),
        ];
        let known = [LOCALHOST_NODE_PORTS, RANGES_AT_NODE_PORTS];
        let gates = c.feature_gates.keys().filter(|gate| !known.contains(&gate.as_str()));
        let gates =
            gates.map(|gate| (format!("featureGates.{gate}"), "this build does not have it"));
        let fields = fields.into_iter().filter(|(given, ..)| *given);
        fields
            .map(|(_, field, why)| (field.to_owned(), why))
            .chain(gates)
            .map(|(field, why)| format!("{field} has no effect: {why}"))
            .collect()
    }

    /// What the mode does differently on purpose, under these settings.
    #[must_use]
    pub fn profile(&self) -> ModeProfile {
        let profile = self.mode.profile();
        match self.effective.conntrack.tcp_be_liberal {
            true => ModeProfile { invalid_packets: InvalidPackets::Pass, ..profile },
            false => profile,
        }
    }

    /// What the model is to know, once it is known how pods are.
    #[must_use]
    pub fn model(&self, local_detector: LocalDetector) -> Config {
        Config {
            node_name: self.node_name.as_str().into(),
            masquerade_all: match self.masquerade_all {
                true => MasqueradeAll::Always,
                false => MasqueradeAll::OffClusterOnly,
            },
            local_detector,
            localhost_node_ports: self.localhost_node_ports,
            source_ranges_hold: self.source_ranges_hold,
        }
    }
}

/// What each mode has in a section of its own; ipvs takes how it masquerades from iptables'.
struct OfMode {
    masquerade_bit: Option<i32>,
    masquerade_all: bool,
    sync_period: Span,
    min_sync_period: Span,
}

impl OfMode {
    fn of(mode: Mode, c: &KubeProxyConfiguration) -> Self {
        let (masquerade_bit, masquerade_all) = match mode {
            Mode::Nftables => (c.nftables.masquerade_bit, c.nftables.masquerade_all),
            Mode::Iptables | Mode::Ipvs => (c.iptables.masquerade_bit, c.iptables.masquerade_all),
        };
        let (sync_period, min_sync_period) = match mode {
            Mode::Iptables => (c.iptables.sync_period, c.iptables.min_sync_period),
            Mode::Ipvs => (c.ipvs.sync_period, c.ipvs.min_sync_period),
            Mode::Nftables => (c.nftables.sync_period, c.nftables.min_sync_period),
        };
        Self { masquerade_bit, masquerade_all, sync_period, min_sync_period }
    }
}

fn gate(c: &KubeProxyConfiguration, name: &str) -> bool {
    c.feature_gates.get(name).copied().unwrap_or(false)
}

/// Node ports answer at 127.0.0.1 where the mode can have that and `nodePortAddresses` lets it. In
/// mode nftables the gate alone asks for it, since the list is the primary address unless given.
fn localhost_node_ports(
    mode: Mode,
    c: &KubeProxyConfiguration,
    node_ports: &NodePorts,
) -> LocalhostNodePorts {
    let is_wanted = match mode {
        Mode::Iptables => c.iptables.localhost_node_ports.unwrap_or(true),
        Mode::Ipvs => false,
        Mode::Nftables => gate(c, LOCALHOST_NODE_PORTS),
    };
    let is_allowed = match node_ports {
        NodePorts::All => true,
        NodePorts::Primary => mode == Mode::Nftables && c.node_port_addresses.is_empty(),
        NodePorts::Within(ranges) => {
            ranges.iter().any(|range| range.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)))
        }
    };
    if is_wanted && is_allowed { LocalhostNodePorts::On } else { LocalhostNodePorts::Off }
}

fn mode(name: &str) -> Result<Mode, SettingsError> {
    Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
        invalid(
            "mode",
            name,
            "must be iptables,ipvs,nftables or blank (blank means the best-available proxy [currently iptables])",
        )
    })
}

fn bit(field: &str, bit: Option<i32>) -> Result<(), SettingsError> {
    match bit {
        Some(bit) if !(0..=31).contains(&bit) => {
            Err(invalid(field, bit, "must be within the range [0, 31]"))
        }
        _ => Ok(()),
    }
}

fn not_negative(field: &str, number: Option<i32>) -> Result<(), SettingsError> {
    match number {
        Some(number) if number < 0 => {
            Err(invalid(field, number, "must be greater than or equal to 0"))
        }
        _ => Ok(()),
    }
}

fn periods(section: &str, sync: Span, min: Span) -> Result<(), SettingsError> {
    if min > sync {
        let value = super::duration::format(min.0);
        let must = "must be less than or equal to syncPeriod";
        return Err(invalid(format!("{section}.minSyncPeriod"), value, must));
    }
    Ok(())
}

fn oom_score(score: Option<i32>) -> Result<(), SettingsError> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(invalid("oomScoreAdj", score, "must be within the range [-1000, 1000]"))
        }
        _ => Ok(()),
    }
}

fn cidrs(field: &str, texts: &[String]) -> Result<Vec<IpNet>, SettingsError> {
    let parse = |text: &String| {
        text.trim().parse().map_err(|_| {
            invalid(
                field,
                text,
                "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
            )
        })
    };
    texts.iter().map(parse).collect()
}

/// One range, or one of each family.
fn pair(field: &str, texts: &[String]) -> Result<Vec<IpNet>, SettingsError> {
    let ranges = cidrs(field, texts)?;
    match ranges.as_slice() {
        [] | [_] => Ok(ranges),
        [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(ranges),
        _ => Err(invalid(
            field,
            texts.join(","),
            "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]",
        )),
    }
}

fn detect_local(c: &KubeProxyConfiguration) -> Result<DetectLocal, SettingsError> {
    let needed = |field: &str, value: &String| {
        if value.is_empty() {
            return Err(invalid(field, "", "cannot be empty with this detectLocalMode"));
        }
        Ok(value.clone())
    };
    let ranges: Vec<String> =
        c.cluster_cidr.split(',').filter(|text| !text.trim().is_empty()).map(Into::into).collect();
    let ranges = pair("clusterCIDR", &ranges)?;
    match c.detect_local_mode.as_str() {
        "ClusterCIDR" => Ok(DetectLocal::ClusterCidr(ranges)),
        "NodeCIDR" => Ok(DetectLocal::NodeCidr),
        "BridgeInterface" => {
            needed("detectLocal.bridgeInterface", &c.detect_local.bridge_interface)
                .map(DetectLocal::Bridge)
        }
        "InterfaceNamePrefix" => {
            needed("detectLocal.interfaceNamePrefix", &c.detect_local.interface_name_prefix)
                .map(DetectLocal::InterfacePrefix)
        }
        other => Err(invalid(
            "detectLocalMode",
            other,
            "must be BridgeInterface,ClusterCIDR,InterfaceNamePrefix,NodeCIDR or blank (blank defaults to ClusterCIDR)",
        )),
    }
}

/// What the list says; nothing when it is empty.
fn node_ports(addresses: &[String]) -> Result<Option<NodePorts>, SettingsError> {
    match addresses {
        [] => Ok(None),
        [one] if one == "primary" => Ok(Some(NodePorts::Primary)),
        many if many.iter().any(|one| one == "primary") => {
            Err(invalid("nodePortAddresses", many.join(","), "can't use both 'primary' and CIDRs"))
        }
        many => cidrs("nodePortAddresses", many).map(|ranges| Some(NodePorts::Within(ranges))),
    }
}

fn address(field: &str, text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    // Upstream takes a port of nought as "do not serve".
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(invalid(field, text, "must be IP:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut KubeProxyConfiguration)) -> Result<Settings, Vec<String>> {
        let mut configuration =
            KubeProxyConfiguration { mode: "nftables".into(), ..KubeProxyConfiguration::default() };
        change(&mut configuration);
        configuration.set_defaults();
        Settings::check(configuration, "Host-1")
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn refused(change: impl FnOnce(&mut KubeProxyConfiguration)) -> String {
        settings(change).map(|_| ()).unwrap_err().join("; ")
    }

    #[test]
    fn defaults_are_upstreams_but_for_the_wait_between_syncs() {
        let settings = settings(|_| {}).unwrap();
        assert_eq!(settings.node_name, "host-1");
        assert_eq!(settings.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(settings.metrics, Some("127.0.0.1:10249".parse().unwrap()));
        assert_eq!(settings.masquerade_mark, 0x4000);
        assert_eq!(settings.sync_period, Duration::from_secs(30));
        assert_eq!(settings.min_sync_period, Duration::ZERO);
        assert_eq!(settings.node_ports, NodePorts::Primary);
        assert_eq!(settings.detect_local, DetectLocal::ClusterCidr(vec![]));
    }

    #[test]
    fn every_fault_is_named_with_its_field() {
        let all = refused(|c| {
            c.mode = "magic".into();
            c.nftables.masquerade_bit = Some(32);
            c.iptables.masquerade_bit = Some(-1);
            c.ipvs.min_sync_period = Span(Duration::from_secs(31));
            c.ipvs.exclude_cidrs = vec!["10.0.0.0/8".into(), "10.0.0.1".into()];
            c.conntrack.max_per_core = Some(-1);
            c.conntrack.min = Some(-1);
            c.client_connection.burst = -1;
            c.bind_address = "everywhere".into();
            c.oom_score_adj = Some(2000);
            c.cluster_cidr = "10.0.0.0".into();
            c.node_port_addresses = vec!["primary".into(), "10.0.0.0/8".into()];
            c.metrics_bind_address = "nowhere".into();
        });
        for part in [
            "mode: Invalid value: \"magic\"",
            "iptables.masqueradeBit: Invalid value: \"-1\": must be within the range [0, 31]",
            "nftables.masqueradeBit: Invalid value",
            "ipvs.minSyncPeriod: Invalid value: \"31s\": must be less than or equal to syncPeriod",
            "ipvs.excludeCIDRs: Invalid value: \"10.0.0.1\": must be a valid CIDR block",
            "conntrack.maxPerCore: Invalid value: \"-1\": must be greater than or equal to 0",
            "conntrack.min: Invalid value: \"-1\": must be greater than or equal to 0",
            "clientConnection.burst: Invalid value: \"-1\": must be greater than or equal to 0",
            "bindAddress: Invalid value: \"everywhere\": must be a valid IP address",
            "oomScoreAdj: Invalid value",
            "clusterCIDR: Invalid value",
            "nodePortAddresses: Invalid value",
            "metricsBindAddress: Invalid value",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(
            refused(|c| c.detect_local_mode = "BridgeInterface".into()).contains("detectLocal")
        );
        let longer = Span(Duration::from_secs(60));
        assert!(refused(|c| c.nftables.min_sync_period = longer).contains("minSyncPeriod"));
    }

    #[test]
    fn cluster_cidrs_are_one_or_one_of_each_family() {
        let ranges = |text: &str| settings(|c| c.cluster_cidr = text.into());
        let found = ranges("fd00:10:244::/48, 10.244.0.0/16").unwrap().detect_local;
        let expected = ["fd00:10:244::/48", "10.244.0.0/16"].map(|cidr| cidr.parse().unwrap());
        assert_eq!(found, DetectLocal::ClusterCidr(expected.into()));
        for text in ["10.0.0.0/16,10.1.0.0/16", "10.0.0.0/16,fd00::/48,10.1.0.0/16"] {
            let refusal = ranges(text).map(|_| ()).unwrap_err().join(";");
            assert!(refusal.contains("dual-stack pair of CIDRs"), "{refusal}");
        }
    }

    #[test]
    fn each_mode_has_its_own_section_and_defaults() {
        let section = |mode: &str| {
            settings(|c| {
                c.mode = mode.into();
                c.iptables.masquerade_bit = Some(3);
                c.iptables.masquerade_all = true;
                c.iptables.min_sync_period = Span(Duration::from_secs(2));
                c.ipvs.sync_period = Span(Duration::from_secs(9));
            })
            .unwrap()
        };
        let iptables = section("");
        assert_eq!((iptables.mode, iptables.masquerade_mark), (Mode::Iptables, 8));
        assert_eq!(iptables.min_sync_period, Duration::from_secs(2));
        assert_eq!(iptables.node_ports, NodePorts::All);
        assert!(iptables.masquerade_all);
        let ipvs = section("ipvs");
        assert_eq!((ipvs.mode, ipvs.masquerade_mark), (Mode::Ipvs, 8));
        assert_eq!(ipvs.sync_period, Duration::from_secs(9));
        assert_eq!(ipvs.node_ports, NodePorts::All);
        let nftables = section("nftables");
        assert_eq!((nftables.mode, nftables.masquerade_mark), (Mode::Nftables, 0x4000));
        assert_eq!(nftables.min_sync_period, Duration::ZERO);
        assert!(!nftables.masquerade_all);
    }

    #[test]
    fn node_ports_answer_at_localhost_where_mode_and_addresses_allow_it() {
        let cases: [(&str, &[&str], bool, bool, bool); 11] = [
            // Mode, nodePortAddresses, iptables.localhostNodePorts, the gate, whether they do.
            ("iptables", &[], true, false, true),
            ("iptables", &[], false, true, false),
            ("iptables", &["primary"], true, false, false),
            ("iptables", &["127.0.0.0/8"], true, false, true),
            ("iptables", &["0.0.0.0/0"], true, false, true),
            ("iptables", &["10.0.0.0/8"], true, false, false),
            ("ipvs", &[], true, true, false),
            ("nftables", &[], true, false, false),
            ("nftables", &[], false, true, true),
            ("nftables", &["primary"], true, true, false),
            ("nftables", &["127.0.0.0/8", "10.0.0.0/8"], true, true, true),
        ];
        for (mode, addresses, is_set, gate, expected) in cases {
            let found = settings(|c| {
                c.mode = mode.into();
                c.node_port_addresses = addresses.iter().map(ToString::to_string).collect();
                c.iptables.localhost_node_ports = Some(is_set);
                c.feature_gates.insert(LOCALHOST_NODE_PORTS.into(), gate);
            });
            let found = found.unwrap().localhost_node_ports == LocalhostNodePorts::On;
            assert_eq!(found, expected, "{mode} {addresses:?} {is_set} {gate}");
        }
    }

    #[test]
    fn a_gate_that_is_not_known_is_told() {
        let settings = settings(|c| {
            c.feature_gates.insert(RANGES_AT_NODE_PORTS.into(), true);
            c.feature_gates.insert("AllAlpha".into(), true);
        })
        .unwrap();
        assert_eq!(settings.source_ranges_hold, SourceRangesHold::AtNodePortsToo);
        let told = settings.without_effect();
        assert_eq!(told, ["featureGates.AllAlpha has no effect: this build does not have it"]);
    }

    #[test]
    fn addresses_may_lack_their_port_or_host() {
        let settings = settings(|c| {
            c.healthz_bind_address = "127.0.0.1".into();
            c.metrics_bind_address = ":9999".into();
        })
        .unwrap();
        assert_eq!(settings.healthz, Some("127.0.0.1:10256".parse().unwrap()));
        assert_eq!(settings.metrics, Some("127.0.0.1:9999".parse().unwrap()));
    }
}
