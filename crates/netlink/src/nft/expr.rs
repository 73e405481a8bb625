//! Expressions: the kernel's small register machine.
//!
//! A rule's expressions run in order. Loads put a value into registers, matches break off the
//! rule when they do not hold, statements act. There are sixteen registers of four bytes
//! ([`Reg`]); a longer value takes the following ones too, which is also how a concatenation is
//! made: load its fields side by side and use the first register.
//!
//! Upstream rule: `enum nft_*_attributes` of nf_tables.h, one variant for each expression.

use std::time::Duration;

use super::data::{Data, Field};
use super::object::{Family, Name, Verdict};

/// A register of four bytes, 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(u8);

impl Reg {
    /// The first register.
    pub const R0: Self = Self(0);

    /// The register of that number, if there is one.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 16 { Some(Self(number)) } else { None }
    }

    /// The register of that number, for constants in plans; a number above 15 fails at once.
    ///
    /// # Panics
    /// When `number` is above 15.
    #[must_use]
    pub const fn at(number: u8) -> Self {
        assert!(number < 16, "there are sixteen registers");
        Self(number)
    }

    /// Its number, 0 to 15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The registers of a range's first and last value; equal for a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegRange {
    /// The first value.
    pub min: Reg,
    /// The last value, included.
    pub max: Reg,
}

impl From<Reg> for RegRange {
    fn from(reg: Reg) -> Self {
        Self { min: reg, max: reg }
    }
}

/// What `meta` reads of or writes to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// The length, in bytes, 4 bytes in host order.
    Length,
    /// The ethertype, 2 bytes in network order.
    Protocol,
    /// The mark, 4 bytes in host order.
    Mark,
    /// The index of the interface it came in by.
    Iif,
    /// The index of the interface it goes out by.
    Oif,
    /// The name of the interface it came in by, 16 bytes.
    IifName,
    /// The name of the interface it goes out by, 16 bytes.
    OifName,
    /// The netfilter family, one byte: 2 for IPv4, 10 for IPv6.
    NfProto,
    /// The transport protocol, one byte.
    L4Proto,
    /// Whether rules report what they do with it, one byte.
    NfTrace,
}

/// Where a payload's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// The link layer's header.
    Link,
    /// The IP header.
    Network,
    /// The TCP, UDP or SCTP header.
    Transport,
}

/// What `ct` reads of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtKey {
    /// The state bits, 4 bytes in host order.
    State,
    /// The direction of this packet, one byte: 0 original, 1 reply.
    Direction,
    /// The status bits ([`ct_status`]), 4 bytes in host order.
    Status,
    /// The connection's mark, 4 bytes in host order.
    Mark,
    /// The transport protocol, one byte; it is that of both directions, and the kernel forgets one
    /// that is given.
    Protocol,
    /// The source port of a direction, 2 bytes in network order.
    ProtoSrc,
    /// The destination port of a direction, 2 bytes in network order.
    ProtoDst,
    /// The IPv4 source of a direction.
    SrcIp,
    /// The IPv4 destination of a direction.
    DstIp,
    /// The IPv6 source of a direction.
    SrcIp6,
    /// The IPv6 destination of a direction.
    DstIp6,
}

/// Bits of [`CtKey::Status`] (`enum ip_conntrack_status`).
pub mod ct_status {
    /// Both directions have been seen.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// The source is rewritten.
    pub const SNAT: u32 = 1 << 4;
    /// The destination is rewritten.
    pub const DNAT: u32 = 1 << 5;
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtDirection {
    /// As the first packet went.
    Original,
    /// As answers go.
    Reply,
}

/// How `numgen` makes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumgenKind {
    /// One after the other.
    Incremental,
    /// At random.
    Random,
}

/// What `dynset` does to an element as a packet passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynsetOp {
    /// Adds it unless it is there.
    Add,
    /// Adds it, or starts its timeout anew.
    Update,
    /// Removes it.
    Delete,
}

/// How values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Less, as bytes in network order.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
}

/// How a value stands to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RangeOp {
    /// Within.
    Eq,
    /// Outside.
    Neq,
}

