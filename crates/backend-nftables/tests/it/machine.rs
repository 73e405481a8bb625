//! nf_tables as a value: carries batches out as the kernel would, and walks packets through the rules.
//!
//! It knows the expressions that our rules use and refuses any other; it refuses what the kernel
//! refuses: elements that are there already or not at all, names that nobody has, registers that the
//! same rule did not fill.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_model::{Arrival, Packet};
use portolan_netlink::nft::{
    Batch, BitwiseOp, Chain, CmpOp, CtKey, Data, DynsetOp, Element, ElementData, Expr, Hook,
    MetaKey, Name, NatKind, Op, PayloadBase, Reg, RegRange, Rule, Set, SetData, Verdict, ct_status,
};

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) sets: BTreeMap<Name, (Arc<Set>, BTreeMap<Data, ElementData>)>,
    pub(crate) chains: BTreeMap<Name, (Chain, Vec<Rule>)>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Sent { to: SocketAddr, masqueraded: bool },
    Rejected,
    Dropped,
    Passed,
}

/// How a chain ended.
enum End {
    Accept,
    Drop,
    Reject,
    /// No rule decided.
    Through,
}

/// A packet on its way, and the choice that `numgen` makes for it.
struct Way<'a> {
    packet: &'a Packet,
    mark: u32,
    dnat: Option<SocketAddr>,
    masqueraded: bool,
    pick: u32,
    /// The largest modulus that was asked for.
    choices: u32,
    memory: &'a mut Memory,
    /// How many look-ups were made.
    lookups: usize,
    /// The table that is committed while the packet is on its way, and behind how many look-ups.
    next: Option<(&'a Machine, usize)>,
}

impl<'a> Way<'a> {
    fn new(packet: &'a Packet, pick: u32, memory: &'a mut Memory) -> Self {
        Self {
            packet,
            mark: 0,
            dnat: None,
            masqueraded: false,
            pick,
            choices: 1,
            memory,
            lookups: 0,
            next: None,
        }
    }
}

/// What packets have written, by the maps that they may write to.
pub(crate) type Memory = BTreeMap<(Name, Data), Data>;

const NODE_MARK_BIT: u32 = 0x4000;

