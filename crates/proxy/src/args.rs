//! The flags of kube-proxy, under their own names.
//!
//! As in upstream, flags and `--config` are two ways to the same settings: with `--config` only the
//! flags that are no settings of the file count, and those of logging.

mod groups;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use clap::builder::ArgAction;

use crate::config::duration::{self, Span};
use crate::config::types::KubeProxyConfiguration;

/// The flags of `portolan proxy` and `kube-proxy`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Read the settings from this file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write the settings, defaults filled in, to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,

    /// This node's name, where it is not the host's name (also with --config)
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The API server's address, in the place of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,

    /// nftables, iptables or ipvs
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,

    /// The range of the pods' addresses; what comes from elsewhere to a Service is masqueraded
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,

    /// How a pod's packets are recognised
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,

    /// The bridge of the pods, for --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,

    /// How the pods' interfaces begin, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,

    /// Masquerade all traffic to cluster IPs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub masquerade_all: Option<bool>,

    /// The addresses at which node ports answer: CIDRs, or `primary`
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,

    /// The address of /healthz and /livez; empty: none
    #[arg(long, value_name = "ADDRESS")]
    pub healthz_bind_address: Option<String>,

    /// The address of /metrics; empty: none
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_bind_address: Option<String>,

    /// Exit when one of those addresses is taken
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,

    /// The longest time between two full syncs
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub nftables_sync_period: Option<Duration>,

    /// The shortest time between two syncs
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub nftables_min_sync_period: Option<Duration>,

    /// The bit of the packet mark that asks for masquerading
    #[arg(long, value_name = "BIT")]
    pub nftables_masquerade_bit: Option<u8>,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub api: groups::Api,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub iptables: groups::Iptables,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub ipvs: groups::Ipvs,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub conntrack: groups::Conntrack,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub process: groups::Process,

    #[expect(missing_docs, reason = "clap would take it for the command's own text")]
    #[command(flatten)]
    pub logging: groups::Logging,

    /// Remove the rules and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub cleanup: Option<bool>,

    /// Do what needs privileges and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub init_only: Option<bool>,

    /// Print the version and exit
    #[arg(long = "version", action = ArgAction::SetTrue)]
    pub version: bool,

    /// How much is logged: 0 to 10
    #[arg(short = 'v', long = "v", value_name = "LEVEL")]
    pub verbosity: Option<u8>,
}

/// What [`crate::run`] is to do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The flags.
    pub args: Args,
    /// The words of the command line that they were read from, for /flagz.
    pub words: Vec<String>,
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        Self { args, words: words.collect() }
    }
}

/// The command line of kube-proxy as a whole.
#[derive(Debug, clap::Parser)]
#[command(name = "kube-proxy", about = "Keeps a node's rules equal to the cluster's Services")]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

impl Options {
    /// Parses a command line; its first word is the program's name.
    ///
    /// # Errors
    /// Wrong flags, and `--help`, with the text to show.
    pub fn parse(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let text = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        CommandLine::try_parse_from(words).map(|line| Self { args: line.args, words: text })
    }
}

impl Args {
    /// The settings that the flags say, without defaults.
    pub(crate) fn configuration(&self) -> KubeProxyConfiguration {
        let mut c = KubeProxyConfiguration::default();
        let text = |field: &mut String, flag: &Option<String>| {
            if let Some(value) = flag {
                field.clone_from(value);
            }
        };
        text(&mut c.mode, &self.proxy_mode);
        text(&mut c.detect_local_mode, &self.detect_local_mode);
        text(&mut c.detect_local.bridge_interface, &self.pod_bridge_interface);
        text(&mut c.detect_local.interface_name_prefix, &self.pod_interface_name_prefix);
        text(&mut c.healthz_bind_address, &self.healthz_bind_address);
        text(&mut c.metrics_bind_address, &self.metrics_bind_address);
        c.cluster_cidr = self.cluster_cidr.join(",");
        c.node_port_addresses.clone_from(&self.nodeport_addresses);
        let masquerade_all = self.masquerade_all.unwrap_or_default();
        (c.iptables.masquerade_all, c.nftables.masquerade_all) = (masquerade_all, masquerade_all);
        c.bind_address_hard_fail = self.bind_address_hard_fail.unwrap_or_default();
        self.api.put(&mut c);
        self.iptables.put(&mut c);
        self.ipvs.put(&mut c);
        self.conntrack.put(&mut c);
        self.process.put(&mut c);
        self.ports(&mut c);
        if let Some(period) = self.nftables_sync_period {
            c.nftables.sync_period = Span(period);
        }
        if let Some(period) = self.nftables_min_sync_period {
            c.nftables.min_sync_period = Span(period);
        }
        c.nftables.masquerade_bit = self.nftables_masquerade_bit.map(Into::into);
        self.put_logging(&mut c);
        if let Some(path) = &self.kubeconfig {
            c.client_connection.kubeconfig = path.display().to_string();
        }
        c
    }

