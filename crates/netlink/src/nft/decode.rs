//! The kernel's messages as objects.
//!
//! The bytes are not trusted: what is cut off, out of bounds or unknown is [`Malformed`], never a
//! panic. Only an expression that this crate does not know is kept, by name ([`Expr::Other`]), so
//! that a foreign rule in our table reads as a rule that differs.

mod expr;

use std::sync::Arc;
use std::time::Duration;

use super::attr::{self, userdata};
use super::data::{Data, SetType};
use super::encode::successor;
use super::expr::Expr;
use super::object::{
    BaseChain, Chain, ChainKind, Element, ElementData, Family, Handle, Hook, Name, Policy, Rule,
    Set, SetData, SetFlags, Table, TableRef, Verdict,
};
use crate::wire::{self, Malformed, Message, Table as Attrs, attrs};

fn family<'a>(message: &Message<'a>) -> Result<(Option<Family>, &'a [u8]), Malformed> {
    let (family, rest) = message.netfilter()?;
    Ok((Family::from_code(family), rest))
}

/// The table of a message; none when it is of a family that this crate does not speak.
pub(super) fn table(message: &Message<'_>) -> Result<Option<Table>, Malformed> {
    let (Some(family), rest) = family(message)? else { return Ok(None) };
    let found = Attrs::<8>::parse(rest)?;
    Ok(Some(Table {
        id: TableRef::new(family, found.text(attr::table::NAME)?),
        comment: comment(found.optional(attr::table::USERDATA), userdata::COMMENT)?,
    }))
}

/// The chain of a message; none when it is of another table.
pub(super) fn chain(message: &Message<'_>, wanted: &TableRef) -> Result<Option<Chain>, Malformed> {
    let (family, rest) = family(message)?;
    let found = Attrs::<13>::parse(rest)?;
    if family != Some(wanted.family) || found.text(attr::chain::TABLE)? != wanted.name.as_str() {
        return Ok(None);
    }
    let base =
        found.optional(attr::chain::HOOK).map(|hook| base_chain(&found, hook)).transpose()?;
    Ok(Some(Chain {
        table: wanted.clone(),
        name: found.text(attr::chain::NAME)?.into(),
        base,
        comment: comment(found.optional(attr::chain::USERDATA), userdata::COMMENT)?,
    }))
}

fn base_chain(chain: &Attrs<'_, 13>, hook: &[u8]) -> Result<BaseChain, Malformed> {
    let hook = Attrs::<5>::parse(hook)?;
    let priority = hook.be32(attr::hook::PRIORITY)?;
    Ok(BaseChain {
        kind: ChainKind::from_name(chain.text(attr::chain::TYPE)?)
            .ok_or(Malformed("a chain of an unknown type"))?,
        hook: Hook::from_code(hook.be32(attr::hook::NUM)?)
            .ok_or(Malformed("a chain at an unknown hook"))?,
        priority: i32::from_be_bytes(priority.to_be_bytes()),
        policy: Policy::from_code(chain.be32_or(attr::chain::POLICY, Policy::Accept.code())?)
            .ok_or(Malformed("a chain of an unknown policy"))?,
    })
}

