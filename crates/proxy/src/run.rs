//! From flags to a running proxy: configuration, client, backends, pages, signals.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::Api;
use portolan_client::informer::{Backoff, Config as InformerConfig, Informer};
use portolan_client::{ConnectError, Source, connect_to};
use portolan_model::{Family, LocalDetector};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{Args, Options};
use crate::cleaner::Cleaner;
use crate::config::load::{LoadError, parse};
use crate::config::types::KubeProxyConfiguration;
use crate::config::{DetectLocal, Mode, Settings, SettingsError};
use crate::daemon::{self, Daemon, Slice, State, Watches};
use crate::events::Events;
use crate::health::Health;
use crate::health_checks::HealthChecks;
use crate::http::{Pages, Site, serve};
use crate::kernel::{ModeError, Rules, has_iptables, monitor, remove_others};
use crate::metrics::Metrics;
use crate::sync::Syncer;
use crate::zpages::{self, About};
use crate::{convert, log, sysctls, watch_file};

/// Services that another proxy serves.
const NOT_OURS: &str = "!service.kubernetes.io/service-proxy-name";
/// Slices of headless Services.
const HEADLESS: &str = "!service.kubernetes.io/headless";
/// The Kubernetes version whose behaviour this is.
const VERSION: &str = "v1.36.0";

/// Why the proxy did not start, or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not one.
    #[error("{}: {source}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// Settings that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Settings(Vec<SettingsError>),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The mode cannot be used on this machine.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// The rules could not be removed.
    #[error("cannot remove the rules: {0}")]
    Cleanup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An address is taken, and `bindAddressHardFail` is set.
    #[error("cannot listen at {address}: {source}")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The ranges of this node's pods changed under `detectLocalMode: NodeCIDR`.
    #[error("the pod CIDRs of this node changed; a restart takes the new ones")]
    PodCidrsChanged,
    /// A sync panicked: a bug of ours.
    #[error("a sync crashed: {0}")]
    Crashed(#[source] JoinError),
    /// The runtime refused something that it never should.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the proxy until SIGTERM or SIGINT; the rules stay in place.
///
/// # Errors
/// What keeps it from starting, or going on. A server that cannot be reached, rules that are refused
/// and kernel settings that cannot be written are no such things: they are logged and tried again.
pub async fn run(options: Options) -> Result<ExitCode, ProxyError> {
    let Options { args, words } = options;
    if args.version {
        say(&format!("Kubernetes {VERSION} (portolan {})", env!("CARGO_PKG_VERSION")));
        return Ok(ExitCode::SUCCESS);
    }
    if args.cleanup == Some(true) {
        log::init(args.verbosity.unwrap_or(0));
        return cleanup().await;
    }
    let (text, path) = match &args.config {
        Some(path) => (read(path)?, path.clone()),
        None => Default::default(),
    };
    let Configured { configuration, warnings, mode } = configuration(&args, &text)?;
    log::init(verbosity(&configuration));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if mode == Named::ByDefault {
        tracing::info!("Using {} proxy", configuration.mode);
    }
    if let Some(path) = &args.write_config_to {
        return write_configuration(&configuration, path);
    }
    let host_name = host_name();
    let mut settings = Settings::check(configuration, &host_name).map_err(ProxyError::Settings)?;
    settings.flags = zpages::flags(&words);
    settings.without_effect().iter().for_each(|line| tracing::warn!("{line}"));
    if args.init_only == Some(true) {
        sysctls::apply(&settings, cores(), &Metrics::default());
        // Who runs after this may not be allowed to.
        sysctls::open_localhost(&settings, &Metrics::default());
        return Ok(ExitCode::SUCCESS);
    }
    let mut file = args.config.is_some().then_some(File { path, text, args: &args, host_name });
    start(settings, args.master.as_deref(), &mut file).await.map(|()| ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String, ProxyError> {
    std::fs::read_to_string(path)
        .map_err(|source| ProxyError::Read { path: path.to_owned(), source })
}

/// How much is to be logged.
fn verbosity(configuration: &KubeProxyConfiguration) -> u8 {
    u8::try_from(configuration.logging.verbosity).unwrap_or(u8::MAX)
}

/// The configuration file, as it was last taken over or refused.
struct File<'a> {
    path: PathBuf,
    text: String,
    args: &'a Args,
    host_name: String,
}

impl File<'_> {
    /// Waits until the file says something else that can be run by. What cannot is refused with its
    /// faults, and the settings before stay.
    async fn changed(&mut self, before: &Settings) -> Settings {
        loop {
            self.text = watch_file::changed(&self.path, &self.text).await;
            let loaded = configuration(self.args, &self.text).and_then(|next| {
                let settings = Settings::check(next.configuration, &self.host_name);
                Ok((settings.map_err(ProxyError::Settings)?, next.warnings))
            });
            match loaded {
                Ok((settings, _)) if settings.effective == before.effective => {}
                Ok((mut settings, warnings)) => {
                    settings.flags.clone_from(&before.flags);
                    log::set(settings.verbosity);
                    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    settings.without_effect().iter().for_each(|line| tracing::warn!("{line}"));
                    tracing::info!("The configuration changed and is taken over");
                    return settings;
                }
                Err(e) => tracing::error!(
                    "The changed configuration is refused, the one before stays: {e}"
                ),
            }
        }
    }
}

/// What the proxy was asked to run by.
struct Configured {
    /// With the defaults.
    configuration: KubeProxyConfiguration,
    /// What is odd about it.
    warnings: Vec<String>,
    mode: Named,
}

/// Who named the mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    ByUser,
    ByDefault,
}

