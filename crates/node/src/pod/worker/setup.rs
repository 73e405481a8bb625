//! What a pod needs before a container starts: adoption or a new sandbox, its network, its
//! volumes, and the files that the agent manages.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{Busy, Done, SandboxState, Worker, sooner};
use crate::Addresses;
use crate::network;
use crate::node::Node;
use crate::pod::fields::Facts;
use crate::pod::hosts::{self, ClusterDns, Names, Resolver};
use crate::pod::record::{self, Role, State, lost};
use crate::pod::volumes;
use crate::recorder::Severity;
use crate::runtime::ContainerPhase;
use crate::runtime::sandbox::Sandbox;
use crate::shim::protocol::{ContainerState, SandboxSpec};
use crate::shim::spawn::HostNamespaces;

/// How long a first process may take to tell what runs in its pod.
const ADOPTION: Duration = Duration::from_secs(5);

/// How the pod's volumes are.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// All are there.
    pub(crate) is_ready: bool,
    /// Something they are made of has changed.
    pub(crate) is_stale: bool,
    failures: u32,
    retry: Option<Instant>,
}

impl Worker {
    pub(super) fn is_host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    /// Takes over what an earlier agent left running.
    pub(super) async fn adopt(&mut self) {
        let adopted = tokio::time::timeout(ADOPTION, Sandbox::adopt(&self.directory)).await;
        let adopted = match adopted {
            Ok(Ok(Some(adopted))) => adopted,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::warn!(pod = %self.key.name, "cannot adopt the pod: {error}");
                return;
            }
            Err(_) => {
                tracing::warn!(pod = %self.key.name, "the pod's first process does not answer");
                return;
            }
        };
        let (sandbox, states) = adopted;
        self.ips = self.earlier_ips();
        if let Some(ips) = &self.ips
            && !self.is_host_network()
        {
            self.node.hold(&self.uid, ips).await;
        }
        for state in states {
            self.adopt_container(&state);
        }
        self.initialized = record::has_initialized(&self.records);
        self.take(Arc::new(sandbox));
        for index in 0..self.records.len() {
            if self.records[index].is_running() {
                self.watch(index);
            }
        }
    }

    fn adopt_container(&mut self, state: &ContainerState) {
        let Some(index) = self.records.iter().position(|one| one.name == state.name) else {
            return;
        };
        let status = self.pod.status.as_ref();
        let lists =
            status.map(|status| (&status.init_container_statuses, &status.container_statuses));
        let old =
            lists.into_iter().flat_map(|(init, main)| init.iter().chain(main.iter()).flatten());
        let old = { old }.find(|old| old.name == state.name);
        let record = &mut self.records[index];
        if state.attempt > record.restarts {
            // Started again after the last report: what was reported is the instance before.
            record.last = record.terminated().cloned().or(record.last.take());
        }
        record.restarts = state.attempt;
        record.id = Some(state.id.clone());
        let since = Timestamp::from_nanosecond(i128::from(state.started_at)).unwrap_or_default();
        record.state = State::Running { since };
        record.started = old.is_some_and(|old| old.started == Some(true));
        record.ready = old.is_some_and(|old| old.ready);
        self.show(index, ContainerPhase::Running);
        if state.end.is_some() {
            self.ended(state.clone());
        }
    }

    /// The addresses that the pod had under an earlier agent.
    fn earlier_ips(&self) -> Option<Addresses> {
        if self.is_host_network() {
            return Some(self.node.options.node_ips);
        }
        let written = fs::read_to_string(self.directory.join("ip")).ok();
        let written = written.and_then(|text| text.trim().parse().ok());
        let reported = self.pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
        let reported =
            || Addresses::of(reported?.iter().filter_map(|one| one.ip.parse().ok())).ok();
        written.or_else(reported)
    }

    /// Makes a sandbox if there is none.
    pub(super) fn ensure_sandbox(&mut self, wake: &mut Option<Instant>) {
        if !matches!(self.sandbox, SandboxState::None) {
            return;
        }
        if let Some(retry) = self.sandbox_retry.filter(|retry| *retry > Instant::now()) {
            sooner(wake, retry);
            return;
        }
        self.sandbox = SandboxState::Making;
        // In a new sandbox everything starts from the beginning.
        self.initialized = false;
        for record in self.records.iter_mut().filter(|record| record.role == Role::Init) {
            if let Some(end) = record.terminated().cloned() {
                record.last = Some(end);
                let reason = "PodInitializing".to_owned();
                record.state = State::Waiting { reason, message: None };
            }
        }
        let before = self.earlier_ips();
        let node = self.node.clone();
        let pod = self.pod.clone();
        let directory = self.directory.clone();
        let uid = self.uid.clone();
        self.jobs.spawn(async move {
            let made = make(&node, &pod, &directory, &uid, before).await;
            if made.is_err() {
                node.release(&uid);
            }
            Done::Sandbox(made)
        });
    }

    pub(super) fn sandbox_made(&mut self, result: Result<(Arc<Sandbox>, Addresses), String>) {
        match result {
            Ok((sandbox, ips)) => {
                self.ips = Some(ips);
                self.sandbox_failures = 0;
                self.take(sandbox);
            }
            Err(message) => {
                self.sandbox = SandboxState::None;
                let wait = Duration::from_millis(500) * 2_u32.pow(self.sandbox_failures.min(5));
                self.sandbox_failures += 1;
                self.sandbox_retry = Some(Instant::now() + wait);
                let message = format!("Failed to create pod sandbox: {message}");
                self.event(None, Severity::Warning, "FailedCreatePodSandBox", message);
            }
        }
    }

    fn take(&mut self, sandbox: Arc<Sandbox>) {
        *self.entry.netns.write() = sandbox.netns().try_clone().ok();
        self.sandbox = SandboxState::Ready(sandbox);
    }

    /// The pod's first process is gone, and all that ran with it.
    pub(super) fn sandbox_lost(&mut self) {
        for index in 0..self.records.len() {
            if let State::Running { since } = self.records[index].state {
                let mut end = lost(self.records[index].id.clone(), Some(since));
                end.reason = "Error".to_owned();
                end.message = None;
                end.finished = Some(Timestamp::now());
                self.terminate(index, end);
            } else if matches!(self.slots[index].busy, Busy::Starting) {
                self.slots[index].busy = Busy::Idle;
            }
        }
        *self.entry.netns.write() = None;
        self.sandbox = SandboxState::None;
        if self.goal == super::Goal::Run {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.event(None, Severity::Normal, "SandboxChanged", message);
        }
    }

    /// Brings the volumes to what the Pod and its references say.
    pub(super) fn prepare_volumes(&mut self, wake: &mut Option<Instant>) {
        self.ask_for_tokens(wake);
        if self.volumes.is_ready && !self.volumes.is_stale {
            return;
        }
        if let Some(retry) = self.volumes.retry
            && retry > Instant::now()
            && !self.volumes.is_stale
        {
            sooner(wake, retry);
            return;
        }
        // What is not known yet announces itself by a change.
        let Some(tokens) = self.tokens.known() else { return };
        let Some(mut references) = self.followed.references() else { return };
        references.tokens = tokens;
        self.references = Arc::new(references);
        self.volumes.is_stale = false;
        let facts = self.facts();
        let mut failed = false;
        for volume in self.spec.volumes.iter().flatten() {
            let private = &self.node.options.private_dirs;
            let references = &self.references;
            let directory = &self.directory;
            match volumes::prepare(&self.pod, directory, private, &facts, references, volume) {
                Ok(_) => {}
                Err(message) => {
                    failed = true;
                    let name = &volume.name;
                    let message =
                        format!("MountVolume.SetUp failed for volume {name:?} : {message}");
                    self.event(None, Severity::Warning, "FailedMount", message);
                }
            }
        }
        if failed {
            let wait = Duration::from_millis(500) * 2_u32.pow(self.volumes.failures.min(8));
            self.volumes.failures += 1;
            let retry = Instant::now() + wait;
            self.volumes.retry = Some(retry);
            sooner(wake, retry);
        } else {
            self.volumes.is_ready = true;
            self.volumes.failures = 0;
        }
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            pod_ips: self.ips,
            host_ips: Some(self.node.options.node_ips),
            node_name: self.node.options.name.clone(),
            allocatable: self.node.allocatable.clone(),
        }
    }
}

