//! The chains and rules of the nftables table: a constant number.
//!
//! ```text
//! prerouting  nat   -100 ─▶ mark-pod, mark-outside   mark for masquerading, if the front says so
//! input       filter   0 ─▶ check                    1. guarded: is the source admitted?
//!                                                    2. refused, dropped?
//!                                                    3. a front: on to IPVS, which waits at 98
//!                                                    4. another port of a Service's address: refuse
//! output      filter -110 ─▶ check-here              the same, for what this node sends
//!             nat    -100 ─▶ mark-node               and what comes from a Service's address
//!                                                    (IPVS waits at -99)
//! postrouting nat     100    marked: clear the mark, masquerade; hairpin: masquerade
//! ```
//! What IPVS sends on goes through output once more, with an endpoint as destination; so there the
//! connection's own destination is looked up, which makes the second answer the first one. IPVS does
//! not say that it rewrote a destination (`ct status dnat`). A packet that comes back to where it was sent
//! from is hairpin in any case.
//!
//! Upstream rule: `writeIptablesRules` of pkg/proxy/ipvs/proxier.go.

use ipnet::IpNet;
use portolan_model::{Family, LocalDetector, Settings, SourceClass};
use portolan_netlink::nft::{
    BaseChain, BitwiseOp, Chain, ChainKind, ChainRef, CtKey, Data, Expr, Field, Hook, MetaKey,
    Name, Policy, Reg, RejectKind, Rule, Verdict, icmp_unreach, priority,
};

use crate::layout::{KNOWN_FLAG, Layout, masquerade_flag};

/// The chain that refuses.
pub(crate) const REFUSE_CHAIN: &str = "refuse";
const ADMIT_CHAIN: &str = "admit";
const ADMIT_HERE_CHAIN: &str = "admit-here";
/// Bit of `ct state new` (`NF_CT_STATE_BIT(IP_CT_NEW)`).
const CT_STATE_NEW: u32 = 1 << 3;
/// ICMPv6 destination unreachable, port unreachable (RFC 4443, 3.1).
const ICMPV6_PORT_UNREACHABLE: u8 = 4;
/// Before destinations are rewritten and IPVS takes packets.
const BEFORE_IPVS: i32 = priority::DSTNAT - 10;

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainRules {
    pub(crate) chain: Chain,
    pub(crate) rules: Vec<Rule>,
}

/// Where a packet's destination is read.
#[derive(Clone, Copy)]
enum Destination {
    /// In its headers.
    Packet,
    /// In what its connection began with.
    Connection,
}

/// All chains, those that others lead to first. They depend on the settings alone.
pub(crate) fn chains(layout: &Layout, settings: &Settings) -> Vec<ChainRules> {
    let mut chains = vec![refuse(layout)];
    for (destination, admit_chain, check_chain) in [
        (Destination::Packet, ADMIT_CHAIN, "check"),
        (Destination::Connection, ADMIT_HERE_CHAIN, "check-here"),
    ] {
        chains.push(admit(layout, settings, destination, admit_chain));
        chains.push(check(layout, destination, admit_chain, check_chain));
    }
    for class in SourceClass::ALL {
        chains.push(mark(layout, class));
    }
    for (name, hook, priority, to) in [
        ("filter-input", Hook::Input, priority::FILTER, "check"),
        ("filter-output", Hook::Output, BEFORE_IPVS, "check-here"),
    ] {
        let mut chain = base(layout, name, ChainKind::Filter, hook, priority);
        chain.push(accept_unless_new());
        chain.push(vec![goto(to)]);
        chains.push(chain);
    }
    for (name, hook, other) in [
        ("nat-prerouting", Hook::Prerouting, SourceClass::Outside),
        ("nat-output", Hook::Output, SourceClass::Node),
    ] {
        let mut chain = base(layout, name, ChainKind::Nat, hook, priority::DSTNAT);
        for matched in detect(layout, &settings.local_detector, hook) {
            chain.push([matched, vec![goto(mark_chain(SourceClass::Pod))]].concat());
        }
        chain.push(vec![goto(mark_chain(other))]);
        chains.push(chain);
    }
    chains.push(postrouting(layout));
    chains
}

fn mark_chain(class: SourceClass) -> &'static str {
    match class {
        SourceClass::Pod => "mark-pod",
        SourceClass::Node => "mark-node",
        SourceClass::Outside => "mark-outside",
    }
}

