//! The table's name, its sets and maps, and how the model's values are written as their bytes.
//!
//! ```text
//! services        address . protocol . port : flags . set for inside . set for outside
//! node-ports                protocol . port : the same
//! set-sizes                             set : 0 . affinity . how many slots it has
//! endpoints                      set . slot : address . port
//! services-by-size, …       affinity . size : goto services-N, …       one map for each lane
//! affine-endpoints               set . slot : set . address . port    of sets whose clients keep theirs
//! clients                      set . client : set . address . port    written by packets
//! live                 set . address . port : the same endpoints, to see whether one is still there
//! refusals                   REFUSE or DROP : goto refuse, drop
//! cluster-ips, node-port-addresses, hairpins: sets
//! guarded: fronts that not everybody may use; admitted: front . prefix length . sources
//! guarded-node-ports, admitted-node-ports: the same by protocol . port
//! ```
//! The nought in `set-sizes`, and the set in what is looked up by a set, are there because `nft list` cannot
//! bear a key that has the beginning of a lookup's data in it.
//! A front has one flag for each class of source that is masqueraded. `affinity` is after how many
//! seconds of silence a client may lose its endpoint; nought: each connection chooses anew.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use portolan_model::{
    Action, EndpointSet, Family, Front, FrontKey, Masquerade, SessionAffinity, SetId, SourceClass,
    Target,
};
use portolan_netlink::nft::{
    self, Data, DataType, Element, Field, Name, Set, SetFlags, TableRef, Verdict,
};

/// The name of the table, in the families `ip` and `ip6`.
pub const TABLE: &str = "portolan";

/// What an operator can configure about the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The bit of the packet mark that asks for masquerading, as a mask
    /// (`nftables.masqueradeBit` 14 is `0x4000`).
    pub masquerade_mark: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { masquerade_mark: 1 << 14 }
    }
}

/// In the place of a set: refuse the packet. Below [`SetId::RESERVED`].
pub(crate) const REFUSE: u32 = 1;
/// In the place of a set: drop the packet.
pub(crate) const DROP: u32 = 2;
/// The flag of a front that says that a class is masqueraded.
pub(crate) fn masquerade_flag(class: SourceClass) -> u32 {
    match class {
        SourceClass::Pod => 1,
        SourceClass::Node => 2,
        SourceClass::Outside => 4,
    }
}

/// At most so many clients are remembered; those beyond choose anew each time.
const CLIENTS: u32 = 1 << 20;

/// What sets have in common whose packets take the same chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    /// How many slots they have.
    pub(crate) slots: u32,
    /// For how many seconds a silent client keeps its endpoint; nought: not at all.
    pub(crate) affinity: u32,
}

impl Class {
    pub(crate) fn of(set: &EndpointSet) -> Self {
        let slots = u32::try_from(set.targets.len()).expect("a set has fewer than 2^32 targets");
        let affinity = match set.affinity {
            SessionAffinity::None => 0,
            SessionAffinity::ClientIp { timeout } => {
                u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1)
            }
        };
        Self { slots, affinity }
    }

    fn fields(self) -> [Field; 2] {
        [Field::Mark(self.affinity), Field::Mark(self.slots)]
    }
}

/// How a packet's front is found, and which of its sets is meant. Each lane has its own chains, as a
/// rule cannot hand what it found over to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// By destination address, protocol and port; from pods and this node.
    Services,
    /// The same, from outside.
    ServicesOutside,
    /// By protocol and port, at an address where node ports answer; from pods and this node.
    NodePorts,
    /// The same, from outside.
    NodePortsOutside,
}

impl Lane {
    /// Every lane.
    pub(crate) const ALL: [Self; 4] =
        [Self::Services, Self::ServicesOutside, Self::NodePorts, Self::NodePortsOutside];

