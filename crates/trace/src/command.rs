//! `portolan trace` and `portolan diff`: arguments, where objects come from, and exit codes.
//!
//! Exit codes of `trace`: 0 answered, 1 not answerable, 2 wrong arguments, 3 answered and `--kernel`
//! found drift. Of `diff`: 0 no flow changes, 1 some do, 2 no answer.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::{Args, ValueEnum};
use portolan_client::{Source, connect};
use portolan_model::{Family, Protocol};
use portolan_proxy::config::load;
use portolan_proxy::config::types::KubeProxyConfiguration;
use serde_json::{Value, json};

use crate::TraceError;
use crate::diff;
use crate::kernel::{self, Drift};
use crate::live;
use crate::objects::{self, Key, Objects};
use crate::printable::printable;
use crate::question::Question;
use crate::trace;
use crate::view::{Setup, View};

/// `portolan trace`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The verdict is DNAT (to one of the endpoints), ACCEPT (the proxy does not touch it), REJECT or DROP.

Exit codes: 0 answered; 1 not answerable (no such object, server or file not readable); \
2 wrong arguments; 3 answered, and --kernel found drift.")]
pub struct TraceArgs {
    /// Who sends the packet: an IP, pod/NS/NAME, node/NAME, or external (203.0.113.1, 2001:db8::1)
    #[arg(long, value_name = "SOURCE")]
    pub from: String,

    /// Whom it is addressed to: IP:PORT, or svc/NS/NAME[:PORT] with the port's number or name
    #[arg(long, value_name = "DESTINATION")]
    pub to: String,

    /// The protocol [default: that of the Service's port, or tcp]
    #[arg(long, value_name = "PROTOCOL", value_enum, ignore_case = true)]
    pub protocol: Option<ProtocolName>,

    /// Read Services, EndpointSlices, Nodes, Pods and ServiceCIDRs from this file, not from a server;
    /// may be repeated; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the command's help")]
    pub place: PlaceArgs,

    /// Compare with the rules in this machine's kernel, too: run it in the node's network namespace
    #[arg(long, action = ArgAction::SetTrue)]
    pub kernel: bool,
}

/// `portolan diff`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A changed object takes the place of the one that is there, as by `kubectl replace`; what the server \
allocated and the file does not name stays (cluster IPs, node ports, status).

Exit codes: 0 no flow changes; 1 some change; 2 no answer.")]
pub struct DiffArgs {
    /// The objects as they will be; may be repeated; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,

    /// An object that will be gone: KIND/NS/NAME, or KIND/NAME without a namespace; may be repeated
    #[arg(long, value_name = "OBJECT")]
    pub delete: Vec<String>,

    /// Read the objects as they are from this file, not from a server; may be repeated
    #[arg(long, value_name = "FILE")]
    pub base: Vec<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the command's help")]
    pub place: PlaceArgs,
}

/// Which server, which node, which proxy.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// How to reach the API server [default: $KUBECONFIG, ~/.kube/config, or the pod's account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The node whose rules are asked about [default: the source's, --node-name, or the only one]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// The proxy's configuration [default: with a server, ConfigMap kube-system/kube-proxy]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The name of a node when nothing else says which [default: hostnameOverride]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// An address of the node, the primary one first; may be repeated [default: its object's]
    #[arg(long, value_name = "IP")]
    pub node_ip: Vec<IpAddr>,

    /// iptables, nftables or ipvs [default: as the configuration says, or iptables]
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,

    /// The ranges of pods' addresses [default: as the configuration says]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<String>,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs; fields are added, never renamed or removed
    Json,
}

/// A protocol by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Sctp => Self::Sctp,
        }
    }
}

/// What a command prints and returns. Nothing in it can act upon a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// For standard output.
    pub out: String,
    /// For standard error, a line each.
    pub notes: Vec<String>,
    /// The exit code.
    pub code: u8,
}

impl TraceArgs {
    /// Answers the question. It reads files and servers, so it may take a while.
    #[must_use]
    pub fn run(&self) -> Printed {
        self.answer().unwrap_or_else(|error| {
            let code = if error.is_usage() { 2 } else { 1 };
            failed(&error, code)
        })
    }

