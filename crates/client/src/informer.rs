//! List and watch: what changed among the objects of one kind, coalesced.
//!
//! ```text
//!            ┌────────── 410 Gone, a refused watch, resync due ──────────┐
//!            ▼                                                           │
//!   start ─▶ List ──every page read──▶ Watch ──stream ended, broken──▶ (again from the
//!            ▲  │                       ▲  │                            last version seen)
//!            └──┘ error: back off       └──┘ error: back off
//! ```
//!
//! Invariants: at any moment the changes taken so far plus those pending give what the server
//! said last; an object that vanished while nobody watched is a [`Change::Delete`] after the next
//! list; pending changes are bounded by the number of objects, since a later change of one object
//! takes the place of the earlier.
//!
//! Upstream rule: client-go's `tools/cache/reflector.go`, with a shorter first wait: the first
//! retry comes after 10 ms, not after 800 ms.

mod backoff;
mod pending;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

pub use backoff::Backoff;
use pending::Shared;
pub use pending::{Change, Changes, ObjectKey};

/// How long the server may keep one watch open.
const WATCH_SECONDS: u32 = 290;
/// Silence for longer than this is a dead connection: the server ends a watch before.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A page of a list that takes longer never comes.
const LIST_PAGE: Duration = Duration::from_secs(30);
/// A watch that ends sooner was not worth its name: the next one waits.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// What an informer asks for.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Only objects with these labels.
    pub labels: Option<String>,
    /// Only objects with these fields.
    pub fields: Option<String>,
    /// How long to wait after a fault.
    pub backoff: Backoff,
    /// After how long everything is listed anew, as a safety net; none: never.
    pub resync: Option<Duration>,
}

impl Config {
    /// Only objects with these labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    /// Only objects with these fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }
}

/// Follows the objects of one kind until it is dropped, and hands on of each what is wanted.
#[derive(Debug)]
pub struct Informer<T> {
    shared: Arc<Shared<T>>,
    task: JoinHandle<()>,
}

impl<T> Drop for Informer<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Send + 'static> Informer<T> {
    /// Starts following whole objects. Needs a tokio runtime.
    #[must_use]
    pub fn start(api: Api<T>, config: Config) -> Self
    where
        T: Resource + Clone + DeserializeOwned + Debug,
    {
        Self::of(api, config, |object| object)
    }

    /// Starts following objects of which no more than `part` is kept, from the moment they are read.
    /// Needs a tokio runtime.
    #[must_use]
    pub fn of<K>(api: Api<K>, config: Config, part: fn(K) -> T) -> Self
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let shared = Arc::new(Shared::new());
        let follower = Follower { api, config, part, shared: Arc::clone(&shared) };
        Self { shared, task: tokio::spawn(follower.run()) }
    }

    /// Waits until something changed, or until the first list is complete, and takes it all.
    /// Cancelling loses nothing.
    pub async fn changes(&self) -> Changes<T> {
        loop {
            if let Some(changes) = self.shared.take() {
                return changes;
            }
            self.shared.changed.notified().await;
        }
    }

    /// Takes what is pending, if anything is.
    #[must_use]
    pub fn take(&self) -> Option<Changes<T>> {
        self.shared.take()
    }

    /// Why the server cannot be followed at present; none when it can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.shared.fault()
    }
}

/// Why following stopped, and how it goes on.
enum Next {
    /// From the last version seen.
    Watch(String),
    /// From a new list.
    List,
}

struct Follower<K, T> {
    api: Api<K>,
    config: Config,
    part: fn(K) -> T,
    shared: Arc<Shared<T>>,
}

impl<K, T> Follower<K, T>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + 'static,
{
    async fn run(self) {
        let mut wait = self.config.backoff.start();
        let mut next = Next::List;
        let mut resync = None;
        loop {
            next = match next {
                Next::List => match self.list().await {
                    Ok(version) => {
                        resync = self.config.resync.map(|span| Instant::now() + span);
                        Next::Watch(version)
                    }
                    Err(e) => {
                        self.report("list", &e);
                        tokio::time::sleep(wait.next_wait()).await;
                        Next::List
                    }
                },
                Next::Watch(version) => {
                    let began = Instant::now();
                    let (after, fault) = self.watch(version, resync).await;
                    if let Some(fault) = &fault {
                        self.report("watch", fault);
                    }
                    if began.elapsed() > SHORT_WATCH {
                        wait.reset();
                    } else {
                        tokio::time::sleep(wait.next_wait()).await;
                    }
                    after
                }
            };
        }
    }

    /// Lists everything, page by page. Only a complete list tells which objects are gone.
    async fn list(&self) -> Result<String, kube::Error> {
        let mut params = ListParams {
            label_selector: self.config.labels.clone(),
            field_selector: self.config.fields.clone(),
            limit: Some(500),
            ..ListParams::default()
        };
        let mut round = self.shared.begin_list();
        loop {
            let page = timeout(LIST_PAGE, self.api.list(&params))
                .await
                .map_err(|_| kube::Error::Service("no answer to a list within 30 s".into()))??;
            for object in page.items {
                self.shared.listed(&mut round, object, self.part);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.shared.end_list(round);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    async fn watch(
        &self,
        mut version: String,
        resync: Option<Instant>,
    ) -> (Next, Option<kube::Error>) {
        let params = WatchParams {
            label_selector: self.config.labels.clone(),
            field_selector: self.config.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let started = timeout(LIST_PAGE, self.api.watch(&params, &version)).await;
        let stream = match started.unwrap_or_else(|_| {
            Err(kube::Error::Service("no answer to a watch within 30 s".into()))
        }) {
            Ok(stream) => stream,
            // The server knows the request and will not have it: its versions are others now.
            Err(e @ kube::Error::Api(_)) => return (Next::List, Some(e)),
            Err(e) => return (Next::Watch(version), Some(e)),
        };
        self.shared.note_watching();
        pin_mut!(stream);
        loop {
            let event = match resync {
                Some(due) => timeout_at(due.min(Instant::now() + SILENCE), stream.next()).await,
                None => timeout(SILENCE, stream.next()).await,
            };
            if resync.is_some_and(|due| due <= Instant::now()) {
                return (Next::List, None);
            }
            match event {
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    seen(&mut version, &object);
                    self.shared.put(object, self.part);
                }
                Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                    seen(&mut version, &object);
                    self.shared.delete(&object);
                }
                Ok(Some(Ok(WatchEvent::Bookmark(bookmark)))) => {
                    version = bookmark.metadata.resource_version;
                }
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    return (Next::List, Some(kube::Error::Api(status.boxed())));
                }
                Ok(Some(Err(e))) => return (Next::Watch(version), Some(e)),
                Ok(None) | Err(_) => return (Next::Watch(version), None),
            }
        }
    }

    fn report(&self, verb: &str, fault: &kube::Error) {
        let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
        let gone = matches!(fault, kube::Error::Api(status) if status.code == 410);
        if gone {
            tracing::debug!(kind, "{verb}: {fault}");
        } else {
            tracing::warn!(kind, "cannot {verb}: {}", chain(fault));
        }
        self.shared.note_fault(fault.to_string());
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Remembers the version from which a broken watch goes on.
fn seen<K: Resource>(version: &mut String, object: &K) {
    if let Some(newer) = object.meta().resource_version.as_ref().filter(|v| !v.is_empty()) {
        version.clone_from(newer);
    }
}