    /// The flags of logging count beside a file, too.
    pub(crate) fn put_logging(&self, c: &mut KubeProxyConfiguration) {
        self.logging.put(c);
        if let Some(verbosity) = self.verbosity {
            c.logging.verbosity = verbosity.into();
        }
    }

    /// The deprecated flags of ports: addresses that are given count for more.
    fn ports(&self, c: &mut KubeProxyConfiguration) {
        // Port 0 is "do not serve".
        let put = |address: &mut String, given: &Option<String>, port: Option<u16>, host: &str| {
            if let (None, Some(port)) = (given, port) {
                *address = format!("{host}:{port}");
            }
        };
        let Self { healthz_bind_address: healthz, metrics_bind_address: metrics, .. } = self;
        put(&mut c.healthz_bind_address, healthz, self.process.healthz_port, "0.0.0.0");
        put(&mut c.metrics_bind_address, metrics, self.process.metrics_port, "127.0.0.1");
    }

    /// The flags that have no effect beside `--config`, as upstream has it.
    pub(crate) fn ignored_beside_a_file(&self) -> Vec<&'static str> {
        let flags = [
            (self.kubeconfig.is_some(), "--kubeconfig"),
            (self.proxy_mode.is_some(), "--proxy-mode"),
            (!self.cluster_cidr.is_empty(), "--cluster-cidr"),
            (self.detect_local_mode.is_some(), "--detect-local-mode"),
            (self.pod_bridge_interface.is_some(), "--pod-bridge-interface"),
            (self.pod_interface_name_prefix.is_some(), "--pod-interface-name-prefix"),
            (self.masquerade_all.is_some(), "--masquerade-all"),
            (!self.nodeport_addresses.is_empty(), "--nodeport-addresses"),
            (self.healthz_bind_address.is_some(), "--healthz-bind-address"),
            (self.metrics_bind_address.is_some(), "--metrics-bind-address"),
            (self.bind_address_hard_fail.is_some(), "--bind-address-hard-fail"),
            (self.nftables_sync_period.is_some(), "--nftables-sync-period"),
            (self.nftables_min_sync_period.is_some(), "--nftables-min-sync-period"),
            (self.nftables_masquerade_bit.is_some(), "--nftables-masquerade-bit"),
        ];
        let own = flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag);
        let groups = self.api.given().chain(self.iptables.given()).chain(self.ipvs.given());
        own.chain(groups).chain(self.conntrack.given()).chain(self.process.given()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A flag with its value, and where the setting is.
    fn cases() -> Vec<(&'static str, &'static str, Value)> {
        vec![
            ("--kubeconfig=/k", "/clientConnection/kubeconfig", json!("/k")),
            (
                "--kube-api-content-type=application/json",
                "/clientConnection/contentType",
                json!("application/json"),
            ),
            ("--kube-api-burst=20", "/clientConnection/burst", json!(20)),
            ("--kube-api-qps=7.5", "/clientConnection/qps", json!(7.5)),
            ("--bind-address=10.0.0.9", "/bindAddress", json!("10.0.0.9")),
            ("--healthz-bind-address=0.0.0.0:1", "/healthzBindAddress", json!("0.0.0.0:1")),
            ("--metrics-bind-address=127.0.0.1:2", "/metricsBindAddress", json!("127.0.0.1:2")),
            ("--healthz-port=3", "/healthzBindAddress", json!("0.0.0.0:3")),
            ("--metrics-port=0", "/metricsBindAddress", json!("127.0.0.1:0")),
            ("--bind-address-hard-fail", "/bindAddressHardFail", json!(true)),
            ("--profiling=true", "/enableProfiling", json!(true)),
            (
                "--show-hidden-metrics-for-version=1.35",
                "/showHiddenMetricsForVersion",
                json!("1.35"),
            ),
            (
                "--feature-gates=KubeProxyIPVS=false,B=true",
                "/featureGates",
                json!({"KubeProxyIPVS": false, "B": true}),
            ),
            ("--proxy-mode=nftables", "/mode", json!("nftables")),
            ("--iptables-masquerade-bit=15", "/iptables/masqueradeBit", json!(15)),
            ("--masquerade-all", "/iptables/masqueradeAll", json!(true)),
            ("--masquerade-all", "/nftables/masqueradeAll", json!(true)),
            ("--iptables-localhost-nodeports=false", "/iptables/localhostNodePorts", json!(false)),
            ("--iptables-sync-period=40s", "/iptables/syncPeriod", json!("40s")),
            ("--iptables-sync-period=40s", "/nftables/syncPeriod", json!("40s")),
            ("--iptables-min-sync-period=2s", "/iptables/minSyncPeriod", json!("2s")),
            ("--iptables-min-sync-period=2s", "/nftables/minSyncPeriod", json!("2s")),
            ("--ipvs-sync-period=1m", "/ipvs/syncPeriod", json!("1m0s")),
            ("--ipvs-min-sync-period=1s", "/ipvs/minSyncPeriod", json!("1s")),
            ("--ipvs-scheduler=lc", "/ipvs/scheduler", json!("lc")),
            (
                "--ipvs-exclude-cidrs=10.1.0.0/16,10.2.0.0/16",
                "/ipvs/excludeCIDRs",
                json!(["10.1.0.0/16", "10.2.0.0/16"]),
            ),
            ("--ipvs-strict-arp", "/ipvs/strictARP", json!(true)),
            ("--ipvs-tcp-timeout=15m", "/ipvs/tcpTimeout", json!("15m0s")),
            ("--ipvs-tcpfin-timeout=2m", "/ipvs/tcpFinTimeout", json!("2m0s")),
            ("--ipvs-udp-timeout=5m", "/ipvs/udpTimeout", json!("5m0s")),
            ("--detect-local-mode=BridgeInterface", "/detectLocalMode", json!("BridgeInterface")),
            ("--pod-bridge-interface=cbr0", "/detectLocal/bridgeInterface", json!("cbr0")),
            ("--pod-interface-name-prefix=veth", "/detectLocal/interfaceNamePrefix", json!("veth")),
            (
                "--cluster-cidr=10.244.0.0/16,fd00::/48",
                "/clusterCIDR",
                json!("10.244.0.0/16,fd00::/48"),
            ),
            (
                "--nodeport-addresses=10.0.0.0/8,192.168.0.0/16",
                "/nodePortAddresses",
                json!(["10.0.0.0/8", "192.168.0.0/16"]),
            ),
            ("--oom-score-adj=-500", "/oomScoreAdj", json!(-500)),
            ("--conntrack-max-per-core=0", "/conntrack/maxPerCore", json!(0)),
            ("--conntrack-min=1000", "/conntrack/min", json!(1000)),
            (
                "--conntrack-tcp-timeout-established=1h",
                "/conntrack/tcpEstablishedTimeout",
                json!("1h0m0s"),
            ),
            (
                "--conntrack-tcp-timeout-close-wait=0s",
                "/conntrack/tcpCloseWaitTimeout",
                json!("0s"),
            ),
            ("--conntrack-tcp-be-liberal=true", "/conntrack/tcpBeLiberal", json!(true)),
            ("--conntrack-udp-timeout=10s", "/conntrack/udpTimeout", json!("10s")),
            ("--conntrack-udp-timeout-stream=3m", "/conntrack/udpStreamTimeout", json!("3m0s")),
            ("--config-sync-period=20m", "/configSyncPeriod", json!("20m0s")),
            ("--logging-format=json", "/logging/format", json!("json")),
            ("--log-flush-frequency=5s", "/logging/flushFrequency", json!("5s")),
            ("--vmodule=proxier=5", "/logging/vmodule", json!("proxier=5")),
            ("--v=4", "/logging/verbosity", json!(4)),
        ]
    }

    fn parse(words: &[&str]) -> Args {
        let words = [&["kube-proxy"], words].concat();
        Options::parse(words).unwrap_or_else(|e| panic!("{e}")).args
    }

    #[test]
    fn every_flag_of_kube_proxy_is_a_setting_of_the_file() {
        for (flag, path, value) in cases() {
            let configuration = serde_json::to_value(parse(&[flag]).configuration()).unwrap();
            assert_eq!(configuration.pointer(path), Some(&value), "{flag}");
        }
    }

    #[test]
    fn beside_a_file_all_but_those_of_logging_are_named_as_ignored() {
        for (flag, path, _) in cases() {
            let name = flag.split_once('=').map_or(flag, |(name, _)| name);
            let ignored = parse(&["--config=/c", flag]).ignored_beside_a_file();
            let expected = if path.starts_with("/logging") { vec![] } else { vec![name] };
            assert_eq!(ignored, expected, "{flag}");
        }
    }

    #[test]
    fn what_is_no_setting_is_still_a_flag() {
        let args = parse(&[
            "--config=/c",
            "--write-config-to=/w",
            "--cleanup=false",
            "--init-only",
            "--hostname-override=Node-1",
            "--master=https://10.0.0.1:6443",
            "--log-json-split-stream",
            "--log-text-info-buffer-size=1Mi",
        ]);
        assert_eq!((args.cleanup, args.init_only), (Some(false), Some(true)));
        assert!(args.ignored_beside_a_file().is_empty());
        assert!(Options::parse(["kube-proxy", "--no-such-flag"]).is_err());
        assert!(Options::parse(["kube-proxy", "--feature-gates=A"]).is_err());
    }
}