    fn answer(&self) -> Result<Printed, TraceError> {
        let question = Question {
            from: self.from.parse()?,
            to: self.to.parse()?,
            protocol: self.protocol.map(Into::into),
        };
        let given = self.place.gather(&self.filename, Some(&question))?;
        let named = given.named();
        let named = [self.place.node.as_deref(), named.as_deref()];
        let node = trace::node_name(&given.objects, &question, named)?;
        let view = given.view(&given.objects, &node)?;
        let answer = trace::trace(&given.objects, &view, &question)?;
        let drift = if self.kernel { Some(self.drift(&given, &view)?) } else { None };
        let code = if drift.as_ref().is_some_and(|drift| drift.operations > 0) { 3 } else { 0 };
        let out = match self.place.output {
            Output::Text => answer.to_text() + &drift.as_ref().map(drift_text).unwrap_or_default(),
            Output::Json => {
                let mut value = answer.to_json();
                if let (Some(fields), Some(drift)) = (value.as_object_mut(), &drift) {
                    let kernel = json!({"operations": drift.operations, "plan": drift.plan});
                    fields.insert("kernel".into(), kernel);
                }
                pretty(&value)
            }
        };
        Ok(Printed { out, notes: given.notes, code })
    }

    /// Of both families: a kernel that has drifted in one has drifted.
    fn drift(&self, given: &Given, view: &View) -> Result<Drift, TraceError> {
        let mut all = Drift { operations: 0, plan: String::new() };
        for family in [Family::Ipv4, Family::Ipv6] {
            let drift = kernel::compare(view, &view.table(&given.objects, family))?;
            all.operations += drift.operations;
            all.plan += &drift.plan;
        }
        Ok(all)
    }
}

fn drift_text(drift: &Drift) -> String {
    match drift.operations {
        0 => format!("{:<11} holds these rules\n", "kernel"),
        many => format!(
            "{:<11} has drifted: {many} changes would put it right\n{}",
            "kernel", drift.plan
        ),
    }
}

impl DiffArgs {
    /// Compares. It reads files and servers, so it may take a while.
    #[must_use]
    pub fn run(&self) -> Printed {
        self.compare().unwrap_or_else(|error| failed(&error, 2))
    }

    fn compare(&self) -> Result<Printed, TraceError> {
        if self.filename.is_empty() && self.delete.is_empty() {
            let reason = "name what changes: -f FILE or --delete KIND/NS/NAME";
            return Err(TraceError::argument("-f", "", reason));
        }
        let deleted: Vec<Key> =
            self.delete.iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
        let mut given = self.place.gather(&self.base, None)?;
        let mut after = given.objects.clone();
        for path in &self.filename {
            for object in read_objects(path)? {
                let other = diff::change(&mut after, object);
                given.notes.extend(other.map(|what| undecided(&what)));
            }
        }
        for key in &deleted {
            if !after.delete(key) {
                given.notes.push(printable(&format!("there is no {key} to delete")));
            }
        }
        given.notes.extend(without_address(&after));
        let node = given.node(self.place.node.as_deref())?;
        let (old, new) = (given.view(&given.objects, &node)?, given.view(&after, &node)?);
        let flows = diff::diff((&old, &given.objects), (&new, &after));
        let out = match self.place.output {
            Output::Text => diff::to_text(&flows),
            Output::Json => pretty(&diff::to_json(&flows)),
        };
        Ok(Printed { out, notes: given.notes, code: u8::from(!flows.is_empty()) })
    }
}

/// Services whose address is not allocated yet, so that nothing can be said of their flows.
fn without_address(objects: &Objects) -> Vec<String> {
    let waits = objects.services.iter().filter(|(_, service)| {
        service.spec.as_ref().is_some_and(|spec| {
            let has_none = spec.cluster_ip.as_deref().unwrap_or_default().is_empty()
                && spec.cluster_ips.as_deref().unwrap_or_default().is_empty();
            has_none && spec.type_.as_deref() != Some("ExternalName")
        })
    });
    waits
        .map(|(name, _)| {
            printable(&format!("Service {name} has no cluster IP yet: its flows are not listed"))
        })
        .collect()
}

/// What a command works on.
struct Given {
    objects: Objects,
    setup: Setup,
    node_name: Option<String>,
    notes: Vec<String>,
}