/// A TCP client is refused by a reset, which no rate limit holds back as it does ICMP errors.
fn refuse(layout: &Layout) -> ChainRules {
    let mut chain = regular(layout, REFUSE_CHAIN);
    let tcp = portolan_model::Protocol::Tcp.number();
    chain.push(vec![
        Expr::l4proto(Reg::R0),
        Expr::eq(Reg::R0, Field::Proto(tcp)),
        Expr::Reject(RejectKind::TcpReset),
    ]);
    let unreachable = match layout.family {
        Family::Ipv4 => icmp_unreach::PORT,
        Family::Ipv6 => ICMPV6_PORT_UNREACHABLE,
    };
    chain.push(vec![Expr::Reject(RejectKind::IcmpUnreach(unreachable))]);
    chain
}

/// Looks the source of a packet to a guarded front up, by each prefix length that any range has.
fn admit(layout: &Layout, settings: &Settings, destination: Destination, name: &str) -> ChainRules {
    let mut chain = regular(layout, name);
    let next = address_registers(layout.family) + 2;
    let (length, source) = (Reg::at(next), Reg::at(next + 1));
    for prefix in &settings.source_prefixes {
        let mut rule = key(layout, destination);
        rule.push(Expr::immediate(Field::Mark((*prefix).into()), length));
        rule.push(Expr::saddr(layout.table.family, source));
        rule.push(masked(layout, source, *prefix));
        rule.push(Expr::is_in(layout.admitted.name.clone(), Reg::R0));
        rule.push(Expr::Verdict(Verdict::Return));
        chain.push(rule);
    }
    chain.push(vec![Expr::Verdict(Verdict::Drop)]);
    chain
}

fn check(layout: &Layout, destination: Destination, admit_chain: &str, name: &str) -> ChainRules {
    let mut chain = regular(layout, name);
    let key = || key(layout, destination);
    let mut guarded = key();
    guarded.push(Expr::is_in(layout.guarded.name.clone(), Reg::R0));
    guarded.push(Expr::Verdict(Verdict::Jump(admit_chain.into())));
    chain.push(guarded);
    chain.push([key(), vec![Expr::vmap(layout.refusals.name.clone(), Reg::R0)]].concat());
    let mut known = front(layout, destination, KNOWN_FLAG);
    known.push(Expr::Verdict(Verdict::Accept));
    chain.push(known);
    chain.push(vec![
        address(layout, destination),
        Expr::is_in(layout.addresses.name.clone(), Reg::R0),
        goto(REFUSE_CHAIN),
    ]);
    chain
}

/// Marks packets of a class for masquerading where the front says so. The kernel has a Service's own
/// address as the source of what this node sends there, and the endpoint's node has it, too.
fn mark(layout: &Layout, class: SourceClass) -> ChainRules {
    let mut chain = regular(layout, mark_chain(class));
    let bit = layout.masquerade_mark;
    let set_mark = || {
        vec![
            Expr::meta(MetaKey::Mark, Reg::R0),
            Expr::bits(Reg::R0, Reg::R0, !bit, bit),
            Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::R0 },
        ]
    };
    let by_flag = front(layout, Destination::Packet, masquerade_flag(class));
    chain.push([by_flag, set_mark()].concat());
    if class == SourceClass::Node {
        let mut own = vec![
            Expr::saddr(layout.table.family, Reg::R0),
            Expr::is_in(layout.addresses.name.clone(), Reg::R0),
        ];
        own.extend(front(layout, Destination::Packet, KNOWN_FLAG));
        chain.push([own, set_mark()].concat());
    }
    chain
}

/// The mark is cleared before the packet leaves, as it may mean something else there.
fn postrouting(layout: &Layout) -> ChainRules {
    let hook = Hook::Postrouting;
    let mut chain = base(layout, "nat-postrouting", ChainKind::Nat, hook, priority::SRCNAT);
    let bit = layout.masquerade_mark;
    chain.push(vec![
        Expr::meta(MetaKey::Mark, Reg::R0),
        Expr::bits(Reg::R0, Reg::R0, bit, 0),
        Expr::neq(Reg::R0, Field::Mark(0)),
        Expr::meta(MetaKey::Mark, Reg::R0),
        Expr::bits(Reg::R0, Reg::R0, !bit, 0),
        Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::R0 },
        Expr::masquerade(),
    ]);
    chain.push(vec![
        Expr::saddr(layout.table.family, Reg::R0),
        Expr::daddr(layout.table.family, Reg::at(address_registers(layout.family))),
        Expr::is_in(layout.hairpins.name.clone(), Reg::R0),
        Expr::masquerade(),
    ]);
    chain
}

/// Goes on if the packet is addressed to a front that has a flag.
fn front(layout: &Layout, destination: Destination, flag: u32) -> Vec<Expr> {
    let flags = Reg::at(address_registers(layout.family) + 2);
    let mut exprs = key(layout, destination);
    exprs.extend([
        Expr::lookup(layout.services.name.clone(), Reg::R0, flags),
        Expr::bits(flags, flags, flag, 0),
        Expr::neq(flags, Field::Mark(0)),
    ]);
    exprs
}

