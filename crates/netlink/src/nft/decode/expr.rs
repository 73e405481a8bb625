//! Attributes as expressions.

use super::super::attr;
use super::super::expr::{
    BitwiseOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibFlags, FibResult, LogLevel, MetaKey,
    NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, RegRange, RejectKind,
};
use super::super::object::Family;
use super::{expression, millis, value, verdict};
use crate::wire::{self, Malformed, Table as Attrs, attrs};

type Found<'a> = Attrs<'a, 12>;

/// The registers' numbers on the wire: verdict, four of sixteen bytes, sixteen of four bytes.
const REG_VERDICT: u32 = 0;
const REG_4: u32 = 4;
const REG32_00: u32 = 8;
const REG32_15: u32 = 23;

/// The expression of that name; none when this crate has no form for it.
pub(super) fn decode(name: &str, data: &[u8]) -> Result<Option<Expr>, Malformed> {
    let found = Found::parse(data)?;
    Ok(match name {
        "meta" => meta(&found)?,
        "payload" => payload(&found)?,
        "ct" => ct(&found)?,
        "numgen" => numgen(&found)?,
        "lookup" => Some(lookup(&found)?),
        "dynset" => dynset(&found)?,
        "immediate" => Some(immediate(&found)?),
        "bitwise" => bitwise(&found)?,
        "byteorder" => Some(Expr::Byteorder {
            sreg: reg(&found, attr::byteorder::SREG)?,
            dreg: reg(&found, attr::byteorder::DREG)?,
            to_network: found.be32(attr::byteorder::OP)? == 1,
            len: found.be32(attr::byteorder::LEN)?,
            size: found.be32(attr::byteorder::SIZE)?,
        }),
        "cmp" => Some(Expr::Cmp {
            op: known(CmpOp::from_code(found.be32(attr::cmp::OP)?))?,
            sreg: reg(&found, attr::cmp::SREG)?,
            data: value(found.required(attr::cmp::DATA)?)?,
        }),
        "range" => Some(Expr::Range {
            op: known(RangeOp::from_code(found.be32(attr::range::OP)?))?,
            sreg: reg(&found, attr::range::SREG)?,
            from: value(found.required(attr::range::FROM)?)?,
            to: value(found.required(attr::range::TO)?)?,
        }),
        "nat" => nat(&found)?,
        "masq" => nat_flags(&found, attr::masq::FLAGS)?
            .map(|flags| {
                let port = reg_range(&found, attr::masq::PROTO_MIN, attr::masq::PROTO_MAX)?;
                Ok::<_, Malformed>(Expr::Masquerade { port, flags })
            })
            .transpose()?,
        "redir" => nat_flags(&found, attr::redir::FLAGS)?
            .map(|flags| {
                let port = reg_range(&found, attr::redir::PROTO_MIN, attr::redir::PROTO_MAX)?;
                Ok::<_, Malformed>(Expr::Redirect { port, flags })
            })
            .transpose()?,
        "reject" => reject(&found)?,
        "fib" => fib(&found)?,
        "counter" => Some(Expr::Counter {
            packets: found.be64(attr::counter::PACKETS)?,
            bytes: found.be64(attr::counter::BYTES)?,
        }),
        "notrack" => Some(Expr::Notrack),
        "log" => log(&found)?,
        "limit" => limit(&found)?,
        _ => None,
    })
}

fn known<T>(value: Option<T>) -> Result<T, Malformed> {
    value.ok_or(Malformed("an unknown operator"))
}

fn reg_of(number: u32) -> Result<Reg, Malformed> {
    let slot = match number {
        REG_VERDICT => return Err(Malformed("the verdict is no data register")),
        1..=REG_4 => (number - 1) * 4,
        REG32_00..=REG32_15 => number - REG32_00,
        _ => return Err(Malformed("no such register")),
    };
    u8::try_from(slot).ok().and_then(Reg::new).ok_or(Malformed("no such register"))
}

fn reg(found: &Found<'_>, kind: u16) -> Result<Reg, Malformed> {
    reg_of(found.be32(kind)?)
}

fn optional_reg(found: &Found<'_>, kind: u16) -> Result<Option<Reg>, Malformed> {
    found.optional(kind).map(|bytes| reg_of(wire::be32(bytes)?)).transpose()
}

