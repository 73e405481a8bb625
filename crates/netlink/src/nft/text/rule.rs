//! A rule's text: follows what each register holds, and writes what is done with it.

use super::super::data::{Data, DataType, SetType};
use super::super::expr::{
    BitwiseOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibFlags, FibResult, LogLevel, MetaKey,
    NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, RegRange, RejectKind,
};
use super::super::object::{Family, Name, Rule, SetData};
use super::value;
use super::{SetTypes, Span};

/// What a register holds.
#[derive(Debug, Clone)]
enum Held {
    /// The value of an expression.
    Loaded { text: String, ty: DataType },
    /// A constant; its first register has all of it.
    Constant(Data),
    /// Part of what a map's lookup gave: which one, and of how many if that is known.
    Part { lookup: String, index: usize, of: Option<usize> },
    /// Bits of a number: the number, the mask, and which bits are turned.
    Bits { text: String, ty: DataType, mask: u32, xor: u32 },
    /// The rest of the register before.
    Rest,
}

/// The rule's expressions as text.
pub(super) fn text(rule: &Rule, sets: &SetTypes<'_>) -> String {
    let mut writer = Writer { rule, sets, held: Default::default(), out: Vec::new() };
    for expr in &rule.exprs {
        writer.expr(expr);
    }
    writer.out.join(" ")
}

struct Writer<'a> {
    rule: &'a Rule,
    sets: &'a SetTypes<'a>,
    held: [Option<Held>; 16],
    out: Vec<String>,
}