/// Loads what may be a front, from register 0 on.
fn key(layout: &Layout, destination: Destination) -> Vec<Expr> {
    let next = address_registers(layout.family);
    let port = Reg::at(next + 1);
    let port = match destination {
        Destination::Packet => Expr::dport(port),
        Destination::Connection => Expr::ct_original(CtKey::ProtoDst, port),
    };
    vec![address(layout, destination), Expr::l4proto(Reg::at(next)), port]
}

fn address(layout: &Layout, destination: Destination) -> Expr {
    match (destination, layout.family) {
        (Destination::Packet, _) => Expr::daddr(layout.table.family, Reg::R0),
        (Destination::Connection, Family::Ipv4) => Expr::ct_original(CtKey::DstIp, Reg::R0),
        (Destination::Connection, Family::Ipv6) => Expr::ct_original(CtKey::DstIp6, Reg::R0),
    }
}

fn address_registers(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

/// What matches packets of pods at a hook; one rule for each alternative.
fn detect(layout: &Layout, detector: &LocalDetector, hook: Hook) -> Vec<Vec<Expr>> {
    let interface = |name: &[u8]| {
        let load = Expr::meta(MetaKey::IifName, Reg::R0);
        vec![vec![load, Expr::eq(Reg::R0, Data::new(name))]]
    };
    match detector {
        LocalDetector::None => Vec::new(),
        LocalDetector::Cidrs(ranges) => {
            let ranges = ranges.iter().filter(|range| Family::of(range.addr()) == layout.family);
            ranges.map(|range| within(layout, range)).collect()
        }
        _ if hook == Hook::Output => Vec::new(),
        LocalDetector::Bridge(name) => {
            let mut padded = [0; 16];
            let len = name.len().min(15);
            padded[..len].copy_from_slice(&name.as_bytes()[..len]);
            interface(&padded)
        }
        LocalDetector::InterfacePrefix(prefix) => {
            interface(&prefix.as_bytes()[..prefix.len().min(15)])
        }
    }
}

/// Goes on if the source is an address of the range.
fn within(layout: &Layout, range: &IpNet) -> Vec<Expr> {
    let mask = masked(layout, Reg::R0, range.prefix_len());
    let load = Expr::saddr(layout.table.family, Reg::R0);
    vec![load, mask, Expr::eq(Reg::R0, Field::ip(range.network()))]
}

/// Leaves of an address the bits of a prefix.
fn masked(layout: &Layout, reg: Reg, prefix: u8) -> Expr {
    let bytes = usize::from(address_registers(layout.family)) * 4;
    let bits = |index: usize| usize::from(prefix).saturating_sub(index * 8).min(8);
    let byte = |index| [0, 0x80, 0xc0, 0xe0, 0xf0, 0xf8, 0xfc, 0xfe, 0xff][bits(index)];
    let mask: Vec<u8> = (0..bytes).map(byte).collect();
    let (len, xor) = (u32::from(address_registers(layout.family)) * 4, vec![0; bytes]);
    let op = BitwiseOp::MaskXor { mask: Data::new(&mask), xor: Data::new(&xor) };
    Expr::Bitwise { sreg: reg, dreg: reg, len, op }
}

fn accept_unless_new() -> Vec<Expr> {
    vec![
        Expr::ct(CtKey::State, Reg::R0),
        Expr::bits(Reg::R0, Reg::R0, CT_STATE_NEW, 0),
        Expr::eq(Reg::R0, Field::Mark(0)),
        Expr::Verdict(Verdict::Accept),
    ]
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(Name::from(chain)))
}

fn regular(layout: &Layout, name: &str) -> ChainRules {
    let (table, name) = (layout.table.clone(), Name::from(name));
    ChainRules::empty(Chain { table, name, base: None, comment: None })
}

fn base(layout: &Layout, name: &str, kind: ChainKind, hook: Hook, priority: i32) -> ChainRules {
    let mut chain = regular(layout, name);
    chain.chain.base = Some(BaseChain { kind, hook, priority, policy: Policy::Accept });
    chain
}

impl ChainRules {
    /// A chain without rules.
    pub(crate) fn empty(chain: Chain) -> Self {
        Self { chain, rules: Vec::new() }
    }

    fn push(&mut self, exprs: Vec<Expr>) {
        let id = ChainRef { table: self.chain.table.clone(), name: self.chain.name.clone() };
        self.rules.push(Rule::new(&id, exprs));
    }
}