/// The kernel leaves the last register out when it is the first one too.
fn reg_range(found: &Found<'_>, min: u16, max: u16) -> Result<Option<RegRange>, Malformed> {
    let Some(min) = optional_reg(found, min)? else { return Ok(None) };
    let max = optional_reg(found, max)?.unwrap_or(min);
    Ok(Some(RegRange { min, max }))
}

fn meta(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let Some(key) = MetaKey::from_code(found.be32(attr::meta::KEY)?) else { return Ok(None) };
    Ok(Some(match optional_reg(found, attr::meta::SREG)? {
        Some(sreg) => Expr::MetaSet { key, sreg },
        None => Expr::Meta { key, dreg: reg(found, attr::meta::DREG)? },
    }))
}

fn payload(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let base = PayloadBase::from_code(found.be32(attr::payload::BASE)?);
    let (Some(base), None) = (base, found.optional(attr::payload::SREG)) else { return Ok(None) };
    Ok(Some(Expr::Payload {
        base,
        offset: found.be32(attr::payload::OFFSET)?,
        len: found.be32(attr::payload::LEN)?,
        dreg: reg(found, attr::payload::DREG)?,
    }))
}

fn ct(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let Some(key) = CtKey::from_code(found.be32(attr::ct::KEY)?) else { return Ok(None) };
    if let Some(sreg) = optional_reg(found, attr::ct::SREG)? {
        return Ok(Some(Expr::CtSet { key, sreg }));
    }
    let direction = match found.optional(attr::ct::DIRECTION) {
        Some(bytes) => Some(known(CtDirection::from_code(wire::u8(bytes)?))?),
        None => None,
    };
    Ok(Some(Expr::Ct { key, direction, dreg: reg(found, attr::ct::DREG)? }))
}

fn numgen(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    Ok(Some(Expr::Numgen {
        kind: known(NumgenKind::from_code(found.be32(attr::numgen::TYPE)?))?,
        modulus: found.be32(attr::numgen::MODULUS)?,
        offset: found.be32_or(attr::numgen::OFFSET, 0)?,
        dreg: reg(found, attr::numgen::DREG)?,
    }))
}

fn lookup(found: &Found<'_>) -> Result<Expr, Malformed> {
    let set = found.text(attr::lookup::SET)?.into();
    let sreg = reg(found, attr::lookup::SREG)?;
    if let Some(bytes) = found.optional(attr::lookup::DREG)
        && wire::be32(bytes)? == REG_VERDICT
    {
        return Ok(Expr::VerdictMap { map: set, sreg });
    }
    Ok(Expr::Lookup {
        set,
        sreg,
        dreg: optional_reg(found, attr::lookup::DREG)?,
        invert: found.be32_or(attr::lookup::FLAGS, 0)? & 1 != 0,
    })
}

fn dynset(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let mut exprs = Vec::new();
    if let Some(one) = found.optional(attr::dynset::EXPR) {
        exprs.push(statement(one)?);
    } else if let Some(list) = found.optional(attr::dynset::EXPRESSIONS) {
        for item in attrs(list) {
            exprs.push(statement(item?.1)?);
        }
    }
    let timeout = found.optional(attr::dynset::TIMEOUT).map(millis).transpose()?;
    Ok(Some(Expr::Dynset {
        set: found.text(attr::dynset::SET_NAME)?.into(),
        op: known(DynsetOp::from_code(found.be32(attr::dynset::OP)?))?,
        key: reg(found, attr::dynset::SREG_KEY)?,
        data: optional_reg(found, attr::dynset::SREG_DATA)?,
        timeout: timeout.filter(|timeout| !timeout.is_zero()),
        exprs,
    }))
}

/// An element's own expression. None of them has expressions within, so hostile bytes cannot make
/// this recurse: what claims to is kept by name only.
fn statement(bytes: &[u8]) -> Result<Expr, Malformed> {
    let found = Attrs::<3>::parse(bytes)?;
    match found.text(attr::expr::NAME)? {
        name @ "dynset" => Ok(Expr::Other(name.to_owned())),
        _ => expression(bytes),
    }
}

fn immediate(found: &Found<'_>) -> Result<Expr, Malformed> {
    let data = found.required(attr::immediate::DATA)?;
    if found.be32(attr::immediate::DREG)? == REG_VERDICT {
        let to = Attrs::<3>::parse(data)?;
        return verdict(to.required(attr::data::VERDICT)?).map(Expr::Verdict);
    }
    Ok(Expr::Immediate { data: value(data)?, dreg: reg(found, attr::immediate::DREG)? })
}