/// A pod's host name (63 characters at most).
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|h| !h.is_empty());
    let mut name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

async fn make(
    node: &Node,
    pod: &Pod,
    directory: &Path,
    uid: &str,
    before: Option<Addresses>,
) -> Result<(Arc<Sandbox>, Addresses), String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let spec = pod.spec.clone().unwrap_or_default();
    let shared = spec.host_network.unwrap_or(false);
    directories(directory, &spec).map_err(told("make the pod's directory"))?;
    let ips = if shared {
        node.options.node_ips
    } else {
        let allocated = node.allocate(uid, before).await;
        allocated.ok_or("no address is free in the node's podCIDRs")?
    };
    fs::write(directory.join("ip"), ips.to_string()).map_err(told("record the addresses"))?;
    managed_files(node, pod, directory, &ips).map_err(told("write the pod's files"))?;
    let name = hostname(pod);
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone());
    let mut settings = Vec::new();
    for sysctl in sysctls.unwrap_or_default() {
        let path = sysctl.name.replace('.', "/");
        if shared || !path.starts_with("net/") || path.contains("..") {
            return Err(format!("forbidden sysctl: {}", sysctl.name));
        }
        settings.push((path, sysctl.value));
    }
    let sandbox_spec = SandboxSpec {
        hostname: (!shared).then_some(name),
        tmpfs: volumes::memory(directory, &spec).map_err(told("make volumes"))?,
        sysctls: settings,
    };
    let host = if shared { HostNamespaces::Network } else { HostNamespaces::None };
    let portolan = &node.options.portolan;
    let sandbox = Sandbox::create(portolan, directory, &sandbox_spec, host).await;
    let sandbox = sandbox.map_err(told("start the pod's first process"))?;
    let connected = async {
        if !shared {
            let interface = network::interface(uid);
            let connected = node.network.connect(sandbox.netns(), &interface, &ips).await;
            connected.map_err(|error| error.to_string())?;
        }
        sandbox.ready().await.map_err(told("set the pod's namespaces up"))
    };
    match connected.await {
        Ok(_) => Ok((Arc::new(sandbox), ips)),
        Err(error) => {
            sandbox.stop().await;
            Err(error)
        }
    }
}

