//! Watches: changes as lines of JSON, from a revision on or after the present state.
//!
//! A watch is a stream that the connection polls: a slow client fills the store's bounded queue and is then cut off
//! with 410, so that it never holds memory or anybody else up. An object that begins or ceases to match the selectors
//! is seen as added or deleted. Upstream: `storage/cacher`, KEP-956 (bookmarks), KEP-3157 (initial events).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use jiff::Timestamp;
use portolan_api::Kind;
use portolan_store::{self as store, Event, Revision, Stored, WatchError};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Registry;
use crate::convert;
use crate::encode::{EventType, Versioned, event_line};
use crate::negotiate::Transform;
use crate::query::ListOptions;
use crate::random::random_below;
use crate::status::{Result, Status};
use crate::table::{Headers, IncludeObject, table};

/// Without `timeoutSeconds` a watch lives this long, and up to as long again.
const MINIMUM_TIMEOUT: u64 = 1800;
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end.
const FINAL_BOOKMARK: Duration = Duration::from_secs(2);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What to watch, and in which form to send it.
pub(crate) struct WatchSpec {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) options: ListOptions,
    pub(crate) transform: Transform,
    pub(crate) include: IncludeObject,
    /// Ends the watch when cancelled.
    pub(crate) stopping: CancellationToken,
}

struct Watcher {
    registry: Arc<Registry>,
    spec: WatchSpec,
    changes: store::Watch,
    pending: VecDeque<Pending>,
    headers: Headers,
    bookmark_at: Instant,
    ends_at: Instant,
    ended: bool,
}

enum Pending {
    Object { event: EventType, object: Stored, revision: u64 },
    Line(Bytes),
}

impl Registry {
    /// Starts a watch. It ends at its timeout, when the client falls behind, or at shutdown.
    ///
    /// # Errors
    /// 400 (selector), 504 (a revision that has not been reached). A revision that is too old is an `ERROR` event, as
    /// clients expect it there.
    pub(crate) fn watch(
        self: &Arc<Self>,
        spec: WatchSpec,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<>> {
        if spec.stopping.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let options = &spec.options;
        options.fields.check(spec.kind)?;
        self.check_reached(options.resource_version)?;
        let prefix = spec.kind.prefix(spec.namespace.as_deref());
        let from = options.resource_version.filter(|v| *v != 0);
        let mut pending = VecDeque::new();
        let start = match (options.initial_events, from) {
            (Some(true), _) | (None, None) => {
                let page = self
                    .store
                    .list(&prefix, store::ListOptions::default())
                    .map_err(|e| Status::from(&e))?;
                pending.extend(page.items.into_iter().filter(|o| spec.selects(o)).map(|object| {
                    let revision = object.revision.0;
                    Pending::Object { event: EventType::Added, object, revision }
                }));
                if options.initial_events == Some(true) && options.bookmarks {
                    let marks = json!({INITIAL_EVENTS_END: "true"});
                    pending.push_back(Pending::Line(spec.bookmark(page.revision, Some(marks))));
                }
                page.revision
            }
            (_, Some(revision)) => Revision(revision),
            (Some(false), None) => self.store.revision(),
        };
        let mut ended = false;
        let changes = match self.store.watch(&prefix, start) {
            Ok(changes) => changes,
            Err(error @ store::StoreError::Compacted { .. }) => {
                pending.push_back(Pending::Line(error_line(&Status::from(&error))));
                ended = true;
                self.store.watch(&prefix, self.store.revision()).map_err(|e| Status::from(&e))?
            }
            Err(error) => return Err(Status::from(&error)),
        };
        let seconds = options
            .timeout_seconds
            .filter(|s| *s > 0)
            .unwrap_or_else(|| MINIMUM_TIMEOUT + random_below(MINIMUM_TIMEOUT));
        let now = Instant::now();
        let ends_at = now + Duration::from_secs(seconds.min(86_400));
        let watcher = Watcher {
            registry: self.clone(),
            bookmark_at: next_bookmark(now, ends_at),
            spec,
            changes,
            pending,
            headers: Headers::Shown,
            ends_at,
            ended,
        };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            let line = watcher.next_line().await?;
            Some((line, watcher))
        }))
    }
}

