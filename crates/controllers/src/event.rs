//! Events about objects, without repeating them.
//!
//! The same occurrence (object, type, reason, message, source) raises the count of the Event that
//! tells it, as upstream's event correlator does; the Event is made anew once it has expired.
//! Recording never waits: a full queue drops the occurrence, for an event is a courtesy.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, whole_seconds};
use crate::kind::status_code;

/// Occurrences remembered for counting.
const REMEMBERED: usize = 4096;
/// Occurrences that may wait to be written.
const WAITING: usize = 1024;

/// Whether an event tells of normal working or of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Working as meant.
    Normal,
    /// Something a user may have to look at.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What happened to what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Occurrence {
    about: About,
    kind: EventType,
    reason: String,
    message: String,
    source: &'static str,
    host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    field_path: Option<String>,
}

/// Records events for one component.
#[derive(Clone, Debug)]
pub struct Recorder {
    component: &'static str,
    host: Option<String>,
    sink: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// A recorder that reports as `component`, and the task that writes what it records until
    /// `shutdown`.
    pub fn new(
        client: kube::Client,
        component: &'static str,
        clock: impl Clock,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sink, mut source) = mpsc::channel::<Occurrence>(WAITING);
        let writer = async move {
            let mut correlator = Correlator::default();
            while let Some(Some(occurrence)) = shutdown.run_until_cancelled(source.recv()).await {
                let now = clock.now();
                let write = correlator.observe(occurrence, now);
                perform(&client, &mut correlator, write).await;
            }
        };
        (Self { component, host: None, sink }, writer)
    }

    /// The same sink under another component's name.
    #[must_use]
    pub fn component(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    /// The same sink, naming the node that the component runs on.
    #[must_use]
    pub fn host(&self, host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..self.clone() }
    }

    /// Records an event about a typed object.
    pub fn about<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(object.object_ref(&()), kind, reason, message);
    }

    /// Records an event about whatever the reference names.
    pub fn record(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let occurrence = Occurrence {
            about: About {
                api_version: about.api_version,
                kind: about.kind,
                namespace: about.namespace,
                name: about.name,
                uid: about.uid,
                field_path: about.field_path,
            },
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            source: self.component,
            host: self.host.clone(),
        };
        if let Err(error) = self.sink.try_send(occurrence) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// What the correlator wants written.
#[derive(Debug, PartialEq)]
enum Write {
    Create(Arc<Event>),
    Count { event: Arc<Event>, count: i32, last: Timestamp },
}

/// Remembers which Event tells what. Pure.
#[derive(Default)]
struct Correlator {
    known: HashMap<Occurrence, (Arc<Event>, i32)>,
    order: VecDeque<Occurrence>,
    serial: u64,
}

impl Correlator {
    fn observe(&mut self, occurrence: Occurrence, now: Timestamp) -> Write {
        let now = whole_seconds(now);
        if let Some((event, count)) = self.known.get_mut(&occurrence) {
            *count = count.saturating_add(1);
            return Write::Count { event: Arc::clone(event), count: *count, last: now };
        }
        let event = Arc::new(self.event(&occurrence, now));
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(occurrence.clone());
        self.known.insert(occurrence, (Arc::clone(&event), 1));
        Write::Create(event)
    }

    fn event(&mut self, o: &Occurrence, now: Timestamp) -> Event {
        self.serial += 1;
        let namespace = o.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let unique = u64::try_from(now.as_second()).unwrap_or_default() << 24 | self.serial;
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{unique:x}", o.about.name.as_deref().unwrap_or("unknown"))),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: o.about.api_version.clone(),
                kind: o.about.kind.clone(),
                namespace: o.about.namespace.clone(),
                name: o.about.name.clone(),
                uid: o.about.uid.clone(),
                field_path: o.about.field_path.clone(),
                resource_version: None,
            },
            type_: Some(o.kind.as_str().to_owned()),
            reason: Some(o.reason.clone()),
            message: Some(o.message.clone()),
            source: Some(EventSource {
                component: Some(o.source.to_owned()),
                host: o.host.clone(),
            }),
            reporting_component: Some(o.source.to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }

    /// The Event is not in the API server; the next occurrence makes a new one.
    fn forget(&mut self, event: &Arc<Event>) {
        self.known.retain(|_, (known, _)| !Arc::ptr_eq(known, event));
    }
}

async fn perform(client: &kube::Client, correlator: &mut Correlator, write: Write) {
    let (event, outcome) = match write {
        Write::Create(event) => {
            let outcome = create(client, &event).await;
            (event, outcome)
        }
        Write::Count { event, count, last } => {
            let outcome = api(client, &event)
                .patch(
                    event.metadata.name.as_deref().unwrap_or_default(),
                    &PatchParams::default(),
                    &Patch::Merge(json!({ "count": count, "lastTimestamp": Time(last) })),
                )
                .await
                .map(drop);
            match outcome {
                // It has expired: tell it anew.
                Err(error) if status_code(&error) == Some(404) => {
                    let mut fresh = (*event).clone();
                    fresh.count = Some(count);
                    fresh.last_timestamp = Some(Time(last));
                    let outcome = create(client, &fresh).await;
                    (event, outcome)
                }
                outcome => (event, outcome),
            }
        }
    };
    if let Err(error) = outcome {
        // A namespace being deleted takes no new events, for one.
        tracing::debug!(%error, reason = event.reason, "event not recorded");
        correlator.forget(&event);
    }
}

async fn create(client: &kube::Client, event: &Event) -> kube::Result<()> {
    api(client, event).create(&PostParams::default(), event).await.map(drop)
}

fn api(client: &kube::Client, event: &Event) -> Api<Event> {
    Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(reason: &str) -> Occurrence {
        Occurrence {
            about: About {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some("shop".into()),
                name: Some("web".into()),
                uid: Some("u".into()),
                field_path: None,
            },
            kind: EventType::Normal,
            reason: reason.into(),
            message: "m".into(),
            source: "test",
            host: None,
        }
    }

    #[test]
    fn the_same_occurrence_is_counted_and_another_is_told() {
        let mut correlator = Correlator::default();
        let at = Timestamp::from_second(1000).unwrap();
        let Write::Create(first) = correlator.observe(occurrence("A"), at) else { panic!() };
        assert_eq!(first.involved_object.name.as_deref(), Some("web"));
        assert_eq!(first.metadata.namespace.as_deref(), Some("shop"));
        let later = Timestamp::from_second(1005).unwrap();
        assert_eq!(
            correlator.observe(occurrence("A"), later),
            Write::Count { event: first.clone(), count: 2, last: later }
        );
        let Write::Create(second) = correlator.observe(occurrence("B"), later) else { panic!() };
        assert_ne!(first.metadata.name, second.metadata.name);
    }

    #[test]
    fn memory_of_occurrences_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..REMEMBERED + 10 {
            correlator.observe(occurrence(&n.to_string()), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(correlator.known.len(), REMEMBERED);
        assert_eq!(correlator.order.len(), REMEMBERED);
    }
}