impl Writer<'_> {
    fn hold(&mut self, reg: Reg, len: u32, held: Held) {
        let first = usize::from(reg.number());
        let count = (len.div_ceil(4) as usize).max(1);
        for slot in self.held.iter_mut().skip(first + 1).take(count - 1) {
            *slot = Some(Held::Rest);
        }
        self.held[first] = Some(held);
    }

    fn load(&mut self, reg: Reg, text: impl Into<String>, ty: DataType) {
        self.hold(reg, ty.len(), Held::Loaded { text: text.into(), ty });
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Meta { key, dreg } => {
                let (text, ty) = meta(*key);
                self.load(*dreg, text, ty);
            }
            Expr::MetaSet { key, sreg } => {
                let (value, (text, ty)) = (self.value(*sreg, None), meta(*key));
                let value = value.unwrap_or_else(|| self.constant(*sreg, ty));
                self.out.push(format!("{text} set {value}"));
            }
            Expr::Payload { base, offset, len, dreg } => {
                let (text, ty) = payload(*base, *offset, *len);
                self.load(*dreg, text, ty);
            }
            Expr::Ct { key, direction, dreg } => {
                let (text, ty) = ct(*key, *direction);
                self.load(*dreg, text, ty);
            }
            Expr::CtSet { key, sreg } => {
                let (text, ty) = ct(*key, None);
                let value = self.value(*sreg, None).unwrap_or_else(|| self.constant(*sreg, ty));
                self.out.push(format!("{text} set {value}"));
            }
            Expr::Numgen { kind, modulus, offset, dreg } => {
                let kind = match kind {
                    NumgenKind::Incremental => "inc",
                    NumgenKind::Random => "random",
                };
                let offset = if *offset == 0 { String::new() } else { format!(" offset {offset}") };
                let text = format!("numgen {kind} mod {modulus}{offset}");
                self.load(*dreg, text, DataType::Mark);
            }
            Expr::Lookup { set, sreg, dreg, invert } => self.lookup(set, *sreg, *dreg, *invert),
            Expr::VerdictMap { map, sreg } => {
                let key = self.key(map, *sreg);
                self.out.push(format!("{key} vmap @{map}"));
            }
            Expr::Immediate { data, dreg } => {
                let len = u32::try_from(data.len()).unwrap_or(4);
                self.hold(*dreg, len, Held::Constant(data.clone()));
            }
            Expr::Verdict(verdict) => self.out.push(verdict.to_string()),
            Expr::Bitwise { sreg, dreg, len, op } => self.bitwise(*sreg, *dreg, *len, op),
            Expr::Byteorder { sreg, dreg, .. } => {
                let held = self.held[usize::from(sreg.number())].clone();
                self.held[usize::from(dreg.number())] = held;
            }
            Expr::Cmp { op, sreg, data } => self.cmp(*op, *sreg, data),
            Expr::Range { op, sreg, from, to } => {
                let op = if *op == RangeOp::Neq { "!= " } else { "" };
                let (text, ty) = self.typed(*sreg);
                let [from, to] = [from, to].map(|data| value::one(ty, data.as_bytes()));
                self.out.push(format!("{text} {op}{from}-{to}"));
            }
            Expr::Dynset { .. } => self.dynset(expr),
            Expr::Nat { kind, family, addr, port, flags } => {
                let verb = if *kind == NatKind::Snat { "snat" } else { "dnat" };
                let to = self.nat_target(*family, *addr, *port);
                self.out.push(format!("{verb} {family} to {to}{}", nat_flags(*flags)));
            }
            Expr::Masquerade { port, flags } => {
                let to = port.map_or(String::new(), |p| format!(" to :{}", self.port(p)));
                self.out.push(format!("masquerade{to}{}", nat_flags(*flags)));
            }
            Expr::Redirect { port, flags } => {
                let to = port.map_or(String::new(), |p| format!(" to :{}", self.port(p)));
                self.out.push(format!("redirect{to}{}", nat_flags(*flags)));
            }
            Expr::Reject(kind) => self.out.push(reject(*kind, self.rule.table.family)),
            Expr::Fib { result, flags, dreg } => {
                let (text, ty) = fib(*result, *flags);
                self.load(*dreg, text, ty);
            }
            Expr::Counter { packets: 0, bytes: 0 } => self.out.push("counter".into()),
            Expr::Counter { packets, bytes } => {
                self.out.push(format!("counter packets {packets} bytes {bytes}"));
            }
            Expr::Notrack => self.out.push("notrack".into()),
            Expr::Other(name) => self.out.push(format!("[{name}]")),
            Expr::Log { prefix, level } => self.out.push(log(prefix, *level)),
            Expr::Limit { rate, unit, burst, over } => {
                let over = if *over { "over " } else { "" };
                let unit = unit_name(*unit);
                self.out.push(format!("limit rate {over}{rate}/{unit} burst {burst} packets"));
            }
        }
    }

    /// The types of a set's key and data, if the set is known.
    fn set_types(&self, set: &Name) -> Option<(&SetType, Option<&SetType>)> {
        let set = self.sets.get(&(&self.rule.table, set.as_str()))?;
        let data = match &set.data {
            SetData::Map(ty) => Some(ty),
            _ => None,
        };
        Some((&set.key, data))
    }

    /// The key in and behind a register: as long as the set's key is, or as loads reach.
    fn key(&self, set: &Name, sreg: Reg) -> String {
        let known = self.set_types(set).map(|(key, _)| key.clone());
        self.concat(sreg, known.as_ref())
    }

    fn concat(&self, sreg: Reg, ty: Option<&SetType>) -> String {
        let Some(ty) = ty else {
            let mut parts = Vec::new();
            let from = usize::from(sreg.number());
            for (i, held) in self.held.iter().enumerate().skip(from) {
                match held {
                    None => break,
                    Some(Held::Rest) => {}
                    Some(_) => {
                        let reg = Reg::at(u8::try_from(i).expect("sixteen registers"));
                        parts.push(self.any(reg));
                    }
                }
            }
            return parts.join(" . ");
        };
        let mut parts: Vec<String> = Vec::new();
        for (field, at, _) in ty.spans() {
            let number = usize::from(sreg.number()) + at / 4;
            let Some(reg) = u8::try_from(number).ok().and_then(Reg::new) else { break };
            parts.push(self.value(reg, None).unwrap_or_else(|| self.constant(reg, field)));
        }
        parts.dedup_by(|later, earlier| later.is_empty() && !earlier.is_empty());
        parts.join(" . ")
    }

    /// The expression in a register; none for a constant, whose text depends on its type.
    /// `whole` says how many fields of a lookup's data are wanted.
    fn value(&self, reg: Reg, whole: Option<usize>) -> Option<String> {
        match self.held[usize::from(reg.number())].as_ref() {
            Some(Held::Loaded { text, .. }) => Some(text.clone()),
            Some(Held::Bits { text, mask, xor, .. }) => Some(bits(text, *mask, *xor)),
            Some(Held::Part { lookup, index, of }) => {
                Some(if *index == 0 && (whole.is_some() && whole == *of || *of == Some(1)) {
                    lookup.clone()
                } else {
                    format!("({lookup})[{index}]")
                })
            }
            Some(Held::Rest | Held::Constant(_)) => None,
            None => Some(format!("reg{}", reg.number())),
        }
    }

    fn any(&self, reg: Reg) -> String {
        self.value(reg, None).unwrap_or_else(|| self.constant(reg, DataType::Other(0, 0)))
    }

    /// The constant in a register, written as of that type.
    fn constant(&self, reg: Reg, ty: DataType) -> String {
        match self.held[usize::from(reg.number())].as_ref() {
            Some(Held::Constant(data)) => value::one(ty, data.as_bytes()),
            _ => format!("reg{}", reg.number()),
        }
    }

    /// The expression in a register and the type of what it is compared with.
    fn typed(&self, reg: Reg) -> (String, DataType) {
        let ty = match self.held[usize::from(reg.number())].as_ref() {
            Some(Held::Loaded { ty, .. } | Held::Bits { ty, .. }) => *ty,
            _ => DataType::Other(0, 0),
        };
        (self.any(reg), ty)
    }

    fn lookup(&mut self, set: &Name, sreg: Reg, dreg: Option<Reg>, invert: bool) {
        let key = self.key(set, sreg);
        let Some(dreg) = dreg else {
            let not = if invert { "!= " } else { "" };
            self.out.push(format!("{key} {not}@{set}"));
            return;
        };
        let lookup = format!("{key} map @{set}");
        let data = self.set_types(set).and_then(|(_, data)| data.cloned());
        match data {
            Some(ty) => {
                let of = Some(ty.fields().len());
                for (index, (field, at, _)) in ty.spans().enumerate() {
                    let number = usize::from(dreg.number()) + at / 4;
                    if let Some(reg) = u8::try_from(number).ok().and_then(Reg::new) {
                        let lookup = lookup.clone();
                        self.hold(reg, field.len(), Held::Part { lookup, index, of });
                    }
                }
            }
            None => self.hold(dreg, 4, Held::Part { lookup, index: 0, of: Some(1) }),
        }
    }

    fn bitwise(&mut self, sreg: Reg, dreg: Reg, len: u32, op: &BitwiseOp) {
        let (text, ty) = self.typed(sreg);
        let held = match op {
            BitwiseOp::MaskXor { mask, xor } => match (number(mask), number(xor)) {
                (Some(mask), Some(xor)) if ty == DataType::Mark => {
                    Held::Bits { text, ty, mask, xor }
                }
                _ => {
                    let [mask, xor] = [mask, xor].map(|data| value::one(ty, data.as_bytes()));
                    Held::Loaded { text: format!("{text} & {mask} ^ {xor}"), ty }
                }
            },
            BitwiseOp::ShiftLeft(by) => Held::Loaded { text: format!("{text} << {by}"), ty },
            BitwiseOp::ShiftRight(by) => Held::Loaded { text: format!("{text} >> {by}"), ty },
        };
        self.hold(dreg, len, held);
    }

    fn cmp(&mut self, op: CmpOp, sreg: Reg, data: &Data) {
        if let Some(Held::Bits { text, mask, xor: 0, .. }) =
            self.held[usize::from(sreg.number())].as_ref()
        {
            let bits = Data::new(&mask.to_ne_bytes());
            if (op, number(data)) == (CmpOp::Neq, Some(0))
                && let Some(names) = ct_bits(text, &bits)
            {
                self.out.push(format!("{text} {names}"));
                return;
            }
        }
        let op = match op {
            CmpOp::Eq => "",
            CmpOp::Neq => "!= ",
            CmpOp::Lt => "< ",
            CmpOp::Lte => "<= ",
            CmpOp::Gt => "> ",
            CmpOp::Gte => ">= ",
        };
        let bits = matches!(self.held[usize::from(sreg.number())], Some(Held::Bits { .. }));
        let op = if bits && op.is_empty() { "== " } else { op };
        let (text, ty) = self.typed(sreg);
        let what = if text.starts_with("fib ") && text.ends_with(" type") {
            address_type(data)
        } else if let Some(names) = ct_bits(&text, data) {
            names
        } else if text == "ct direction" {
            if data.as_bytes() == [0] { "original".into() } else { "reply".into() }
        } else if text == "meta nfproto" {
            match data.as_bytes() {
                [2] => "ipv4".into(),
                [10] => "ipv6".into(),
                other => value::hex(other),
            }
        } else {
            value::one(ty, data.as_bytes())
        };
        self.out.push(format!("{text} {op}{what}"));
    }

    fn dynset(&mut self, expr: &Expr) {
        let Expr::Dynset { set, op, key, data, timeout, exprs } = expr else { return };
        let op = match op {
            DynsetOp::Add => "add",
            DynsetOp::Update => "update",
            DynsetOp::Delete => "delete",
        };
        let mut text = format!("{op} @{set} {{ {}", self.key(set, *key));
        if let Some(timeout) = timeout {
            text += &format!(" timeout {}", Span(*timeout));
        }
        for expr in exprs {
            if let Expr::Counter { .. } = expr {
                text += " counter";
            }
        }
        if let Some(data) = data {
            let ty = self.set_types(set).and_then(|(_, data)| data.cloned());
            text += &format!(" : {}", self.concat(*data, ty.as_ref()));
        }
        self.out.push(text + " }");
    }

    fn nat_target(&self, family: Family, addr: Option<RegRange>, port: Option<RegRange>) -> String {
        let address = |reg: Reg, fields: usize| {
            let ty = if family == Family::Ip6 { DataType::Ipv6Addr } else { DataType::Ipv4Addr };
            self.value(reg, Some(fields)).unwrap_or_else(|| self.constant(reg, ty))
        };
        match (addr, port) {
            (Some(addr), Some(port)) if self.same_lookup(addr.min, port.min) => {
                address(addr.min, 2)
            }
            (Some(addr), port) => {
                let mut text = address(addr.min, 1);
                if addr.max != addr.min {
                    text += &format!("-{}", address(addr.max, 1));
                }
                if let Some(port) = port {
                    let open = family == Family::Ip6 && !text.contains(' ');
                    let text_of = if open { format!("[{text}]") } else { text };
                    return format!("{text_of}:{}", self.port(port));
                }
                text
            }
            (None, Some(port)) => format!(":{}", self.port(port)),
            (None, None) => String::new(),
        }
    }

    /// Whether both registers come from one lookup that gave an address and a port.
    fn same_lookup(&self, addr: Reg, port: Reg) -> bool {
        let part = |reg: Reg| self.held[usize::from(reg.number())].as_ref();
        match (part(addr), part(port)) {
            (
                Some(Held::Part { lookup: a, index: 0, .. }),
                Some(Held::Part { lookup: b, index: 1, of: Some(2) }),
            ) => a == b,
            // Without the map's type only its first register is known.
            (Some(Held::Part { index: 0, of: Some(1), .. }), None) => true,
            _ => false,
        }
    }

    fn port(&self, range: RegRange) -> String {
        let one = |reg: Reg| {
            self.value(reg, Some(1)).unwrap_or_else(|| self.constant(reg, DataType::InetService))
        };
        if range.min == range.max {
            one(range.min)
        } else {
            format!("{}-{}", one(range.min), one(range.max))
        }
    }
}

