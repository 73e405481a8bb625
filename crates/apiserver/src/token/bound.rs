//! Whether the objects behind a token are still those that it was made for (upstream `pkg/serviceaccount/claims.go`).

use jiff::Timestamp;
use portolan_api::kinds;
use portolan_store::{Store, Stored};

use super::{Claims, Reference};
use crate::registry::meta;

const INVALIDATED: &str = "service account token has been invalidated";

/// Checks the account and what the token is bound to. What is marked for deletion counts until `before`.
pub(super) fn check(store: &Store, claims: &Claims, before: i64) -> Result<(), String> {
    let about = &claims.kubernetes;
    let namespace = Some(about.namespace.as_str());
    let account = &about.serviceaccount;
    let found = find(store, "ServiceAccount", namespace, &account.name)
        .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    if is_gone(&found, before) {
        return Err(format!(
            "service account {}/{} has been deleted",
            about.namespace, account.name
        ));
    }
    let uid = meta::uid(&found.value);
    if uid != account.uid {
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
    }
    if let Some(secret) = &about.secret {
        bound(store, "Secret", namespace, secret, before)?;
    }
    match (&about.pod, &about.node) {
        // The node of a pod's token is there to be known, not to be checked: the pod may outlive it.
        (Some(pod), _) => bound(store, "Pod", namespace, pod, before),
        (None, Some(node)) => bound(store, "Node", None, node, before),
        (None, None) => Ok(()),
    }
}

fn bound(
    store: &Store,
    kind: &str,
    namespace: Option<&str>,
    reference: &Reference,
    before: i64,
) -> Result<(), String> {
    let found = find(store, kind, namespace, &reference.name).filter(|o| !is_gone(o, before));
    let found = found.ok_or_else(|| INVALIDATED.to_owned())?;
    let uid = meta::uid(&found.value);
    if uid == reference.uid {
        return Ok(());
    }
    let what = kind.to_lowercase();
    Err(format!(
        "{what} UID ({uid}) does not match service account {what} ref claim ({})",
        reference.uid
    ))
}

fn find(store: &Store, kind: &str, namespace: Option<&str>, name: &str) -> Option<Stored> {
    let kind = kinds::by_kind("v1", kind)?;
    store.get(&kind.key(namespace, name))
}

fn is_gone(object: &Stored, before: i64) -> bool {
    let marked = meta::text(&object.value, "deletionTimestamp").parse::<Timestamp>();
    marked.is_ok_and(|at| at.as_second() < before)
}
