//! The chains and rules. Their number depends on how many different sizes and affinity timeouts sets
//! have, on nothing else.
//!
//! ```text
//! prerouting, output ── filter -110 ─▶ check-CLASS   source admitted? front refused? undefined port?
//!                    └─ nat    -100 ─▶ from-CLASS    1. mark for masquerading, if the front says so
//!                                                    2. front ▶ set ▶ its size ─▶ LANE-N
//!                                                    3. a front or cluster IP still here: drop
//!                                                    4. at an address of node ports ─▶ the same by port
//!                                      LANE-N        1. front ▶ set, random slot of N ▶ dnat
//!                                                    2. the same with slot 0
//!                                                    3. drop
//!                                      LANE-N-affinity-T
//!                                                    1. set . client ▶ endpoint, live ▶ seen again ▶ dnat
//!                                                    2. set . client ▶ forget it
//!                                                    3. random slot of N ▶ remember it ▶ dnat
//!                                                    4. as LANE-N, should there be no room to remember
//! postrouting ───────── nat     100    marked: clear the mark, masquerade; hairpin: masquerade
//! ```
//!
//! A packet may see rules and elements of two generations while a change is committed: a size from
//! before and slots from after it. So a slot that is gone is tried again as slot 0, which every set
//! has; and what still finds nothing is dropped, never let through with a Service's address on it and
//! never refused. TCP sends again what was dropped.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use portolan_model::{
    Family, LocalDetector, LocalhostNodePorts, NodePortAddresses, Settings, SourceClass,
};
use portolan_netlink::nft::{
    BaseChain, BitwiseOp, Chain, ChainKind, ChainRef, CtKey, Data, DynsetOp, Expr, FibFlags,
    FibResult, Field, Hook, MetaKey, Name, PayloadBase, Policy, Reg, RejectKind, Rule, Verdict,
    ct_status, icmp_unreach, priority,
};

use crate::layout::{Class, Lane, Layout, class_name, masquerade_flag};

/// The chain that drops packets of sources which are not admitted, and returns for others.
fn admit_chain(lane: Lane) -> &'static str {
    if lane.is_of_node_ports() { "admit-at-node" } else { "admit" }
}

/// The chain that refuses.
pub(crate) const REFUSE_CHAIN: &str = "refuse";

/// The addresses of a node that nobody else may use.
const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
/// Bit of `ct state new` (`NF_CT_STATE_BIT(IP_CT_NEW)`).
const CT_STATE_NEW: u32 = 1 << 3;
/// `RTN_LOCAL`, a result of `fib type`.
const ADDRESS_IS_LOCAL: u32 = 2;
/// ICMPv6 destination unreachable, port unreachable (RFC 4443, 3.1).
const ICMPV6_PORT_UNREACHABLE: u8 = 4;

/// Where a front's lookup puts what it finds: its flags, and its sets.
const FLAGS: Reg = Reg::at(8);
const INSIDE: Reg = Reg::at(9);
const OUTSIDE: Reg = Reg::at(10);
/// Where a set size's lookup puts what it finds.
const NOUGHT: Reg = Reg::at(11);
const AFFINITY: Reg = Reg::at(12);
const SIZE: Reg = Reg::at(13);

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainRules {
    pub(crate) chain: Chain,
    pub(crate) rules: Vec<Rule>,
}

