//! The flags of `portolan dns`, and those of `coredns`.
//!
//! Flags and a Corefile are two ways to the same settings: without a Corefile, one is made of the
//! flags, and read as any other.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Parser as _;
use clap::builder::ArgAction;

/// The flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Read the settings from this Corefile; the other flags about names are left aside then
    #[arg(long, value_name = "FILE")]
    pub conf: Option<PathBuf>,

    /// Where blocks of the Corefile listen that name no port
    #[arg(
        long = "dns.port",
        alias = "port",
        short = 'p',
        value_name = "PORT",
        default_value_t = 53
    )]
    pub port: u16,

    /// How to reach the API server, where it is not the pod's own
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The cluster's zone
    #[arg(long, value_name = "ZONE", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Which pods have records: disabled, insecure or verified
    #[arg(long, value_name = "MODE", default_value = "insecure")]
    pub pods: String,

    /// How long answers about the cluster hold, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub ttl: u32,

    /// Whom to ask about other names: addresses, or files such as resolv.conf; empty: nobody
    #[arg(
        long,
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = "/etc/resolv.conf"
    )]
    pub upstream: Vec<String>,

    /// Whom to ask about the names of a zone, ZONE=ADDRESS[+ADDRESS]; may be repeated
    #[arg(long, value_name = "ZONE=ADDRESSES")]
    pub stub: Vec<String>,

    /// How long upstreams' answers are remembered at most, in seconds; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub cache: u32,

    /// Only at these addresses [default: all]
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub bind: Vec<String>,

    /// The address of /health; empty: none
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub health: String,

    /// The address of /ready; empty: none
    #[arg(long, value_name = "ADDRESS", default_value = ":8181")]
    pub ready: String,

    /// The address of /metrics; empty: none
    #[arg(long, value_name = "ADDRESS", default_value = ":9153")]
    pub metrics: String,

    /// How many threads answer over UDP [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Log every query
    #[arg(long)]
    pub log_queries: bool,

    /// List the plugins that a Corefile may name, and exit
    #[arg(long)]
    pub plugins: bool,

    /// Log nothing but errors
    #[arg(long)]
    pub quiet: bool,

    /// Print the version and exit
    #[arg(long = "version", action = ArgAction::SetTrue)]
    pub version: bool,
}

/// The command line of coredns as a whole.
#[derive(Debug, clap::Parser)]
#[command(name = "coredns", about = "Answers DNS for a cluster", disable_version_flag = true)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

impl Default for Args {
    fn default() -> Self {
        CommandLine::parse_from(["coredns"]).args
    }
}

/// The words of a command line with Go's single dashes as clap wants them: `-conf` is `--conf`.
pub fn with_two_dashes(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let known = ["conf", "dns.port", "plugins", "quiet", "version"];
    let longer = |word: OsString| {
        let text = word.to_string_lossy();
        let name = text.strip_prefix('-').unwrap_or_default();
        let name = name.split_once('=').map_or(name, |(name, _)| name);
        if known.contains(&name) { format!("-{text}").into() } else { word }
    };
    words.into_iter().map(longer).collect()
}

impl Args {
    /// Parses a command line; its first word is the program's name.
    ///
    /// # Errors
    /// Wrong flags, and `--help`, with the text to show.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        CommandLine::try_parse_from(with_two_dashes(words)).map(|line| line.args)
    }

    /// The Corefile that the flags say.
    pub(crate) fn corefile(&self) -> String {
        let mut text = String::from(". {\n errors\n loop\n loadbalance\n");
        let Self { cluster_domain, pods, ttl, .. } = self;
        let mut line = |text_of: std::fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let _ = text.write_fmt(format_args!(" {text_of}\n"));
        };
        for (page, address) in
            [("health", &self.health), ("ready", &self.ready), ("prometheus", &self.metrics)]
        {
            if !address.is_empty() {
                line(format_args!("{page} {}", quoted(address)));
            }
        }
        line(format_args!("kubernetes {} in-addr.arpa ip6.arpa {{", quoted(cluster_domain)));
        if let Some(path) = &self.kubeconfig {
            line(format_args!("kubeconfig {}", quoted(&path.to_string_lossy())));
        }
        line(format_args!(
            "pods {}\n ttl {ttl}\n fallthrough in-addr.arpa ip6.arpa\n }}",
            quoted(pods)
        ));
        for stub in &self.stub {
            let (zone, to) = stub.split_once('=').unwrap_or((stub, ""));
            let to: Vec<_> = to.split('+').filter(|to| !to.is_empty()).map(quoted).collect();
            line(format_args!("forward {} {}", quoted(zone), to.join(" ")));
        }
        let upstream: Vec<_> =
            self.upstream.iter().filter(|to| !to.is_empty()).map(|to| quoted(to)).collect();
        if !upstream.is_empty() {
            line(format_args!("forward . {}", upstream.join(" ")));
        }
        if self.cache > 0 {
            line(format_args!("cache {}", self.cache));
        }
        for address in &self.bind {
            line(format_args!("bind {}", quoted(address)));
        }
        if self.log_queries {
            line(format_args!("log"));
        }
        text.push_str("}\n");
        text
    }
}

/// As one word of a Corefile.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::{Surroundings, parse};

    struct Files;

    impl Surroundings for Files {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &str) -> std::io::Result<String> {
            Ok("nameserver 10.0.0.9".into())
        }
    }

    fn args(words: &[&str]) -> Args {
        Args::parse(words.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn single_dashes_are_gos() {
        let args = args(&["coredns", "-conf", "/etc/coredns/Corefile", "-dns.port=5353", "-quiet"]);
        assert_eq!(args.conf.unwrap().to_str(), Some("/etc/coredns/Corefile"));
        assert_eq!((args.port, args.quiet), (5353, true));
    }

    #[test]
    fn flags_make_a_corefile() {
        let args = args(&[
            "dns",
            "--cluster-domain=k8s.test",
            "--stub=corp.test=10.1.0.1+10.1.0.2:5353",
            "--upstream=10.0.0.1,/etc/resolv.conf",
            "--pods=verified",
            "--ttl=7",
            "--cache=60",
            "--metrics=",
            "--health=127.0.0.1:1",
            "--bind=127.0.0.1,::1",
            "--kubeconfig=/a b",
        ]);
        let corefile = parse(&args.corefile(), 53, &Files).unwrap();
        let server = &corefile.servers[0];
        assert_eq!(server.forwards.len(), 2);
        assert_eq!(server.forwards[0].to.len(), 2);
        assert_eq!(server.forwards[1].to.len(), 2);
        assert_eq!(server.kubernetes.as_ref().unwrap().ttl, 7);
        assert_eq!(server.bind.len(), 2);
        assert!(corefile.metrics.is_none() && corefile.ready.is_some());
        assert!(parse(&Args::default().corefile(), 53, &Files).is_ok());
    }
}