fn next_bookmark(now: Instant, ends_at: Instant) -> Instant {
    let last = ends_at - FINAL_BOOKMARK.min(ends_at - now);
    let next = now + BOOKMARK_PERIOD;
    if now < last { next.min(last) } else { ends_at + BOOKMARK_PERIOD }
}

impl WatchSpec {
    fn selects(&self, object: &Stored) -> bool {
        self.options.labels.matches(&object.value)
            && self.options.fields.matches(self.kind, &object.value)
    }

    fn bookmark(&self, revision: Revision, annotations: Option<Value>) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let (kind, api_version) = match self.transform {
            Transform::None => (self.kind.kind, self.kind.api_version()),
            Transform::Table => ("Table", "meta.k8s.io/v1".to_owned()),
            Transform::PartialMetadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if self.transform == Transform::Table {
            object["columnDefinitions"] = json!([]);
            object["rows"] = json!([]);
        }
        event_line(EventType::Bookmark, &object)
    }
}

fn error_line(status: &Status) -> Bytes {
    event_line(EventType::Error, &status.to_value())
}

impl Watcher {
    async fn next_line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(pending) = self.pending.pop_front() {
                return Some(match pending {
                    Pending::Line(line) => line,
                    Pending::Object { event, object, revision } => {
                        self.encode(event, object, revision)
                    }
                });
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                change = self.changes.next() => match change {
                    Ok(event) => self.take(event),
                    Err(WatchError::Lagged) => {
                        let status = Status::expired("the watcher fell behind and must list again");
                        self.ended = true;
                        return Some(error_line(&status));
                    }
                    Err(WatchError::Closed) => return None,
                },
                () = sleep_until(self.bookmark_at), if self.spec.options.bookmarks => {
                    self.bookmark_at = next_bookmark(Instant::now(), self.ends_at);
                    if let Some(progress) = self.changes.progress() {
                        return Some(self.spec.bookmark(progress, None));
                    }
                }
                () = sleep_until(self.ends_at) => return None,
                () = self.spec.stopping.cancelled() => return None,
            }
        }
    }

    /// Decides what a change is to this watcher.
    fn take(&mut self, change: Event) {
        let revision = change.revision().0;
        let (event, object) = match change {
            Event::Delete { stored, .. } if self.spec.selects(&stored) => {
                (EventType::Deleted, stored)
            }
            Event::Delete { .. } => return,
            Event::Put { stored, previous } => {
                let now = self.spec.selects(&stored);
                let before = previous.filter(|p| self.spec.selects(p));
                match (before, now) {
                    (None, true) => (EventType::Added, stored),
                    (Some(_), true) => (EventType::Modified, stored),
                    (Some(before), false) => (EventType::Deleted, before),
                    (None, false) => return,
                }
            }
        };
        self.pending.push_back(Pending::Object { event, object, revision });
    }

    fn encode(&mut self, event: EventType, object: Stored, revision: u64) -> Bytes {
        let kind = self.spec.kind;
        match self.spec.transform {
            Transform::None => self.registry.lines.line(kind, event, &object, revision),
            Transform::PartialMetadata => {
                let partial = Versioned::new(kind, &object.value, revision).into_partial();
                event_line(event, &partial)
            }
            Transform::Table => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let object = Stored { revision: Revision(revision), ..object };
                let kind = convert::stored_kind(kind);
                let rows = std::iter::once(&object);
                let headers = std::mem::replace(&mut self.headers, Headers::Left);
                let now = Timestamp::now();
                event_line(event, &table(kind, rows, self.spec.include, headers, metadata, now))
            }
        }
    }
}