fn directories(directory: &Path, spec: &k8s_openapi::api::core::v1::PodSpec) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory)?;
    for name in ["root", "etc", "volumes"] {
        builder.create(directory.join(name))?;
    }
    for (container, _) in record::containers(spec) {
        builder.create(directory.join("containers").join(&container.name))?;
    }
    Ok(())
}

/// /etc/hosts, /etc/resolv.conf, /etc/hostname.
fn managed_files(node: &Node, pod: &Pod, directory: &Path, ips: &Addresses) -> io::Result<()> {
    let spec = pod.spec.clone().unwrap_or_default();
    let etc = directory.join("etc");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = hostname(pod);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let hosts = if spec.host_network.unwrap_or(false) {
        hosts::host_network_hosts(&read("/etc/hosts"), aliases)
    } else {
        let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
        let domain = &node.options.cluster_domain;
        let domain = subdomain.map(|sub| format!("{name}.{sub}.{namespace}.svc.{domain}"));
        let names = Names { hostname: &name, domain: domain.as_deref() };
        hosts::hosts(ips, names, aliases)
    };
    fs::write(etc.join("hosts"), hosts)?;
    let server = node.options.cluster_dns.map(|ip| ip.to_string());
    let domain = &node.options.cluster_domain;
    let cluster = ClusterDns { server: server.as_deref(), domain, namespace };
    let resolver = hosts::resolver(&spec, Resolver::parse(&read("/etc/resolv.conf")), cluster);
    fs::write(etc.join("resolv.conf"), resolver.render())?;
    let shared = spec.host_network.unwrap_or(false);
    let shown = if shared { node.options.name.clone() } else { name };
    fs::write(etc.join("hostname"), shown + "\n")
}