/// The names of a constant that is bits of a connection's state or status.
fn ct_bits(text: &str, data: &Data) -> Option<String> {
    let names: &[_] = match text {
        "ct state" => &value::CT_STATE,
        "ct status" => &value::CT_STATUS,
        _ => return None,
    };
    value::bit_names(names, number(data)?)
}

fn number(data: &Data) -> Option<u32> {
    data.as_bytes().try_into().ok().map(u32::from_ne_bytes)
}

fn bits(text: &str, mask: u32, xor: u32) -> String {
    match (mask, xor) {
        (mask, 0) => format!("{text} & {mask:#x}"),
        (mask, xor) if mask == !xor => format!("{text} | {xor:#x}"),
        (u32::MAX, xor) => format!("{text} ^ {xor:#x}"),
        (mask, xor) => format!("{text} & {mask:#x} ^ {xor:#x}"),
    }
}

fn meta(key: MetaKey) -> (&'static str, DataType) {
    match key {
        MetaKey::Length => ("meta length", DataType::IfIndex),
        MetaKey::Protocol => ("meta protocol", DataType::Other(0, 2)),
        MetaKey::Mark => ("meta mark", DataType::Mark),
        MetaKey::Iif => ("iif", DataType::IfIndex),
        MetaKey::Oif => ("oif", DataType::IfIndex),
        MetaKey::IifName => ("iifname", DataType::IfName),
        MetaKey::OifName => ("oifname", DataType::IfName),
        MetaKey::NfProto => ("meta nfproto", DataType::Other(0, 1)),
        MetaKey::L4Proto => ("meta l4proto", DataType::InetProto),
        MetaKey::NfTrace => ("meta nftrace", DataType::Other(0, 1)),
    }
}

