//! Expressions as attributes.

use super::super::attr;
use super::super::expr::{BitwiseOp, Expr, FibFlags, NatFlags, Reg, RegRange, RejectKind};
use super::{data, millis, verdict};
use crate::wire::Writer;

/// The register of a verdict.
const REG_VERDICT: u32 = 0;
/// The lowest of the registers of four bytes.
const REG32_00: u32 = 8;

pub(super) fn encode(w: &mut Writer, expr: &Expr) {
    w.text(attr::expr::NAME, name(expr));
    if !matches!(expr, Expr::Notrack | Expr::Other(_)) {
        w.nest(attr::expr::DATA, |w| body(w, expr));
    }
}

fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Payload { .. } => "payload",
        Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
        Expr::Numgen { .. } => "numgen",
        Expr::Lookup { .. } | Expr::VerdictMap { .. } => "lookup",
        Expr::Dynset { .. } => "dynset",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Byteorder { .. } => "byteorder",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Reject(_) => "reject",
        Expr::Fib { .. } => "fib",
        Expr::Counter { .. } => "counter",
        Expr::Notrack => "notrack",
        Expr::Log { .. } => "log",
        Expr::Limit { .. } => "limit",
        Expr::Other(name) => name,
    }
}

fn body(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Meta { key, dreg } => {
            w.be32(attr::meta::KEY, key.code());
            reg(w, attr::meta::DREG, *dreg);
        }
        Expr::MetaSet { key, sreg } => {
            w.be32(attr::meta::KEY, key.code());
            reg(w, attr::meta::SREG, *sreg);
        }
        Expr::Payload { base, offset, len, dreg } => {
            reg(w, attr::payload::DREG, *dreg);
            w.be32(attr::payload::BASE, base.code());
            w.be32(attr::payload::OFFSET, *offset);
            w.be32(attr::payload::LEN, *len);
        }
        Expr::Ct { key, direction, dreg } => {
            w.be32(attr::ct::KEY, key.code());
            reg(w, attr::ct::DREG, *dreg);
            if let Some(direction) = direction {
                w.u8(attr::ct::DIRECTION, direction.code());
            }
        }
        Expr::CtSet { key, sreg } => {
            w.be32(attr::ct::KEY, key.code());
            reg(w, attr::ct::SREG, *sreg);
        }
        Expr::Numgen { kind, modulus, offset, dreg } => {
            reg(w, attr::numgen::DREG, *dreg);
            w.be32(attr::numgen::TYPE, kind.code());
            w.be32(attr::numgen::MODULUS, *modulus);
            w.be32(attr::numgen::OFFSET, *offset);
        }
        Expr::Lookup { set, sreg, dreg, invert } => {
            w.text(attr::lookup::SET, set.as_str());
            reg(w, attr::lookup::SREG, *sreg);
            optional_reg(w, attr::lookup::DREG, *dreg);
            if *invert {
                w.be32(attr::lookup::FLAGS, 1);
            }
        }
        Expr::VerdictMap { map, sreg } => {
            w.text(attr::lookup::SET, map.as_str());
            reg(w, attr::lookup::SREG, *sreg);
            w.be32(attr::lookup::DREG, REG_VERDICT);
        }
        Expr::Immediate { data: value, dreg } => {
            reg(w, attr::immediate::DREG, *dreg);
            data(w, attr::immediate::DATA, value);
        }
        Expr::Verdict(to) => {
            w.be32(attr::immediate::DREG, REG_VERDICT);
            w.nest(attr::immediate::DATA, |w| verdict(w, to));
        }
        Expr::Byteorder { sreg, dreg, to_network, len, size } => {
            reg(w, attr::byteorder::SREG, *sreg);
            reg(w, attr::byteorder::DREG, *dreg);
            w.be32(attr::byteorder::OP, u32::from(*to_network));
            w.be32(attr::byteorder::LEN, *len);
            w.be32(attr::byteorder::SIZE, *size);
        }
        Expr::Cmp { op, sreg, data: value } => {
            reg(w, attr::cmp::SREG, *sreg);
            w.be32(attr::cmp::OP, op.code());
            data(w, attr::cmp::DATA, value);
        }
        Expr::Range { op, sreg, from, to } => {
            reg(w, attr::range::SREG, *sreg);
            w.be32(attr::range::OP, op.code());
            data(w, attr::range::FROM, from);
            data(w, attr::range::TO, to);
        }
        Expr::Masquerade { port, flags } => {
            nat_flags(w, attr::masq::FLAGS, *flags);
            reg_range(w, attr::masq::PROTO_MIN, attr::masq::PROTO_MAX, *port);
        }
        Expr::Redirect { port, flags } => {
            reg_range(w, attr::redir::PROTO_MIN, attr::redir::PROTO_MAX, *port);
            nat_flags(w, attr::redir::FLAGS, *flags);
        }
        Expr::Counter { packets, bytes } => {
            w.be64(attr::counter::BYTES, *bytes);
            w.be64(attr::counter::PACKETS, *packets);
        }
        Expr::Notrack | Expr::Other(_) => {}
        Expr::Log { prefix, level } => {
            if !prefix.is_empty() {
                w.text(attr::log::PREFIX, prefix);
            }
            w.be32(attr::log::LEVEL, level.code());
        }
        Expr::Dynset { .. } => dynset(w, expr),
        Expr::Bitwise { sreg, dreg, len, op } => bitwise(w, *sreg, *dreg, *len, op),
        Expr::Nat { .. } => nat(w, expr),
        Expr::Reject(kind) => reject(w, *kind),
        Expr::Fib { result, flags, dreg } => {
            reg(w, attr::fib::DREG, *dreg);
            w.be32(attr::fib::RESULT, result.code());
            w.be32(attr::fib::FLAGS, fib_flags(*flags));
        }
        Expr::Limit { rate, unit, burst, over } => {
            w.be64(attr::limit::RATE, *rate);
            w.be64(attr::limit::UNIT, *unit);
            w.be32(attr::limit::BURST, *burst);
            w.be32(attr::limit::TYPE, 0);
            w.be32(attr::limit::FLAGS, u32::from(*over));
        }
    }
}