    /// The lanes for packets of a class of source, in the order in which they are tried.
    pub(crate) fn of(class: SourceClass) -> [Self; 2] {
        match class {
            SourceClass::Pod | SourceClass::Node => [Self::Services, Self::NodePorts],
            SourceClass::Outside => [Self::ServicesOutside, Self::NodePortsOutside],
        }
    }

    /// As what names of chains and maps begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::ServicesOutside => "services-outside",
            Self::NodePorts => "node-ports",
            Self::NodePortsOutside => "node-ports-outside",
        }
    }

    /// Whether fronts are found by protocol and port alone.
    pub(crate) fn is_of_node_ports(self) -> bool {
        matches!(self, Self::NodePorts | Self::NodePortsOutside)
    }

    /// Whether the front's set for packets from outside is meant.
    pub(crate) fn is_outside(self) -> bool {
        matches!(self, Self::ServicesOutside | Self::NodePortsOutside)
    }

    /// The chain that picks one of so many slots, or the one that a client had.
    pub(crate) fn chain(self, Class { slots, affinity }: Class) -> String {
        match affinity {
            0 => format!("{}-{slots}", self.name()),
            seconds => format!("{}-{slots}-affinity-{seconds}", self.name()),
        }
    }

    /// The verdict map to those chains.
    fn by_size(self) -> String {
        format!("{}-by-size", self.name())
    }
}

/// The class as part of a name.
pub(crate) fn class_name(class: SourceClass) -> &'static str {
    match class {
        SourceClass::Pod => "pod",
        SourceClass::Node => "node",
        SourceClass::Outside => "outside",
    }
}

/// The table and its sets, for one family.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) family: Family,
    pub(crate) options: Options,
    pub(crate) table: TableRef,
    pub(crate) services: Arc<Set>,
    pub(crate) node_ports: Arc<Set>,
    pub(crate) by_size: [(Lane, Arc<Set>); 4],
    pub(crate) set_sizes: Arc<Set>,
    pub(crate) endpoints: Arc<Set>,
    pub(crate) refusals: Arc<Set>,
    pub(crate) cluster_ips: Arc<Set>,
    pub(crate) node_port_addresses: Arc<Set>,
    pub(crate) hairpins: Arc<Set>,
    pub(crate) guarded: Arc<Set>,
    pub(crate) admitted: Arc<Set>,
    pub(crate) guarded_node_ports: Arc<Set>,
    pub(crate) admitted_node_ports: Arc<Set>,
    pub(crate) affine_endpoints: Arc<Set>,
    pub(crate) clients: Arc<Set>,
    pub(crate) live: Arc<Set>,
}

impl Layout {
    pub(crate) fn new(family: Family, options: Options) -> Self {
        use DataType::{InetProto, InetService, Mark};
        let (nft_family, address) = match family {
            Family::Ipv4 => (nft::Family::Ip, DataType::Ipv4Addr),
            Family::Ipv6 => (nft::Family::Ip6, DataType::Ipv6Addr),
        };
        let table = TableRef::new(nft_family, TABLE);
        let set = |name: &str, key: &[DataType]| {
            Arc::new(Set::new(table.clone(), name, nft::SetType::new(key)))
        };
        let map = |name: &str, key: &[DataType], data: &[DataType]| {
            let [key, data] = [key, data].map(nft::SetType::new);
            Arc::new(Set::map(table.clone(), name, key, data))
        };
        let verdicts = |name: &str, key: &[DataType]| {
            Arc::new(Set::verdict_map(table.clone(), name, nft::SetType::new(key)))
        };
        let affine = [Mark, address, InetService];
        let clients = {
            let [key, data] = [&[Mark, address][..], &affine].map(nft::SetType::new);
            let flags = SetFlags { timeout: true, dynamic: true, ..SetFlags::default() };
            let map = Set::map(table.clone(), "clients", key, data);
            Arc::new(Set { flags, size: Some(CLIENTS), ..map })
        };
        let front = [Mark, Mark, Mark];
        Self {
            family,
            options,
            services: map("services", &[address, InetProto, InetService], &front),
            node_ports: map("node-ports", &[InetProto, InetService], &front),
            by_size: Lane::ALL.map(|lane| (lane, verdicts(&lane.by_size(), &[Mark, Mark]))),
            set_sizes: map("set-sizes", &[Mark], &[Mark, Mark, Mark]),
            endpoints: map("endpoints", &[Mark, Mark], &[address, InetService]),
            refusals: verdicts("refusals", &[Mark]),
            cluster_ips: set("cluster-ips", &[address]),
            node_port_addresses: set("node-port-addresses", &[address]),
            hairpins: set("hairpins", &[address, address]),
            guarded: set("guarded", &[address, InetProto, InetService]),
            admitted: set("admitted", &[address, InetProto, InetService, Mark, address]),
            guarded_node_ports: set("guarded-node-ports", &[InetProto, InetService]),
            admitted_node_ports: set(
                "admitted-node-ports",
                &[InetProto, InetService, Mark, address],
            ),
            clients,
            affine_endpoints: map("affine-endpoints", &[Mark, Mark], &affine),
            live: set("live", &affine),
            table,
        }
    }