fn payload(base: PayloadBase, offset: u32, len: u32) -> (String, DataType) {
    let known = match (base, offset, len) {
        (PayloadBase::Network, 12, 4) => Some(("ip saddr", DataType::Ipv4Addr)),
        (PayloadBase::Network, 16, 4) => Some(("ip daddr", DataType::Ipv4Addr)),
        (PayloadBase::Network, 8, 16) => Some(("ip6 saddr", DataType::Ipv6Addr)),
        (PayloadBase::Network, 24, 16) => Some(("ip6 daddr", DataType::Ipv6Addr)),
        (PayloadBase::Transport, 0, 2) => Some(("th sport", DataType::InetService)),
        (PayloadBase::Transport, 2, 2) => Some(("th dport", DataType::InetService)),
        _ => None,
    };
    if let Some((text, ty)) = known {
        return (text.into(), ty);
    }
    let header = match base {
        PayloadBase::Link => "ll",
        PayloadBase::Network => "nh",
        PayloadBase::Transport => "th",
    };
    let (offset, bits) = (u64::from(offset) * 8, u64::from(len) * 8);
    (format!("@{header},{offset},{bits}"), DataType::Other(0, len))
}

fn ct(key: CtKey, direction: Option<CtDirection>) -> (String, DataType) {
    let (name, ty) = match key {
        CtKey::State => ("state", DataType::Mark),
        CtKey::Direction => ("direction", DataType::Other(0, 1)),
        CtKey::Status => ("status", DataType::Mark),
        CtKey::Mark => ("mark", DataType::Mark),
        CtKey::Protocol => ("protocol", DataType::InetProto),
        CtKey::ProtoSrc => ("proto-src", DataType::InetService),
        CtKey::ProtoDst => ("proto-dst", DataType::InetService),
        CtKey::SrcIp => ("ip saddr", DataType::Ipv4Addr),
        CtKey::DstIp => ("ip daddr", DataType::Ipv4Addr),
        CtKey::SrcIp6 => ("ip6 saddr", DataType::Ipv6Addr),
        CtKey::DstIp6 => ("ip6 daddr", DataType::Ipv6Addr),
    };
    let direction = match direction {
        None => "",
        Some(CtDirection::Original) => "original ",
        Some(CtDirection::Reply) => "reply ",
    };
    (format!("ct {direction}{name}"), ty)
}

