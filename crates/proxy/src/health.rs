//! Whether the proxy keeps up, as /healthz and /livez say it.
//!
//! A family is healthy when no change has waited for longer than twice the sync period.
//!
//! Upstream rule: pkg/proxy/healthcheck/proxy_health.go.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use portolan_model::Family;
use serde::Serialize;

#[derive(Debug, Clone, Copy)]
struct State {
    updated: Option<Timestamp>,
    /// Since when a change has been waiting.
    waiting: Option<Instant>,
}

/// Whether load balancers should send to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eligibility {
    /// They should.
    Eligible,
    /// The node is being deleted.
    Leaving,
}

#[derive(Debug)]
struct Inner {
    families: Vec<(Family, State)>,
    eligibility: Eligibility,
}

/// The health of one proxy.
#[derive(Debug)]
pub struct Health {
    timeout: Duration,
    inner: Mutex<Inner>,
}

/// What /healthz and /livez answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: Vec<(String, FamilyReport)>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: String,
    current_time: String,
    healthy: bool,
}

impl Report {
    /// The HTTP status.
    #[must_use]
    pub fn code(&self) -> u16 {
        if self.healthy && self.node_eligible.unwrap_or(true) { 200 } else { 503 }
    }

    /// The body.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let status: serde_json::Map<_, _> = self
            .status
            .iter()
            .map(|(family, report)| {
                (family.clone(), serde_json::to_value(report).unwrap_or_default())
            })
            .collect();
        value["status"] = status.into();
        value
    }
}

impl Health {
    /// The health of these families; a change may wait for so long.
    #[must_use]
    pub fn new(families: &[Family], timeout: Duration) -> Self {
        // Nothing has been synced yet: that is a change that waits.
        let state = State { updated: None, waiting: Some(Instant::now()) };
        let families = families.iter().map(|family| (*family, state)).collect();
        let inner = Inner { families, eligibility: Eligibility::Eligible };
        Self { timeout, inner: Mutex::new(inner) }
    }

    /// A change waits for a sync.
    pub fn queued(&self) {
        for (_, state) in &mut self.inner.lock().families {
            state.waiting.get_or_insert_with(Instant::now);
        }
    }

    /// A family was synced.
    pub fn synced(&self, family: Family) {
        let mut inner = self.inner.lock();
        for (_, state) in inner.families.iter_mut().filter(|(other, _)| *other == family) {
            *state = State { updated: Some(Timestamp::now()), waiting: None };
        }
    }

    /// This node is, or is no longer, to be sent to.
    pub fn set_eligibility(&self, eligibility: Eligibility) {
        self.inner.lock().eligibility = eligibility;
    }

    /// What /healthz answers.
    #[must_use]
    pub fn healthz(&self) -> Report {
        let eligible = self.inner.lock().eligibility == Eligibility::Eligible;
        self.report(Some(eligible))
    }

    /// What /livez answers: the node's eligibility does not matter.
    #[must_use]
    pub fn livez(&self) -> Report {
        self.report(None)
    }

    /// Whether no change has waited for too long.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.report(None).healthy
    }

    /// The checks by name, and whether each passes.
    #[must_use]
    pub fn checks(&self) -> Vec<(String, bool)> {
        let report = self.report(None);
        report.status.into_iter().map(|(family, report)| (family, report.healthy)).collect()
    }

    fn report(&self, node_eligible: Option<bool>) -> Report {
        let now = Timestamp::now();
        let inner = self.inner.lock();
        let text = |time: Option<Timestamp>| time.map_or_else(String::new, |t| t.to_string());
        let status: Vec<_> = inner
            .families
            .iter()
            .map(|(family, state)| {
                let healthy = state.waiting.is_none_or(|since| since.elapsed() < self.timeout);
                let current_time = now.to_string();
                let last_updated = text(state.updated);
                (family.to_string(), FamilyReport { last_updated, current_time, healthy })
            })
            .collect();
        Report {
            last_updated: text(inner.families.iter().filter_map(|(_, state)| state.updated).min()),
            current_time: now.to_string(),
            node_eligible,
            healthy: status.iter().all(|(_, family)| family.healthy),
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_synced() {
        let health = Health::new(&[Family::Ipv4], Duration::ZERO);
        assert_eq!(health.livez().code(), 503);
        health.synced(Family::Ipv4);
        assert_eq!(health.livez().code(), 200);
        health.queued();
        assert_eq!(health.healthz().code(), 503);
        health.synced(Family::Ipv4);
        assert_eq!(health.healthz().json()["status"]["IPv4"]["healthy"], true);
    }

    #[test]
    fn a_leaving_node_is_alive_but_not_to_be_sent_to() {
        let health = Health::new(&[Family::Ipv4], Duration::from_secs(60));
        health.set_eligibility(Eligibility::Leaving);
        assert_eq!((health.healthz().code(), health.livez().code()), (503, 200));
        assert_eq!(health.healthz().json()["nodeEligible"], false);
        assert!(health.livez().json().get("nodeEligible").is_none());
    }
}