/// The chains that every table has. They depend on the settings alone.
pub(crate) fn fixed(layout: &Layout, settings: &Settings) -> Vec<ChainRules> {
    let detect_prerouting = detect(layout, &settings.local_detector, Hook::Prerouting);
    let detect_output = detect(layout, &settings.local_detector, Hook::Output);
    let mut chains = vec![refuse(layout)];
    chains.extend([Lane::Services, Lane::NodePorts].map(|lane| admit(layout, settings, lane)));
    for class in SourceClass::ALL {
        chains.push(check(layout, settings, class));
        chains.extend(from(layout, settings, class));
    }
    for (name, kind, hook, detected, other) in [
        ("filter-prerouting", ChainKind::Filter, Hook::Prerouting, &detect_prerouting, "outside"),
        ("filter-output", ChainKind::Filter, Hook::Output, &detect_output, "node"),
        ("nat-prerouting", ChainKind::Nat, Hook::Prerouting, &detect_prerouting, "outside"),
        ("nat-output", ChainKind::Nat, Hook::Output, &detect_output, "node"),
    ] {
        let (to, priority) = match kind {
            ChainKind::Filter => ("check", priority::DSTNAT - 10),
            _ => ("from", priority::DSTNAT),
        };
        let mut chain = base(layout, name, kind, hook, priority);
        if kind == ChainKind::Filter && hook == Hook::Prerouting {
            martians(layout, settings).into_iter().for_each(|rule| chain.push(rule));
        }
        if kind == ChainKind::Filter {
            chain.push(accept_unless_new());
        }
        for matched in detected {
            chain.push([matched.clone(), vec![goto(&format!("{to}-pod"))]].concat());
        }
        chain.push(vec![goto(&format!("{to}-{other}"))]);
        chains.push(chain);
    }
    chains.push(postrouting(layout));
    chains
}

/// The chain of a lane for sets of a class.
pub(crate) fn balance(layout: &Layout, lane: Lane, class: Class) -> ChainRules {
    let mut chain = regular(layout, &lane.chain(class));
    if class.affinity > 0 {
        for rule in affine(layout, lane, class) {
            chain.push(rule);
        }
        chain.push(affine_first(layout, lane));
        chain.push(vec![Expr::Verdict(Verdict::Drop)]);
        return chain;
    }
    let set = set_register(lane);
    let slot = Reg::at(set.number() + 1);
    let port = Reg::at(address_registers(layout.family));
    let to_slot = |pick: Expr| {
        let mut rule = front(layout, lane);
        rule.push(pick);
        rule.push(Expr::lookup(layout.endpoints.name.clone(), set, Reg::R0));
        rule.push(Expr::dnat(layout.table.family, Reg::R0, Some(port)));
        rule
    };
    if class.slots > 1 {
        chain.push(to_slot(Expr::random(class.slots, slot)));
    }
    chain.push(to_slot(Expr::immediate(Field::Mark(0), slot)));
    chain.push(vec![Expr::Verdict(Verdict::Drop)]);
    chain
}