impl Machine {
    /// Carries a batch out; the error says which operation was refused, and why.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        let before = self.clone();
        let done =
            batch.ops.iter().try_for_each(|op| self.carry_out(op)).and_then(|()| self.check());
        if done.is_err() {
            *self = before;
        }
        done
    }

    fn carry_out(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::AddTable(_) => {}
            Op::AddSet(set) => {
                self.sets.entry(set.name.clone()).or_insert_with(|| (set.clone(), BTreeMap::new()));
            }
            Op::DeleteSet(set) => {
                self.sets.remove(&set.name).ok_or_else(|| format!("no set {}", set.name))?;
            }
            Op::AddChain(chain) | Op::CreateChain(chain) => {
                let new = (chain.clone(), Vec::new());
                let present = self.chains.entry(chain.name.clone()).or_insert(new);
                if matches!(op, Op::CreateChain(_)) && !present.1.is_empty() {
                    return Err(format!("chain {} exists", chain.name));
                }
            }
            Op::FlushChain(chain) => self.rules(&chain.name)?.clear(),
            Op::DeleteChain(chain) => {
                if !self.rules(&chain.name)?.is_empty() {
                    return Err(format!("chain {} has rules", chain.name));
                }
                self.chains.remove(&chain.name);
            }
            Op::AddRule(rule) => self.rules(&rule.chain)?.push(rule.clone()),
            Op::AddElements(set, elements) => {
                for Element { key, data, .. } in elements {
                    assert_eq!(key.len(), set.key.len() as usize, "key of {}", set.name);
                    match self.elements(set)?.insert(key.clone(), data.clone()) {
                        Some(present) if present != *data => {
                            return Err(format!("{}: {key:?} exists", set.name));
                        }
                        _ => {}
                    }
                }
            }
            Op::DeleteElements(set, elements) => {
                for Element { key, .. } in elements {
                    let removed = self.elements(set)?.remove(key);
                    removed.ok_or_else(|| format!("{}: no {key:?}", set.name))?;
                }
            }
            other => return Err(format!("not an operation of our plans: {other}")),
        }
        Ok(())
    }

    fn rules(&mut self, chain: &Name) -> Result<&mut Vec<Rule>, String> {
        let chain_rules = self.chains.get_mut(chain).ok_or_else(|| format!("no chain {chain}"))?;
        Ok(&mut chain_rules.1)
    }

    fn elements(&mut self, set: &Set) -> Result<&mut BTreeMap<Data, ElementData>, String> {
        let present = self.sets.get_mut(&set.name).ok_or_else(|| format!("no set {}", set.name))?;
        Ok(&mut present.1)
    }

    /// Whatever is named must be there.
    fn check(&self) -> Result<(), String> {
        let chain = |verdict: &Verdict| match verdict {
            Verdict::Goto(to) | Verdict::Jump(to) if !self.chains.contains_key(to) => {
                Err(format!("a verdict leads to {to}, which is not there"))
            }
            _ => Ok(()),
        };
        for data in self.sets.values().flat_map(|(_, elements)| elements.values()) {
            if let ElementData::Verdict(verdict) = data {
                chain(verdict)?;
            }
        }
        for expr in self.chains.values().flat_map(|(_, rules)| rules).flat_map(|rule| &rule.exprs) {
            match expr {
                Expr::Verdict(verdict) => chain(verdict)?,
                Expr::Lookup { set, .. }
                | Expr::VerdictMap { map: set, .. }
                | Expr::Dynset { set, .. } => {
                    self.sets.get(set).ok_or_else(|| format!("a rule names {set}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn rule_count(&self) -> usize {
        self.chains.values().map(|(_, rules)| rules.len()).sum()
    }

    /// Every fate that the first packet of a client can have, depending on chance.
    pub(crate) fn fates(&self, packet: &Packet) -> BTreeSet<Fate> {
        let fate = |pick| self.fate(packet, pick, &mut Memory::new());
        let (first, choices) = fate(0);
        (1..choices).map(|pick| fate(pick).0).chain([first]).collect()
    }

    /// The fate of a packet for a random number, with the largest modulus that it was taken by.
    pub(crate) fn fate(&self, packet: &Packet, pick: u32, memory: &mut Memory) -> (Fate, u32) {
        let mut way = Way::new(packet, pick, memory);
        (self.end(&mut way), way.choices)
    }

    /// Every fate of the first packet of a client that is on its way while another table is committed,
    /// between any two look-ups.
    pub(crate) fn torn_fates(&self, next: &Machine, packet: &Packet) -> BTreeSet<Fate> {
        let mut fates = BTreeSet::new();
        let (mut pick, mut choices) = (0, 1);
        while pick < choices {
            let (mut behind, mut lookups) = (0, 0);
            while behind <= lookups {
                let mut memory = Memory::new();
                let mut way = Way::new(packet, pick, &mut memory);
                way.next = Some((next, behind));
                fates.insert(self.end(&mut way));
                (choices, lookups) = (choices.max(way.choices), way.lookups);
                behind += 1;
            }
            pick += 1;
        }
        fates
    }

    /// The table that a packet meets now.
    fn now<'a>(&'a self, way: &Way<'a>) -> &'a Machine {
        match way.next {
            Some((next, behind)) if way.lookups >= behind => next,
            _ => self,
        }
    }

    fn end<'a>(&'a self, way: &mut Way<'a>) -> Fate {
        let packet = way.packet;
        let hook = match packet.arrival {
            Arrival::SentHere => Hook::Output,
            Arrival::Interface(_) => Hook::Prerouting,
        };
        for hook in [hook, Hook::Postrouting] {
            let mut chains: Vec<_> = self.chains.values().map(|(chain, _)| chain).collect();
            chains.retain(|chain| chain.base.as_ref().is_some_and(|base| base.hook == hook));
            chains.sort_by_key(|chain| chain.base.as_ref().map(|base| base.priority));
            for chain in chains {
                // Rules are of one generation from a base chain on, elements of whichever it is by then.
                match self.now(way).run(self, &chain.name, way) {
                    End::Accept | End::Through => {}
                    End::Drop => return Fate::Dropped,
                    End::Reject => return Fate::Rejected,
                }
            }
        }
        assert_eq!(way.mark & NODE_MARK_BIT, 0, "the mark stays on a packet that leaves");
        match (way.dnat, way.masqueraded) {
            (Some(to), masqueraded) => Fate::Sent { to, masqueraded },
            (None, false) => Fate::Passed,
            (None, true) => panic!("masqueraded, though it is nobody's: {packet:?}"),
        }
    }

    /// Walks a chain of this table, whose look-ups begin in the table `first`.
    fn run<'a>(&self, first: &'a Machine, chain: &Name, way: &mut Way<'a>) -> End {
        // To the generation before, a chain that is just being made has no rules.
        let Some((_, rules)) = self.chains.get(chain) else { return End::Through };
        for rule in rules {
            match (Run { machine: first, regs: [None; 64] }).rule(rule, way) {
                None | Some(Step::Verdict(Verdict::Continue)) => {}
                Some(Step::Verdict(Verdict::Accept)) => return End::Accept,
                Some(Step::Verdict(Verdict::Drop)) => return End::Drop,
                Some(Step::Verdict(Verdict::Goto(to))) => return self.run(first, &to, way),
                Some(Step::Verdict(Verdict::Jump(to))) => match self.run(first, &to, way) {
                    End::Through => {}
                    decided => return decided,
                },
                Some(Step::Verdict(Verdict::Return)) => return End::Through,
                Some(Step::Reject) => return End::Reject,
            }
        }
        End::Through
    }
}

enum Step {
    Verdict(Verdict),
    Reject,
}

/// A rule at work: registers as bytes, those not filled yet apart.
struct Run<'a> {
    machine: &'a Machine,
    regs: [Option<u8>; 64],
}

impl<'a> Run<'a> {
    /// What the rule decides; nothing when an expression breaks it off.
    fn rule(&mut self, rule: &Rule, way: &mut Way<'a>) -> Option<Step> {
        for expr in &rule.exprs {
            match expr {
                Expr::Meta { key: MetaKey::Mark, dreg } => {
                    self.store(*dreg, &way.mark.to_ne_bytes());
                }
                Expr::Meta { key: MetaKey::L4Proto, dreg } => {
                    let protocol = way.packet.transport.map_or(1, |t| t.protocol.number());
                    self.store(*dreg, &[protocol]);
                }
                Expr::Meta { key: MetaKey::IifName, dreg } => {
                    let mut name = [0; 16];
                    if let Arrival::Interface(interface) = &way.packet.arrival {
                        name[..interface.len()].copy_from_slice(interface.as_bytes());
                    }
                    self.store(*dreg, &name);
                }
                Expr::MetaSet { key: MetaKey::Mark, sreg } => {
                    way.mark = number(&self.load(*sreg, 4));
                }
                Expr::Payload { base, offset, len, dreg } => {
                    let bytes = payload(way, *base, *offset, *len)?;
                    self.store(*dreg, &bytes);
                }
                Expr::Ct { key: CtKey::State, dreg, .. } => self.store(*dreg, &8u32.to_ne_bytes()),
                Expr::Ct { key: CtKey::Status, dreg, .. } => {
                    let status = if way.dnat.is_some() { ct_status::DNAT } else { 0 };
                    self.store(*dreg, &status.to_ne_bytes());
                }
                Expr::Numgen { modulus, offset: 0, dreg, .. } => {
                    way.choices = way.choices.max(*modulus);
                    self.store(*dreg, &(way.pick % modulus).to_ne_bytes());
                }
                Expr::Lookup { set, sreg, dreg: Some(dreg), invert: false }
                    if self.machine.sets[set].0.flags.dynamic =>
                {
                    let (key, _) = self.memory_key(set, *sreg);
                    let data = way.memory.get(&key)?.clone();
                    self.store(*dreg, data.as_bytes());
                }
                Expr::Dynset { set, op, key, data: Some(data), timeout: Some(_), exprs } => {
                    assert!(exprs.is_empty(), "nothing of our rules");
                    let (key, len) = self.memory_key(set, *key);
                    let data = Data::new(&self.load(*data, len));
                    match op {
                        DynsetOp::Update => drop(way.memory.entry(key).or_insert(data)),
                        DynsetOp::Delete => drop(way.memory.remove(&key)),
                        DynsetOp::Add => panic!("not an operation of our rules"),
                    }
                }
                Expr::Lookup { set, sreg, dreg, invert } => {
                    let found = self.find(set, *sreg, way);
                    assert!(!invert || dreg.is_none(), "nothing to store");
                    match (found, dreg) {
                        (Some(_), None) if *invert => return None,
                        (None, None) if *invert => {}
                        (None, _) => return None,
                        (Some(ElementData::Value(data)), Some(dreg)) => {
                            self.store(*dreg, data.as_bytes());
                        }
                        (Some(_), None) => {}
                        (Some(other), Some(_)) => panic!("{set} has no data: {other:?}"),
                    }
                }
                Expr::VerdictMap { map, sreg } => match self.find(map, *sreg, way)? {
                    ElementData::Verdict(verdict) => return Some(Step::Verdict(verdict)),
                    other => panic!("{map} has no verdicts: {other:?}"),
                },
                Expr::Immediate { data, dreg } => self.store(*dreg, data.as_bytes()),
                Expr::Verdict(verdict) => return Some(Step::Verdict(verdict.clone())),
                Expr::Bitwise { sreg, dreg, len, op: BitwiseOp::MaskXor { mask, xor } } => {
                    let value = self.load(*sreg, *len as usize);
                    let bits = value.iter().zip(mask.as_bytes()).zip(xor.as_bytes());
                    let bytes: Vec<_> = bits.map(|((v, m), x)| (v & m) ^ x).collect();
                    self.store(*dreg, &bytes);
                }
                Expr::Cmp { op, sreg, data } => {
                    let equal = self.load(*sreg, data.len()) == data.as_bytes();
                    let holds = match op {
                        CmpOp::Eq => equal,
                        CmpOp::Neq => !equal,
                        other => panic!("{other:?} is not used"),
                    };
                    if !holds {
                        return None;
                    }
                }
                Expr::Nat { kind: NatKind::Dnat, addr: Some(addr), port: Some(port), .. } => {
                    way.dnat = Some(self.address(way.packet.destination, *addr, *port));
                    return Some(Step::Verdict(Verdict::Accept));
                }
                Expr::Masquerade { .. } => {
                    way.masqueraded = true;
                    return Some(Step::Verdict(Verdict::Accept));
                }
                Expr::Reject(_) => return Some(Step::Reject),
                other => panic!("not an expression of our rules: {other:?}"),
            }
        }
        None
    }

    fn find(&self, set: &Name, sreg: Reg, way: &mut Way<'a>) -> Option<ElementData> {
        let (set, elements) = &self.machine.now(way).sets[set];
        way.lookups += 1;
        let key = self.load(sreg, set.key.len() as usize);
        elements.get(&Data::new(&key)).cloned()
    }

    /// The key in a map that packets write to, and how long its data is.
    fn memory_key(&self, set: &Name, sreg: Reg) -> ((Name, Data), usize) {
        let (set, _) = &self.machine.sets[set];
        assert!(set.flags.dynamic && set.flags.timeout && set.size.is_some(), "{}", set.name);
        let SetData::Map(data) = &set.data else { panic!("{} is no map", set.name) };
        let key = Data::new(&self.load(sreg, set.key.len() as usize));
        ((set.name.clone(), key), data.len() as usize)
    }

    fn address(&self, like: IpAddr, addr: RegRange, port: RegRange) -> SocketAddr {
        let address = match like {
            IpAddr::V4(_) => {
                let octets: [u8; 4] = self.load(addr.min, 4).try_into().expect("four bytes");
                IpAddr::from(octets)
            }
            IpAddr::V6(_) => {
                let octets: [u8; 16] = self.load(addr.min, 16).try_into().expect("sixteen bytes");
                IpAddr::from(octets)
            }
        };
        let port = self.load(port.min, 2);
        SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]]))
    }

    /// Fills registers; the rest of the last one with noughts.
    fn store(&mut self, reg: Reg, bytes: &[u8]) {
        let at = usize::from(reg.number()) * 4;
        for (index, slot) in
            self.regs[at..at + bytes.len().next_multiple_of(4)].iter_mut().enumerate()
        {
            *slot = Some(bytes.get(index).copied().unwrap_or(0));
        }
    }

    fn load(&self, reg: Reg, len: usize) -> Vec<u8> {
        let at = usize::from(reg.number()) * 4;
        let bytes = self.regs[at..at + len].iter();
        bytes.map(|byte| byte.expect("a rule reads what it has filled")).collect()
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

/// Bytes of the packet's headers; nothing for a port that it has not.
fn payload(way: &Way<'_>, base: PayloadBase, offset: u32, len: u32) -> Option<Vec<u8>> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let destination = way.dnat.map_or(way.packet.destination, |to| to.ip());
    match (base, way.packet.destination, offset, len) {
        (PayloadBase::Network, IpAddr::V4(_), 12, 4) => Some(octets(way.packet.source)),
        (PayloadBase::Network, IpAddr::V6(_), 8, 16) => Some(octets(way.packet.source)),
        (PayloadBase::Network, IpAddr::V4(_), 16, 4) => Some(octets(destination)),
        (PayloadBase::Network, IpAddr::V6(_), 24, 16) => Some(octets(destination)),
        (PayloadBase::Transport, _, 2, 2) => {
            let port = way.dnat.map(|to| to.port()).or(way.packet.transport.map(|t| t.port));
            Some(port?.to_be_bytes().to_vec())
        }
        other => panic!("not a load of our rules: {other:?}"),
    }
}