/// What the file says, or the flags.
fn configuration(args: &Args, text: &str) -> Result<Configured, ProxyError> {
    let mut warnings = Vec::new();
    let mut configuration = match &args.config {
        Some(path) => {
            let loaded =
                parse(text).map_err(|source| ProxyError::Load { path: path.clone(), source })?;
            let lenient = |warning| format!("{}: {warning}", path.display());
            warnings.extend(loaded.warnings.into_iter().map(lenient));
            let ignored = args.ignored_beside_a_file();
            if !ignored.is_empty() {
                let flags = ignored.join(", ");
                warnings.push(format!("{flags}: without effect, since --config is given"));
            }
            let mut configuration = loaded.configuration;
            args.put_logging(&mut configuration);
            configuration
        }
        None => args.configuration(),
    };
    if let Some(name) = &args.hostname_override {
        configuration.hostname_override.clone_from(name);
    }
    let mode = if configuration.mode.is_empty() { Named::ByDefault } else { Named::ByUser };
    if mode == Named::ByDefault
        && let Err(e) = has_iptables(Family::Ipv4)
    {
        warnings.push(format!("no mode is set, and it is nftables, for {e}"));
        Mode::Nftables.name().clone_into(&mut configuration.mode);
    }
    configuration.set_defaults();
    Ok(Configured { configuration, warnings, mode })
}

fn write_configuration(
    configuration: &KubeProxyConfiguration,
    path: &Path,
) -> Result<ExitCode, ProxyError> {
    let failed = |source| ProxyError::Write { path: path.to_owned(), source };
    let text = serde_saphyr::to_string(configuration)
        .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    std::fs::write(path, text).map_err(failed)?;
    tracing::info!(file = %path.display(), "Wrote configuration");
    Ok(ExitCode::SUCCESS)
}

/// The families that this machine speaks: IPv4 always, IPv6 unless the kernel goes without.
fn families() -> Vec<Family> {
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    [Family::Ipv4].into_iter().chain(has_ipv6.then_some(Family::Ipv6)).collect()
}

async fn cleanup() -> Result<ExitCode, ProxyError> {
    let done = tokio::task::spawn_blocking(|| remove_others(None, &families()));
    done.await
        .map_err(ProxyError::Crashed)?
        .map(|()| ExitCode::SUCCESS)
        .map_err(|e| ProxyError::Cleanup(e.into()))
}

