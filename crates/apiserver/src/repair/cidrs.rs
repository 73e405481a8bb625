//! ServiceCIDRs: the finalizer that protects addresses, the Ready condition, the end (upstream:
//! `pkg/controller/servicecidrs`).
//!
//! ```text
//!   created ──▶ finalizer ──▶ Ready=True        deleted ──▶ addresses depend on it? ──no──▶ finalizer removed
//!                                                               │yes        ▲
//!                                                               ▼           │ one goes, or another range comes
//!                                                    Ready=False, Terminating
//! ```

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::meta;

pub(super) const COMPONENT: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Kubernetes Service CIDR is ready";
const BLOCKED: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                       ServiceCIDR";

/// Which part of the object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Object,
    Status,
}

/// What to write, if anything. `depends` finds an address that would lose its only range.
pub(super) fn plan(
    cidr: &Value,
    depends: impl FnOnce() -> Option<IpAddr>,
    now: Timestamp,
) -> Option<(Part, Value)> {
    let finalizers = meta::finalizers(cidr);
    if !meta::is_deleting(cidr) {
        if !finalizers.contains(&FINALIZER) {
            let with = finalizers.into_iter().chain([FINALIZER]).map(Value::from).collect();
            return Some((Part::Object, with_finalizers(cidr, with)));
        }
        return with_condition(cidr, "True", "", READY, now);
    }
    if !finalizers.contains(&FINALIZER) {
        return None;
    }
    if depends().is_some() {
        return with_condition(cidr, "False", "Terminating", BLOCKED, now);
    }
    let without = finalizers.into_iter().filter(|f| *f != FINALIZER).map(Value::from).collect();
    Some((Part::Object, with_finalizers(cidr, without)))
}

fn with_finalizers(cidr: &Value, finalizers: Vec<Value>) -> Value {
    let mut object = cidr.clone();
    let metadata = meta::metadata(&mut object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
    object
}

/// None when the condition says this already.
fn with_condition(
    cidr: &Value,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<(Part, Value)> {
    let mut conditions = cidr["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut condition = json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": meta::time(now),
    });
    match conditions.iter_mut().find(|condition| condition["type"] == "Ready") {
        Some(old) => {
            if old["status"] == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            let same = |field: &str| old[field].as_str().unwrap_or("") == condition[field];
            if ["status", "reason", "message"].into_iter().all(same) {
                return None;
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    let mut object = cidr.clone();
    object["status"]["conditions"] = conditions.into();
    Some((Part::Status, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn cidr(metadata: Value, conditions: Value) -> Value {
        json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/24"]},
            "status": {"conditions": conditions}})
    }

    fn ready(status: &str, reason: &str, message: &str) -> Value {
        json!([{"type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn a_new_one_is_protected_first_and_ready_then() {
        let depends = || None;
        let new = cidr(json!({"name": "a"}), json!([]));
        let (part, object) = plan(&new, depends, now()).unwrap();
        assert_eq!((part, &object["metadata"]["finalizers"]), (Part::Object, &json!([FINALIZER])));
        let (part, object) = plan(&object, depends, now()).unwrap();
        assert_eq!(part, Part::Status);
        assert_eq!(object["status"]["conditions"], ready("True", "", READY));
        assert_eq!(plan(&object, depends, now()), None, "then there is nothing to do");
    }

    #[test]
    fn one_that_addresses_depend_on_stays_until_they_are_gone() {
        let metadata = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["example.com/mine", FINALIZER]});
        let going = cidr(metadata, ready("True", "", READY));
        let depends = || Some(IpAddr::from([10, 0, 0, 1]));
        let (part, blocked) = plan(&going, depends, now()).unwrap();
        assert_eq!(part, Part::Status);
        assert_eq!(blocked["status"]["conditions"], ready("False", "Terminating", BLOCKED));
        assert_eq!(plan(&blocked, depends, now()), None);
        let (part, free) = plan(&blocked, || None, now()).unwrap();
        let left = json!(["example.com/mine"]);
        assert_eq!((part, &free["metadata"]["finalizers"]), (Part::Object, &left));
        assert_eq!(plan(&free, || None, now()), None, "the rest is somebody else's");
    }
}