/// The rules by which a client keeps its endpoint as long as that is live.
///
/// What a client had is looked up into the set's register and those behind it, which together are a key
/// of `live`, and what is noted. An element that is there is only refreshed by an update, whatever data
/// comes along, so one that is not live any more is deleted first. An update for which there is no room
/// ends its rule.
///
/// Kernel and `nft list` see registers differently (see [`placeholder`]): to the latter the set must be no
/// lookup's beginning, so it is copied from the second lookup of the front over the one that came first.
fn affine(layout: &Layout, lane: Lane, Class { slots, affinity }: Class) -> [Vec<Expr>; 4] {
    let family = layout.table.family;
    let set = set_register(lane);
    let endpoint = Reg::at(set.number() + 1);
    let port = Reg::at(endpoint.number() + address_registers(layout.family));
    // Where the front's data is put once more: behind its key where there is room, or else over it.
    let again = Reg::at(match (lane.is_of_node_ports(), layout.family) {
        (true, _) => 2,
        (false, Family::Ipv4) => 3,
        (false, Family::Ipv6) => 0,
    });
    let owner = Reg::at(again.number() + set.number() - FLAGS.number());
    let beside = Reg::at(owner.number() + 1);
    let begin = || {
        let placeholders = vec![placeholder(owner), placeholder(port)];
        let client = vec![Expr::saddr(family, endpoint)];
        [placeholders, front(layout, lane), client].concat()
    };
    let set_again = || Expr::lookup(layout.fronts(lane).name.clone(), Reg::R0, again);
    let copy = || Expr::bits(owner, set, u32::MAX, 0);
    let note = |op| {
        let timeout = Some(Duration::from_secs(affinity.into()));
        let map = layout.clients.name.clone();
        let (key, data) = (owner, Some(set));
        [
            Expr::saddr(family, beside),
            Expr::Dynset { set: map, op, key, data, timeout, exprs: Vec::new() },
        ]
    };
    let dnat = || Expr::dnat(family, endpoint, Some(port));
    let had = || {
        let mut exprs = begin();
        exprs.push(Expr::lookup(layout.clients.name.clone(), set, set));
        exprs.extend([set_again(), copy()]);
        exprs
    };
    let pick = |slot: Expr| {
        let mut exprs = begin();
        exprs.extend([set_again(), slot]);
        exprs.push(Expr::lookup(layout.affine_endpoints.name.clone(), owner, set));
        exprs.push(copy());
        exprs
    };
    let any_slot = || match slots {
        0 | 1 => Expr::immediate(Field::Mark(0), beside),
        _ => Expr::random(slots, beside),
    };
    let mut kept = had();
    kept.push(Expr::is_in(layout.live.name.clone(), set));
    kept.extend(note(DynsetOp::Update));
    kept.push(dnat());
    let mut forgotten = had();
    forgotten.extend(note(DynsetOp::Delete));
    let mut chosen = pick(any_slot());
    chosen.extend(note(DynsetOp::Update));
    chosen.push(dnat());
    let mut unnoted = pick(any_slot());
    unnoted.push(dnat());
    [kept, forgotten, chosen, unnoted]
}

