//! Watches: changes as lines of JSON, from a revision on or after the present state.
//!
//! A watch is a stream that its connection polls: an event wakes the connection and nothing between. A slow client fills
//! the store's bounded queue and is then cut off, so that it never holds memory or anybody else up. It has seen everything
//! up to its last event and may watch again from there. A connection whose client does not read polls nothing, so each
//! watch has a [`guard`] that sleeps until its end and takes away what it holds. An object that begins or ceases to match
//! the selectors is seen as added or deleted.
//!
//! | `resourceVersion` | without `sendInitialEvents` | `true` | `false` |
//! |---|---|---|---|
//! | unset, `0` | what is there, then changes | the same, then a marked bookmark | changes from now on |
//! | other | changes after it, or an ERROR event with 410 | the same, then a marked bookmark | changes after it |
//!
//! Upstream: `storage/cacher`, KEP-956 (bookmarks), KEP-3157 (initial events).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use portolan_api::Kind;
use portolan_store::{self as store, Event, Revision, Stored};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Registry;
use crate::encode::{EventType, Form, Partial, Versioned, event_line};
use crate::metrics::{SharedCount, WatchCounters};
use crate::negotiate::Transform;
use crate::query::ListOptions;
use crate::random::random_below;
use crate::status::{Result, Status};
use crate::table::{Headers, IncludeObject, Table};

/// Without `timeoutSeconds` a watch lives this long, and up to as long again.
const MINIMUM_TIMEOUT: u64 = 1800;
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end.
const FINAL_BOOKMARK: Duration = Duration::from_secs(2);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// How long a watcher that has fallen behind may take what is queued for it.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// Events that wait already, as at the start of a watch, are sent together up to this many bytes.
const TOGETHER: usize = 32 << 10;

/// What to watch, and in which form to send it.
pub(crate) struct WatchSpec {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) options: ListOptions,
    pub(crate) transform: Transform,
    pub(crate) include: IncludeObject,
    /// Ends the watch when cancelled.
    pub(crate) stopping: CancellationToken,
    /// Counts what is sent.
    pub(crate) counters: WatchCounters,
    /// Counts the watch for as long as it runs, which may be shorter than the client holds its end.
    pub(crate) _counted: Option<SharedCount>,
}

struct Watcher {
    registry: Arc<Registry>,
    spec: WatchSpec,
    changes: store::Watch,
    /// What was there when the watch began, and is not sent yet.
    initial: VecDeque<Pending>,
    headers: Headers,
    /// Until the next bookmark, for those who want them.
    bookmark: Option<Pin<Box<Sleep>>>,
    ends_at: Instant,
    ended: bool,
}

/// A watch as its connection and its [`guard`] share it.
#[derive(Default)]
struct Place {
    /// None once it is over.
    watcher: Option<Watcher>,
    /// The connection, while it waits.
    reader: Option<Waker>,
}

/// The lines of a watch.
struct Lines {
    place: Arc<Mutex<Place>>,
    _guard: AbortOnDropHandle<()>,
}

enum Pending {
    Object(Change),
    Line(Bytes),
}

/// What a change is to one watcher.
struct Change {
    event: EventType,
    object: Stored,
    revision: u64,
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
        let prefix = options.prefix(spec.kind, spec.namespace.as_deref());
        let from = options.resource_version.filter(|v| *v != 0);
        let mut initial = VecDeque::new();
        let start = match (options.initial_events, from) {
            (Some(true), _) | (None, None) => {
                let page = self
                    .store
                    .list(&prefix, store::ListOptions::default())
                    .map_err(|e| Status::from(&e))?;
                initial.extend(page.items.into_iter().filter(|o| spec.selects(o)).map(|object| {
                    let revision = object.revision.0;
                    Pending::Object(Change { event: EventType::Added, object, revision })
                }));
                if options.initial_events == Some(true) && options.bookmarks {
                    let marks = json!({INITIAL_EVENTS_END: "true"});
                    initial.push_back(Pending::Line(spec.bookmark(page.revision, Some(marks))));
                }
                page.revision
            }
            (_, Some(revision)) => Revision(revision),
            (Some(false), None) => self.store.revision(),
        };
        let mut ended = false;
        let mut changes = match self.store.watch(&prefix, start) {
            Ok(changes) => changes,
            Err(error @ store::StoreError::Compacted { .. }) => {
                initial.push_back(Pending::Line(error_line(&Status::from(&error))));
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
        let end = end(changes.abandoned(), ends_at, spec.stopping.clone());
        let watcher = Watcher {
            registry: self.clone(),
            bookmark: spec
                .options
                .bookmarks
                .then(|| Box::pin(sleep_until(next_bookmark(now, ends_at)))),
            spec,
            changes,
            initial,
            headers: Headers::Shown,
            ends_at,
            ended,
        };
        let place = Arc::new(Mutex::new(Place { watcher: Some(watcher), reader: None }));
        let guard = tokio::spawn(guard(place.clone(), end));
        Ok(Lines { place, _guard: AbortOnDropHandle::new(guard) })
    }
}

/// When a watch is over, whatever its client does.
async fn end(abandoned: impl Future<Output = ()>, ends_at: Instant, stopping: CancellationToken) {
    let behind = async {
        abandoned.await;
        sleep(LAST_EVENTS).await;
    };
    tokio::select! {
        () = behind => {}
        () = sleep_until(ends_at) => {}
        () = stopping.cancelled() => {}
    }
}

/// Ends a watch when it is time: nobody else would, if its client does not read.
async fn guard(place: Arc<Mutex<Place>>, end: impl Future<Output = ()>) {
    end.await;
    let over = std::mem::take(&mut *place.lock());
    if let Some(reader) = over.reader {
        reader.wake();
    }
}

impl Stream for Lines {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut place = self.place.lock();
        let Some(watcher) = &mut place.watcher else { return Poll::Ready(None) };
        let line = watcher.poll_line(context);
        match &line {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => *place = Place::default(),
            Poll::Pending => match &mut place.reader {
                Some(reader) => reader.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            },
        }
        line
    }
}

