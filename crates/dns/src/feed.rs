//! The watches, and the one task that feeds the index by them.
//!
//! ```text
//!   informers ──changes──▶ Index ──snapshot──▶ Engine
//! ```
//!
//! Everything that is pending is taken over before a snapshot is published. With the API server away,
//! the last one stays.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::Api;
use portolan_client::informer::{Change, Changes, Config, Informer, ObjectKey};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::PodMode;
use crate::convert::{self, Slice};
use crate::corefile::Kubernetes;
use crate::engine::Engine;
use crate::zone::{Event, Index, Key, Kind, Options, Service};

/// After how long everything is listed anew, as a safety net.
const RESYNC: Duration = Duration::from_secs(30 * 60);

/// Why a set of watches is another than the one before: everything else is the answers' affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    labels: Option<String>,
    namespace_labels: Option<String>,
    no_endpoints: bool,
    pods: bool,
    options: Options,
    endpoint: Option<String>,
    kubeconfig: Option<(std::path::PathBuf, Option<String>)>,
}

impl Wanted {
    pub(crate) fn of(settings: &Kubernetes) -> Self {
        Self {
            labels: settings.labels.clone(),
            namespace_labels: settings.namespace_labels.clone(),
            no_endpoints: settings.no_endpoints,
            pods: settings.pods == PodMode::Verified,
            options: Options { endpoint_pod_names: settings.endpoint_pod_names },
            endpoint: settings.endpoint.clone(),
            kubeconfig: settings.kubeconfig.clone(),
        }
    }
}

/// Names that are kept up to date.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) wanted: Wanted,
    stop: CancellationToken,
    loaded: Option<oneshot::Receiver<()>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// When snapshots are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publish {
    /// From the start: what is there can be answered.
    AtOnce,
    /// Once everything is there: until then another feed's are better.
    Loaded,
}

impl Feed {
    /// Starts following. Needs a runtime.
    pub(crate) fn start(
        client: &kube::Client,
        wanted: Wanted,
        publish: Publish,
        engine: &Arc<Engine>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let (told, loaded) = oneshot::channel();
        let task = Task {
            watches: Watches::start(client, &wanted),
            index: Index::new(wanted.options),
            engine: Arc::clone(engine),
            publish,
            told: Some(told),
            changed: Vec::new(),
        };
        let token = stop.clone();
        tasks.spawn(async move { token.run_until_cancelled(task.run()).await });
        Self { wanted, stop, loaded: Some(loaded) }
    }

    /// Waits until everything is there.
    pub(crate) async fn loaded(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            // A task that ended without a word was told to stop.
            let _ = loaded.await;
            self.loaded = None;
        }
    }
}

struct Watches {
    services: Informer<Option<Service>>,
    namespaces: Informer<()>,
    slices: Option<Informer<Slice>>,
    pods: Option<Informer<Vec<IpAddr>>>,
    listed: [bool; 4],
}

impl Watches {
    fn start(client: &kube::Client, wanted: &Wanted) -> Self {
        let config = |labels: &Option<String>, fields: Option<&str>| Config {
            labels: labels.clone(),
            fields: fields.map(str::to_owned),
            resync: Some(RESYNC),
            ..Config::default()
        };
        let all = config(&wanted.labels, None);
        let services: Api<core::Service> = Api::all(client.clone());
        let namespaces: Api<core::Namespace> = Api::all(client.clone());
        let slices = || {
            let slices: Api<discovery::EndpointSlice> = Api::all(client.clone());
            Informer::of(slices, all.clone(), convert::slice)
        };
        let pods = || {
            let pods: Api<core::Pod> = Api::all(client.clone());
            let running = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown";
            Informer::of(pods, config(&wanted.labels, Some(running)), convert::pod)
        };
        Self {
            services: Informer::of(services, all.clone(), convert::service),
            namespaces: Informer::of(namespaces, config(&wanted.namespace_labels, None), |_| ()),
            slices: (!wanted.no_endpoints).then(slices),
            pods: wanted.pods.then(pods),
            listed: [false, false, wanted.no_endpoints, !wanted.pods],
        }
    }
}

