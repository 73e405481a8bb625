//! What is counted about a table, kept up with each delta so that no sync goes through all of it.

use std::collections::BTreeMap;

use portolan_model::{Action, Delta, EndpointSet, Front, Origin, ServicePortName};

/// A traffic policy, of which there are two at a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Internal, Self::External];

    /// As the label of upstream's metric says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// The counts of one family's table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    targets: usize,
    /// How many fronts of a Service port drop for want of an endpoint on this node.
    without_local: BTreeMap<(Policy, ServicePortName), usize>,
}

impl Tally {
    /// Takes note of a delta.
    pub fn follow(&mut self, delta: &Delta) {
        for change in delta.sets.values() {
            let targets = |set: &std::sync::Arc<EndpointSet>| set.targets.len();
            self.targets += change.after.as_ref().map_or(0, targets);
            self.targets -= change.before.as_ref().map_or(0, targets);
        }
        for change in delta.fronts.values() {
            if let Some(policy) = change.after.as_ref().and_then(drops) {
                *self.without_local.entry(policy).or_default() += 1;
            }
            if let Some(policy) = change.before.as_ref().and_then(drops)
                && let Some(count) = self.without_local.get_mut(&policy)
            {
                *count -= 1;
                if *count == 0 {
                    self.without_local.remove(&policy);
                }
            }
        }
    }

    /// How many endpoints packets may go to, those of two sets twice.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// How many Service ports drop packets because a policy is Local and no endpoint is here.
    #[must_use]
    pub fn without_local(&self, policy: Policy) -> usize {
        self.without_local.keys().filter(|(other, _)| *other == policy).count()
    }
}

/// Whose endpoints are all elsewhere, and by which policy that matters.
fn drops(front: &Front) -> Option<(Policy, ServicePortName)> {
    let policy = match front.origin {
        Origin::ClusterIp if front.inside == Action::Drop => Policy::Internal,
        Origin::ClusterIp => return None,
        _ if front.outside == Action::Drop => Policy::External,
        _ => return None,
    };
    Some((policy, front.port.clone()))
}

#[cfg(test)]
mod tests {
    use portolan_model::{
        Conditions, Config, Endpoint, EndpointPort, EndpointSlice, Event, Family, Hints, Model,
        NamespacedName, NodePort, Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy,
    };

    use super::*;

    fn service(policies: [TrafficPolicy; 2]) -> Event {
        Event::Service(Service {
            name: NamespacedName::new("default", "web"),
            cluster_ips: vec!["10.96.0.10".parse().unwrap()],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 80.try_into().unwrap(),
                node_port: NodePort::new(30080),
            }],
            session_affinity: SessionAffinity::None,
            internal_traffic_policy: policies[0],
            external_traffic_policy: policies[1],
            external_ips: vec!["192.0.2.1".parse().unwrap()],
            load_balancer_ingress: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: None,
        })
    }

    fn endpoints(nodes: &[&str]) -> Event {
        let endpoint = |(number, node): (usize, &&str)| Endpoint {
            address: format!("10.244.0.{number}").parse().unwrap(),
            conditions: Conditions::default(),
            node_name: Some((*node).into()),
            hints: Hints::default(),
        };
        Event::EndpointSlice(EndpointSlice {
            name: NamespacedName::new("default", "web-1"),
            service: "web".into(),
            ports: vec![EndpointPort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 8080.try_into().unwrap(),
            }],
            endpoints: nodes.iter().enumerate().map(endpoint).collect(),
        })
    }

    #[test]
    fn what_has_no_endpoint_here_is_counted_once_for_each_policy() {
        use TrafficPolicy::{Cluster, Local};
        let config = Config { node_name: "here".into(), ..Config::default() };
        let (mut model, mut tally) = (Model::new(Family::Ipv4, config), Tally::default());
        let mut counts = |events: Vec<Event>| {
            events.into_iter().for_each(|event| model.apply(event));
            tally.follow(&model.flush());
            let table = model.table();
            let targets: usize = table.sets.values().map(|set| set.targets.len()).sum();
            assert_eq!(tally.targets(), targets);
            Policy::ALL.map(|policy| tally.without_local(policy))
        };
        assert_eq!(counts(vec![service([Local, Local])]), [0, 0]);
        assert_eq!(counts(vec![endpoints(&["there", "there"])]), [1, 1]);
        assert_eq!(counts(vec![service([Cluster, Local])]), [0, 1]);
        assert_eq!(counts(vec![endpoints(&["here", "there"])]), [0, 0]);
        assert_eq!(counts(vec![service([Local, Cluster]), endpoints(&["there"])]), [1, 0]);
        let gone = Event::ServiceDeleted(NamespacedName::new("default", "web"));
        assert_eq!(counts(vec![gone]), [0, 0]);
    }
}
