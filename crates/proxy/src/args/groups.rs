//! Flags that are settings of the file, by the section that they belong to.
//!
//! Upstream rule: `AddFlags` of cmd/kube-proxy/app/options.go.

use std::time::Duration;

use crate::config::duration::{self, Span};
use crate::config::types::KubeProxyConfiguration;

/// A struct of flags that can say which of them were given.
macro_rules! flags {
    ($(#[$about:meta])* $name:ident { $($(#[$flag:meta])* $field:ident: $type:ty = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, clap::Args)]
        pub struct $name {
            $($(#[$flag])* pub $field: $type,)*
        }

        impl $name {
            /// The flags that were given.
            pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
                let all = [$((self.$field != <$type>::default(), $text)),*];
                all.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag)
            }
        }
    };
}

flags! {
    /// How to talk to the API server.
    Api {
        /// The media type of what is sent (this build speaks JSON)
        #[arg(long, value_name = "TYPE")]
        kube_api_content_type: Option<String> = "--kube-api-content-type",
        /// Requests at once (without effect: watches are few)
        #[arg(long, value_name = "N")]
        kube_api_burst: Option<i32> = "--kube-api-burst",
        /// Requests in a second (without effect: watches are few)
        #[arg(long, value_name = "N")]
        kube_api_qps: Option<f32> = "--kube-api-qps",
        /// How often everything is read anew
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        config_sync_period: Option<Duration> = "--config-sync-period",
    }
}

flags! {
    /// Of the mode iptables.
    Iptables {
        /// The bit of the packet mark that asks for masquerading
        #[arg(long, value_name = "BIT")]
        iptables_masquerade_bit: Option<i32> = "--iptables-masquerade-bit",
        /// Whether node ports answer at 127.0.0.1
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        iptables_localhost_nodeports: Option<bool> = "--iptables-localhost-nodeports",
        /// The longest time between two full syncs (also in mode nftables)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        iptables_sync_period: Option<Duration> = "--iptables-sync-period",
        /// The shortest time between two syncs (also in mode nftables)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        iptables_min_sync_period: Option<Duration> = "--iptables-min-sync-period",
    }
}

flags! {
    /// Of the mode ipvs.
    Ipvs {
        /// The longest time between two full syncs
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ipvs_sync_period: Option<Duration> = "--ipvs-sync-period",
        /// The shortest time between two syncs
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ipvs_min_sync_period: Option<Duration> = "--ipvs-min-sync-period",
        /// The kernel's scheduler
        #[arg(long, value_name = "NAME")]
        ipvs_scheduler: Option<String> = "--ipvs-scheduler",
        /// Ranges whose virtual servers are left alone
        #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
        ipvs_exclude_cidrs: Vec<String> = "--ipvs-exclude-cidrs",
        /// Whether ARP answers for a link's own addresses only
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        ipvs_strict_arp: Option<bool> = "--ipvs-strict-arp",
        /// How long an idle TCP connection is kept
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ipvs_tcp_timeout: Option<Duration> = "--ipvs-tcp-timeout",
        /// How long a TCP connection is kept after FIN
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ipvs_tcpfin_timeout: Option<Duration> = "--ipvs-tcpfin-timeout",
        /// How long an idle UDP flow is kept
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ipvs_udp_timeout: Option<Duration> = "--ipvs-udp-timeout",
    }
}

flags! {
    /// Of connection tracking.
    Conntrack {
        /// Connections for each core; 0: the limit stays as it is
        #[arg(long, value_name = "N")]
        conntrack_max_per_core: Option<i32> = "--conntrack-max-per-core",
        /// At least so many connections
        #[arg(long, value_name = "N")]
        conntrack_min: Option<i32> = "--conntrack-min",
        /// How long an established TCP connection may be silent; 0: as it is
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        conntrack_tcp_timeout_established: Option<Duration> = "--conntrack-tcp-timeout-established",
        /// How long a TCP connection stays in CLOSE_WAIT; 0: as it is
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        conntrack_tcp_timeout_close_wait: Option<Duration> = "--conntrack-tcp-timeout-close-wait",
        /// Whether packets outside a TCP window are let through
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        conntrack_tcp_be_liberal: Option<bool> = "--conntrack-tcp-be-liberal",
        /// How long an unanswered UDP flow is kept; 0: as it is
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        conntrack_udp_timeout: Option<Duration> = "--conntrack-udp-timeout",
        /// How long an answered UDP flow is kept; 0: as it is
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        conntrack_udp_timeout_stream: Option<Duration> = "--conntrack-udp-timeout-stream",
    }
}

flags! {
    /// Of the process.
    Process {
        /// The node's address when it has none of its own
        #[arg(long, value_name = "ADDRESS")]
        bind_address: Option<String> = "--bind-address",
        /// The port of /healthz and /livez; 0: none (deprecated: --healthz-bind-address)
        #[arg(long, value_name = "PORT", hide = true)]
        healthz_port: Option<u16> = "--healthz-port",
        /// The port of /metrics; 0: none (deprecated: --metrics-bind-address)
        #[arg(long, value_name = "PORT", hide = true)]
        metrics_port: Option<u16> = "--metrics-port",
        /// Serve profiles (this build has none)
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        profiling: Option<bool> = "--profiling",
        /// The version whose hidden metrics are shown (this build hides none)
        #[arg(long, value_name = "VERSION")]
        show_hidden_metrics_for_version: Option<String> = "--show-hidden-metrics-for-version",
        /// Feature gates, NAME=true or NAME=false (this build has none)
        #[arg(long, value_name = "GATES", value_delimiter = ',', value_parser = gate)]
        feature_gates: Vec<(String, bool)> = "--feature-gates",
        /// The out-of-memory score adjustment
        #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
        oom_score_adj: Option<i32> = "--oom-score-adj",
    }
}

/// How to log; given beside a file, too.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Logging {
    /// `text` or `json` (this build writes text)
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    /// How often logs are flushed (without effect: they are not held back)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub log_flush_frequency: Option<Duration>,
    /// How much is logged of single files (without effect)
    #[arg(long, value_name = "PATTERNS")]
    pub vmodule: Option<String>,
    /// Without effect: standard error has everything
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide = true)]
    pub log_text_split_stream: Option<bool>,
    /// Without effect: standard error has everything
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide = true)]
    pub log_json_split_stream: Option<bool>,
    /// Without effect: logs are not held back
    #[arg(long, value_name = "SIZE", hide = true)]
    pub log_text_info_buffer_size: Option<String>,
    /// Without effect: logs are not held back
    #[arg(long, value_name = "SIZE", hide = true)]
    pub log_json_info_buffer_size: Option<String>,
}

