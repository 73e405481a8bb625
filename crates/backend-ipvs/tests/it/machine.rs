//! IPVS, the dummy link and nf_tables as values: carries plans out as the kernel would, and walks packets
//! through its hooks.
//!
//! ```text
//! prerouting ─▶ is it here? ─▶ input ─▶ IPVS ─▶ output ─▶ postrouting
//!                    └─ no ─▶ postrouting
//! output ─▶ IPVS ─▶ output once more ─▶ postrouting
//! ```
//! It knows what our plans use and refuses the rest; it refuses what the kernel refuses: what is there
//! already, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_backend_ipvs::{Plan, Stage};
use portolan_model::{Arrival, Packet, Protocol};
use portolan_netlink::nft::{
    Batch, BitwiseOp, Chain, ChainKind, CmpOp, CtDirection, CtKey, Data, Element, ElementData,
    Expr, Hook, MetaKey, Name, Op, PayloadBase, Reg, Rule, Set, Verdict,
};
use portolan_netlink::{address, ipvs};

/// Everything of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) servers:
        BTreeMap<ipvs::VirtualServer, (ipvs::Service, BTreeMap<ipvs::RealServer, u32>)>,
    pub(crate) link: BTreeSet<IpAddr>,
    sets: BTreeMap<Name, (Arc<Set>, BTreeMap<Data, ElementData>)>,
    chains: BTreeMap<Name, (Chain, Vec<Rule>)>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Sent { to: SocketAddr, masqueraded: bool },
    Rejected,
    Dropped,
    Passed,
}

/// A packet on its way.
struct Way<'a> {
    packet: &'a Packet,
    mark: u32,
    /// Where IPVS sends it.
    to: Option<SocketAddr>,
    masqueraded: bool,
}

enum End {
    On,
    Drop,
    Reject,
}

