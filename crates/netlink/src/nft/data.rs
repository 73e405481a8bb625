//! The bytes that sets and registers hold, and the types that give them meaning.
//!
//! Invariant (kernel, `nft_set_desc_concat`): a key of one field has that field's natural length;
//! a concatenation pads every field to a multiple of four bytes, as registers do. [`Data::concat`]
//! and [`SetType::len`] keep to that, so data built from a type's fields always fits the type.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The type of one field of a set's key or data (nftables `enum datatypes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    /// `ipv4_addr`, 4 bytes in network order.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes in network order.
    Ipv6Addr,
    /// `ether_addr`, 6 bytes.
    EtherAddr,
    /// `inet_proto`, one byte: an IP protocol number.
    InetProto,
    /// `inet_service`, 2 bytes in network order: a port.
    InetService,
    /// `mark`, 4 bytes in host order; also what we use for our own numbers.
    Mark,
    /// `iface_index`, 4 bytes in host order.
    IfIndex,
    /// `ifname`, 16 bytes, padded by NULs.
    IfName,
    /// A type that this crate does not name: nftables' number and the length in bytes.
    Other(u32, u32),
}

impl DataType {
    /// Every named type.
    pub const NAMED: [Self; 8] = [
        Self::Ipv4Addr,
        Self::Ipv6Addr,
        Self::EtherAddr,
        Self::InetProto,
        Self::InetService,
        Self::Mark,
        Self::IfIndex,
        Self::IfName,
    ];

    /// The natural length, in bytes.
    #[must_use]
    pub const fn len(self) -> u32 {
        match self {
            Self::Ipv4Addr | Self::Mark | Self::IfIndex => 4,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::EtherAddr => 6,
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Other(_, len) => len,
        }
    }

    /// The length in registers, in bytes: the natural length rounded up to four.
    #[must_use]
    pub const fn padded_len(self) -> u32 {
        self.len().div_ceil(4) * 4
    }

    /// Whether the type has no bytes, which only [`DataType::Other`] can claim.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// nftables' number of the type.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::IfIndex => 20,
            Self::IfName => 41,
            Self::Other(id, _) => id,
        }
    }

    /// The named type with that number.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::NAMED.into_iter().find(|t| t.id() == id)
    }

    /// nftables' name of the type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::EtherAddr => "ether_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
            Self::IfIndex => "iface_index",
            Self::IfName => "ifname",
            Self::Other(..) => "integer",
        }
    }
}

/// The type of a set's key or data: one field, or a concatenation of at most five.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetType(Vec<DataType>);

impl SetType {
    /// A type of these fields, in order.
    #[must_use]
    pub fn new(fields: impl Into<Vec<DataType>>) -> Self {
        Self(fields.into())
    }

    /// The fields, in order.
    #[must_use]
    pub fn fields(&self) -> &[DataType] {
        &self.0
    }

    /// The length of the whole, in bytes.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self.0.as_slice() {
            [one] => one.len(),
            many => many.iter().map(|t| t.padded_len()).sum(),
        }
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// nftables' number of the type: six bits for each field, the first one highest.
    #[must_use]
    pub fn id(&self) -> u32 {
        match self.0.as_slice() {
            [one] => one.id(),
            many => many.iter().fold(0, |id, t| (id << 6) | (t.id() & 0x3f)),
        }
    }

    /// Reads nftables' number back; `len` decides when a number alone does not.
    #[must_use]
    pub fn from_id(id: u32, len: u32) -> Self {
        let mut fields = Vec::new();
        let mut rest = id;
        while rest != 0 {
            match DataType::from_id(rest & 0x3f) {
                Some(t) => fields.insert(0, t),
                None => return Self(vec![DataType::Other(id, len)]),
            }
            rest >>= 6;
        }
        let this = Self(fields);
        if this.len() == len { this } else { Self(vec![DataType::Other(id, len)]) }
    }

    /// The offset and length of each field within data of this type, with the field's type.
    pub fn spans(&self) -> impl Iterator<Item = (DataType, usize, usize)> + '_ {
        let mut offset = 0;
        self.0.iter().map(move |t| {
            let at = offset;
            offset += t.padded_len() as usize;
            (*t, at, t.len() as usize)
        })
    }
}

impl<const N: usize> From<[DataType; N]> for SetType {
    fn from(fields: [DataType; N]) -> Self {
        Self(fields.to_vec())
    }
}

impl fmt::Display for SetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" . ")?;
            }
            f.write_str(t.name())?;
        }
        Ok(())
    }
}

/// One field's value, before it is laid out as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A hardware address.
    Ether([u8; 6]),
    /// An IP protocol number.
    Proto(u8),
    /// A port.
    Port(u16),
    /// A mark, or a number of our own.
    Mark(u32),
    /// An interface's index.
    IfIndex(u32),
    /// An interface's name, padded by NULs.
    IfName([u8; 16]),
}

impl Field {
    /// The field of an address of either family.
    #[must_use]
    pub const fn ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::Ipv4(a),
            IpAddr::V6(a) => Self::Ipv6(a),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Ipv4(a) => out.extend_from_slice(&a.octets()),
            Self::Ipv6(a) => out.extend_from_slice(&a.octets()),
            Self::Ether(a) => out.extend_from_slice(&a),
            Self::Proto(p) => out.push(p),
            Self::Port(p) => out.extend_from_slice(&p.to_be_bytes()),
            Self::Mark(n) | Self::IfIndex(n) => out.extend_from_slice(&n.to_ne_bytes()),
            Self::IfName(n) => out.extend_from_slice(&n),
        }
    }
}

/// Bytes as they stand in registers or in a set's elements.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Data(Box<[u8]>);

impl Data {
    /// These bytes as they are.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// One field at its natural length, or several, each padded to four bytes.
    #[must_use]
    pub fn concat(fields: &[Field]) -> Self {
        let mut bytes = Vec::with_capacity(fields.len() * 4);
        for field in fields {
            field.write(&mut bytes);
            if fields.len() > 1 {
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        Self(bytes.into_boxed_slice())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl From<Field> for Data {
    fn from(field: Field) -> Self {
        Self::concat(&[field])
    }
}