fn next_bookmark(now: Instant, ends_at: Instant) -> Instant {
    let last = ends_at - FINAL_BOOKMARK.min(ends_at - now);
    let next = now + BOOKMARK_PERIOD;
    if now < last { next.min(last) } else { ends_at + BOOKMARK_PERIOD }
}

impl WatchSpec {
    fn selects(&self, object: &Stored) -> bool {
        self.options.selects(self.kind, &object.value)
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
    /// The next line; none at the end.
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(lines) = self.initial_lines() {
            return Poll::Ready(Some(lines));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        while let Poll::Ready(change) = self.changes.poll_next(context) {
            // At the end the client has all events up to here, and goes on from its last one.
            let Ok(event) = change else { return Poll::Ready(None) };
            if let Some(change) = self.take(event) {
                let line = self.encode(&change);
                self.spec.counters.sent(line.len());
                return Poll::Ready(Some(line));
            }
        }
        loop {
            let Some(bookmark) = &mut self.bookmark else { return Poll::Pending };
            ready!(bookmark.as_mut().poll(context));
            bookmark.as_mut().reset(next_bookmark(Instant::now(), self.ends_at));
            if let Some(progress) = self.changes.progress() {
                return Poll::Ready(Some(self.spec.bookmark(progress, None)));
            }
        }
    }

    /// Some of what was there at the start. These lines are nobody else's, so they are not remembered.
    fn initial_lines(&mut self) -> Option<Bytes> {
        let mut lines = Vec::new();
        while lines.len() < TOGETHER
            && let Some(pending) = self.initial.pop_front()
        {
            let line = match pending {
                Pending::Line(line) => line,
                Pending::Object(change) => {
                    let line = self.encode_alone(&change);
                    self.spec.counters.sent(line.len());
                    line
                }
            };
            if lines.is_empty() && self.initial.is_empty() {
                return Some(line);
            }
            lines.extend_from_slice(&line);
        }
        (!lines.is_empty()).then(|| lines.into())
    }

    /// Decides what a change is to this watcher.
    fn take(&mut self, change: Event) -> Option<Change> {
        let revision = change.revision().0;
        let (event, object) = match change {
            Event::Delete { stored, .. } if self.spec.selects(&stored) => {
                (EventType::Deleted, stored)
            }
            Event::Delete { .. } => return None,
            Event::Put { stored, previous } => {
                let now = self.spec.selects(&stored);
                let before = previous.filter(|p| self.spec.selects(p));
                match (before, now) {
                    (None, true) => (EventType::Added, stored),
                    (Some(_), true) => (EventType::Modified, stored),
                    (Some(before), false) => (EventType::Deleted, before),
                    (None, false) => return None,
                }
            }
        };
        Some(Change { event, object, revision })
    }

    /// The line of a change, encoded once for all watchers of the same form.
    fn encode(&mut self, change: &Change) -> Bytes {
        let form = match self.spec.transform {
            Transform::None => Form::Whole,
            Transform::PartialMetadata => Form::Partial,
            // The age in a row depends on the moment, and the columns on the watcher.
            Transform::Table => return self.encode_alone(change),
        };
        let Change { event, object, revision } = change;
        self.registry.lines.line(self.spec.kind, form, *event, object, *revision)
    }

    fn encode_alone(&mut self, change: &Change) -> Bytes {
        let Change { event, object, revision } = change;
        let kind = self.spec.kind;
        match self.spec.transform {
            Transform::None => event_line(*event, &Versioned::new(kind, &object.value, *revision)),
            Transform::PartialMetadata => {
                event_line(*event, &Partial::new(&object.value, *revision))
            }
            Transform::Table => {
                let object = Stored { revision: Revision(*revision), ..object.clone() };
                let headers = std::mem::replace(&mut self.headers, Headers::Left);
                event_line(*event, &Table::of(kind, &object, self.spec.include, headers))
            }
        }
    }
}
