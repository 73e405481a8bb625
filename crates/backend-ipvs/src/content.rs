//! What the kernel holds, or should hold: all of it, or what a change touches.
//!
//! A front of a Service's own address is one virtual server; a node port is one at each address where
//! node ports answer, but where a Service has that address and port of its own, as packets find that
//! one first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{
    Action, Delta, EndpointSet, Family, ForwardingTable, Front, FrontKey, Masquerade, NodePort,
    NodePortAddresses, Protocol, SessionAffinity, SetId, Settings, SourceClass,
};
use portolan_netlink::ipvs::{self, Destination, Persistence, RealServer, Service, VirtualServer};

use crate::layout::{KNOWN_FLAG, masquerade_flag, protocol};
use crate::options::Options;

/// The weight of an endpoint.
pub(crate) const WEIGHT: u32 = 1;

/// The longest time of persistence, in seconds: above, the kernel loses count.
const LONGEST_PERSISTENCE: u32 = 4_294_967;

/// What the kernel holds, or should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Virtual servers with their real ones.
    pub(crate) servers: BTreeMap<VirtualServer, Server>,
    /// Addresses on the dummy link.
    pub(crate) link: BTreeSet<IpAddr>,
    /// What nftables knows of virtual servers.
    pub(crate) doors: BTreeMap<VirtualServer, Door>,
    /// The addresses on the dummy link, as nftables knows them.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Endpoints that may reach themselves.
    pub(crate) hairpins: BTreeSet<IpAddr>,
}

/// A virtual server with its real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) service: Service,
    pub(crate) targets: BTreeMap<RealServer, Destination>,
}

/// What nftables knows of a virtual server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Door {
    /// Its flags, by which classes of source are masqueraded; none: it is not known as a front.
    pub(crate) masquerade: Option<u32>,
    /// Whether not everybody may use it.
    pub(crate) is_guarded: bool,
    /// Who may use it then.
    pub(crate) admitted: BTreeSet<IpNet>,
    /// Whether nobody comes through.
    pub(crate) refusal: Option<Refusal>,
}

impl Door {
    /// The same but for whether nobody comes through.
    pub(crate) fn has_same_guards(&self, other: &Self) -> bool {
        self.masquerade == other.masquerade
            && self.is_guarded == other.is_guarded
            && self.admitted == other.admitted
    }
}

/// Why nobody comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Packets are refused.
    Reject,
    /// Packets are dropped.
    Drop,
}

/// A forwarding table as it is, or as it was before a delta that led to it.
pub(crate) struct View<'a> {
    table: &'a ForwardingTable,
    /// What is to be thought away.
    without: Option<&'a Delta>,
    /// The node's addresses on other links, as far as they were looked for.
    own: &'a BTreeSet<IpAddr>,
    settings: &'a Settings,
    /// The addresses at which node ports answer.
    node_ports_at: BTreeSet<IpAddr>,
}

impl<'a> View<'a> {
    /// A table as it is.
    pub(crate) fn of(table: &'a ForwardingTable, own: &'a BTreeSet<IpAddr>) -> Self {
        Self::new(table, None, own)
    }

    /// A table as it was before a delta that led to it.
    pub(crate) fn before(
        table: &'a ForwardingTable,
        delta: &'a Delta,
        own: &'a BTreeSet<IpAddr>,
    ) -> Self {
        Self::new(table, Some(delta), own)
    }

    fn new(
        table: &'a ForwardingTable,
        without: Option<&'a Delta>,
        own: &'a BTreeSet<IpAddr>,
    ) -> Self {
        let change = without.and_then(|delta| delta.settings.as_ref());
        let before = change.and_then(|change| change.before.as_ref());
        let settings = before.unwrap_or(&table.settings);
        let node_ports_at = node_ports_at(table.family, settings, own);
        Self { table, without, own, settings, node_ports_at }
    }