/// What `bitwise` computes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BitwiseOp {
    /// `(value & mask) ^ xor`.
    MaskXor {
        /// The mask.
        mask: Data,
        /// The bits to turn afterwards.
        xor: Data,
    },
    /// Shifts left by so many bits.
    ShiftLeft(u32),
    /// Shifts right by so many bits.
    ShiftRight(u32),
}

/// Which address `nat` rewrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// The source.
    Snat,
    /// The destination.
    Dnat,
}

/// How a port or address is picked (`NF_NAT_RANGE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatFlags {
    /// `random`: source ports by hash.
    pub random: bool,
    /// `fully-random`: source ports at random.
    pub fully_random: bool,
    /// `persistent`: the same client always gets the same address.
    pub persistent: bool,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectKind {
    /// By ICMP or ICMPv6, as the table's family says; see [`icmp_unreach`].
    IcmpUnreach(u8),
    /// By a TCP reset; the rule must match TCP first.
    TcpReset,
    /// By ICMP or ICMPv6, as the packet's family says; see [`icmpx`].
    IcmpxUnreach(u8),
}

/// ICMP's codes of destination unreachable (RFC 792).
pub mod icmp_unreach {
    /// `host-unreachable`.
    pub const HOST: u8 = 1;
    /// `port-unreachable`.
    pub const PORT: u8 = 3;
    /// `admin-prohibited`.
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// Codes that fit both families (`enum nft_reject_inet_code`).
pub mod icmpx {
    /// `no-route`.
    pub const NO_ROUTE: u8 = 0;
    /// `port-unreachable`.
    pub const PORT: u8 = 1;
    /// `host-unreachable`.
    pub const HOST: u8 = 2;
    /// `admin-prohibited`.
    pub const ADMIN_PROHIBITED: u8 = 3;
}

/// What `fib` reads of the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibResult {
    /// The output interface's index.
    Oif,
    /// The output interface's name.
    OifName,
    /// The address type, 4 bytes in host order: 1 unicast, 2 local, 3 broadcast, …
    AddrType,
}

/// What `fib` looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FibFlags {
    /// The source address.
    pub saddr: bool,
    /// The destination address.
    pub daddr: bool,
    /// With the packet's mark.
    pub mark: bool,
    /// By the input interface only.
    pub iif: bool,
    /// By the output interface only.
    pub oif: bool,
    /// Match only if there is a result.
    pub present: bool,
}

