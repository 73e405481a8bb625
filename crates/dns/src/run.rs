//! From flags to a running server: Corefile, client, names, sockets, pages, signals, reload.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_client::{ConnectError, Source, connect_to};
use sha2::Digest as _;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Args;
use crate::corefile::{self, Corefile, CorefileError, Kubernetes, Surroundings};
use crate::engine::{Engine, Setup};
use crate::feed::{Feed, Publish, Wanted};
use crate::loops;
use crate::pages::{self, Page, Shown};
use crate::server::{Servers, wildcard};

/// The Corefile that is read where none is named.
const DEFAULT_CONF: &str = "Corefile";
/// At most so many queries wait for upstreams.
const MOST_WAITING: usize = 16_384;

/// How long a changed Corefile waits for the names that it wants to be watched.
const LOADING: Duration = Duration::from_secs(30);

/// Why the server did not start, or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The Corefile cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Corefile cannot be used.
    #[error("{}", path.display())]
    Corefile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: CorefileError,
    },
    /// The flags make no settings.
    #[error("the flags cannot be used")]
    Flags(#[source] CorefileError),
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// An address is taken, or may not be had.
    #[error("cannot listen at {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What is forwarded comes back.
    #[error(
        "Loop ({upstream}) detected for zone {zone:?}: that upstream sends queries back; hint: \
         forward to the servers that it asks, https://coredns.io/plugins/loop#troubleshooting"
    )]
    Loop {
        /// The upstream.
        upstream: SocketAddr,
        /// The zone.
        zone: String,
    },
    /// Other names are wanted, and the API server does not give them.
    #[error("the API server gave no list within {} s; hint: is it there, and is it allowed?", LOADING.as_secs())]
    NotLoaded,
    /// The runtime refused something that it never should.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
}

/// This process's environment and files.
#[derive(Debug)]
struct Here;

impl Surroundings for Here {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, or going on. An API server or upstreams that cannot be reached are no
/// such things.
pub async fn run(args: Args) -> Result<ExitCode, DnsError> {
    if args.version {
        say(&format!("CoreDNS-1.14 (portolan {})", env!("CARGO_PKG_VERSION")));
        return Ok(ExitCode::SUCCESS);
    }
    if args.plugins {
        say(&format!("Server types:\n  dns\n\nOther plugins:\n  dns.{}", PLUGINS.join("\n  dns.")));
        return Ok(ExitCode::SUCCESS);
    }
    log(&args);
    let mut terminate = signal(SignalKind::terminate()).map_err(DnsError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DnsError::Signals)?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => Stop::Soon,
            _ = interrupt.recv() => Stop::Now,
        }
    };
    serve(args, stopped).await.map(|()| ExitCode::SUCCESS)
}

/// Runs the server until `stop`.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: Args, stop: CancellationToken) -> Result<(), DnsError> {
    let stopped = async {
        stop.cancelled().await;
        Stop::Now
    };
    serve(args, stopped).await
}

/// How fast it is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// When clients had time to notice.
    Soon,
    /// At once.
    Now,
}

async fn serve(args: Args, stopped: impl Future<Output = Stop>) -> Result<(), DnsError> {
    let mut file = File::new(args);
    let corefile = file.read()?;
    let mut again = signal(SignalKind::user_defined1()).map_err(DnsError::Signals)?;
    if let Some(path) = &file.path {
        tracing::info!("Serving by {}; flags about names are left aside", path.display());
    }
    let mut running = Running::start(&file.args, &corefile).await?;
    running.note(&file.text);
    tokio::pin!(stopped);
    let outcome = loop {
        let reload = running.corefile.reload;
        tokio::select! {
            stop = &mut stopped => {
                if stop == Stop::Soon {
                    running.lameduck().await;
                }
                break Ok(());
            }
            found = looped(&mut running.loops) => {
                let loops::Loop { upstream, zone } = found;
                break Err(DnsError::Loop { upstream, zone });
            }
            changed = file.changed(reload.map(|reload| reload.interval), &mut again) => {
                let reload = running.reload(&file.args, changed);
                // The API server may be away; whoever wants us to stop must not wait for it.
                tokio::select! {
                    () = reload => {}
                    _ = &mut stopped => break Ok(()),
                }
                running.note(&file.text);
            }
        }
    };
    running.stop().await;
    outcome
}

/// Waits until a loop is found; for ever when there is none.
async fn looped(search: &mut Option<tokio::task::JoinHandle<Option<loops::Loop>>>) -> loops::Loop {
    if let Some(task) = search {
        let found = task.await;
        *search = None;
        if let Ok(Some(found)) = found {
            return found;
        }
    }
    std::future::pending().await
}