    pub(crate) fn front(&self, key: &FrontKey) -> Option<&'a Front> {
        match self.without.and_then(|delta| delta.fronts.get(key)) {
            Some(change) => change.before.as_ref(),
            None => self.table.fronts.get(key),
        }
    }

    fn set(&self, id: SetId) -> Option<&'a EndpointSet> {
        let set = match self.without.and_then(|delta| delta.sets.get(&id)) {
            Some(change) => change.before.as_ref(),
            None => self.table.sets.get(&id),
        };
        set.map(|set| &**set)
    }

    /// Every front.
    pub(crate) fn fronts(&self) -> impl Iterator<Item = (&'a FrontKey, &'a Front)> + use<'a> {
        let without = self.without;
        let is_changed =
            move |key: &FrontKey| without.is_some_and(|delta| delta.fronts.contains_key(key));
        let same = self.table.fronts.iter().filter(move |(key, _)| !is_changed(key));
        let were = without.into_iter().flat_map(|delta| &delta.fronts);
        same.chain(were.filter_map(|(key, change)| Some((key, change.before.as_ref()?))))
    }

    /// The virtual servers of a front.
    pub(crate) fn virtual_servers(&self, key: &FrontKey) -> Vec<VirtualServer> {
        let (protocol, port) = (protocol(key.protocol()), key.port());
        let at = |address| VirtualServer { address, port, protocol };
        match key.address() {
            Some(address) => vec![at(address)],
            None => self.node_ports_at.iter().copied().map(at).collect(),
        }
    }

    /// The front that packets to a virtual server find.
    fn front_of(&self, server: &VirtualServer) -> Option<(FrontKey, &'a Front)> {
        let VirtualServer { address, port, protocol: of } = *server;
        let protocol = Protocol::ALL.into_iter().find(|each| protocol(*each) == of)?;
        let key = FrontKey::Address { ip: address, protocol, port };
        if let Some(front) = self.front(&key) {
            return Some((key, front));
        }
        let key = FrontKey::NodePort { protocol, port: NodePort::new(port)? };
        let front = self.front(&key)?;
        self.node_ports_at.contains(&address).then_some((key, front))
    }

    /// Whether an address is a Service's and belongs on the dummy link.
    fn is_held(&self, ip: IpAddr) -> bool {
        if self.own.contains(&ip) || self.settings.is_of_this_node(ip) {
            return false;
        }
        let range = FrontKey::all_at(ip);
        let Some(delta) = self.without else { return self.table.is_service_address(ip) };
        let had_ip = match delta.cluster_ips.get(&ip) {
            Some(change) => change.before.is_some(),
            None => self.table.cluster_ips.contains(&ip),
        };
        let mut same = self.table.fronts.range(range.clone());
        had_ip
            || same.any(|(key, _)| !delta.fronts.contains_key(key))
            || delta.fronts.range(range).any(|(_, change)| change.before.is_some())
    }

    fn is_hairpin(&self, ip: IpAddr) -> bool {
        match self.without.and_then(|delta| delta.hairpins.get(&ip)) {
            Some(change) => change.before.is_some(),
            None => self.table.hairpins.contains(&ip),
        }
    }

    fn server(&self, options: &Options, front: &Front) -> Server {
        let set = match front.outside {
            Action::Balance(id) => self.set(id),
            Action::Reject | Action::Drop => None,
        };
        let persistence = set.and_then(|set| match set.affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout } => {
                let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
                Some(Persistence::of_hosts(seconds.clamp(1, LONGEST_PERSISTENCE)))
            }
        });
        let targets = set.into_iter().flat_map(|set| set.targets.as_slice());
        let target = |target: &portolan_model::Target| {
            let server = RealServer { address: target.address.ip(), port: target.address.port() };
            (server, Destination::masquerade(WEIGHT))
        };
        Server {
            service: Service { scheduler: options.scheduler, persistence, flags: options.flags() },
            targets: targets.map(target).collect(),
        }
    }
}

/// The addresses of the node at which node ports answer. Virtual servers have no link, so link-local
/// addresses are none of them; nor are loopback ones, from which the kernel lets nothing leave.
fn node_ports_at(family: Family, settings: &Settings, own: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let is_of_use = |ip: &&IpAddr| {
        let is_link_local = match ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        Family::of(**ip) == family && !ip.is_loopback() && !is_link_local
    };
    match &settings.node_port_addresses {
        NodePortAddresses::Only(addresses) => addresses.iter().filter(is_of_use).copied().collect(),
        NodePortAddresses::AllLocal => {
            settings.node_addresses.iter().chain(own).filter(is_of_use).copied().collect()
        }
    }
}

fn door(key: &FrontKey, front: &Front) -> Door {
    let is_masqueraded =
        |class: &SourceClass| matches!(front.masquerade.of(*class), Masquerade::Yes(_));
    let classes = SourceClass::ALL.into_iter().filter(is_masqueraded);
    let ranges = front.source_ranges.as_ref();
    let admitted = ranges.into_iter().flat_map(|ranges| ranges.admitted(key.address()));
    Door {
        masquerade: Some(classes.fold(KNOWN_FLAG, |flags, class| flags | masquerade_flag(class))),
        is_guarded: ranges.is_some(),
        admitted: admitted.map(|range| range.trunc()).collect(),
        refusal: match front.outside {
            Action::Balance(_) => None,
            Action::Reject => Some(Refusal::Reject),
            Action::Drop => Some(Refusal::Drop),
        },
    }
}

/// What a change touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) servers: BTreeSet<VirtualServer>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) hairpins: BTreeSet<IpAddr>,
}

impl Touched {
    /// All that a table has.
    pub(crate) fn all(view: &View<'_>) -> Self {
        let mut touched = Self::default();
        for (key, _) in view.fronts() {
            touched.front(view, key);
        }
        touched.addresses.extend(&view.table.cluster_ips);
        touched.hairpins.extend(&view.table.hairpins);
        touched
    }

    /// A front, with its address.
    pub(crate) fn front(&mut self, view: &View<'_>, key: &FrontKey) {
        self.servers.extend(view.virtual_servers(key));
        self.addresses.extend(key.address());
    }

    pub(crate) fn len(&self) -> usize {
        self.servers.len() + self.addresses.len() + self.hairpins.len()
    }
}

impl Content {
    /// What the kernel should hold of what is touched.
    pub(crate) fn of(options: &Options, view: &View<'_>, touched: &Touched) -> Self {
        let mut content = Self::default();
        for server in &touched.servers {
            if let Some((key, front)) = view.front_of(server) {
                content.servers.insert(*server, view.server(options, front));
                content.doors.insert(*server, door(&key, front));
            }
        }
        content.link = touched.addresses.iter().copied().filter(|ip| view.is_held(*ip)).collect();
        content.addresses = content.link.clone();
        content.hairpins =
            touched.hairpins.iter().copied().filter(|ip| view.is_hairpin(*ip)).collect();
        content
    }
}

/// Whether a real server may go on for its connections' sake after it is no endpoint any more. UDP
/// and SCTP have nothing to wait for.
///
/// Upstream rule: `GracefulDeleteRS` of pkg/proxy/ipvs/graceful_termination.go.
pub(crate) fn terminates_gracefully(server: &VirtualServer) -> bool {
    server.protocol == ipvs::Protocol::Tcp
}
