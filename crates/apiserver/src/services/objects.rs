//! IPAddress objects: one for each cluster IP, named after it (KEP-1880).

use std::net::IpAddr;

use jiff::Timestamp;
use portolan_api::alloc::Family;
use portolan_store::{Op, Store};
use serde_json::{Value, json};

use super::ip_address_kind;
use crate::registry::meta;

/// Who manages the addresses of Services.
const CONTROLLER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The object of a Service's address.
pub(crate) fn address_object(ip: IpAddr, namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": meta::time(Timestamp::now()),
            "labels": {FAMILY: Family::of(ip).as_str(), MANAGED_BY: CONTROLLER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

/// Namespace and name of the Service that an address belongs to; none when it belongs to something else.
pub(crate) fn parent_of(address: &Value) -> Option<(&str, &str)> {
    let parent = &address["spec"]["parentRef"];
    let text = |field: &str| parent[field].as_str().unwrap_or("");
    let is_service = text("group").is_empty() && text("resource") == "services";
    is_service.then(|| (text("namespace"), text("name")))
}

/// Whether the address is managed by this allocator.
pub(crate) fn is_ours(address: &Value) -> bool {
    address["metadata"]["labels"][MANAGED_BY] == CONTROLLER
}

/// Whether the labels are those that [`address_object`] gives.
pub(crate) fn has_our_labels(address: &Value) -> bool {
    let family = meta::name(address).parse::<IpAddr>().map(|ip| Family::of(ip).as_str());
    is_ours(address) && family.is_ok_and(|f| address["metadata"]["labels"][FAMILY] == f)
}

/// What becomes of an address that its Service gives up.
pub(super) enum Release {
    /// There is nothing to write, and it is free.
    Free,
    /// It is free once this is written.
    Write(Op),
    /// It stays in use: the object is another Service's.
    Kept,
    /// It is marked for deletion and stays in use for as long as its finalizers want.
    Marked(Op),
}

pub(super) fn release(store: &Store, ip: IpAddr, namespace: &str, service: &str) -> Release {
    let key = ip_address_kind().key(None, &ip.to_string());
    let Some(stored) = store.get(&key) else { return Release::Free };
    if parent_of(&stored.value).is_some_and(|parent| parent != (namespace, service)) {
        return Release::Kept;
    }
    if meta::finalizers(&stored.value).is_empty() {
        return Release::Write(Op::Delete { key, expected: stored.revision });
    }
    if meta::is_deleting(&stored.value) {
        return Release::Kept;
    }
    let mut value = (*stored.value).clone();
    let metadata = meta::metadata(&mut value);
    metadata.insert("deletionTimestamp".into(), meta::time(Timestamp::now()));
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    Release::Marked(Op::Update { key, expected: stored.revision, value })
}