/// How urgent a logged line is, as in syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// `emerg`.
    Emerg,
    /// `alert`.
    Alert,
    /// `crit`.
    Crit,
    /// `err`.
    Err,
    /// `warn`.
    Warning,
    /// `notice`.
    Notice,
    /// `info`.
    Info,
    /// `debug`.
    Debug,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads of the packet's metadata.
    Meta {
        /// What.
        key: MetaKey,
        /// Into.
        dreg: Reg,
    },
    /// Writes of the packet's metadata.
    MetaSet {
        /// What.
        key: MetaKey,
        /// From.
        sreg: Reg,
    },
    /// Loads bytes of the packet.
    Payload {
        /// From which header.
        base: PayloadBase,
        /// At which byte.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Into.
        dreg: Reg,
    },
    /// Loads of the packet's connection; breaks off when it has none.
    Ct {
        /// What.
        key: CtKey,
        /// Of which direction, for the keys of a tuple.
        direction: Option<CtDirection>,
        /// Into.
        dreg: Reg,
    },
    /// Writes of the packet's connection: the mark only.
    CtSet {
        /// What.
        key: CtKey,
        /// From.
        sreg: Reg,
    },
    /// Makes a number from `offset` up to below `offset + modulus`, 4 bytes in host order.
    Numgen {
        /// How.
        kind: NumgenKind,
        /// Of how many.
        modulus: u32,
        /// The first one.
        offset: u32,
        /// Into.
        dreg: Reg,
    },
    /// Looks a key up; breaks off when it is not there.
    Lookup {
        /// The set, of the rule's own table.
        set: Name,
        /// The key.
        sreg: Reg,
        /// Where to put what the key maps to.
        dreg: Option<Reg>,
        /// Breaks off when it *is* there instead.
        invert: bool,
    },
    /// Looks a key up in a verdict map and follows what it maps to.
    VerdictMap {
        /// The map, of the rule's own table.
        map: Name,
        /// The key.
        sreg: Reg,
    },
    /// Changes a set as the packet passes; breaks off when it cannot.
    Dynset {
        /// The set, of the rule's own table.
        set: Name,
        /// What to do.
        op: DynsetOp,
        /// The key.
        key: Reg,
        /// What it maps to.
        data: Option<Reg>,
        /// After how long it goes, if not the set's default.
        timeout: Option<Duration>,
        /// What the element does by itself, a counter for instance.
        exprs: Vec<Expr>,
    },
    /// Loads a constant.
    Immediate {
        /// The constant.
        data: Data,
        /// Into.
        dreg: Reg,
    },
    /// Says where the packet goes.
    Verdict(Verdict),
    /// Computes on a register's bits.
    Bitwise {
        /// From.
        sreg: Reg,
        /// Into.
        dreg: Reg,
        /// How many bytes.
        len: u32,
        /// What.
        op: BitwiseOp,
    },
    /// Turns bytes between host and network order.
    Byteorder {
        /// From.
        sreg: Reg,
        /// Into.
        dreg: Reg,
        /// Whether to network order, else from it.
        to_network: bool,
        /// How many bytes in all.
        len: u32,
        /// How many bytes a number has: 2, 4 or 8.
        size: u32,
    },
    /// Goes on only if the comparison holds.
    Cmp {
        /// How.
        op: CmpOp,
        /// What.
        sreg: Reg,
        /// With what.
        data: Data,
    },
    /// Goes on only if the value stands so to the range.
    Range {
        /// How.
        op: RangeOp,
        /// What.
        sreg: Reg,
        /// The first value of the range.
        from: Data,
        /// The last one, included.
        to: Data,
    },
    /// Rewrites the source or destination of the connection.
    Nat {
        /// Which.
        kind: NatKind,
        /// The family of the addresses.
        family: Family,
        /// The registers of the new address.
        addr: Option<RegRange>,
        /// The registers of the new port.
        port: Option<RegRange>,
        /// How to pick.
        flags: NatFlags,
    },
    /// Rewrites the source to the output interface's address.
    Masquerade {
        /// The registers of the new port.
        port: Option<RegRange>,
        /// How to pick.
        flags: NatFlags,
    },
    /// Rewrites the destination to this machine.
    Redirect {
        /// The registers of the new port.
        port: Option<RegRange>,
        /// How to pick.
        flags: NatFlags,
    },
    /// Refuses the packet.
    Reject(RejectKind),
    /// Loads of the routing table.
    Fib {
        /// What.
        result: FibResult,
        /// Of what.
        flags: FibFlags,
        /// Into.
        dreg: Reg,
    },
    /// Counts.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Keeps the packet out of connection tracking.
    Notrack,
    /// Writes a line to the kernel's log.
    Log {
        /// What it begins with.
        prefix: String,
        /// How urgent; `nft` means [`LogLevel::Warning`] when it says nothing.
        level: LogLevel,
    },
    /// Lets through at most so many packets.
    Limit {
        /// So many.
        rate: u64,
        /// In so many seconds.
        unit: u64,
        /// And so many at once.
        burst: u32,
        /// Matches what is over the limit instead.
        over: bool,
    },
    /// An expression that this crate cannot say, by its name. Only dumps have it: a rule with it is
    /// somebody else's, and the kernel refuses it when it is committed.
    Other(String),
}

impl Expr {
    /// Loads of the packet's metadata.
    #[must_use]
    pub const fn meta(key: MetaKey, dreg: Reg) -> Self {
        Self::Meta { key, dreg }
    }

    /// Loads the transport protocol.
    #[must_use]
    pub const fn l4proto(dreg: Reg) -> Self {
        Self::meta(MetaKey::L4Proto, dreg)
    }

    /// Loads the source address.
    #[must_use]
    pub const fn saddr(family: Family, dreg: Reg) -> Self {
        match family {
            Family::Ip6 => Self::Payload { base: PayloadBase::Network, offset: 8, len: 16, dreg },
            _ => Self::Payload { base: PayloadBase::Network, offset: 12, len: 4, dreg },
        }
    }