fn bitwise(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let shift = || {
        let bytes = value(found.required(attr::bitwise::DATA)?)?;
        wire::ne32(bytes.as_bytes())
    };
    let op = match found.be32_or(attr::bitwise::OP, 0)? {
        0 => BitwiseOp::MaskXor {
            mask: value(found.required(attr::bitwise::MASK)?)?,
            xor: value(found.required(attr::bitwise::XOR)?)?,
        },
        1 => BitwiseOp::ShiftLeft(shift()?),
        2 => BitwiseOp::ShiftRight(shift()?),
        _ => return Ok(None),
    };
    Ok(Some(Expr::Bitwise {
        sreg: reg(found, attr::bitwise::SREG)?,
        dreg: reg(found, attr::bitwise::DREG)?,
        len: found.be32(attr::bitwise::LEN)?,
        op,
    }))
}

fn nat(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let family = u8::try_from(found.be32(attr::nat::FAMILY)?).ok().and_then(Family::from_code);
    let flags = nat_flags(found, attr::nat::FLAGS)?;
    let (Some(family), Some(flags)) = (family, flags) else { return Ok(None) };
    Ok(Some(Expr::Nat {
        kind: known(NatKind::from_code(found.be32(attr::nat::TYPE)?))?,
        family,
        addr: reg_range(found, attr::nat::ADDR_MIN, attr::nat::ADDR_MAX)?,
        port: reg_range(found, attr::nat::PROTO_MIN, attr::nat::PROTO_MAX)?,
        flags,
    }))
}

/// How to pick; none when there is a flag that this crate does not know.
fn nat_flags(found: &Found<'_>, kind: u16) -> Result<Option<NatFlags>, Malformed> {
    use attr::nat_flag::{FULLY_RANDOM, MAP_IPS, PERSISTENT, PROTO_SPECIFIED, RANDOM};
    let bits = found.be32_or(kind, 0)?;
    let ours = RANDOM | PERSISTENT | FULLY_RANDOM;
    // The kernel adds two of its own, which say that there are registers.
    let is_known = bits & !(ours | MAP_IPS | PROTO_SPECIFIED) == 0;
    Ok(is_known.then_some(NatFlags {
        random: bits & RANDOM != 0,
        fully_random: bits & FULLY_RANDOM != 0,
        persistent: bits & PERSISTENT != 0,
    }))
}

fn reject(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    let code = || found.u8(attr::reject::CODE);
    Ok(match found.be32(attr::reject::TYPE)? {
        0 => Some(Expr::Reject(RejectKind::IcmpUnreach(code()?))),
        1 => Some(Expr::Reject(RejectKind::TcpReset)),
        2 => Some(Expr::Reject(RejectKind::IcmpxUnreach(code()?))),
        _ => None,
    })
}

fn fib(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    use attr::fib_flag::{DADDR, IIF, MARK, OIF, PRESENT, SADDR};
    let bits = found.be32_or(attr::fib::FLAGS, 0)?;
    Ok(Some(Expr::Fib {
        result: known(FibResult::from_code(found.be32(attr::fib::RESULT)?))?,
        flags: FibFlags {
            saddr: bits & SADDR != 0,
            daddr: bits & DADDR != 0,
            mark: bits & MARK != 0,
            iif: bits & IIF != 0,
            oif: bits & OIF != 0,
            present: bits & PRESENT != 0,
        },
        dreg: reg(found, attr::fib::DREG)?,
    }))
}

/// Lines to the kernel's log only; those to a netlink group are not ours.
fn log(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    if found.optional(attr::log::GROUP).is_some() {
        return Ok(None);
    }
    let prefix = match found.optional(attr::log::PREFIX) {
        Some(bytes) => wire::text(bytes)?.to_owned(),
        None => String::new(),
    };
    let level = found.be32_or(attr::log::LEVEL, LogLevel::Warning.code())?;
    Ok(LogLevel::from_code(level).map(|level| Expr::Log { prefix, level }))
}

/// Limits by packets only.
fn limit(found: &Found<'_>) -> Result<Option<Expr>, Malformed> {
    if found.be32_or(attr::limit::TYPE, 0)? != 0 {
        return Ok(None);
    }
    Ok(Some(Expr::Limit {
        rate: found.be64(attr::limit::RATE)?,
        unit: found.be64(attr::limit::UNIT)?,
        burst: found.be32_or(attr::limit::BURST, 0)?,
        over: found.be32_or(attr::limit::FLAGS, 0)? & 1 != 0,
    }))
}
