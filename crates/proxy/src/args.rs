//! The flags of kube-proxy, under their own names.
//!
//! As in upstream, flags and `--config` are two ways to the same settings: with `--config` only the
//! flags that are no settings of the file count, and of the others those marked below.

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
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        Self { args }
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
        CommandLine::try_parse_from(words).map(|line| line.args.into())
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
        c.nftables.sync_period = Span(self.nftables_sync_period.unwrap_or_default());
        c.nftables.min_sync_period = Span(self.nftables_min_sync_period.unwrap_or_default());
        c.nftables.masquerade_bit = self.nftables_masquerade_bit.map(Into::into);
        c.logging.verbosity = self.verbosity.unwrap_or_default().into();
        if let Some(path) = &self.kubeconfig {
            c.client_connection.kubeconfig = path.display().to_string();
        }
        c
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
        flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag).collect()
    }
}
