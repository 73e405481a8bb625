//! The board: what each part of the lab does, for `status` and for the one who watches `up`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::message::{Event, Summary};
use crate::status::{Component, ComponentState, LabState};

/// Events that may wait for `up`; it only prints, so more means that it hangs.
const QUEUE: usize = 1024;

/// Where parts report; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    lab: LabState,
    ready_after: Option<Duration>,
    parts: BTreeMap<String, Part>,
}

#[derive(Debug)]
struct Part {
    component: Component,
    since: Instant,
}

impl Board {
    /// An empty board, and what is told through it.
    pub(super) fn new(began: Instant) -> (Board, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(QUEUE);
        let state = State { lab: LabState::Starting, ready_after: None, parts: BTreeMap::new() };
        (
            Board {
                inner: Arc::new(Inner {
                    events,
                    state: Mutex::new(state),
                    changed: watch::channel(()).0,
                    began,
                }),
            },
            told,
        )
    }

    /// A part begins to start for the first time.
    pub(super) fn starting(&self, name: &str) {
        let part = Part {
            component: Component {
                name: name.to_owned(),
                state: ComponentState::Starting,
                detail: String::new(),
                ready_after_millis: None,
                restarts: 0,
            },
            since: Instant::now(),
        };
        self.inner.state.lock().parts.insert(name.to_owned(), part);
        self.tell(Event::Starting { part: name.to_owned() });
    }

    /// A part is ready; told only once until it changes.
    pub(super) fn ready(&self, name: &str, detail: impl Into<String>) {
        let detail = detail.into();
        let mut state = self.inner.state.lock();
        let Some(part) = state.parts.get_mut(name) else { return };
        if part.component.state == ComponentState::Ready {
            part.component.detail = detail;
            return;
        }
        let millis = millis(part.since.elapsed());
        part.component.state = ComponentState::Ready;
        part.component.ready_after_millis.get_or_insert(millis);
        part.component.detail.clone_from(&detail);
        drop(state);
        self.tell(Event::Ready { part: name.to_owned(), millis, detail });
    }

    /// A part that was ready is not any more, for this reason.
    pub(super) fn unready(&self, name: &str, why: &str) {
        let mut state = self.inner.state.lock();
        let Some(part) = state.parts.get_mut(name) else { return };
        if part.component.state != ComponentState::Ready {
            return;
        }
        part.component.state = ComponentState::Starting;
        part.component.detail = why.to_owned();
        part.since = Instant::now();
        drop(state);
        self.tell(Event::Warning { message: format!("{name}: {why}") });
    }

    /// A part ended and will be started again; the same end again and again is told once.
    pub(super) fn restarting(&self, name: &str, why: &str) {
        let mut state = self.inner.state.lock();
        let Some(part) = state.parts.get_mut(name) else { return };
        let known = part.component.detail == why;
        part.component.state = ComponentState::Restarting;
        part.component.restarts += 1;
        part.component.detail = why.to_owned();
        part.since = Instant::now();
        drop(state);
        if known {
            return;
        }
        self.tell(Event::Warning { message: format!("{name}: {why}; starting it again") });
    }

    /// Everything is ready.
    pub(super) fn up(&self, summary: impl FnOnce(u64) -> Summary) {
        let after = self.inner.began.elapsed();
        let mut state = self.inner.state.lock();
        state.lab = LabState::Running;
        state.ready_after = Some(after);
        drop(state);
        self.tell(Event::Up(summary(millis(after))));
    }

    /// The lab stops; all parts with it.
    pub(super) fn stopping(&self, part: &str) {
        self.inner.state.lock().lab = LabState::Stopping;
        self.tell(Event::Stopping { part: part.to_owned() });
    }

    /// Something is wrong, and the lab goes on.
    pub(super) fn warn(&self, message: String) {
        tracing::warn!("{message}");
        self.tell(Event::Warning { message });
    }

    /// Shows an event to whoever watches `up`.
    pub(super) fn tell(&self, event: Event) {
        self.inner.changed.send_replace(());
        // A watcher that hangs misses lines; `status` still has everything.
        let _ = self.inner.events.try_send(event);
    }

    /// A signal at each change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Parts that are not ready, each with what is known of why.
    pub(super) fn missing(&self) -> Vec<String> {
        let (_, _, parts) = self.read();
        let missing = parts.into_iter().filter(|part| part.state != ComponentState::Ready);
        missing
            .map(|part| match part.detail.as_str() {
                "" => part.name,
                detail => format!("{} ({detail})", part.name),
            })
            .collect()
    }

    /// The state for `status`: the lab's, milliseconds to ready, and all parts.
    pub(super) fn read(&self) -> (LabState, Option<u64>, Vec<Component>) {
        let state = self.inner.state.lock();
        let parts = state.parts.values().map(|part| part.component.clone()).collect();
        (state.lab, state.ready_after.map(millis), parts)
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