/// Starts everything and runs until a signal; anew, on the rules that are there, when the file changes.
async fn start(
    mut settings: Settings,
    master: Option<&str>,
    file: &mut Option<File<'_>>,
) -> Result<(), ProxyError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProxyError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProxyError::Signals)?;
    loop {
        let source = match settings.kubeconfig.clone() {
            Some(path) => Source::Kubeconfig(path),
            None => Source::InCluster,
        };
        let client = connect_to(source, master).await?;
        let stop = CancellationToken::new();
        let running = run_with(settings.clone(), client, stop.clone());
        let changed = async {
            match file {
                Some(file) => file.changed(&settings).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(running);
        let next = tokio::select! {
            ended = &mut running => return ended,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            next = changed => Some(next),
        };
        stop.cancel();
        running.await?;
        match next {
            Some(next) => settings = next,
            None => return Ok(()),
        }
    }
}

/// What upstream says of mode ipvs.
pub(crate) const IPVS_DEPRECATED: &str = "The ipvs proxier is now deprecated and may be removed in a future release. Please use 'nftables' instead.";

/// Runs the proxy with a given client until `stop`.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    settings: Settings,
    client: kube::Client,
    stop: CancellationToken,
) -> Result<(), ProxyError> {
    let tasks = TaskTracker::new();
    let settings = Arc::new(settings);
    oom_score(settings.oom_score_adj);
    let families = families();
    let backends = families
        .iter()
        .map(|family| Ok((*family, Rules::open(*family, &settings)?)))
        .collect::<Result<Vec<_>, ModeError>>()?;
    let monitor = monitor(&backends).map_err(ModeError::from)?;
    tracing::info!("Using {} Proxier", settings.mode.name());

    let health = Health::new(&families, settings.sync_period * 2);
    let pages = Arc::new(Pages {
        health,
        metrics: Metrics::default(),
        mode: settings.mode.name(),
        configuration: serde_json::to_value(&settings.effective).unwrap_or_default(),
        profiling: settings.effective.enable_profiling,
        about: About {
            flags: settings.flags.clone(),
            started: jiff::Timestamp::now(),
            emulates: VERSION,
        },
    });
    for (address, site) in [(settings.healthz, Site::Health), (settings.metrics, Site::Metrics)] {
        let Some(address) = address else { continue };
        match serve(address, site, Arc::clone(&pages), &tasks, stop.clone()).await {
            Ok(address) => tracing::debug!(%address, ?site, "Serving"),
            Err(source) if settings.bind_address_hard_fail => {
                return Err(ProxyError::Bind { address, source });
            }
            Err(e) => tracing::error!(%address, "cannot listen: {e}"),
        }
    }
    let failed = sysctls::apply(&settings, cores(), &pages.metrics);

    let events = Events::new(client.clone(), &settings.node_name, settings.mode, tasks.clone());
    events.starting();
    if settings.mode == Mode::Ipvs {
        tracing::error!("{IPVS_DEPRECATED}");
        events.ipvs_is_deprecated();
    }
    events.sysctls_failed(&failed);
    let mut watches = watches(&client, &settings);
    let (local_detector, pod_cidrs) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        detector = local_detector(&settings.detect_local, &mut watches, &client, &settings) => detector,
    };
    let daemon = Daemon {
        watches,
        syncer: Some(Syncer::new(backends, &settings.model(local_detector))),
        checks: HealthChecks::new(
            &settings.node_name,
            Arc::clone(&pages),
            events.clone(),
            tasks.clone(),
            stop.clone(),
        ),
        cleaner: Cleaner::start(Arc::clone(&pages), &tasks, stop.clone()),
        pages,
        events,
        tasks: tasks.clone(),
        state: State::new(families, pod_cidrs, daemon::period(monitor.as_ref(), &settings)),
        monitor,
        settings,
    };
    let outcome = daemon.run(stop.clone()).await;
    stop.cancel();
    tasks.close();
    // What still hangs on the network after this is left behind.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), tasks.wait()).await;
    outcome
}

fn watches(client: &kube::Client, settings: &Settings) -> Watches {
    let config = |labels: &str| InformerConfig {
        labels: Some(labels.into()),
        resync: Some(settings.config_sync_period),
        backoff: Backoff::default(),
        ..InformerConfig::default()
    };
    let services: Api<core::Service> = Api::all(client.clone());
    let slices: Api<discovery::EndpointSlice> = Api::all(client.clone());
    Watches {
        services: Informer::of(services, config(NOT_OURS), |object| convert::service(&object)),
        slices: Informer::of(slices, config(&format!("{HEADLESS},{NOT_OURS}")), Slice::of),
        node: node_informer(client, settings),
        service_cidrs: Informer::start(Api::all(client.clone()), InformerConfig::default()),
    }
}

fn node_informer(client: &kube::Client, settings: &Settings) -> Informer<core::Node> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    let own = format!("metadata.name={}", settings.node_name);
    Informer::start(nodes, InformerConfig::fields(own))
}

/// How pods are known; by the node's own ranges once the node has some.
async fn local_detector(
    setting: &DetectLocal,
    watches: &mut Watches,
    client: &kube::Client,
    settings: &Settings,
) -> (LocalDetector, Option<Vec<ipnet::IpNet>>) {
    match setting {
        DetectLocal::ClusterCidr(ranges) if ranges.is_empty() => {
            tracing::warn!(
                "Detect-local-mode set to ClusterCIDR, but no cluster CIDR is given: traffic from outside the cluster to cluster IPs is not masqueraded"
            );
            (LocalDetector::None, None)
        }
        DetectLocal::ClusterCidr(ranges) => (LocalDetector::Cidrs(ranges.clone()), None),
        DetectLocal::Bridge(name) => (LocalDetector::Bridge(name.as_str().into()), None),
        DetectLocal::InterfacePrefix(prefix) => {
            (LocalDetector::InterfacePrefix(prefix.as_str().into()), None)
        }
        DetectLocal::NodeCidr => loop {
            let changes = watches.node.changes().await;
            let nodes = changes.objects.into_iter().filter_map(|(_, change)| match change {
                portolan_client::informer::Change::Put(node) => Some(node),
                portolan_client::informer::Change::Delete => None,
            });
            let cidrs: Vec<_> = nodes.flat_map(|node| convert::pod_cidrs(&node)).collect();
            if !cidrs.is_empty() {
                // The loop wants to hear of the node from the beginning.
                watches.node = node_informer(client, settings);
                return (LocalDetector::Cidrs(cidrs.clone()), Some(cidrs));
            }
            tracing::info!("Waiting for this node to have a pod CIDR");
        },
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// An ordinary user may not make itself harder to kill; that is no reason to stop.
fn oom_score(score: i32) {
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::debug!("cannot set the out-of-memory score to {score}: {e}");
    }
}

fn say(line: &str) {
    // A closed standard output leaves the exit code to speak.
    let _ = writeln!(std::io::stdout(), "{line}");
}