    /// Loads the destination address.
    #[must_use]
    pub const fn daddr(family: Family, dreg: Reg) -> Self {
        match family {
            Family::Ip6 => Self::Payload { base: PayloadBase::Network, offset: 24, len: 16, dreg },
            _ => Self::Payload { base: PayloadBase::Network, offset: 16, len: 4, dreg },
        }
    }

    /// Loads the source port.
    #[must_use]
    pub const fn sport(dreg: Reg) -> Self {
        Self::Payload { base: PayloadBase::Transport, offset: 0, len: 2, dreg }
    }

    /// Loads the destination port.
    #[must_use]
    pub const fn dport(dreg: Reg) -> Self {
        Self::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg }
    }

    /// Loads of the connection, as a whole.
    #[must_use]
    pub const fn ct(key: CtKey, dreg: Reg) -> Self {
        Self::Ct { key, direction: None, dreg }
    }

    /// Loads of the connection as its first packet went.
    #[must_use]
    pub const fn ct_original(key: CtKey, dreg: Reg) -> Self {
        Self::Ct { key, direction: Some(CtDirection::Original), dreg }
    }

    /// A random number below `modulus`.
    #[must_use]
    pub const fn random(modulus: u32, dreg: Reg) -> Self {
        Self::Numgen { kind: NumgenKind::Random, modulus, offset: 0, dreg }
    }

    /// Goes on only if the key is in the set.
    #[must_use]
    pub fn is_in(set: impl Into<Name>, sreg: Reg) -> Self {
        Self::Lookup { set: set.into(), sreg, dreg: None, invert: false }
    }

    /// Goes on only if the key is not in the set.
    #[must_use]
    pub fn is_not_in(set: impl Into<Name>, sreg: Reg) -> Self {
        Self::Lookup { set: set.into(), sreg, dreg: None, invert: true }
    }

    /// Looks the key up and puts what it maps to into registers.
    #[must_use]
    pub fn lookup(map: impl Into<Name>, sreg: Reg, dreg: Reg) -> Self {
        Self::Lookup { set: map.into(), sreg, dreg: Some(dreg), invert: false }
    }

    /// Looks the key up and follows the verdict.
    #[must_use]
    pub fn vmap(map: impl Into<Name>, sreg: Reg) -> Self {
        Self::VerdictMap { map: map.into(), sreg }
    }

    /// Goes on only if the register holds these bytes.
    #[must_use]
    pub fn eq(sreg: Reg, data: impl Into<Data>) -> Self {
        Self::Cmp { op: CmpOp::Eq, sreg, data: data.into() }
    }

    /// Goes on only if the register does not hold these bytes.
    #[must_use]
    pub fn neq(sreg: Reg, data: impl Into<Data>) -> Self {
        Self::Cmp { op: CmpOp::Neq, sreg, data: data.into() }
    }

    /// Loads a constant.
    #[must_use]
    pub fn immediate(data: impl Into<Data>, dreg: Reg) -> Self {
        Self::Immediate { data: data.into(), dreg }
    }

    /// `(sreg & mask) ^ xor` of a number of four bytes in host order, such as a mark.
    #[must_use]
    pub fn bits(sreg: Reg, dreg: Reg, mask: u32, xor: u32) -> Self {
        let (mask, xor) = (Field::Mark(mask).into(), Field::Mark(xor).into());
        Self::Bitwise { sreg, dreg, len: 4, op: BitwiseOp::MaskXor { mask, xor } }
    }

    /// Rewrites the destination to what the registers hold.
    #[must_use]
    pub fn dnat(family: Family, addr: Reg, port: Option<Reg>) -> Self {
        Self::Nat {
            kind: NatKind::Dnat,
            family,
            addr: Some(addr.into()),
            port: port.map(Into::into),
            flags: NatFlags::default(),
        }
    }

    /// Rewrites the source to the output interface's address, with random source ports.
    #[must_use]
    pub fn masquerade() -> Self {
        let flags = NatFlags { fully_random: true, ..NatFlags::default() };
        Self::Masquerade { port: None, flags }
    }

    /// A counter that begins at nought.
    #[must_use]
    pub const fn counter() -> Self {
        Self::Counter { packets: 0, bytes: 0 }
    }
}