fn fib(result: FibResult, flags: FibFlags) -> (String, DataType) {
    let parts = [
        (flags.saddr, "saddr"),
        (flags.daddr, "daddr"),
        (flags.mark, "mark"),
        (flags.iif, "iif"),
        (flags.oif, "oif"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let (result, ty) = match result {
        FibResult::Oif => ("oif", DataType::IfIndex),
        FibResult::OifName => ("oifname", DataType::IfName),
        FibResult::AddrType => ("type", DataType::IfIndex),
    };
    (format!("fib {} {result}", parts.join(" . ")), ty)
}

/// `RTN_*` by nftables' names.
fn address_type(data: &Data) -> String {
    match number(data) {
        Some(1) => "unicast".into(),
        Some(2) => "local".into(),
        Some(3) => "broadcast".into(),
        Some(4) => "anycast".into(),
        Some(5) => "multicast".into(),
        Some(other) => other.to_string(),
        None => format!("{data:?}"),
    }
}

fn nat_flags(flags: NatFlags) -> String {
    let names = [
        (flags.random, "random"),
        (flags.fully_random, "fully-random"),
        (flags.persistent, "persistent"),
    ];
    let names: Vec<_> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) }
}

fn reject(kind: RejectKind, family: Family) -> String {
    let icmp6 = family == Family::Ip6;
    match kind {
        RejectKind::TcpReset => "reject with tcp reset".into(),
        RejectKind::IcmpxUnreach(code) => {
            let name = ["no-route", "port-unreachable", "host-unreachable", "admin-prohibited"];
            let name = name.get(usize::from(code)).map_or(code.to_string(), ToString::to_string);
            format!("reject with icmpx {name}")
        }
        RejectKind::IcmpUnreach(code) => {
            let name = match (code, icmp6) {
                (0, false) => "net-unreachable",
                (1, false) => "host-unreachable",
                (2, false) => "prot-unreachable",
                (3, false) => "port-unreachable",
                (13, false) => "admin-prohibited",
                (0, true) => "no-route",
                (1, true) => "admin-prohibited",
                (3, true) => "addr-unreachable",
                (4, true) => "port-unreachable",
                _ => return format!("reject with icmp{} {code}", if icmp6 { "v6" } else { "" }),
            };
            format!("reject with icmp{} {name}", if icmp6 { "v6" } else { "" })
        }
    }
}

fn log(prefix: &str, level: LogLevel) -> String {
    let level = match level {
        LogLevel::Emerg => " level emerg",
        LogLevel::Alert => " level alert",
        LogLevel::Crit => " level crit",
        LogLevel::Err => " level err",
        LogLevel::Warning => "",
        LogLevel::Notice => " level notice",
        LogLevel::Info => " level info",
        LogLevel::Debug => " level debug",
    };
    if prefix.is_empty() {
        format!("log{level}")
    } else {
        format!("log prefix \"{}\"{level}", prefix.replace('"', "'"))
    }
}

fn unit_name(seconds: u64) -> String {
    match seconds {
        1 => "second".into(),
        60 => "minute".into(),
        3600 => "hour".into(),
        86_400 => "day".into(),
        604_800 => "week".into(),
        other => format!("{other}s"),
    }
}
