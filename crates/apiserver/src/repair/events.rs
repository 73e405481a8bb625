//! Telling what was found, as Events. One finding is one Event that is counted up, however often it is found.

use std::sync::Arc;

use jiff::Timestamp;
use portolan_api::{Kind, kinds};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::query::DryRun;
use crate::registry::{Ownership, Registry, Target, meta};
use crate::status::Status;

/// Warns about an object. That an Event cannot be written is logged and nothing more: it stops no repair.
pub(super) async fn warn(
    registry: &Arc<Registry>,
    component: &str,
    about: &Value,
    reason: &str,
    message: &str,
) {
    let named = (meta::text(about, "namespace"), meta::name(about));
    tracing::warn!(namespace = named.0, name = named.1, reason, "{message}");
    let event = event(component, about, reason, message, Timestamp::now());
    if let Err(status) = record(registry, event).await {
        tracing::debug!(reason, error = %status.message, "an event is lost");
    }
}

fn event_kind() -> &'static Kind {
    kinds::by_kind("v1", "Event").expect("the table of kinds has Event")
}

async fn record(registry: &Arc<Registry>, event: Value) -> Result<(), Status> {
    let kind = event_kind();
    let namespace = meta::text(&event, "namespace").to_owned();
    let name = meta::name(&event).to_owned();
    let target = Target { kind, namespace: Some(namespace.clone()), name };
    let Some(known) = registry.store.get(&target.key()) else {
        return registry
            .create(kind, Some(&namespace), event, &Ownership::Server, DryRun::Off)
            .await
            .map(drop);
    };
    let mut again = (*known.value).clone();
    again["count"] = (again["count"].as_i64().unwrap_or(1) + 1).into();
    again["lastTimestamp"] = event["lastTimestamp"].clone();
    registry.update(&target, None, again, &Ownership::Server, DryRun::Off).await.map(drop)
}

fn event(component: &str, about: &Value, reason: &str, message: &str, now: Timestamp) -> Value {
    let text = |field: &str| meta::text(about, field);
    let (namespace, name) = (text("namespace"), text("name"));
    let mut digest = Sha256::new();
    for part in [text("uid"), reason, message] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let digest: String =
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // Names of IPv6 addresses are no names of events.
    let event_name = format!("{}.{digest}", name.replace(':', "-"));
    let now = meta::time(now);
    let mut involved = json!({
        "apiVersion": about["apiVersion"],
        "kind": about["kind"],
        "name": name,
        "uid": text("uid"),
    });
    if !namespace.is_empty() {
        involved["namespace"] = namespace.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": event_name.trim_start_matches('-'),
            "namespace": if namespace.is_empty() { "default" } else { namespace },
        },
        "involvedObject": involved,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "type": "Warning",
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
    })
}
