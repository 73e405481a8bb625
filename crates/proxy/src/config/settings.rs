//! The configuration, checked and with its defaults: what the proxy runs by.
//!
//! Upstream rule: pkg/proxy/apis/config/v1alpha1/defaults.go and …/validation. The one difference:
//! nftables' `minSyncPeriod` is nought unless it is given, so that a change is applied at once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use super::duration::Span;
use super::types::KubeProxyConfiguration;

/// Which backend carries the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// nftables.
    Nftables,
}

impl Mode {
    /// As it stands in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
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
    /// The configuration with its defaults, for /configz and --write-config-to.
    pub effective: KubeProxyConfiguration,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A mode that this build does not have.
    #[error(
        "{field}: proxy mode {mode} is not in this build yet; hint: set mode: nftables (--proxy-mode=nftables)"
    )]
    NoSuchModeYet {
        /// The field.
        field: &'static str,
        /// The mode.
        mode: String,
    },
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
        span(&mut self.iptables.min_sync_period, 1);
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
        note(mode(&effective.mode));
        note(bit("nftables.masqueradeBit", effective.nftables.masquerade_bit));
        let nftables = &effective.nftables;
        note(periods("nftables", nftables.sync_period, nftables.min_sync_period));
        note(oom_score(effective.oom_score_adj));
        let node_name = match effective.hostname_override.trim() {
            "" => host_name.trim().to_lowercase(),
            name => name.to_lowercase(),
        };
        if node_name.is_empty() {
            note(Err(invalid("hostnameOverride", "", "the node's name must not be empty")));
        }
        let detect_local = Self::keep(detect_local(&effective), &mut errors);
        let node_ports = Self::keep(node_ports(&effective.node_port_addresses), &mut errors);
        let healthz =
            Self::keep(address("healthzBindAddress", &effective.healthz_bind_address), &mut errors);
        let metrics =
            Self::keep(address("metricsBindAddress", &effective.metrics_bind_address), &mut errors);
        let (Some(detect_local), Some(node_ports), Some(healthz), Some(metrics), true) =
            (detect_local, node_ports, healthz, metrics, errors.is_empty())
        else {
            return Err(errors);
        };
        let kubeconfig = &effective.client_connection.kubeconfig;
        let masquerade_bit = effective.nftables.masquerade_bit.unwrap_or(14);
        Ok(Self {
            mode: Mode::Nftables,
            node_name,
            kubeconfig: (!kubeconfig.is_empty()).then(|| kubeconfig.into()),
            detect_local,
            masquerade_all: effective.nftables.masquerade_all,
            masquerade_mark: 1 << masquerade_bit.clamp(0, 31),
            node_ports,
            sync_period: effective.nftables.sync_period.0,
            min_sync_period: effective.nftables.min_sync_period.0,
            config_sync_period: effective.config_sync_period.0,
            healthz,
            metrics,
            bind_address_hard_fail: effective.bind_address_hard_fail,
            oom_score_adj: effective.oom_score_adj.unwrap_or(-999),
            verbosity: u8::try_from(effective.logging.verbosity).unwrap_or(u8::MAX),
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
            (c.enable_profiling, "enableProfiling", "this build serves no profiles"),
            (!c.feature_gates.is_empty(), "featureGates", "this build has no feature gates"),
            (c.windows_run_as_service, "windowsRunAsService", "this is not Windows"),
            (!c.winkernel.network_name.is_empty(), "winkernel", "this is not Windows"),
            (!c.port_range.is_empty(), "portRange", "it has none upstream either"),
        ];
        fields
            .into_iter()
            .filter(|(given, ..)| *given)
            .map(|(_, field, why)| format!("{field} has no effect: {why}"))
            .collect()
    }
}

fn mode(mode: &str) -> Result<(), SettingsError> {
    match mode {
        "nftables" => Ok(()),
        "iptables" | "ipvs" => {
            Err(SettingsError::NoSuchModeYet { field: "mode", mode: mode.into() })
        }
        other => Err(invalid(
            "mode",
            other,
            "must be iptables,ipvs,nftables or blank (blank means the best-available proxy [currently iptables])",
        )),
    }
}

fn bit(field: &str, bit: Option<i32>) -> Result<(), SettingsError> {
    match bit {
        Some(bit) if !(0..=31).contains(&bit) => {
            Err(invalid(field, bit, "must be within the range [0, 31]"))
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

fn node_ports(addresses: &[String]) -> Result<NodePorts, SettingsError> {
    match addresses {
        [] => Ok(NodePorts::Primary),
        [one] if one == "primary" => Ok(NodePorts::Primary),
        many if many.iter().any(|one| one == "primary") => {
            Err(invalid("nodePortAddresses", many.join(","), "can't use both 'primary' and CIDRs"))
        }
        many => cidrs("nodePortAddresses", many).map(NodePorts::Within),
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
            c.mode = "ipvs".into();
            c.nftables.masquerade_bit = Some(32);
            c.oom_score_adj = Some(2000);
            c.cluster_cidr = "10.0.0.0".into();
            c.node_port_addresses = vec!["primary".into(), "10.0.0.0/8".into()];
            c.metrics_bind_address = "nowhere".into();
        });
        for part in [
            "mode: proxy mode ipvs is not in this build yet",
            "nftables.masqueradeBit: Invalid value",
            "oomScoreAdj: Invalid value",
            "clusterCIDR: Invalid value",
            "nodePortAddresses: Invalid value",
            "metricsBindAddress: Invalid value",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(refused(|c| c.mode = String::new()).contains("mode iptables is not in this build"));
        assert!(refused(|c| c.mode = "magic".into()).contains("mode: Invalid value: \"magic\""));
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