fn dynset(w: &mut Writer, expr: &Expr) {
    let Expr::Dynset { set, op, key, data, timeout, exprs } = expr else { return };
    w.text(attr::dynset::SET_NAME, set.as_str());
    w.be32(attr::dynset::OP, op.code());
    reg(w, attr::dynset::SREG_KEY, *key);
    optional_reg(w, attr::dynset::SREG_DATA, *data);
    if let Some(timeout) = timeout {
        w.be64(attr::dynset::TIMEOUT, millis(*timeout));
    }
    match exprs.as_slice() {
        [] => {}
        [one] => {
            w.be32(attr::dynset::FLAGS, 2);
            w.nest(attr::dynset::EXPR, |w| encode(w, one));
        }
        many => {
            w.be32(attr::dynset::FLAGS, 2);
            w.nest(attr::dynset::EXPRESSIONS, |w| {
                for e in many {
                    w.nest(attr::LIST_ELEM, |w| encode(w, e));
                }
            });
        }
    }
}

fn bitwise(w: &mut Writer, sreg: Reg, dreg: Reg, len: u32, op: &BitwiseOp) {
    reg(w, attr::bitwise::SREG, sreg);
    reg(w, attr::bitwise::DREG, dreg);
    w.be32(attr::bitwise::LEN, len);
    match op {
        BitwiseOp::MaskXor { mask, xor } => {
            w.be32(attr::bitwise::OP, 0);
            data(w, attr::bitwise::MASK, mask);
            data(w, attr::bitwise::XOR, xor);
        }
        BitwiseOp::ShiftLeft(bits) | BitwiseOp::ShiftRight(bits) => {
            let left = matches!(op, BitwiseOp::ShiftLeft(_));
            w.be32(attr::bitwise::OP, if left { 1 } else { 2 });
            w.nest(attr::bitwise::DATA, |w| w.bytes(attr::data::VALUE, &bits.to_ne_bytes()));
        }
    }
}

fn nat(w: &mut Writer, expr: &Expr) {
    let Expr::Nat { kind, family, addr, port, flags } = expr else { return };
    w.be32(attr::nat::TYPE, kind.code());
    w.be32(attr::nat::FAMILY, u32::from(family.code()));
    reg_range(w, attr::nat::ADDR_MIN, attr::nat::ADDR_MAX, *addr);
    reg_range(w, attr::nat::PROTO_MIN, attr::nat::PROTO_MAX, *port);
    nat_flags(w, attr::nat::FLAGS, *flags);
}

fn reject(w: &mut Writer, kind: RejectKind) {
    let (kind, code) = match kind {
        RejectKind::IcmpUnreach(code) => (0, Some(code)),
        RejectKind::TcpReset => (1, None),
        RejectKind::IcmpxUnreach(code) => (2, Some(code)),
    };
    w.be32(attr::reject::TYPE, kind);
    if let Some(code) = code {
        w.u8(attr::reject::CODE, code);
    }
}

fn reg(w: &mut Writer, kind: u16, reg: Reg) {
    w.be32(kind, REG32_00 + u32::from(reg.number()));
}

fn optional_reg(w: &mut Writer, kind: u16, value: Option<Reg>) {
    if let Some(value) = value {
        reg(w, kind, value);
    }
}

fn reg_range(w: &mut Writer, min: u16, max: u16, range: Option<RegRange>) {
    if let Some(range) = range {
        reg(w, min, range.min);
        reg(w, max, range.max);
    }
}

fn nat_flags(w: &mut Writer, kind: u16, flags: NatFlags) {
    use attr::nat_flag::{FULLY_RANDOM, PERSISTENT, RANDOM};
    let bits = if flags.random { RANDOM } else { 0 }
        | if flags.persistent { PERSISTENT } else { 0 }
        | if flags.fully_random { FULLY_RANDOM } else { 0 };
    if bits != 0 {
        w.be32(kind, bits);
    }
}

fn fib_flags(flags: FibFlags) -> u32 {
    use attr::fib_flag::{DADDR, IIF, MARK, OIF, PRESENT, SADDR};
    let bits = [
        (flags.saddr, SADDR),
        (flags.daddr, DADDR),
        (flags.mark, MARK),
        (flags.iif, IIF),
        (flags.oif, OIF),
        (flags.present, PRESENT),
    ];
    bits.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit)
}