fn gate(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or("missing bool value for it")?;
    let value = value.trim().parse().map_err(|_| format!("invalid value of {name}: {value}"))?;
    Ok((name.trim().to_owned(), value))
}

/// Puts what a flag says, if it was given, into the place of a setting.
fn put<T: Clone>(setting: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        setting.clone_from(value);
    }
}

fn put_some<T: Clone>(setting: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        setting.clone_from(flag);
    }
}

fn put_span(setting: &mut Span, flag: Option<Duration>) {
    if let Some(value) = flag {
        *setting = Span(value);
    }
}

impl Api {
    pub(super) fn put(&self, c: &mut KubeProxyConfiguration) {
        put(&mut c.client_connection.content_type, &self.kube_api_content_type);
        put(&mut c.client_connection.burst, &self.kube_api_burst);
        put(&mut c.client_connection.qps, &self.kube_api_qps);
        put_span(&mut c.config_sync_period, self.config_sync_period);
    }
}

impl Iptables {
    /// The periods are those of the mode nftables, too, which has no flags of its own upstream.
    pub(super) fn put(&self, c: &mut KubeProxyConfiguration) {
        put_some(&mut c.iptables.masquerade_bit, &self.iptables_masquerade_bit);
        put_some(&mut c.iptables.localhost_node_ports, &self.iptables_localhost_nodeports);
        for period in [&mut c.iptables.sync_period, &mut c.nftables.sync_period] {
            put_span(period, self.iptables_sync_period);
        }
        for period in [&mut c.iptables.min_sync_period, &mut c.nftables.min_sync_period] {
            put_span(period, self.iptables_min_sync_period);
        }
    }
}

impl Ipvs {
    pub(super) fn put(&self, c: &mut KubeProxyConfiguration) {
        let ipvs = &mut c.ipvs;
        put_span(&mut ipvs.sync_period, self.ipvs_sync_period);
        put_span(&mut ipvs.min_sync_period, self.ipvs_min_sync_period);
        put(&mut ipvs.scheduler, &self.ipvs_scheduler);
        ipvs.exclude_cidrs.clone_from(&self.ipvs_exclude_cidrs);
        put(&mut ipvs.strict_arp, &self.ipvs_strict_arp);
        put_span(&mut ipvs.tcp_timeout, self.ipvs_tcp_timeout);
        put_span(&mut ipvs.tcp_fin_timeout, self.ipvs_tcpfin_timeout);
        put_span(&mut ipvs.udp_timeout, self.ipvs_udp_timeout);
    }
}

impl Conntrack {
    pub(super) fn put(&self, c: &mut KubeProxyConfiguration) {
        let conntrack = &mut c.conntrack;
        put_some(&mut conntrack.max_per_core, &self.conntrack_max_per_core);
        put_some(&mut conntrack.min, &self.conntrack_min);
        let span = |flag: Option<Duration>| flag.map(Span);
        let established = span(self.conntrack_tcp_timeout_established);
        put_some(&mut conntrack.tcp_established_timeout, &established);
        let close_wait = span(self.conntrack_tcp_timeout_close_wait);
        put_some(&mut conntrack.tcp_close_wait_timeout, &close_wait);
        put(&mut conntrack.tcp_be_liberal, &self.conntrack_tcp_be_liberal);
        put_span(&mut conntrack.udp_timeout, self.conntrack_udp_timeout);
        put_span(&mut conntrack.udp_stream_timeout, self.conntrack_udp_timeout_stream);
    }
}

impl Process {
    pub(super) fn put(&self, c: &mut KubeProxyConfiguration) {
        put(&mut c.bind_address, &self.bind_address);
        put(&mut c.enable_profiling, &self.profiling);
        let version = &self.show_hidden_metrics_for_version;
        put(&mut c.show_hidden_metrics_for_version, version);
        c.feature_gates.extend(self.feature_gates.iter().cloned());
        put_some(&mut c.oom_score_adj, &self.oom_score_adj);
    }
}

impl Logging {
    /// Also over what a file says.
    pub(crate) fn put(&self, c: &mut KubeProxyConfiguration) {
        put(&mut c.logging.format, &self.logging_format);
        if let Some(often) = self.log_flush_frequency {
            c.logging.flush_frequency = duration::format(often).into();
        }
        if let Some(patterns) = &self.vmodule {
            c.logging.vmodule = patterns.as_str().into();
        }
    }
}