/// The set of a message; none when it is of another table, or a rule's own.
pub(super) fn set(message: &Message<'_>, wanted: &TableRef) -> Result<Option<Set>, Malformed> {
    use attr::set_flag::{ANONYMOUS, CONSTANT, EVAL, INTERVAL, MAP, TIMEOUT};
    let (family, rest) = family(message)?;
    let found = Attrs::<19>::parse(rest)?;
    let flags = found.be32_or(attr::set::FLAGS, 0)?;
    let is_ours =
        family == Some(wanted.family) && found.text(attr::set::TABLE)? == wanted.name.as_str();
    if !is_ours || flags & ANONYMOUS != 0 {
        return Ok(None);
    }
    let data = if flags & MAP == 0 {
        SetData::None
    } else {
        match found.be32(attr::set::DATA_TYPE)? {
            attr::DATA_VERDICT => SetData::Verdict,
            ty => SetData::Map(SetType::from_id(ty, found.be32(attr::set::DATA_LEN)?)),
        }
    };
    let size = match found.optional(attr::set::DESC) {
        Some(desc) => Attrs::<3>::parse(desc)?.optional(attr::desc::SIZE).map(wire::be32),
        None => None,
    };
    Ok(Some(Set {
        table: wanted.clone(),
        name: found.text(attr::set::NAME)?.into(),
        key: SetType::from_id(found.be32(attr::set::KEY_TYPE)?, found.be32(attr::set::KEY_LEN)?),
        data,
        flags: SetFlags {
            interval: flags & INTERVAL != 0,
            timeout: flags & TIMEOUT != 0,
            dynamic: flags & EVAL != 0,
            constant: flags & CONSTANT != 0,
        },
        timeout: found.optional(attr::set::TIMEOUT).map(millis).transpose()?,
        size: size.transpose()?,
        comment: comment(found.optional(attr::set::USERDATA), userdata::SET_COMMENT)?,
    }))
}

/// An element as the kernel lists it: in a set of ranges of one field, an end of a range.
#[derive(PartialEq, Eq)]
pub(super) struct Listed {
    element: Element,
    is_end: bool,
}

impl Listed {
    pub(super) fn by_key(&self, other: &Self) -> std::cmp::Ordering {
        (&self.element.key, self.is_end).cmp(&(&other.element.key, other.is_end))
    }
}

/// Adds the elements of a message to a list.
pub(super) fn elements(
    message: &Message<'_>,
    set: &Set,
    out: &mut Vec<Listed>,
) -> Result<(), Malformed> {
    let (_, rest) = message.netfilter()?;
    let found = Attrs::<4>::parse(rest)?;
    let Some(list) = found.optional(attr::elem_list::ELEMENTS) else { return Ok(()) };
    for item in attrs(list) {
        let found = Attrs::<12>::parse(item?.1)?;
        let flags = found.be32_or(attr::elem::FLAGS, 0)?;
        if flags & attr::elem_flag::CATCHALL != 0 {
            continue;
        }
        let timeout = found.optional(attr::elem::TIMEOUT).map(millis).transpose()?;
        let element = Element {
            key: value(found.required(attr::elem::KEY)?)?,
            key_end: found.optional(attr::elem::KEY_END).map(value).transpose()?,
            data: element_data(found.optional(attr::elem::DATA))?,
            timeout: timeout.filter(|timeout| Some(*timeout) != set.timeout && !timeout.is_zero()),
            comment: comment(found.optional(attr::elem::USERDATA), userdata::COMMENT)?
                .map(String::into_boxed_str),
        };
        out.push(Listed { element, is_end: flags & attr::elem_flag::INTERVAL_END != 0 });
    }
    Ok(())
}

/// Makes ranges of their ends.
pub(super) fn ranges(set: &Set, listed: Vec<Listed>) -> Vec<Element> {
    if !set.flags.interval || set.key.fields().len() != 1 {
        return listed.into_iter().map(|one| one.element).collect();
    }
    let (ends, starts): (Vec<_>, Vec<_>) = listed.into_iter().partition(|one| one.is_end);
    let mut ends: Vec<Data> = ends.into_iter().map(|one| one.element.key).collect();
    ends.sort();
    starts
        .into_iter()
        .map(|one| {
            let element = one.element;
            let behind = ends.partition_point(|end| *end <= element.key);
            let last = match ends.get(behind) {
                Some(end) => predecessor(end),
                None => Data::new(&vec![0xff; element.key.len()]),
            };
            Element { key_end: (last != element.key).then_some(last), ..element }
        })
        .collect()
}

/// The key before as a number in network order; that of nought is nought.
fn predecessor(key: &Data) -> Data {
    let mut bytes = key.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (before, borrow) = byte.overflowing_sub(1);
        *byte = before;
        if !borrow {
            break;
        }
    }
    let before = Data::new(&bytes);
    if successor(&before).is_some() { before } else { key.clone() }
}

