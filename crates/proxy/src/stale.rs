//! UDP flows that lead to endpoints of the past.
//!
//! Rules decide about a flow's first packet only; the kernel's connection tracking remembers the
//! answer for as long as packets keep coming. A UDP client that never stops would talk to a dead
//! endpoint for ever, so flows whose endpoint is gone are forgotten after each change of a UDP
//! Service. A Service without endpoints counts too (kubernetes/kubernetes#139628).
//!
//! Upstream rule: pkg/proxy/conntrack/cleanup.go.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use portolan_model::{
    Action, Delta, ForwardingTable, Front, FrontKey, Model, NodePortAddresses, Protocol, SetId,
};
use portolan_netlink::conntrack::{self, ConntrackError, Flow};

/// The UDP fronts that changed, each with the endpoints that its flows may lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaleUdp {
    family: Option<conntrack::Family>,
    addresses: HashMap<SocketAddr, HashSet<SocketAddr>>,
    node_ports: HashMap<u16, HashSet<SocketAddr>>,
    node_addresses: Option<BTreeSet<IpAddr>>,
}

impl StaleUdp {
    /// What a whole table says; none when it has no UDP.
    #[must_use]
    pub fn all(table: &ForwardingTable) -> Option<Self> {
        let mut this = Self::new(table);
        for (key, front) in &table.fronts {
            this.add(table, key, Some(front));
        }
        this.or_none()
    }

    /// What the last change of a model says; none when nothing of UDP changed. Only fronts of Services
    /// whose endpoints changed are looked at.
    #[must_use]
    pub fn of(model: &Model, delta: &Delta) -> Option<Self> {
        let table = model.table();
        let mut this = Self::new(table);
        for (id, change) in &delta.sets {
            let set = change.before.as_ref().or(change.after.as_ref());
            let Some(set) = set.filter(|set| set.port.protocol == Protocol::Udp) else { continue };
            for key in model.fronts_of(&set.port.service) {
                let front = table.fronts.get(&key);
                if front.is_some_and(|front| targets_of(front).any(|set| set == *id)) {
                    this.add(table, &key, front);
                }
            }
        }
        for key in delta.fronts.keys() {
            this.add(table, key, table.fronts.get(key));
        }
        this.or_none()
    }

    fn new(table: &ForwardingTable) -> Self {
        let node_addresses = match &table.settings.node_port_addresses {
            NodePortAddresses::AllLocal => None,
            NodePortAddresses::Only(addresses) => Some(addresses.clone()),
        };
        let family = match table.family {
            portolan_model::Family::Ipv4 => conntrack::Family::V4,
            portolan_model::Family::Ipv6 => conntrack::Family::V6,
        };
        Self { family: Some(family), node_addresses, ..Self::default() }
    }

    fn add(&mut self, table: &ForwardingTable, key: &FrontKey, front: Option<&Front>) {
        if key.protocol() != Protocol::Udp {
            return;
        }
        let sets = front.into_iter().flat_map(targets_of).collect::<BTreeSet<_>>();
        let live = sets
            .iter()
            .filter_map(|id| table.sets.get(id))
            .flat_map(|set| set.targets.as_slice().iter().map(|target| target.address))
            .collect();
        match key {
            FrontKey::Address { ip, port, .. } => {
                self.addresses.insert(SocketAddr::new(*ip, *port), live);
            }
            FrontKey::NodePort { port, .. } => {
                self.node_ports.insert(port.number(), live);
            }
        }
    }

    fn or_none(self) -> Option<Self> {
        (!self.addresses.is_empty() || !self.node_ports.is_empty()).then_some(self)
    }

    /// Puts a later change on top of this one.
    pub fn merge(&mut self, later: Self) {
        self.addresses.extend(later.addresses);
        self.node_ports.extend(later.node_ports);
        self.node_addresses = later.node_addresses;
    }

    /// Which family it is about.
    #[must_use]
    pub fn family(&self) -> Option<conntrack::Family> {
        self.family
    }

