//! The command line: what every command takes, with its unit and default. No logic is here.
//!
//! Completions and man pages are made from these same definitions. Exit codes: 0 when the command
//! did what it says, 2 for wrong arguments (clap's own), 1 for everything else; `shell` returns
//! the status of the command that it ran, `trace` and `diff` have codes of their own in their help.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use portolan_node::{Addresses, NodeOptions};

/// Kubernetes Service networking, whole, in one binary.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Start with `portolan up`; it says how to point kubectl at the lab.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a lab: an API server, nodes and an outside client, all in namespaces
    Up(UpArgs),
    /// Stop the lab in a data directory; its objects stay on disk
    Down(DownArgs),
    /// Show the lab in a data directory: nodes, pods, addresses, components
    Status(StatusArgs),
    /// Run a command, or a shell, on a node, in a pod, or on the outside client
    Shell(ShellArgs),
    /// Run the Service proxy, as kube-proxy (also when called as `kube-proxy`)
    #[command(disable_version_flag = true)]
    Proxy(Box<portolan_proxy::Args>),
    /// Answer DNS for the cluster, as CoreDNS (also when called as `coredns`)
    #[command(disable_version_flag = true)]
    Dns(Box<portolan_dns::Args>),
    /// Say where a packet to a Service would go, and why
    Trace(Box<portolan_trace::TraceArgs>),
    /// List the flows that a change of objects would alter, before it is applied
    Diff(Box<portolan_trace::DiffArgs>),
    /// Print the completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write all of them into a directory
    Man {
        /// The directory to write into; without it the main page goes to standard output
        dir: Option<PathBuf>,
    },
}

/// Where a lab keeps its files.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// The lab's data directory [default: $XDG_STATE_HOME/portolan or ~/.local/state/portolan]
    #[arg(long, value_name = "DIR", env = "PORTOLAN_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `portolan up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// How many nodes, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) nodes: u16,

    /// Return when everything is ready and leave the lab running
    #[arg(long)]
    pub(crate) detach: bool,

    #[command(flatten)]
    pub(crate) data_dir: DataDir,

    /// The proxy's mode; without it, nftables
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) proxy_mode: Option<ProxyMode>,

    /// The addresses of Services: one network, or one of each family, the primary family first
    /// [default: as before in this data directory, or else 10.96.0.0/12,fd00:10:96::/112]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub(crate) service_cidr: Option<String>,

    /// The addresses of pods, of the same families; each node gets a /24 and a /64 of them
    /// [default: as before in this data directory, or else 10.244.0.0/16,fd00:10:244::/48]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub(crate) cluster_cidr: Option<String>,

    /// The addresses of the nodes' own network [default: 172.30.0.0/24,fd00:172:30::/64]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub(crate) fabric_cidr: Option<String>,

    /// The ports that NodePort Services get, first and last
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub(crate) node_port_range: String,

    /// The API server's port on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) api_port: u16,
}

/// The proxy's backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyMode {
    /// iptables chains, as kube-proxy makes them; iptables must be installed
    Iptables,
    /// nf_tables maps and sets
    Nftables,
}

/// `portolan down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
}

/// `portolan status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs; fields are added, never renamed or removed
    Json,
}

/// `portolan shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,

    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// The command and its arguments [default: $SHELL, or /bin/sh]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Where `shell` goes; without any of them, to node-1.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct TargetArgs {
    /// To a node, by name [default: node-1]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// To a pod, by namespace and name; without namespace, in `default`
    #[arg(long, value_name = "[NS/]NAME")]
    pub(crate) pod: Option<String>,

    /// To the outside client
    #[arg(long)]
    pub(crate) client: bool,
}

/// The processes inside the lab: `portolan internal …`. Apart from [`Cli`], so that neither help
/// nor completions nor manual pages show what only the lab may start.
#[derive(Debug, Parser)]
#[command(name = "portolan internal")]
pub(crate) enum Internal {
    /// PID 1 of the lab
    LabInit,
    /// A node's agent
    Node(Box<NodeArgs>),
    /// PID 1 of a pod
    PodInit {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The built-in echo server
    Serve {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// What a node's agent is told; written by the lab only.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) node_ip: Addresses,
    #[arg(long, default_value_t = NodeOptions::DEFAULT_PORT)]
    pub(crate) port: u16,
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    #[arg(long)]
    pub(crate) kubeconfig: PathBuf,
    #[arg(long)]
    pub(crate) serving_cert: PathBuf,
    #[arg(long)]
    pub(crate) serving_key: PathBuf,
    #[arg(long)]
    pub(crate) client_ca: PathBuf,
    #[arg(long)]
    pub(crate) state_dir: PathBuf,
    #[arg(long)]
    pub(crate) portolan: PathBuf,
    #[arg(long)]
    pub(crate) cluster_dns: Option<IpAddr>,
    #[arg(long)]
    pub(crate) hidden_dir: Vec<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl From<NodeArgs> for NodeOptions {
    fn from(args: NodeArgs) -> NodeOptions {
        NodeOptions {
            name: args.name,
            labels: args.labels.into_iter().collect(),
            kubeconfig: args.kubeconfig,
            node_ips: args.node_ip,
            port: args.port,
            state_dir: args.state_dir,
            cluster_dns: args.cluster_dns,
            cluster_domain: "cluster.local".into(),
            serving_cert: args.serving_cert,
            serving_key: args.serving_key,
            client_ca: args.client_ca,
            portolan: args.portolan,
            hidden_dirs: args.hidden_dir,
            private_dirs: ["/run", "/tmp", "/etc"].map(PathBuf::from).to_vec(),
            max_pods: 110,
        }
    }
}