fn element_data(data: Option<&[u8]>) -> Result<ElementData, Malformed> {
    let Some(data) = data else { return Ok(ElementData::None) };
    let found = Attrs::<3>::parse(data)?;
    match found.optional(attr::data::VERDICT) {
        Some(to) => Ok(ElementData::Verdict(verdict(to)?)),
        None => Ok(ElementData::Value(Data::new(found.required(attr::data::VALUE)?))),
    }
}

/// The rule of a message; none when it is of another table.
pub(super) fn rule(
    message: &Message<'_>,
    wanted: &TableRef,
) -> Result<Option<(Handle, Rule)>, Malformed> {
    let (family, rest) = family(message)?;
    let found = Attrs::<12>::parse(rest)?;
    if family != Some(wanted.family) || found.text(attr::rule::TABLE)? != wanted.name.as_str() {
        return Ok(None);
    }
    let mut exprs = Vec::new();
    if let Some(list) = found.optional(attr::rule::EXPRESSIONS) {
        for item in attrs(list) {
            exprs.push(expression(item?.1)?);
        }
    }
    let rule = Rule {
        table: wanted.clone(),
        chain: found.text(attr::rule::CHAIN)?.into(),
        exprs,
        comment: comment(found.optional(attr::rule::USERDATA), userdata::COMMENT)?,
    };
    Ok(Some((Handle(found.be64(attr::rule::HANDLE)?), rule)))
}

/// The number of the ruleset's generation.
pub(super) fn generation(message: &Message<'_>) -> Result<u32, Malformed> {
    let (_, rest) = message.netfilter()?;
    Attrs::<4>::parse(rest)?.be32(attr::generation::ID)
}

/// An expression by its name; one that this crate cannot read is kept as its name.
fn expression(bytes: &[u8]) -> Result<Expr, Malformed> {
    let found = Attrs::<3>::parse(bytes)?;
    let name = found.text(attr::expr::NAME)?;
    let data = found.optional(attr::expr::DATA).unwrap_or(&[]);
    Ok(expr::decode(name, data)?.unwrap_or_else(|| Expr::Other(name.to_owned())))
}

fn value(bytes: &[u8]) -> Result<Data, Malformed> {
    Attrs::<3>::parse(bytes)?.required(attr::data::VALUE).map(Data::new)
}

fn verdict(bytes: &[u8]) -> Result<Verdict, Malformed> {
    use attr::verdict_code as code;
    let found = Attrs::<4>::parse(bytes)?;
    let number = i32::from_be_bytes(found.be32(attr::verdict::CODE)?.to_be_bytes());
    let chain = || found.text(attr::verdict::CHAIN).map(Name::from);
    Ok(match number {
        code::ACCEPT => Verdict::Accept,
        code::DROP => Verdict::Drop,
        code::CONTINUE => Verdict::Continue,
        code::RETURN => Verdict::Return,
        code::JUMP => Verdict::Jump(chain()?),
        code::GOTO => Verdict::Goto(chain()?),
        _ => return Err(Malformed("an unknown verdict")),
    })
}

fn millis(bytes: &[u8]) -> Result<Duration, Malformed> {
    wire::be64(bytes).map(Duration::from_millis)
}

/// The comment among nftables' records: type, length, value. What cannot be read is no comment,
/// since user data is anybody's.
fn comment(bytes: Option<&[u8]>, record: u8) -> Result<Option<String>, Malformed> {
    let mut rest = bytes.unwrap_or(&[]);
    while let [kind, len, behind @ ..] = rest {
        let Some((value, others)) = behind.split_at_checked(usize::from(*len)) else { break };
        if *kind == record {
            return Ok(wire::text(value).ok().map(str::to_owned));
        }
        rest = others;
    }
    Ok(None)
}

