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
    Action, Delta, ForwardingTable, Front, FrontKey, NodePortAddresses, Protocol, SetId,
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

    /// What a change says; none when nothing of UDP changed.
    #[must_use]
    pub fn of(table: &ForwardingTable, delta: &Delta) -> Option<Self> {
        let mut sets = BTreeSet::new();
        for (id, change) in &delta.sets {
            let set = change.before.as_ref().or(change.after.as_ref());
            if set.is_some_and(|set| set.port.protocol == Protocol::Udp) {
                sets.insert(*id);
            }
        }
        let mut this = Self::new(table);
        if !sets.is_empty() {
            let uses = |front: &Front| targets_of(front).any(|set| sets.contains(&set));
            for (key, front) in table.fronts.iter().filter(|(_, front)| uses(front)) {
                this.add(table, key, Some(front));
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
        let to = flow.original.destination;
        let at_node = || match &self.node_addresses {
            Some(addresses) => addresses.contains(&to.ip()),
            None => !to.ip().is_loopback(),
        };
        let live = match self.addresses.get(&to) {
            Some(live) => Some(live),
            None => self.node_ports.get(&to.port()).filter(|_| at_node()),
        };
        live.is_some_and(|live| !live.contains(&flow.reply.source))
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
