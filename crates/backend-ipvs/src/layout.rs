//! The nftables table's name and sets, and how values are written as their bytes and read back.
//!
//! ```text
//! services     address . protocol . port : flags        one for each virtual server
//! refusals     address . protocol . port : goto refuse or drop
//! guarded      address . protocol . port                fronts that not everybody may use
//! admitted     address . protocol . port . prefix length . source
//! addresses    address                                  those on kube-ipvs0
//! hairpins     address . address                        endpoints that may reach themselves
//! ```
//! A front has one flag for each class of source that is masqueraded, and one that every front has:
//! kernels before 6.4 have no way to ask whether a key is in a map at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use portolan_model::{Family, SourceClass};
use portolan_netlink::ipvs::{Protocol, VirtualServer};
use portolan_netlink::nft::{
    self, Data, DataType, Dump, Element, ElementData, Field, Name, Set, TableRef, Verdict,
};

use crate::content::{Content, Door, Refusal};
use crate::rules::REFUSE_CHAIN;

/// The name of the nftables table, in the families `ip` and `ip6`.
pub const TABLE: &str = "portolan-ipvs";

/// The flag that every front has.
pub(crate) const KNOWN_FLAG: u32 = 8;

/// The flag of a front that says that a class is masqueraded.
pub(crate) fn masquerade_flag(class: SourceClass) -> u32 {
    match class {
        SourceClass::Pod => 1,
        SourceClass::Node => 2,
        SourceClass::Outside => 4,
    }
}

/// The protocol as IPVS has it.
pub(crate) fn protocol(of: portolan_model::Protocol) -> Protocol {
    match of {
        portolan_model::Protocol::Tcp => Protocol::Tcp,
        portolan_model::Protocol::Udp => Protocol::Udp,
        portolan_model::Protocol::Sctp => Protocol::Sctp,
    }
}

/// The numbers of the protocols in the IP header.
const PROTOCOLS: [(Protocol, u8); 3] =
    [(Protocol::Tcp, 6), (Protocol::Udp, 17), (Protocol::Sctp, 132)];

/// The table and its sets, for one family.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) family: Family,
    pub(crate) masquerade_mark: u32,
    pub(crate) table: TableRef,
    pub(crate) services: Arc<Set>,
    pub(crate) refusals: Arc<Set>,
    pub(crate) guarded: Arc<Set>,
    pub(crate) admitted: Arc<Set>,
    pub(crate) addresses: Arc<Set>,
    pub(crate) hairpins: Arc<Set>,
}

/// Elements with the sets that they belong to.
pub(crate) type Elements = Vec<(Arc<Set>, Element)>;

impl Layout {
    pub(crate) fn new(family: Family, masquerade_mark: u32) -> Self {
        use DataType::{InetProto, InetService, Mark};
        let (nft_family, address) = match family {
            Family::Ipv4 => (nft::Family::Ip, DataType::Ipv4Addr),
            Family::Ipv6 => (nft::Family::Ip6, DataType::Ipv6Addr),
        };
        let table = TableRef::new(nft_family, TABLE);
        let set = |name: &str, key: &[DataType]| {
            Arc::new(Set::new(table.clone(), name, nft::SetType::new(key)))
        };
        let front = [address, InetProto, InetService];
        let key = || nft::SetType::new(&front[..]);
        let services = Set::map(table.clone(), "services", key(), [Mark]);
        Self {
            family,
            masquerade_mark,
            services: Arc::new(services),
            refusals: Arc::new(Set::verdict_map(table.clone(), "refusals", key())),
            guarded: set("guarded", &front),
            admitted: set("admitted", &[address, InetProto, InetService, Mark, address]),
            addresses: set("addresses", &[address]),
            hairpins: set("hairpins", &[address, address]),
            table,
        }
    }

    /// Every set and map.
    pub(crate) fn sets(&self) -> [&Arc<Set>; 6] {
        [
            &self.services,
            &self.refusals,
            &self.guarded,
            &self.admitted,
            &self.addresses,
            &self.hairpins,
        ]
    }

    /// What a virtual server is found by.
    fn key(server: &VirtualServer) -> Vec<Field> {
        let number = PROTOCOLS.iter().find(|(protocol, _)| *protocol == server.protocol);
        let number = number.map_or(0, |(_, number)| *number);
        vec![Field::ip(server.address), Field::Proto(number), Field::Port(server.port)]
    }