/// A set with its elements.
pub(super) fn with_elements(set: Set, listed: Vec<Listed>) -> (Arc<Set>, Vec<Element>) {
    let elements = ranges(&set, listed);
    (Arc::new(set), elements)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::data::DataType;
    use super::super::encode;
    use super::super::{Batch, Op};
    use super::*;

    fn read_all(bytes: &[u8]) {
        let table = TableRef::new(Family::Ip, "t");
        let mut set = Set::new(table.clone(), "s", [DataType::Ipv4Addr]);
        set.flags.interval = true;
        for message in wire::messages(bytes).flatten() {
            let _ = super::table(&message);
            let _ = chain(&message, &table);
            let _ = super::set(&message, &table);
            let _ = rule(&message, &table);
            let _ = generation(&message);
            let mut listed = Vec::new();
            let _ = elements(&message, &set, &mut listed);
            let _ = ranges(&set, listed);
        }
    }

    /// A batch with nested attributes of every depth, to be damaged.
    fn sample() -> Vec<u8> {
        use super::super::{ChainRef, Field, Reg};
        let table = TableRef::new(Family::Ip, "t");
        let chain = ChainRef { table: table.clone(), name: "c".into() };
        let mut map = Set::map(table.clone(), "s", [DataType::Mark], [DataType::Ipv4Addr]);
        map.size = Some(8);
        let map = Arc::new(map);
        let one = Element::map(Field::Mark(1), Field::Ipv4([10, 0, 0, 1].into()));
        let exprs = vec![
            Expr::l4proto(Reg::R0),
            Expr::eq(Reg::R0, Field::Proto(6)),
            Expr::bits(Reg::R0, Reg::R0, 1, 0),
            Expr::lookup("s", Reg::R0, Reg::at(1)),
            Expr::dnat(Family::Ip, Reg::at(1), None),
            Expr::Verdict(Verdict::Jump("c".into())),
        ];
        let ops = vec![
            Op::AddTable(Table { id: table, comment: Some("x".into()) }),
            Op::AddSet(Arc::clone(&map)),
            Op::AddElements(map, vec![one]),
            Op::AddRule(Rule::new(&chain, exprs).with_comment("y")),
        ];
        encode::batch(&Batch::from(ops), 1).map(|encoded| encoded.bytes).unwrap()
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_not_fatal(bytes in vec(any::<u8>(), 0..400)) {
            read_all(&bytes);
        }

        #[test]
        fn damaged_messages_are_refused_not_fatal(
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            read_all(&bytes);
        }

        #[test]
        fn any_expression_attributes_are_refused_not_fatal(bytes in vec(any::<u8>(), 0..200)) {
            for name in [
                "meta", "payload", "ct", "numgen", "lookup", "dynset", "immediate", "bitwise",
                "byteorder", "cmp", "range", "nat", "masq", "redir", "reject", "fib", "counter",
                "notrack", "log", "limit", "unheard-of",
            ] {
                let _ = expr::decode(name, &bytes);
            }
        }

        #[test]
        fn ranges_are_the_ends_they_were_made_of(
            ends in prop::collection::btree_set(any::<u32>(), 2..20)
        ) {
            let mut set = Set::new(TableRef::new(Family::Ip, "t"), "s", [DataType::Ipv4Addr]);
            set.flags.interval = true;
            let ends: Vec<u32> = ends.into_iter().collect();
            let data = |n: u32| Data::new(&n.to_be_bytes());
            let mut listed = Vec::new();
            let mut wanted = Vec::new();
            for pair in ends.chunks_exact(2) {
                let (first, last) = (data(pair[0]), data(pair[1]));
                listed.push(Listed { element: Element::new(first.clone()), is_end: false });
                if let Some(behind) = successor(&last) {
                    listed.push(Listed { element: Element::new(behind), is_end: true });
                }
                wanted.push((first, last));
            }
            let found: Vec<_> = ranges(&set, listed)
                .into_iter()
                .map(|e| (e.key.clone(), e.key_end.unwrap_or(e.key)))
                .collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