/// The last resort of a client that keeps its endpoint: slot 0, which every set has.
fn affine_first(layout: &Layout, lane: Lane) -> Vec<Expr> {
    let set = set_register(lane);
    let slot = Reg::at(set.number() + 1);
    let port = Reg::at(slot.number() + address_registers(layout.family));
    let mut rule = [vec![placeholder(port)], front(layout, lane)].concat();
    rule.push(Expr::immediate(Field::Mark(0), slot));
    rule.push(Expr::lookup(layout.affine_endpoints.name.clone(), set, set));
    rule.push(Expr::dnat(layout.table.family, slot, Some(port)));
    rule
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

/// Looks the source of a packet to a guarded front up, by each prefix length that any range has: no
/// search through ranges, and no cost for fronts without.
fn admit(layout: &Layout, settings: &Settings, lane: Lane) -> ChainRules {
    let mut chain = regular(layout, admit_chain(lane));
    let [_, admitted] = layout.guards(lane);
    for prefix in &settings.source_prefixes {
        let next = key_registers(layout, lane);
        let (length, source) = (Reg::at(next), Reg::at(next + 1));
        let mut rule = key(layout, lane);
        rule.push(Expr::immediate(Field::Mark((*prefix).into()), length));
        rule.push(Expr::saddr(layout.table.family, source));
        rule.push(masked(layout, source, *prefix));
        rule.push(Expr::is_in(admitted.name.clone(), Reg::R0));
        rule.push(Expr::Verdict(Verdict::Return));
        chain.push(rule);
    }
    chain.push(vec![Expr::Verdict(Verdict::Drop)]);
    chain
}

/// Before any destination is rewritten: who is not admitted, fronts without endpoints, what is no
/// front.
fn check(layout: &Layout, settings: &Settings, class: SourceClass) -> ChainRules {
    let mut chain = regular(layout, &format!("check-{}", class_name(class)));
    for lane in Lane::of(class) {
        let [guarded, _] = layout.guards(lane);
        for here in places(layout, settings, lane, class) {
            let mut rule = key(layout, lane);
            rule.push(Expr::is_in(guarded.name.clone(), Reg::R0));
            rule.extend(here);
            rule.push(Expr::Verdict(Verdict::Jump(admit_chain(lane).into())));
            chain.push(rule);
        }
        for here in places(layout, settings, lane, class) {
            let refusal = Expr::vmap(layout.refusals.name.clone(), set_register(lane));
            chain.push([here, front(layout, lane), vec![refusal]].concat());
        }
        if !lane.is_of_node_ports() {
            chain.push([known(layout, lane), vec![Expr::Verdict(Verdict::Accept)]].concat());
        }
    }
    chain.push(vec![
        daddr(layout),
        Expr::is_in(layout.cluster_ips.name.clone(), Reg::R0),
        goto(REFUSE_CHAIN),
    ]);
    for range in &settings.service_cidrs {
        let mut rule = within(layout, daddr(layout), range);
        rule.push(Expr::Verdict(Verdict::Drop));
        chain.push(rule);
    }
    chain
}

/// Where destinations are rewritten, by class of source. Whether a packet is at an address where node
/// ports answer is asked once: mark and destination must not get two answers.
fn from(layout: &Layout, settings: &Settings, class: SourceClass) -> [ChainRules; 2] {
    let [services, node_ports] = Lane::of(class);
    let mut chain = regular(layout, &format!("from-{}", class_name(class)));
    let mut at_node = regular(layout, &format!("from-{}-at-node", class_name(class)));
    rewrite(layout, &mut chain, services, class);
    chain.push(vec![
        daddr(layout),
        Expr::is_in(layout.cluster_ips.name.clone(), Reg::R0),
        Expr::Verdict(Verdict::Drop),
    ]);
    for mut here in places(layout, settings, node_ports, class) {
        here.push(goto(at_node.chain.name.as_str()));
        chain.push(here);
    }
    rewrite(layout, &mut at_node, node_ports, class);
    [chain, at_node]
}

/// Marks packets of a lane and sends them to their set's chain; what is left of a front is dropped.
fn rewrite(layout: &Layout, chain: &mut ChainRules, lane: Lane, class: SourceClass) {
    chain.push(mark(layout, lane, class));
    let to_size = vec![
        placeholder(AFFINITY),
        placeholder(SIZE),
        Expr::lookup(layout.set_sizes.name.clone(), set_register(lane), NOUGHT),
        Expr::vmap(by_size(layout, lane), AFFINITY),
    ];
    chain.push([front(layout, lane), to_size].concat());
    chain.push([known(layout, lane), vec![Expr::Verdict(Verdict::Drop)]].concat());
}

fn by_size(layout: &Layout, lane: Lane) -> Name {
    let map = layout.by_size.iter().find(|(of, _)| *of == lane);
    map.map(|(_, map)| map.name.clone()).expect("every lane has its map")
}

/// The mark is cleared before the packet leaves, as it may mean something else there.
fn postrouting(layout: &Layout) -> ChainRules {
    let hook = Hook::Postrouting;
    let mut chain = base(layout, "nat-postrouting", ChainKind::Nat, hook, priority::SRCNAT);
    let bit = layout.options.masquerade_mark;
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
        Expr::ct(CtKey::Status, Reg::R0),
        Expr::bits(Reg::R0, Reg::R0, ct_status::DNAT, 0),
        Expr::neq(Reg::R0, Field::Mark(0)),
        Expr::saddr(layout.table.family, Reg::R0),
        Expr::daddr(layout.table.family, Reg::at(address_registers(layout.family))),
        Expr::is_in(layout.hairpins.name.clone(), Reg::R0),
        Expr::masquerade(),
    ]);
    chain
}

/// Marks for masquerading if the front says so.
fn mark(layout: &Layout, lane: Lane, class: SourceClass) -> Vec<Expr> {
    let bit = layout.options.masquerade_mark;
    let mut exprs = front(layout, lane);
    exprs.extend([
        Expr::bits(FLAGS, FLAGS, masquerade_flag(class), 0),
        Expr::neq(FLAGS, Field::Mark(0)),
        Expr::meta(MetaKey::Mark, Reg::R0),
        Expr::bits(Reg::R0, Reg::R0, !bit, bit),
        Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::R0 },
    ]);
    exprs
}

