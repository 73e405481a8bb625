//! Events: what happened to a Pod or the Node, for `kubectl describe` and `kubectl events`.
//!
//! Fire and forget: a bounded queue, one task that writes, repeated events counted up in the
//! object that is there already. When the queue is full or the API server away, events are lost,
//! never pods held up. (Upstream: client-go's EventCorrelator.)

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// How many events may wait to be written.
const QUEUE: usize = 1024;
/// How many written events are remembered, to be counted up.
const REMEMBERED: usize = 4096;
/// An event that is repeated after longer than this is a new one.
const FORGET: Duration = Duration::from_secs(600);
/// At most this many events on one object at once, then one each `REFILL`.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct About {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Note {
    about: About,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// Starts the task that writes events as `node`'s kubelet.
    pub(crate) fn start(client: kube::Client, node: String) -> Recorder {
        let (queue, notes) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, node, notes));
        Recorder { queue }
    }

    /// Something happened to a pod, or to one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let meta = &pod.metadata;
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let field = container.map(|name| {
            let is_init = init.clone().any(|container| container.name == name);
            format!("spec.{}{{{name}}}", if is_init { "initContainers" } else { "containers" })
        });
        let about = About {
            kind: "Pod",
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            field,
        };
        self.note(Note { about, severity, reason, message: message.into() });
    }

    /// Something happened to the node.
    pub(crate) fn node(
        &self,
        node: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let about = About {
            kind: "Node",
            namespace: "default".to_owned(),
            name: node.to_owned(),
            uid: node.to_owned(),
            field: None,
        };
        self.note(Note { about, severity, reason, message: message.into() });
    }

    fn note(&self, mut note: Note) {
        // As the API server limits it.
        if note.message.len() > 1024 {
            let end = (0..=1020).rev().find(|at| note.message.is_char_boundary(*at));
            note.message.truncate(end.unwrap_or(0));
            note.message.push_str("...");
        }
        if self.queue.try_send(note).is_err() {
            tracing::debug!("an event is lost: the queue is full");
        }
    }
}

struct Written {
    name: String,
    count: i32,
    at: Instant,
}

async fn write(client: kube::Client, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut written: HashMap<Note, Written> = HashMap::new();
    let mut budgets: HashMap<About, (u32, Instant)> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let now = Instant::now();
        written.retain(|_, old| now.duration_since(old.at) < FORGET);
        budgets.retain(|_, (_, since)| now.duration_since(*since) < REFILL);
        if written.len() >= REMEMBERED || budgets.len() >= REMEMBERED {
            written.clear();
            budgets.clear();
        }
        let (used, _) = budgets.entry(note.about.clone()).or_insert((0, now));
        if *used >= BURST {
            continue;
        }
        *used += 1;
        let api: Api<Event> = Api::namespaced(client.clone(), &note.about.namespace);
        let done = match written.get_mut(&note) {
            Some(old) => {
                old.count += 1;
                old.at = now;
                let patch = serde_json::json!({
                    "count": old.count,
                    "lastTimestamp": Time(Timestamp::now()),
                });
                let patch = Patch::Merge(patch);
                api.patch(&old.name, &PatchParams::default(), &patch).await.map(|_| ())
            }
            None => {
                let event = event(&note, &node);
                let name = event.metadata.name.clone().unwrap_or_default();
                let created = api.create(&PostParams::default(), &event).await;
                if created.is_ok() {
                    written.insert(note.clone(), Written { name, count: 1, at: now });
                }
                created.map(|_| ())
            }
        };
        if let Err(error) = done {
            tracing::debug!(reason = note.reason, "an event is lost: {error}");
            written.remove(&note);
        }
    }
}

fn event(note: &Note, node: &str) -> Event {
    let now = Timestamp::now();
    let about = &note.about;
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", about.name, now.as_nanosecond())),
            namespace: Some(about.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(about.kind.to_owned()),
            namespace: (about.kind != "Node").then(|| about.namespace.clone()),
            name: Some(about.name.clone()),
            uid: Some(about.uid.clone()),
            field_path: about.field.clone(),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(
            match note.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