/// The changes of a watch that may not be.
async fn changes<T: Send + 'static>(informer: &Option<Informer<T>>) -> Changes<T> {
    match informer {
        Some(informer) => informer.changes().await,
        None => std::future::pending().await,
    }
}

struct Task {
    watches: Watches,
    index: Index,
    engine: Arc<Engine>,
    publish: Publish,
    told: Option<oneshot::Sender<()>>,
    /// Endpoints that changed since the last snapshot: kind of Service, and since when.
    changed: Vec<(usize, SystemTime)>,
}

impl Task {
    async fn run(mut self) {
        loop {
            tokio::select! {
                some = self.watches.services.changes() => self.services(some),
                some = self.watches.namespaces.changes() => self.namespaces(some),
                some = changes(&self.watches.slices) => self.slices(some),
                some = changes(&self.watches.pods) => self.pods(some),
            }
            self.take_pending();
            self.publish();
        }
    }

    fn take_pending(&mut self) {
        if let Some(some) = self.watches.services.take() {
            self.services(some);
        }
        if let Some(some) = self.watches.namespaces.take() {
            self.namespaces(some);
        }
        if let Some(some) = self.watches.slices.as_ref().and_then(Informer::take) {
            self.slices(some);
        }
        if let Some(some) = self.watches.pods.as_ref().and_then(Informer::take) {
            self.pods(some);
        }
    }

    fn publish(&mut self) {
        let is_whole = self.watches.listed.iter().all(|listed| *listed);
        if is_whole {
            self.index.set_loaded();
        }
        if is_whole || self.publish == Publish::AtOnce {
            self.engine.snapshot.store(Arc::new(self.index.snapshot()));
        }
        let now = SystemTime::now();
        for (kind, since) in self.changed.drain(..).filter(|_| self.told.is_none()) {
            self.engine.metrics.programmed(kind, now.duration_since(since).unwrap_or_default());
        }
        if is_whole && let Some(told) = self.told.take() {
            // Nobody may be waiting for it.
            let _ = told.send(());
        }
    }

    fn apply(&mut self, event: Event) {
        self.index.apply(event, seconds());
    }

    fn services(&mut self, changes: Changes<Option<Service>>) {
        self.watches.listed[0] |= changes.is_listed;
        for (key, change) in changes.objects {
            let service = put(change).flatten();
            self.apply(Event::Service(key_of(key), service));
        }
    }

    fn namespaces(&mut self, changes: Changes<()>) {
        self.watches.listed[1] |= changes.is_listed;
        for (key, change) in changes.objects {
            self.apply(match change {
                Change::Put(_) => Event::Namespace(key.name),
                Change::Delete => Event::NamespaceGone(key.name),
            });
        }
    }

    fn slices(&mut self, changes: Changes<Slice>) {
        self.watches.listed[2] |= changes.is_listed;
        for (key, change) in changes.objects {
            let change = put(change);
            let since = change.as_ref().and_then(|slice| slice.changed);
            let slice = change.and_then(|slice| slice.slice);
            if let (Some(since), Some(slice)) = (since, &slice) {
                let snapshot = self.index.snapshot();
                let entry = snapshot.service(key.namespace.as_bytes(), slice.service.as_bytes());
                let service = entry.and_then(|entry| entry.service.as_deref());
                let is_headless = service.is_some_and(|service| service.kind == Kind::Headless);
                self.changed.push((usize::from(is_headless), since));
            }
            self.apply(Event::EndpointSlice(key_of(key), slice));
        }
    }

    fn pods(&mut self, changes: Changes<Vec<IpAddr>>) {
        self.watches.listed[3] |= changes.is_listed;
        for (key, change) in changes.objects {
            self.apply(Event::Pod(key_of(key), put(change)));
        }
    }
}

fn put<T>(change: Change<T>) -> Option<T> {
    match change {
        Change::Put(object) => Some(*object),
        Change::Delete => None,
    }
}

fn key_of(key: ObjectKey) -> Key {
    Key { namespace: key.namespace, name: key.name }
}

/// Seconds since 1970.
fn seconds() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}