/// What must hold before a front of that lane is looked up, one of them.
fn places(layout: &Layout, settings: &Settings, lane: Lane, class: SourceClass) -> Vec<Vec<Expr>> {
    let mut places = vec![place(layout, settings, lane)];
    if lane.is_of_node_ports() && class == SourceClass::Node {
        places
            .extend(localhost(layout, settings).map(|range| within(layout, daddr(layout), &range)));
    }
    places
}

/// The loopback addresses at which node ports answer.
fn localhost(layout: &Layout, settings: &Settings) -> Option<IpNet> {
    let answers = settings.localhost_node_ports == LocalhostNodePorts::On;
    (answers && layout.family == Family::Ipv4).then_some(LOOPBACK)
}

/// What the kernel drops by itself unless `route_localnet` is set, as it must be for node ports at
/// loopback addresses: others who claim such an address, or ask for one (CVE-2020-8558).
fn martians(layout: &Layout, settings: &Settings) -> Vec<Vec<Expr>> {
    let Some(range) = localhost(layout, settings) else { return Vec::new() };
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    let from_elsewhere =
        || vec![Expr::meta(MetaKey::IifName, Reg::R0), Expr::neq(Reg::R0, Data::new(&lo))];
    let table = layout.table.family;
    let ends = [Expr::saddr(table, Reg::R0), Expr::daddr(table, Reg::R0)];
    let rule = |end| {
        let drop = vec![Expr::Verdict(Verdict::Drop)];
        [within(layout, end, &range), from_elsewhere(), drop].concat()
    };
    ends.into_iter().map(rule).collect()
}

/// What must hold before a front of that lane is looked up, loopback addresses left out.
fn place(layout: &Layout, settings: &Settings, lane: Lane) -> Vec<Expr> {
    match &settings.node_port_addresses {
        _ if !lane.is_of_node_ports() => Vec::new(),
        NodePortAddresses::Only(_) => {
            vec![daddr(layout), Expr::is_in(layout.node_port_addresses.name.clone(), Reg::R0)]
        }
        NodePortAddresses::AllLocal => {
            let mut guard = not_loopback(layout);
            let flags = FibFlags { daddr: true, ..FibFlags::default() };
            guard.push(Expr::Fib { result: FibResult::AddrType, flags, dreg: Reg::R0 });
            guard.push(Expr::eq(Reg::R0, Field::Mark(ADDRESS_IS_LOCAL)));
            guard
        }
    }
}

/// Looks the packet's front up and puts its flags and sets into registers.
fn front(layout: &Layout, lane: Lane) -> Vec<Expr> {
    let mut exprs = key(layout, lane);
    exprs.push(placeholder(set_register(lane)));
    exprs.push(Expr::lookup(layout.fronts(lane).name.clone(), Reg::R0, FLAGS));
    exprs
}

/// Where [`front`] puts the lane's set.
fn set_register(lane: Lane) -> Reg {
    if lane.is_outside() { OUTSIDE } else { INSIDE }
}

/// Puts something into a register that a lookup is about to overwrite. `nft list` does not see that a
/// lookup fills more than one register; it aborts (seen with 1.0.6) on a lookup whose key is another
/// lookup's first field, and complains of a register that it believes empty.
fn placeholder(reg: Reg) -> Expr {
    Expr::immediate(Field::Mark(0), reg)
}

/// Goes on if the packet is addressed to a front. Kernels of the 6.1 line refuse to look into a map without
/// taking what it says (EINVAL), so its flags are taken, which are never all set.
fn known(layout: &Layout, lane: Lane) -> Vec<Expr> {
    let mut exprs = front(layout, lane);
    exprs.push(Expr::neq(FLAGS, Field::Mark(u32::MAX)));
    exprs
}