    /// Every set and map, in the order in which they are made.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &Arc<Set>> {
        let sets = [&self.cluster_ips, &self.node_port_addresses, &self.hairpins];
        let targets = [&self.endpoints, &self.set_sizes, &self.refusals];
        let affine = [&self.affine_endpoints, &self.live, &self.clients];
        let fronts = [
            &self.admitted,
            &self.guarded,
            &self.services,
            &self.admitted_node_ports,
            &self.guarded_node_ports,
            &self.node_ports,
        ];
        sets.into_iter().chain(targets).chain(affine).chain(self.by_size()).chain(fronts)
    }

    /// The verdict maps of the lanes.
    pub(crate) fn by_size(&self) -> impl Iterator<Item = &Arc<Set>> {
        self.by_size.iter().map(|(_, map)| map)
    }

    /// The map in which a lane finds fronts.
    pub(crate) fn fronts(&self, lane: Lane) -> &Arc<Set> {
        if lane.is_of_node_ports() { &self.node_ports } else { &self.services }
    }

    /// The map that a front belongs to.
    pub(crate) fn front_map(&self, key: &FrontKey) -> &Arc<Set> {
        match key {
            FrontKey::Address { .. } => &self.services,
            FrontKey::NodePort { .. } => &self.node_ports,
        }
    }

    /// Who may use fronts of a lane: those that not everybody may, and who may.
    pub(crate) fn guards(&self, lane: Lane) -> [&Arc<Set>; 2] {
        match lane.is_of_node_ports() {
            true => [&self.guarded_node_ports, &self.admitted_node_ports],
            false => [&self.guarded, &self.admitted],
        }
    }

    fn guards_of(&self, key: &FrontKey) -> [&Arc<Set>; 2] {
        match key {
            FrontKey::Address { .. } => self.guards(Lane::Services),
            FrontKey::NodePort { .. } => self.guards(Lane::NodePorts),
        }
    }

    /// What a front is found by.
    fn front_key(key: &FrontKey) -> Vec<Field> {
        let address = key.address().map(Field::ip);
        let rest = [Field::Proto(key.protocol().number()), Field::Port(key.port())];
        address.into_iter().chain(rest).collect()
    }

    /// A front as an element, with its map.
    pub(crate) fn front(&self, key: &FrontKey, front: &Front) -> (&Arc<Set>, Element) {
        let set = |action| {
            Field::Mark(match action {
                Action::Balance(SetId(number)) => number,
                Action::Reject => REFUSE,
                Action::Drop => DROP,
            })
        };
        let masquerades =
            |class: &SourceClass| matches!(front.masquerade.of(*class), Masquerade::Yes(_));
        let classes = SourceClass::ALL.into_iter().filter(masquerades);
        let flags = classes.fold(0, |flags, class| flags | masquerade_flag(class));
        let data = Data::concat(&[Field::Mark(flags), set(front.inside), set(front.outside)]);
        (self.front_map(key), Element::map(Data::concat(&Self::front_key(key)), data))
    }

    /// A front that not everybody may use, as an element with its set; nothing for any other.
    pub(crate) fn guarded(&self, key: &FrontKey, front: &Front) -> Option<(&Arc<Set>, Element)> {
        let [guarded, _] = self.guards_of(key);
        front.source_ranges.as_ref()?;
        Some((guarded, Element::new(Data::concat(&Self::front_key(key)))))
    }

    /// Who may use such a front, as keys with their set. The prefix length is part of the key: the
    /// same address begins ranges of several lengths.
    pub(crate) fn admitted(&self, key: &FrontKey, front: &Front) -> (&Arc<Set>, BTreeSet<Data>) {
        let [_, admitted] = self.guards_of(key);
        let Some(ranges) = &front.source_ranges else { return (admitted, BTreeSet::new()) };
        let element = |range: IpNet| {
            let source = [Field::Mark(range.prefix_len().into()), Field::ip(range.network())];
            Data::concat(&[Self::front_key(key), source.into()].concat())
        };
        (admitted, ranges.admitted(key.address()).map(element).collect())
    }

    /// The class of a set, as an element.
    pub(crate) fn set_size(&self, id: SetId, set: &EndpointSet) -> Element {
        let class = Class::of(set).fields();
        Element::map(Field::Mark(id.0), Data::concat(&[&[Field::Mark(0)], &class[..]].concat()))
    }

    /// What is in a set's slot, as an element of one map or, where clients keep their endpoint, of another.
    pub(crate) fn slot(
        &self,
        id: SetId,
        set: &EndpointSet,
        slot: usize,
        target: &Target,
    ) -> (&Arc<Set>, Element) {
        let slot = u32::try_from(slot).expect("a set has fewer than 2^32 targets");
        let key = Data::concat(&[Field::Mark(id.0), Field::Mark(slot)]);
        let address = [Field::ip(target.address.ip()), Field::Port(target.address.port())];
        match set.affinity {
            SessionAffinity::None => (&self.endpoints, Element::map(key, Data::concat(&address))),
            SessionAffinity::ClientIp { .. } => {
                let data = [&[Field::Mark(id.0)], &address[..]].concat();
                (&self.affine_endpoints, Element::map(key, Data::concat(&data)))
            }
        }
    }

    /// A target that a client of the set may have, as an element of `live`; none for a set whose
    /// clients keep none.
    pub(crate) fn live(&self, id: SetId, set: &EndpointSet, target: &Target) -> Option<Element> {
        let address = [Field::ip(target.address.ip()), Field::Port(target.address.port())];
        let key = [&[Field::Mark(id.0)], &address[..]].concat();
        (set.affinity != SessionAffinity::None).then(|| Element::new(Data::concat(&key)))
    }

    /// An address, as an element of a set of addresses.
    pub(crate) fn address(&self, address: IpAddr) -> Element {
        Element::new(Field::ip(address))
    }

    /// An endpoint that reaches itself, as an element.
    pub(crate) fn hairpin(&self, address: IpAddr) -> Element {
        Element::new(Data::concat(&[Field::ip(address), Field::ip(address)]))
    }

    /// The way to the chain of a class, as an element of the lane's map.
    pub(crate) fn class(&self, lane: Lane, class: Class) -> Element {
        let to = Verdict::Goto(Name::from(lane.chain(class)));
        Element::verdict(Data::concat(&class.fields()), to)
    }

    /// What becomes of packets whose front names no set.
    pub(crate) fn refusal_elements(&self) -> [Element; 2] {
        [
            Element::verdict(Field::Mark(REFUSE), Verdict::Goto(crate::rules::REFUSE_CHAIN.into())),
            Element::verdict(Field::Mark(DROP), Verdict::Drop),
        ]
    }
}
