//! Events are news, not records: they go an hour after they last happened (upstream `--event-ttl`).

use std::sync::Weak;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use portolan_api::kinds;
use portolan_store::{ListOptions, Op};
use serde_json::Value;

use super::Inner;

const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
const PERIOD: Duration = Duration::from_secs(60);

/// Removes stale events until the server is gone.
pub(super) async fn expire_events(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let store = &inner.registry.store;
        let kind = kinds::by_kind("v1", "Event").expect("the table of kinds has Event");
        let Ok(page) = store.list(&kind.prefix(None), ListOptions::default()) else { return };
        let now = Timestamp::now();
        for event in page.items.iter().filter(|e| is_stale(&e.value, now)) {
            let op = Op::Delete { key: event.key.to_string(), expected: event.revision };
            // Somebody counted it up in the meantime: it is fresh again.
            if let Err(error) = store.commit(vec![op]).await {
                tracing::debug!(key = %event.key, %error, "event stays");
            }
        }
    }
}

fn is_stale(event: &Value, now: Timestamp) -> bool {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["firstTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    let last = times.iter().filter_map(|t| t.as_str()?.parse::<Timestamp>().ok()).max();
    last.is_some_and(|last| now.duration_since(last) > TIME_TO_LIVE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_as_fresh_as_its_last_time() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let event = |last: &str| {
            json!({
                "metadata": {"creationTimestamp": "2026-01-01T01:00:00Z"},
                "lastTimestamp": last,
                "eventTime": null,
            })
        };
        assert!(is_stale(&event("2026-01-01T10:59:59Z"), now));
        assert!(!is_stale(&event("2026-01-01T11:00:01Z"), now));
    }
}