impl Machine {
    /// Carries a plan out, and calls `each` after every operation of it.
    pub(crate) fn carry_out(
        &mut self,
        plan: &Plan,
        mut each: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        for stage in plan.stages(1) {
            match stage {
                Stage::Nft(batch) => {
                    self.commit(&batch)?;
                    each(self)?;
                }
                Stage::Servers(ops) => {
                    for op in ops {
                        self.server(op).ok_or_else(|| format!("refused: {op}"))?;
                        each(self)?;
                    }
                }
                Stage::Addresses(ops) => {
                    for op in ops {
                        let is_done = match op {
                            address::Op::Add(ip) => self.link.insert(*ip),
                            address::Op::Remove(ip) => self.link.remove(ip),
                        };
                        each(self)?;
                        is_done.then_some(()).ok_or_else(|| format!("refused: {op}"))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn server(&mut self, op: &ipvs::Op) -> Option<()> {
        use ipvs::Op as Ipvs;
        let is_new = match op {
            Ipvs::AddService(at, how) => {
                self.servers.insert(*at, (*how, BTreeMap::new())).is_none()
            }
            Ipvs::SetService(at, how) => {
                self.servers.get_mut(at)?.0 = *how;
                true
            }
            Ipvs::DeleteService(at) => self.servers.remove(at).is_some(),
            Ipvs::AddDestination(at, to, how) => {
                assert_eq!(how.forwarding, ipvs::ForwardingMethod::Masquerade);
                self.servers.get_mut(at)?.1.insert(*to, how.weight).is_none()
            }
            Ipvs::SetDestination(at, to, how) => {
                *self.servers.get_mut(at)?.1.get_mut(to)? = how.weight;
                true
            }
            Ipvs::DeleteDestination(at, to) => self.servers.get_mut(at)?.1.remove(to).is_some(),
        };
        is_new.then_some(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        for op in &batch.ops {
            match op {
                Op::AddTable(_) => {}
                Op::AddSet(set) => {
                    let new = (set.clone(), BTreeMap::new());
                    self.sets.entry(set.name.clone()).or_insert(new);
                }
                Op::AddChain(chain) => {
                    let new = (chain.clone(), Vec::new());
                    self.chains.entry(chain.name.clone()).or_insert(new);
                }
                Op::FlushChain(chain) => self.rules(&chain.name)?.clear(),
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
        }
        Ok(())
    }

    fn rules(&mut self, chain: &Name) -> Result<&mut Vec<Rule>, String> {
        let found = self.chains.get_mut(chain).ok_or_else(|| format!("no chain {chain}"))?;
        Ok(&mut found.1)
    }

    fn elements(&mut self, set: &Set) -> Result<&mut BTreeMap<Data, ElementData>, String> {
        let found = self.sets.get_mut(&set.name).ok_or_else(|| format!("no set {}", set.name))?;
        Ok(&mut found.1)
    }

    /// How many rules there are.
    pub(crate) fn rule_count(&self) -> usize {
        self.chains.values().map(|(_, rules)| rules.len()).sum()
    }

    /// The real servers that new connections to a packet's destination go to, if IPVS knows it.
    fn choices(&self, packet: &Packet) -> Option<Vec<SocketAddr>> {
        let transport = packet.transport?;
        let protocol = match transport.protocol {
            Protocol::Tcp => ipvs::Protocol::Tcp,
            Protocol::Udp => ipvs::Protocol::Udp,
            Protocol::Sctp => ipvs::Protocol::Sctp,
        };
        let (address, port) = (packet.destination, transport.port);
        let (_, targets) = self.servers.get(&ipvs::VirtualServer { address, port, protocol })?;
        let usable = targets.iter().filter(|(_, weight)| **weight > 0);
        Some(usable.map(|(to, _)| SocketAddr::new(to.address, to.port)).collect())
    }

    /// Every fate that a packet can have at a node of this address.
    pub(crate) fn fates(&self, packet: &Packet, node: IpAddr) -> BTreeSet<Fate> {
        let at = packet.destination;
        let is_here = at == node || at.is_loopback() || self.link.contains(&at);
        match self.choices(packet).filter(|_| is_here) {
            Some(choices) if !choices.is_empty() => {
                choices.into_iter().map(|to| self.fate(packet, is_here, Some(Some(to)))).collect()
            }
            Some(_) => [self.fate(packet, is_here, Some(None))].into(),
            None => [self.fate(packet, is_here, None)].into(),
        }
    }

    /// `choice` is what IPVS does: nothing, to find no real server, or to find that one.
    fn fate(&self, packet: &Packet, is_here: bool, choice: Option<Option<SocketAddr>>) -> Fate {
        let mut way = Way { packet, mark: 0, to: None, masqueraded: false };
        let both = [ChainKind::Filter, ChainKind::Nat];
        let mut hooks = match packet.arrival {
            Arrival::SentHere => vec![(Hook::Output, &both[..])],
            Arrival::Interface(_) => vec![(Hook::Prerouting, &both[..])],
        };
        if is_here && packet.arrival != Arrival::SentHere {
            hooks.push((Hook::Input, &both));
        }
        for (hook, kinds) in hooks {
            match self.hook(hook, kinds, &mut way) {
                End::On => {}
                End::Drop => return Fate::Dropped,
                End::Reject => return Fate::Rejected,
            }
        }
        match choice {
            None if is_here => return Fate::Passed,
            // As the kernel answers where there is no real server (`ip_vs_leave`).
            Some(None) => return Fate::Rejected,
            None => {}
            Some(to) => {
                way.to = to;
                // The destination's translation was settled by the hook before.
                match self.hook(Hook::Output, &[ChainKind::Filter], &mut way) {
                    End::On => {}
                    End::Drop => return Fate::Dropped,
                    End::Reject => return Fate::Rejected,
                }
            }
        }
        // What stays on this node would not come by here, but the walk does not look at that either.
        match self.hook(Hook::Postrouting, &both, &mut way) {
            End::On => {}
            End::Drop | End::Reject => panic!("nothing of our rules"),
        }
        assert_eq!(way.mark, 0, "the mark stays on a packet that leaves");
        match (way.to, way.masqueraded) {
            (Some(to), masqueraded) => Fate::Sent { to, masqueraded },
            (None, false) => Fate::Passed,
            (None, true) => panic!("masqueraded, though it is nobody's: {packet:?}"),
        }
    }

    fn hook(&self, hook: Hook, kinds: &[ChainKind], way: &mut Way<'_>) -> End {
        let mut chains: Vec<_> = self
            .chains
            .values()
            .filter_map(|(chain, _)| Some((chain, chain.base.as_ref()?)))
            .filter(|(_, base)| base.hook == hook && kinds.contains(&base.kind))
            .collect();
        chains.sort_by_key(|(_, base)| base.priority);
        for (chain, _) in chains {
            match self.run(&chain.name, way) {
                Some(Verdict::Drop) => return End::Drop,
                Some(Verdict::Accept) | None => {}
                // Stands for a refusal: no rule continues.
                Some(_) => return End::Reject,
            }
        }
        End::On
    }

    /// What a chain decides; nothing when no rule does, and `continue` for a refusal.
    fn run(&self, chain: &Name, way: &mut Way<'_>) -> Option<Verdict> {
        for rule in &self.chains[chain].1 {
            match (Run { machine: self, regs: [None; 64] }).rule(rule, way) {
                None => {}
                Some(Verdict::Goto(to)) => return self.run(&to, way),
                Some(Verdict::Jump(to)) => match self.run(&to, way) {
                    None => {}
                    decided => return decided,
                },
                Some(Verdict::Return) => return None,
                decided => return decided,
            }
        }
        None
    }
}

/// A rule at work: registers as bytes, those not filled yet apart.
struct Run<'a> {
    machine: &'a Machine,
    regs: [Option<u8>; 64],
}

impl Run<'_> {
    fn rule(&mut self, rule: &Rule, way: &mut Way<'_>) -> Option<Verdict> {
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
                    let bytes = self.load(*sreg, 4);
                    way.mark = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
                }
                Expr::Payload { base, offset, len, dreg } => {
                    let bytes = payload(way, *base, *offset, *len)?;
                    self.store(*dreg, &bytes);
                }
                Expr::Ct { key: CtKey::State, direction: None, dreg } => {
                    self.store(*dreg, &8u32.to_ne_bytes());
                }
                Expr::Ct { key, direction: Some(CtDirection::Original), dreg } => {
                    let bytes = match key {
                        CtKey::DstIp | CtKey::DstIp6 => octets(way.packet.destination),
                        CtKey::ProtoDst => {
                            let port = way.packet.transport.map_or(0, |t| t.port);
                            port.to_be_bytes().to_vec()
                        }
                        other => panic!("not a load of our rules: {other:?}"),
                    };
                    self.store(*dreg, &bytes);
                }
                Expr::Lookup { set, sreg, dreg, invert: false } => {
                    match (self.find(set, *sreg)?, dreg) {
                        (ElementData::Value(data), Some(dreg)) => {
                            self.store(*dreg, data.as_bytes());
                        }
                        (_, None) => {}
                        (other, Some(_)) => panic!("{set} has no data: {other:?}"),
                    }
                }
                Expr::VerdictMap { map, sreg } => match self.find(map, *sreg)? {
                    ElementData::Verdict(verdict) => return Some(verdict),
                    other => panic!("{map} has no verdicts: {other:?}"),
                },
                Expr::Immediate { data, dreg } => self.store(*dreg, data.as_bytes()),
                Expr::Verdict(verdict) => return Some(verdict.clone()),
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
                Expr::Masquerade { .. } => {
                    way.masqueraded = true;
                    return Some(Verdict::Accept);
                }
                Expr::Reject(_) => return Some(Verdict::Continue),
                other => panic!("not an expression of our rules: {other:?}"),
            }
        }
        None
    }

    fn find(&self, set: &Name, sreg: Reg) -> Option<ElementData> {
        let (set, elements) = &self.machine.sets[set];
        let key = self.load(sreg, set.key.len() as usize);
        elements.get(&Data::new(&key)).cloned()
    }

    /// Fills registers; the rest of the last one with noughts.
    fn store(&mut self, reg: Reg, bytes: &[u8]) {
        let at = usize::from(reg.number()) * 4;
        let regs = &mut self.regs[at..at + bytes.len().next_multiple_of(4)];
        for (index, slot) in regs.iter_mut().enumerate() {
            *slot = Some(bytes.get(index).copied().unwrap_or(0));
        }
    }

    fn load(&self, reg: Reg, len: usize) -> Vec<u8> {
        let at = usize::from(reg.number()) * 4;
        let bytes = self.regs[at..at + len].iter();
        bytes.map(|byte| byte.expect("a rule reads what it has filled")).collect()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Bytes of the packet's headers; nothing for a port that it has not.
fn payload(way: &Way<'_>, base: PayloadBase, offset: u32, len: u32) -> Option<Vec<u8>> {
    let destination = way.to.map_or(way.packet.destination, |to| to.ip());
    match (base, way.packet.destination, offset, len) {
        (PayloadBase::Network, IpAddr::V4(_), 12, 4)
        | (PayloadBase::Network, IpAddr::V6(_), 8, 16) => Some(octets(way.packet.source)),
        (PayloadBase::Network, IpAddr::V4(_), 16, 4)
        | (PayloadBase::Network, IpAddr::V6(_), 24, 16) => Some(octets(destination)),
        (PayloadBase::Transport, _, 2, 2) => {
            let port = way.to.map(|to| to.port()).or(way.packet.transport.map(|t| t.port));
            Some(port?.to_be_bytes().to_vec())
        }
        other => panic!("not a load of our rules: {other:?}"),
    }
}