/// What a Corefile may name.
const PLUGINS: [&str; 14] = [
    "any",
    "bind",
    "bufsize",
    "cache",
    "errors",
    "forward",
    "health",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "prometheus",
    "ready",
    "reload",
];

fn say(text: &str) {
    // A closed standard output is no reason to fail.
    let _ = writeln!(io::stdout(), "{text}");
}

fn log(args: &Args) {
    // What the client says of a failed request, the informer says again with its kind.
    let level = if args.quiet { "error" } else { "info,kube_client::client::builder=off" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // Whoever runs this in its own process, a test say, may have a subscriber of its own.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// Where the settings come from, and what they said last.
struct File {
    args: Args,
    path: Option<PathBuf>,
    text: String,
}

impl File {
    fn new(args: Args) -> Self {
        let default = Some(PathBuf::from(DEFAULT_CONF)).filter(|path| path.is_file());
        Self { path: args.conf.clone().or(default), args, text: String::new() }
    }

    fn read(&mut self) -> Result<Corefile, DnsError> {
        self.text = match &self.path {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| DnsError::Read { path: path.clone(), source })?,
            None => self.args.corefile(),
        };
        self.parse()
    }

    fn parse(&self) -> Result<Corefile, DnsError> {
        corefile::parse(&self.text, self.args.port, &Here).map_err(|source| match &self.path {
            Some(path) => DnsError::Corefile { path: path.clone(), source },
            None => DnsError::Flags(source),
        })
    }

    /// Waits until the file says something else, or SIGUSR1 asks for it to be read again.
    async fn changed(
        &mut self,
        interval: Option<Duration>,
        again: &mut Signal,
    ) -> Result<Corefile, DnsError> {
        loop {
            let pause = async {
                match interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = again.recv() => return self.read(),
                () = pause => {}
            }
            let Some(path) = &self.path else { continue };
            // A ConfigMap's file is away for a moment while it is replaced.
            match tokio::fs::read_to_string(path).await {
                Ok(text) if text != self.text => {
                    self.text = text;
                    return self.parse();
                }
                _ => {}
            }
        }
    }
}

/// A server that runs.
struct Running {
    engine: Arc<Engine>,
    corefile: Corefile,
    setup: Setup,
    servers: Servers,
    shown: Arc<Shown>,
    pages: Vec<(Page, SocketAddr, CancellationToken)>,
    feed: Option<Feed>,
    loops: Option<tokio::task::JoinHandle<Option<loops::Loop>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    async fn start(args: &Args, corefile: &Corefile) -> Result<Self, DnsError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let engine = Arc::new(Engine::new(tasks.clone()));
        engine.metrics.set_runtime(tokio::runtime::Handle::current());
        let threads = args.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let shown = Arc::new(Shown {
            engine: Arc::clone(&engine),
            is_stopping: AtomicBool::new(false),
            is_listening: AtomicBool::new(false),
        });
        let mut running = Self {
            servers: Servers::new(Arc::clone(&engine), tasks.clone(), stop.clone(), threads),
            setup: Setup { local_ips: local_ips(), most_waiting: descriptors() / 2 },
            corefile: Corefile::default(),
            pages: Vec::new(),
            feed: None,
            loops: None,
            engine,
            shown,
            tasks,
            stop,
        };
        running.take_over(args, corefile, Publish::AtOnce).await?;
        Ok(running)
    }

    /// Serves by a Corefile. What was served before still is until the new can be.
    async fn take_over(
        &mut self,
        args: &Args,
        corefile: &Corefile,
        publish: Publish,
    ) -> Result<(), DnsError> {
        corefile.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let kubernetes = corefile.servers.iter().find_map(|server| server.kubernetes.as_ref());
        let feed = self.feed_for(args, kubernetes, publish).await?;
        if let Some(mut feed) = feed {
            if publish == Publish::Loaded && self.feed.is_some() {
                let loaded = tokio::time::timeout(LOADING, feed.loaded()).await;
                loaded.map_err(|_| DnsError::NotLoaded)?;
            }
            self.feed = Some(feed);
        } else if kubernetes.is_none() {
            self.feed = None;
        }
        let pages = self.open_pages(corefile).await?;
        // Blocks first: who listens must have something to say.
        self.engine.set_config(corefile, &self.setup);
        if let Err((address, source)) = self.servers.listen(&addresses(corefile)) {
            self.engine.set_config(&self.corefile, &self.setup);
            return Err(DnsError::Bind { address, source });
        }
        self.shown.is_listening.store(true, Ordering::Release);
        self.close_pages(&pages);
        self.corefile = corefile.clone();
        let engine = Arc::clone(&self.engine);
        if let Some(before) = self.loops.take() {
            before.abort();
        }
        self.loops = Some(tokio::spawn(async move { loops::find(&engine).await }));
        Ok(())
    }

    /// Names by other watches than now, if others are wanted.
    async fn feed_for(
        &self,
        args: &Args,
        kubernetes: Option<&Kubernetes>,
        publish: Publish,
    ) -> Result<Option<Feed>, DnsError> {
        let Some(kubernetes) = kubernetes else { return Ok(None) };
        let wanted = Wanted::of(kubernetes);
        if self.feed.as_ref().is_some_and(|feed| feed.wanted == wanted) {
            return Ok(None);
        }
        let source = match (&kubernetes.kubeconfig, &args.kubeconfig) {
            (Some((path, Some(context))), _) => {
                Source::Context { path: Some(path.clone()), context: context.clone() }
            }
            (Some((path, None)), _) | (None, Some(path)) => Source::Kubeconfig(path.clone()),
            (None, None) => Source::InCluster,
        };
        let client = connect_to(source, kubernetes.endpoint.as_deref()).await?;
        let (tasks, stop) = (&self.tasks, &self.stop);
        Ok(Some(Feed::start(&client, wanted, publish, &self.engine, tasks, stop)))
    }

    /// Opens the pages that are not open; gives all that are wanted.
    async fn open_pages(
        &mut self,
        corefile: &Corefile,
    ) -> Result<Vec<(Page, SocketAddr)>, DnsError> {
        let wanted = [
            (Page::Health, corefile.health.map(|health| health.address)),
            (Page::Ready, corefile.ready),
            (Page::Metrics, corefile.metrics),
        ];
        let wanted: Vec<_> =
            wanted.into_iter().filter_map(|(page, at)| Some((page, at?))).collect();
        for &(page, address) in &wanted {
            if self.pages.iter().any(|known| (known.0, known.1) == (page, address)) {
                continue;
            }
            let stop = self.stop.child_token();
            let shown = Arc::clone(&self.shown);
            pages::serve(address, page, shown, &self.tasks, stop.clone())
                .await
                .map_err(|source| DnsError::Bind { address, source })?;
            self.pages.push((page, address, stop));
        }
        Ok(wanted)
    }

    /// Closes the pages that are not wanted any more.
    fn close_pages(&mut self, wanted: &[(Page, SocketAddr)]) {
        self.pages.retain(|(page, address, stop)| {
            let is_wanted = wanted.contains(&(*page, *address));
            if !is_wanted {
                stop.cancel();
            }
            is_wanted
        });
    }

    /// Takes a changed Corefile over; one that cannot be used leaves everything as it is.
    async fn reload(&mut self, args: &Args, changed: Result<Corefile, DnsError>) {
        let taken = match changed {
            Ok(corefile) => self.take_over(args, &corefile, Publish::Loaded).await,
            Err(e) => Err(e),
        };
        match taken {
            Ok(()) => tracing::info!("Reloading complete"),
            Err(e) => {
                self.engine.metrics.reload_failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    "The changed Corefile is refused, the one before stays: {}",
                    chain(&e)
                );
            }
        }
    }

    /// Says that it is about to stop, and answers for as long as the settings say.
    async fn lameduck(&self) {
        self.shown.is_stopping.store(true, Ordering::Release);
        let span = self.corefile.health.map_or(Duration::ZERO, |health| health.lameduck);
        if !span.is_zero() {
            tracing::info!("Going into lameduck mode for {span:?}");
            tokio::select! {
                () = tokio::time::sleep(span) => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
    }

    /// Tells /metrics which Corefile this is.
    fn note(&self, text: &str) {
        let digest = sha2::Sha256::digest(text);
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.engine.metrics.corefile.store(Some(Arc::new(hash)));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // Who waits for an upstream may still get an answer.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Where a Corefile listens.
fn addresses(corefile: &Corefile) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for server in &corefile.servers {
        for zone in &server.zones {
            if server.bind.is_empty() {
                all.push(wildcard(zone.port));
            }
            all.extend(server.bind.iter().map(|ip| SocketAddr::new(*ip, zone.port)));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The addresses of this machine that others can reach.
fn local_ips() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let is_reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut ips: Vec<_> = all.filter_map(ip).filter(is_reachable).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// How many descriptors this process may have, after asking for as many as it may ask for.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = hard.min(2 * MOST_WAITING as u64 + 2048).max(soft);
    let has = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_or(soft, |()| wanted);
    usize::try_from(has).unwrap_or(1024).min(2 * MOST_WAITING)
}