    /// Whether a flow leads to an endpoint of the past.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow) -> bool {
        self.is_past(flow.original.destination, flow.reply.source)
    }

    /// Whether a flow that was addressed to `to` does not lead to `end` any more.
    fn is_past(&self, to: SocketAddr, end: SocketAddr) -> bool {
        let at_node = || match &self.node_addresses {
            Some(addresses) => addresses.contains(&to.ip()),
            None => !to.ip().is_loopback(),
        };
        let live = match self.addresses.get(&to) {
            Some(live) => Some(live),
            None => self.node_ports.get(&to.port()).filter(|_| at_node()),
        };
        live.is_some_and(|live| !live.contains(&end))
    }

    /// Forgets the flows that lead to endpoints of the past; says how many there were.
    ///
    /// # Errors
    /// When connection tracking cannot be read. A flow that is gone by itself is no error.
    pub fn clean(&self) -> Result<usize, ConntrackError> {
        let Some(family) = self.family else { return Ok(0) };
        let mut socket = conntrack::Socket::open()?;
        let mut stale = Vec::new();
        socket.dump_udp(family, |flow| {
            if self.is_stale(&flow) {
                stale.push(flow);
            }
        })?;
        let mut count = 0;
        for flow in stale {
            if socket.delete(&flow)? == conntrack::Deleted::Yes {
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The sets that a front leads to, for any source.
fn targets_of(front: &Front) -> impl Iterator<Item = SetId> + '_ {
    [front.inside, front.outside].into_iter().filter_map(|action| match action {
        Action::Balance(set) => Some(set),
        Action::Reject | Action::Drop => None,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use portolan_model::*;

    use super::*;

    const PORT: u16 = 53;

    /// A Service at this cluster IP with a node port and a load balancer's IP; its ports are UDP and TCP.
    fn service(name: &str, n: u8) -> Service {
        let port = |protocol, name: &str| ServicePort {
            name: name.into(),
            protocol,
            port: NonZeroU16::new(PORT).unwrap(),
            node_port: NodePort::new(30_000 + u16::from(n)),
        };
        let ingress = LoadBalancerIngress { ip: [192, 0, 2, n].into(), mode: IpMode::Vip };
        Service {
            name: NamespacedName::new("default", name),
            cluster_ips: vec![[10, 96, 0, n].into()],
            ports: vec![port(Protocol::Udp, "udp"), port(Protocol::Tcp, "tcp")],
            session_affinity: SessionAffinity::None,
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_ips: Vec::new(),
            load_balancer_ingress: vec![ingress],
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: None,
        }
    }

    fn slice(service: &str, ends: &[&str]) -> Event {
        let endpoint = |ip: &&str| Endpoint {
            address: ip.parse().unwrap(),
            conditions: Conditions::default(),
            node_name: None,
            hints: Hints::default(),
        };
        let port = |protocol, name: &str| EndpointPort {
            name: name.into(),
            protocol,
            port: NonZeroU16::new(5353).unwrap(),
        };
        Event::EndpointSlice(EndpointSlice {
            name: NamespacedName::new("default", format!("{service}-1")),
            service: service.into(),
            ports: vec![port(Protocol::Udp, "udp"), port(Protocol::Tcp, "tcp")],
            endpoints: ends.iter().map(endpoint).collect(),
        })
    }

    fn model() -> Model {
        let mut model = Model::new(Family::Ipv4, Config::default());
        let node = NodePortAddresses::Only([IpAddr::from([172, 30, 0, 11])].into());
        model.apply(Event::NodePortAddresses(node));
        for (name, n) in [("a", 1), ("b", 2)] {
            model.apply(Event::Service(service(name, n)));
            model.apply(slice(name, &["10.244.0.1", "10.244.0.2"]));
        }
        model.flush();
        model
    }

    fn is_past(stale: &StaleUdp, to: &str, end: &str) -> bool {
        stale.is_past(to.parse().unwrap(), end.parse().unwrap())
    }

    /// Where the Service `a` is addressed.
    const WAYS: [&str; 3] = ["10.96.0.1:53", "192.0.2.1:53", "172.30.0.11:30001"];

    #[test]
    fn flows_to_an_endpoint_that_is_gone_are_stale_whatever_they_were_addressed_to() {
        let mut model = model();
        model.apply(slice("a", &["10.244.0.2"]));
        let delta = model.flush();
        let stale = StaleUdp::of(&model, &delta).unwrap();
        for way in WAYS {
            assert!(is_past(&stale, way, "10.244.0.1:5353"), "{way}");
            assert!(!is_past(&stale, way, "10.244.0.2:5353"), "{way}");
        }
        for other in ["10.96.0.2:53", "192.0.2.2:53", "172.30.0.11:30002", "10.96.0.1:54"] {
            assert!(!is_past(&stale, other, "10.244.0.1:5353"), "{other}");
        }
        // Nothing of the other Service was looked at.
        assert_eq!((stale.addresses.len(), stale.node_ports.len()), (2, 1));
    }

    /// kubernetes/kubernetes#139628.
    #[test]
    fn flows_of_a_service_without_endpoints_or_without_itself_are_stale() {
        let mut model = model();
        for event in [slice("a", &[]), Event::ServiceDeleted(service("a", 1).name)] {
            model.apply(event);
            let delta = model.flush();
            let stale = StaleUdp::of(&model, &delta).unwrap();
            for way in WAYS {
                assert!(is_past(&stale, way, "10.244.0.1:5353"), "{way}");
            }
        }
    }

    #[test]
    fn what_is_not_udp_makes_nothing_stale() {
        let mut model = model();
        let mut tcp = service("a", 1);
        tcp.ports.remove(0);
        model.apply(Event::Service(tcp.clone()));
        model.flush();
        tcp.ports[0].node_port = None;
        model.apply(Event::Service(tcp));
        model.apply(slice("a", &["10.244.0.9"]));
        let delta = model.flush();
        assert!(!delta.is_empty());
        assert_eq!(StaleUdp::of(&model, &delta), None);
    }
}