/// Loads what may be a front, from register 0 on.
fn key(layout: &Layout, lane: Lane) -> Vec<Expr> {
    let (address, next) = match lane.is_of_node_ports() {
        true => (None, 0),
        false => (Some(daddr(layout)), address_registers(layout.family)),
    };
    let rest = [Expr::l4proto(Reg::at(next)), Expr::dport(Reg::at(next + 1))];
    address.into_iter().chain(rest).collect()
}

/// How many registers that takes.
fn key_registers(layout: &Layout, lane: Lane) -> u8 {
    match lane.is_of_node_ports() {
        true => 2,
        false => address_registers(layout.family) + 2,
    }
}

fn address_registers(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

fn daddr(layout: &Layout) -> Expr {
    Expr::daddr(layout.table.family, Reg::R0)
}

/// What matches packets of pods at a hook; one rule for each alternative.
fn detect(layout: &Layout, detector: &LocalDetector, hook: Hook) -> Vec<Vec<Expr>> {
    let interface = |name: &[u8]| {
        let load = Expr::meta(MetaKey::IifName, Reg::R0);
        vec![vec![load, Expr::eq(Reg::R0, Data::new(name))]]
    };
    match detector {
        LocalDetector::None => Vec::new(),
        LocalDetector::Cidrs(ranges) => ranges
            .iter()
            .map(|range| within(layout, Expr::saddr(layout.table.family, Reg::R0), range))
            .collect(),
        _ if hook == Hook::Output => Vec::new(),
        LocalDetector::Bridge(name) => {
            let mut padded = [0; 16];
            let len = name.len().min(15);
            padded[..len].copy_from_slice(&name.as_bytes()[..len]);
            interface(&padded)
        }
        LocalDetector::InterfacePrefix(prefix) => interface(prefix.as_bytes()),
    }
}

/// Goes on if what `load` puts into register 0 is an address of the range.
fn within(layout: &Layout, load: Expr, range: &IpNet) -> Vec<Expr> {
    let mask = masked(layout, Reg::R0, range.prefix_len());
    vec![load, mask, Expr::eq(Reg::R0, Field::ip(range.network()))]
}

/// Leaves of an address the bits of a prefix.
fn masked(layout: &Layout, reg: Reg, prefix: u8) -> Expr {
    let mut mask = vec![0; usize::from(address_registers(layout.family)) * 4];
    for (index, byte) in (0u8..).zip(&mut mask) {
        let bits = prefix.saturating_sub(index * 8).min(8);
        *byte = 0xffu8.checked_shl(u32::from(8 - bits)).unwrap_or(0);
    }
    let len = u32::from(address_registers(layout.family)) * 4;
    let (mask, xor) = (Data::new(&mask), Data::new(&vec![0; mask.len()]));
    Expr::Bitwise { sreg: reg, dreg: reg, len, op: BitwiseOp::MaskXor { mask, xor } }
}

fn not_loopback(layout: &Layout) -> Vec<Expr> {
    match layout.family {
        Family::Ipv4 => vec![
            Expr::Payload { base: PayloadBase::Network, offset: 16, len: 1, dreg: Reg::R0 },
            Expr::neq(Reg::R0, Data::new(&[127])),
        ],
        Family::Ipv6 => {
            let loopback = Field::Ipv6(std::net::Ipv6Addr::LOCALHOST);
            vec![daddr(layout), Expr::neq(Reg::R0, loopback)]
        }
    }
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
    ChainRules { chain: Chain { table, name, base: None, comment: None }, rules: Vec::new() }
}

fn base(layout: &Layout, name: &str, kind: ChainKind, hook: Hook, priority: i32) -> ChainRules {
    let mut chain = regular(layout, name);
    chain.chain.base = Some(BaseChain { kind, hook, priority, policy: Policy::Accept });
    chain
}

impl ChainRules {
    fn push(&mut self, exprs: Vec<Expr>) {
        let id = ChainRef { table: self.chain.table.clone(), name: self.chain.name.clone() };
        self.rules.push(Rule::new(&id, exprs));
    }
}
