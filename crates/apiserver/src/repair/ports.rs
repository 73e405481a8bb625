//! Node ports against Services (upstream: `portallocator/controller/repair.go`).
//!
//! Upstream's PortRangeFull has no equivalent: a port that a Service names is taken or it is not, whatever is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::services::holdings;

pub(super) const COMPONENT: &str = "portallocator-repair-controller";
/// How often in a row a port is found without an owner before it is given back: a write may be on its way.
const PATIENCE: u8 = 3;

/// Ports that nothing was found to have, and how often in a row.
#[derive(Debug, Default)]
pub(super) struct Leaks(BTreeMap<u16, u8>);

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Had by a Service and not taken.
    pub(super) missing: Vec<Missing>,
    /// To be told.
    pub(super) findings: Vec<Finding>,
    /// Taken and had by nothing for long enough.
    pub(super) leaked: Vec<u16>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) port: u16,
    /// Index of the Service.
    pub(super) service: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) service: usize,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The ports that a Service has.
pub(super) fn of(service: &Value) -> Vec<u16> {
    holdings(service).ports
}

/// Compares what is taken with what the Services have.
pub(super) fn plan<'a>(
    taken: &[u16],
    range: &str,
    services: impl Iterator<Item = &'a Value>,
    leaks: &mut Leaks,
) -> Plan {
    let mut plan = Plan::default();
    let inside = |port: u16| {
        let bounds = range.split_once('-');
        let bounds = bounds.and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse().ok()?)));
        bounds.is_some_and(|(first, last)| (first..=last).contains(&port))
    };
    let taken: BTreeSet<u16> = taken.iter().copied().collect();
    let mut owners: HashMap<u16, usize> = HashMap::new();
    for (index, service) in services.enumerate() {
        for port in of(service) {
            let mut tell = |reason, message| {
                plan.findings.push(Finding { service: index, reason, message });
            };
            if !inside(port) {
                let what = format!("Port {port} is not within the port range {range}");
                tell("PortOutOfRange", format!("{what}; please recreate service"));
            } else if owners.insert(port, index).is_some() {
                let what = format!("Port {port} was assigned to multiple services");
                tell("PortAlreadyAllocated", format!("{what}; please recreate service"));
            } else if !taken.contains(&port) {
                plan.missing.push(Missing { port, service: index });
            }
        }
    }
    leaks.0.retain(|port, _| taken.contains(port) && !owners.contains_key(port));
    for port in taken.iter().filter(|port| !owners.contains_key(port)) {
        let times = leaks.0.entry(*port).or_default();
        *times += 1;
        if *times >= PATIENCE {
            plan.leaked.push(*port);
        }
    }
    for port in &plan.leaked {
        leaks.0.remove(port);
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RANGE: &str = "30000-30100";

    fn service(ports: &[u64]) -> Value {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"nodePort": port})).collect();
        json!({"spec": {"type": "NodePort", "ports": ports}})
    }

    fn reasons(plan: &Plan) -> Vec<(usize, &str)> {
        plan.findings.iter().map(|finding| (finding.service, finding.reason)).collect()
    }

    #[test]
    fn what_agrees_needs_nothing() {
        let services = [service(&[30001, 30002]), service(&[])];
        let plan = plan(&[30001, 30002], RANGE, services.iter(), &mut Leaks::default());
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn a_port_that_is_not_taken_is_missing() {
        let services = [service(&[]), service(&[30001])];
        let plan = plan(&[], RANGE, services.iter(), &mut Leaks::default());
        assert_eq!(plan.missing, [Missing { port: 30001, service: 1 }]);
    }

    #[test]
    fn two_owners_and_foreign_ports_are_told() {
        let services = [service(&[30001]), service(&[30001, 29999])];
        let plan = plan(&[30001], RANGE, services.iter(), &mut Leaks::default());
        assert_eq!(reasons(&plan), [(1, "PortAlreadyAllocated"), (1, "PortOutOfRange")]);
        assert_eq!(
            plan.findings[1].message,
            "Port 29999 is not within the port range 30000-30100; please recreate service"
        );
        assert_eq!(plan.missing, []);
    }

    #[test]
    fn a_port_without_an_owner_is_given_back_the_third_time() {
        let mut leaks = Leaks::default();
        let none: [Value; 0] = [];
        let owner = [service(&[30001])];
        let mut look =
            |services: &[Value]| plan(&[30001], RANGE, services.iter(), &mut leaks).leaked;
        assert_eq!(look(&none), [0_u16; 0]);
        assert_eq!(look(&none), [0_u16; 0]);
        assert_eq!(look(&owner), [0_u16; 0], "it was on its way");
        assert_eq!(look(&none), [0_u16; 0]);
        assert_eq!(look(&none), [0_u16; 0]);
        assert_eq!(look(&none), [30001]);
    }
}
