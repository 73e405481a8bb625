//! What changed in a forwarding table between two flushes.
//!
//! A key is listed only when its value before and after differ, so an empty delta means that there is
//! nothing to do; elements that several Services own are listed only when the first owner comes or
//! the last one goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::NodePort;
use crate::table::{EndpointSet, Front, FrontKey, HealthCheck, SetId, Settings};

/// A value before and after; nothing means that it was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// What it was.
    pub before: Option<T>,
    /// What it is now.
    pub after: Option<T>,
}

/// What changed in a forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Fronts.
    pub fronts: BTreeMap<FrontKey, Change<Front>>,
    /// Endpoint sets.
    pub sets: BTreeMap<SetId, Change<Arc<EndpointSet>>>,
    /// Cluster IPs in use.
    pub cluster_ips: BTreeMap<IpAddr, Change<()>>,
    /// Endpoints that may reach themselves.
    pub hairpins: BTreeMap<IpAddr, Change<()>>,
    /// Health-check node ports.
    pub health_checks: BTreeMap<NodePort, Change<HealthCheck>>,
    /// What holds for the table as a whole.
    pub settings: Option<Change<Settings>>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty()
            && self.sets.is_empty()
            && self.cluster_ips.is_empty()
            && self.hairpins.is_empty()
            && self.health_checks.is_empty()
            && self.settings.is_none()
    }
}

/// Notes a change of `key`, after others of the same key perhaps; two that cancel leave nothing.
pub(crate) fn note<K: Ord, V: PartialEq>(
    changes: &mut BTreeMap<K, Change<V>>,
    key: K,
    before: Option<V>,
    after: Option<V>,
) {
    let before = match changes.remove(&key) {
        Some(earlier) => earlier.before,
        None => before,
    };
    if before != after {
        changes.insert(key, Change { before, after });
    }
}