    /// A refusal, as an element with its map.
    pub(crate) fn refusal(&self, server: &VirtualServer, refusal: Refusal) -> Elements {
        let verdict = match refusal {
            Refusal::Reject => Verdict::Goto(Name::from(REFUSE_CHAIN)),
            Refusal::Drop => Verdict::Drop,
        };
        let element = Element::verdict(Data::concat(&Self::key(server)), verdict);
        vec![(self.refusals.clone(), element)]
    }

    /// Who may come, as elements with their sets.
    pub(crate) fn guards(&self, server: &VirtualServer, door: &Door) -> Elements {
        let key = Self::key(server);
        let mut elements = Vec::new();
        elements.extend(door.admitted.iter().map(|range| {
            let source = [Field::Mark(range.prefix_len().into()), Field::ip(range.network())];
            let key = Data::concat(&[&key[..], &source].concat());
            (self.admitted.clone(), Element::new(key))
        }));
        if door.is_guarded {
            elements.push((self.guarded.clone(), Element::new(Data::concat(&key))));
        }
        elements
    }

    /// Who is masqueraded at a known front, as an element with its map.
    pub(crate) fn known(&self, server: &VirtualServer, door: &Door) -> Elements {
        let element = |flags| Element::map(Data::concat(&Self::key(server)), Field::Mark(flags));
        door.masquerade.map(|flags| (self.services.clone(), element(flags))).into_iter().collect()
    }

    /// A Service's address, as an element with its set.
    pub(crate) fn address(&self, address: IpAddr) -> (Arc<Set>, Element) {
        (self.addresses.clone(), Element::new(Field::ip(address)))
    }

    /// An endpoint that reaches itself, as an element with its set.
    pub(crate) fn hairpin(&self, address: IpAddr) -> (Arc<Set>, Element) {
        let key = Data::concat(&[Field::ip(address), Field::ip(address)]);
        (self.hairpins.clone(), Element::new(key))
    }

    /// Reads the elements of a table back; none when it is not of this shape.
    pub(crate) fn read(&self, dump: &Dump, content: &mut Content) -> Option<()> {
        for wanted in self.sets() {
            dump.sets.iter().find(|(set, _)| set == wanted)?;
        }
        if dump.sets.len() != self.sets().len() {
            return None;
        }
        let doors = &mut content.doors;
        for (set, elements) in &dump.sets {
            for Element { key, data, .. } in elements {
                let bytes = key.as_bytes();
                match (set.name.as_str(), data) {
                    ("addresses", _) => drop(content.addresses.insert(self.ip(bytes)?)),
                    ("hairpins", _) => drop(content.hairpins.insert(self.ip(bytes)?)),
                    ("services", ElementData::Value(flags)) => {
                        let flags = flags.as_bytes().try_into().ok()?;
                        let door = doors.entry(self.server(bytes)?).or_default();
                        door.masquerade = Some(u32::from_ne_bytes(flags));
                    }
                    ("refusals", ElementData::Verdict(verdict)) => {
                        let refusal = match verdict {
                            Verdict::Drop => Refusal::Drop,
                            _ => Refusal::Reject,
                        };
                        doors.entry(self.server(bytes)?).or_default().refusal = Some(refusal);
                    }
                    ("guarded", _) => {
                        doors.entry(self.server(bytes)?).or_default().is_guarded = true
                    }
                    ("admitted", _) => {
                        let (length, source) =
                            bytes.get(self.front_len()..)?.split_at_checked(4)?;
                        let length = u32::from_ne_bytes(length.try_into().ok()?);
                        let range =
                            IpNet::new(self.ip(source)?, u8::try_from(length).ok()?).ok()?;
                        let door = doors.entry(self.server(bytes)?).or_default();
                        door.admitted.insert(range);
                    }
                    _ => return None,
                }
            }
        }
        Some(())
    }

    fn address_len(&self) -> usize {
        match self.family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }

    fn front_len(&self) -> usize {
        self.address_len() + 8
    }

    fn ip(&self, bytes: &[u8]) -> Option<IpAddr> {
        match self.family {
            Family::Ipv4 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
            Family::Ipv6 => bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        }
    }

    fn server(&self, bytes: &[u8]) -> Option<VirtualServer> {
        let [number, _, _, _, high, low, ..] = bytes.get(self.address_len()..)? else {
            return None;
        };
        let (protocol, _) = *PROTOCOLS.iter().find(|(_, of)| of == number)?;
        let port = u16::from_be_bytes([*high, *low]);
        Some(VirtualServer { address: self.ip(bytes)?, port, protocol })
    }
}
