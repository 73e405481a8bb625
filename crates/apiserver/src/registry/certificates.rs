//! When the conditions of a CertificateSigningRequest came to be (upstream
//! `pkg/registry/certificates/certificates`, populateConditionTimestamps).

use jiff::Timestamp;
use portolan_api::Kind;
use portolan_api::kinds::Subresource;
use serde_json::Value;

use super::meta;

/// Dates conditions that are new or changed and that the client left undated.
pub(super) fn date_conditions(
    kind: &Kind,
    part: Option<Subresource>,
    new: &mut Value,
    old: &Value,
    now: Timestamp,
) {
    if kind.kind != "CertificateSigningRequest" || part.is_none() {
        return;
    }
    let before = old["status"]["conditions"].as_array();
    let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    let Some(conditions) = conditions else { return };
    for condition in conditions.iter_mut().filter(|condition| condition.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = meta::time(now);
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before.into_iter().flatten().find(|old| {
                old["type"] == condition["type"] && old["status"] == condition["status"]
            });
            let before = same.map(|old| &old["lastTransitionTime"]).filter(|time| time.is_string());
            condition["lastTransitionTime"] = before.cloned().unwrap_or_else(|| meta::time(now));
        }
    }
}