impl Given {
    /// The node's name as arguments or configuration say.
    fn named(&self) -> Option<String> {
        let configured = self.setup.configuration.hostname_override.trim().to_lowercase();
        self.node_name.clone().or(Some(configured).filter(|name| !name.is_empty()))
    }

    fn node(&self, explicit: Option<&str>) -> Result<String, TraceError> {
        if let Some(name) = explicit.map(Into::into).or_else(|| self.named()) {
            return Ok(name);
        }
        let names: Vec<_> = self.objects.nodes.keys().cloned().collect();
        match names.as_slice() {
            [] => Ok(String::new()),
            [only] => Ok(only.clone()),
            _ => Err(TraceError::WhichNode(names)),
        }
    }

    fn view(&self, objects: &Objects, node: &str) -> Result<View, TraceError> {
        let is_known = objects.nodes.is_empty() || objects.nodes.contains_key(node);
        if !is_known && self.setup.node_ips.is_empty() {
            return Err(TraceError::NotFound {
                kind: "Node",
                name: node.to_owned(),
                hint: "--node-ip describes a node that has no object",
            });
        }
        View::new(objects, &self.setup, node)
    }
}

impl PlaceArgs {
    fn gather(&self, files: &[PathBuf], question: Option<&Question>) -> Result<Given, TraceError> {
        let mut notes = Vec::new();
        let mut loaded = match &self.config {
            Some(path) => Some((path.display().to_string(), read(path)?)),
            None => None,
        };
        let objects = if files.is_empty() {
            let (objects, more, configuration) = self.live(question)?;
            notes.extend(more);
            loaded = loaded.or(configuration);
            objects
        } else {
            let mut objects = Objects::default();
            for path in files {
                for object in read_objects(path)? {
                    notes.extend(objects.put(object).map(|what| undecided(&what)));
                }
            }
            objects
        };
        let mut configuration = KubeProxyConfiguration::default();
        if let Some((origin, text)) = loaded {
            let read = load::parse(&text)
                .map_err(|source| TraceError::Configuration { origin: origin.clone(), source })?;
            let warnings = read.warnings.iter();
            notes.extend(warnings.map(|warning| printable(&format!("{origin}: {warning}"))));
            configuration = read.configuration;
        }
        if let Some(mode) = &self.proxy_mode {
            configuration.mode.clone_from(mode);
        }
        if let Some(ranges) = &self.cluster_cidr {
            configuration.cluster_cidr.clone_from(ranges);
        }
        let setup = Setup { configuration, node_ips: self.node_ip.clone() };
        Ok(Given { objects, setup, node_name: self.node_name.clone(), notes })
    }

    #[expect(clippy::type_complexity, reason = "taken apart where it is made")]
    fn live(
        &self,
        question: Option<&Question>,
    ) -> Result<(Objects, Vec<String>, Option<(String, String)>), TraceError> {
        let source = match (&self.kubeconfig, &self.context) {
            (path, Some(context)) => {
                Source::Context { path: path.clone(), context: context.clone() }
            }
            (Some(path), None) => Source::Kubeconfig(path.clone()),
            (None, None) => Source::Default,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| TraceError::Read { path: "/dev".into(), source })?;
        runtime.block_on(async {
            let client = connect(source).await?;
            let (objects, notes) = live::objects(&client, question).await?;
            let configuration = match &self.config {
                Some(_) => None,
                None => live::configuration(&client).await?,
            };
            Ok((objects, notes, configuration))
        })
    }
}

fn undecided(what: &str) -> String {
    printable(&format!("{what} decides about no packet here: left out"))
}

fn read_objects(path: &Path) -> Result<Vec<objects::Object>, TraceError> {
    let text = read(path)?;
    objects::parse(&text).map_err(|reason| TraceError::Objects { path: path.to_owned(), reason })
}

fn read(path: &Path) -> Result<String, TraceError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|source| TraceError::Read { path: path.to_owned(), source })
}

fn failed(error: &TraceError, code: u8) -> Printed {
    let notes =
        error.to_string().lines().map(|line| format!("error: {}", printable(line))).collect();
    Printed { out: String::new(), notes, code }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
