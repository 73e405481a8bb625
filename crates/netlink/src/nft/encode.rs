//! Operations as netlink messages.
//!
//! Invariants: an element list stays below an attribute's 64 KiB and [`MAX_ELEMENTS`], so one
//! operation may take several messages; every message has a sequence number of its own, and
//! [`Encoded`] tells which operation it came from.

mod expr;

use std::time::Duration;

use super::attr::{self, msg};
use super::batch::{Batch, Op};
use super::data::Data;
use super::object::{
    BaseChain, Chain, ChainRef, Element, ElementData, Family, Handle, Name, Rule, Set, SetData,
    SetRef, Table, TableRef, Verdict,
};
use crate::wire::{ATTR_MAX, Writer, flag};

/// The most elements that one message carries.
const MAX_ELEMENTS: usize = 1000;
/// When an element list is long enough, with room for one more element of the largest size.
const FULL_LIST: usize = ATTR_MAX - 4096;

/// A batch as it goes to the kernel.
pub(super) struct Encoded {
    /// All messages, one behind the other.
    pub(super) bytes: Vec<u8>,
    /// For each message, counted from the batch's first one, the operation it belongs to.
    pub(super) owners: Vec<Option<usize>>,
}

/// Encodes a batch, numbering its messages from `seq`; none: a name or list is too long.
pub(super) fn batch(batch: &Batch, seq: u32) -> Option<Encoded> {
    let mut encoder = Encoder { out: Writer::default(), seq, owners: Vec::new(), next_set_id: 1 };
    encoder.bound(attr::BATCH_BEGIN, flag::REQUEST);
    for (index, op) in batch.ops.iter().enumerate() {
        encoder.op(index, op);
    }
    // Since Linux 6.10 the kernel acknowledges the end; older ones take no notice of the flag.
    encoder.bound(attr::BATCH_END, flag::REQUEST);
    Some(Encoded { bytes: encoder.out.finish()?, owners: encoder.owners })
}

/// How many bytes an operation takes in a batch.
pub(super) fn op_len(op: &Op) -> usize {
    let mut encoder =
        Encoder { out: Writer::default(), seq: 0, owners: Vec::new(), next_set_id: 1 };
    encoder.op(0, op);
    encoder.out.len()
}

/// The family, version and resource that stand before a message's attributes.
pub(super) const fn nfgen(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

struct Encoder {
    out: Writer,
    seq: u32,
    owners: Vec<Option<usize>>,
    next_set_id: u32,
}

impl Encoder {
    fn bound(&mut self, kind: u16, flags: u16) {
        let seq = self.number(None);
        self.out.message(kind, flags, seq, nfgen(0, attr::RES_ID), |_| {});
    }

    fn number(&mut self, owner: Option<usize>) -> u32 {
        let seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        self.owners.push(owner);
        seq
    }

    fn message(
        &mut self,
        owner: usize,
        kind: u16,
        flags: u16,
        family: Family,
        body: impl FnOnce(&mut Writer),
    ) {
        let seq = self.number(Some(owner));
        let kind = attr::SUBSYSTEM | kind;
        self.out.message(kind, flag::REQUEST | flags, seq, nfgen(family.code(), 0), body);
    }

    fn op(&mut self, i: usize, op: &Op) {
        use flag::{APPEND, CREATE, EXCL, REPLACE};
        match op {
            Op::AddTable(table) => self.table(i, CREATE, table),
            Op::CreateTable(table) => self.table(i, CREATE | EXCL, table),
            Op::DeleteTable(table) => self.delete_table(i, table),
            Op::AddChain(chain) => self.chain(i, CREATE, chain),
            Op::CreateChain(chain) => self.chain(i, CREATE | EXCL, chain),
            Op::DeleteChain(chain) => self.message(i, msg::DEL_CHAIN, 0, chain.table.family, |w| {
                w.text(attr::chain::TABLE, chain.table.name.as_str());
                w.text(attr::chain::NAME, chain.name.as_str());
            }),
            Op::FlushChain(chain) => self.delete_rule(i, chain, None),
            Op::AddSet(set) => self.set(i, CREATE, set),
            Op::CreateSet(set) => self.set(i, CREATE | EXCL, set),
            Op::DeleteSet(set) => self.message(i, msg::DEL_SET, 0, set.table.family, |w| {
                w.text(attr::set::TABLE, set.table.name.as_str());
                w.text(attr::set::NAME, set.name.as_str());
            }),
            Op::FlushSet(set) => self.flush_set(i, set),
            Op::AddElements(set, list) => self.elements(i, msg::NEW_ELEM, CREATE, set, list),
            Op::CreateElements(set, list) => {
                self.elements(i, msg::NEW_ELEM, CREATE | EXCL, set, list);
            }
            Op::DeleteElements(set, list) => self.elements(i, msg::DEL_ELEM, 0, set, list),
            Op::AddRule(rule) => self.rule(i, CREATE | APPEND, None, rule),
            Op::InsertRule(rule) => self.rule(i, CREATE, None, rule),
            Op::ReplaceRule(handle, rule) => self.rule(i, REPLACE, Some(*handle), rule),
            Op::DeleteRule(chain, handle) => self.delete_rule(i, chain, Some(*handle)),
        }
    }

    fn table(&mut self, i: usize, flags: u16, table: &Table) {
        self.message(i, msg::NEW_TABLE, flags, table.id.family, |w| {
            w.text(attr::table::NAME, table.id.name.as_str());
            comment(w, attr::table::USERDATA, attr::userdata::COMMENT, table.comment.as_deref());
        });
    }

    fn delete_table(&mut self, i: usize, table: &TableRef) {
        self.message(i, msg::DEL_TABLE, 0, table.family, |w| {
            w.text(attr::table::NAME, table.name.as_str());
        });
    }

    fn chain(&mut self, i: usize, flags: u16, chain: &Chain) {
        self.message(i, msg::NEW_CHAIN, flags, chain.table.family, |w| {
            w.text(attr::chain::TABLE, chain.table.name.as_str());
            w.text(attr::chain::NAME, chain.name.as_str());
            if let Some(base) = &chain.base {
                base_chain(w, base);
            }
            comment(w, attr::chain::USERDATA, attr::userdata::COMMENT, chain.comment.as_deref());
        });
    }

    fn set(&mut self, i: usize, flags: u16, set: &Set) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        self.message(i, msg::NEW_SET, flags, set.table.family, |w| new_set(w, set, id));
    }

    fn flush_set(&mut self, i: usize, set: &SetRef) {
        self.message(i, msg::DEL_ELEM, 0, set.table.family, |w| {
            w.text(attr::elem_list::TABLE, set.table.name.as_str());
            w.text(attr::elem_list::SET, set.name.as_str());
        });
    }

    fn elements(&mut self, i: usize, kind: u16, flags: u16, set: &Set, elements: &[Element]) {
        let mut rest = elements;
        while !rest.is_empty() {
            self.message(i, kind, flags, set.table.family, |w| {
                w.text(attr::elem_list::TABLE, set.table.name.as_str());
                w.text(attr::elem_list::SET, set.name.as_str());
                w.nest(attr::elem_list::ELEMENTS, |w| {
                    let (start, mut count) = (w.len(), 0);
                    while let [first, others @ ..] = rest {
                        if count == MAX_ELEMENTS || w.len() - start > FULL_LIST {
                            break;
                        }
                        element(w, set, first);
                        (rest, count) = (others, count + 1);
                    }
                });
            });
        }
    }

    fn rule(&mut self, i: usize, flags: u16, handle: Option<Handle>, rule: &Rule) {
        self.message(i, msg::NEW_RULE, flags, rule.table.family, |w| {
            w.text(attr::rule::TABLE, rule.table.name.as_str());
            w.text(attr::rule::CHAIN, rule.chain.as_str());
            if let Some(Handle(handle)) = handle {
                w.be64(attr::rule::HANDLE, handle);
            }
            w.nest(attr::rule::EXPRESSIONS, |w| {
                for e in &rule.exprs {
                    w.nest(attr::LIST_ELEM, |w| expr::encode(w, e));
                }
            });
            comment(w, attr::rule::USERDATA, attr::userdata::COMMENT, rule.comment.as_deref());
        });
    }

    fn delete_rule(&mut self, i: usize, chain: &ChainRef, handle: Option<Handle>) {
        self.message(i, msg::DEL_RULE, 0, chain.table.family, |w| {
            w.text(attr::rule::TABLE, chain.table.name.as_str());
            w.text(attr::rule::CHAIN, chain.name.as_str());
            if let Some(Handle(handle)) = handle {
                w.be64(attr::rule::HANDLE, handle);
            }
        });
    }
}

fn base_chain(w: &mut Writer, base: &BaseChain) {
    w.nest(attr::chain::HOOK, |w| {
        w.be32(attr::hook::NUM, base.hook.code());
        w.bytes(attr::hook::PRIORITY, &base.priority.to_be_bytes());
    });
    w.be32(attr::chain::POLICY, base.policy.code());
    w.text(attr::chain::TYPE, base.kind.name());
}

fn new_set(w: &mut Writer, set: &Set, id: u32) {
    use attr::set_flag::{CONCAT, CONSTANT, EVAL, INTERVAL, MAP, TIMEOUT};
    let ranges_of_many = set.flags.interval && set.key.fields().len() > 1;
    let flags = [
        (set.flags.constant, CONSTANT),
        (set.flags.interval, INTERVAL),
        (set.data != SetData::None, MAP),
        (set.flags.timeout, TIMEOUT),
        (set.flags.dynamic, EVAL),
        (ranges_of_many, CONCAT),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
    w.text(attr::set::TABLE, set.table.name.as_str());
    w.text(attr::set::NAME, set.name.as_str());
    w.be32(attr::set::FLAGS, flags);
    w.be32(attr::set::KEY_TYPE, set.key.id());
    w.be32(attr::set::KEY_LEN, set.key.len());
    match &set.data {
        SetData::None => {}
        SetData::Verdict => w.be32(attr::set::DATA_TYPE, attr::DATA_VERDICT),
        SetData::Map(ty) => {
            w.be32(attr::set::DATA_TYPE, ty.id());
            w.be32(attr::set::DATA_LEN, ty.len());
        }
    }
    w.be32(attr::set::ID, id);
    if let Some(timeout) = set.timeout {
        w.be64(attr::set::TIMEOUT, millis(timeout));
    }
    if set.size.is_some() || ranges_of_many {
        w.nest(attr::set::DESC, |w| {
            if let Some(size) = set.size {
                w.be32(attr::desc::SIZE, size);
            }
            if ranges_of_many {
                w.nest(attr::desc::CONCAT, |w| {
                    for field in set.key.fields() {
                        w.nest(attr::LIST_ELEM, |w| w.be32(attr::LIST_ELEM, field.len()));
                    }
                });
            }
        });
    }
    comment(w, attr::set::USERDATA, attr::userdata::SET_COMMENT, set.comment.as_deref());
}

/// A range in a set of one field is two elements: its first key, and the one behind its last.
fn element(w: &mut Writer, set: &Set, element: &Element) {
    let by_ends = set.flags.interval && set.key.fields().len() == 1;
    w.nest(attr::LIST_ELEM, |w| {
        data(w, attr::elem::KEY, &element.key);
        if let Some(end) = element.key_end.as_ref().filter(|_| !by_ends) {
            data(w, attr::elem::KEY_END, end);
        }
        match &element.data {
            ElementData::None => {}
            ElementData::Value(value) => data(w, attr::elem::DATA, value),
            ElementData::Verdict(to) => w.nest(attr::elem::DATA, |w| verdict(w, to)),
        }
        if let Some(timeout) = element.timeout {
            w.be64(attr::elem::TIMEOUT, millis(timeout));
        }
        comment(w, attr::elem::USERDATA, attr::userdata::COMMENT, element.comment.as_deref());
    });
    if by_ends {
        let last = element.key_end.as_ref().unwrap_or(&element.key);
        if let Some(behind) = successor(last) {
            w.nest(attr::LIST_ELEM, |w| {
                data(w, attr::elem::KEY, &behind);
                w.be32(attr::elem::FLAGS, attr::elem_flag::INTERVAL_END);
            });
        }
    }
}

/// The next key as a number in network order; none behind the last one.
pub(super) fn successor(key: &Data) -> Option<Data> {
    let mut bytes = key.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (next, carry) = byte.overflowing_add(1);
        *byte = next;
        if !carry {
            return Some(Data::new(&bytes));
        }
    }
    None
}

fn data(w: &mut Writer, kind: u16, data: &Data) {
    w.nest(kind, |w| w.bytes(attr::data::VALUE, data.as_bytes()));
}

fn verdict(w: &mut Writer, verdict: &Verdict) {
    use attr::verdict_code as code;
    let (number, chain): (i32, Option<&Name>) = match verdict {
        Verdict::Accept => (code::ACCEPT, None),
        Verdict::Drop => (code::DROP, None),
        Verdict::Continue => (code::CONTINUE, None),
        Verdict::Return => (code::RETURN, None),
        Verdict::Jump(chain) => (code::JUMP, Some(chain)),
        Verdict::Goto(chain) => (code::GOTO, Some(chain)),
    };
    w.nest(attr::data::VERDICT, |w| {
        w.bytes(attr::verdict::CODE, &number.to_be_bytes());
        if let Some(chain) = chain {
            w.text(attr::verdict::CHAIN, chain.as_str());
        }
    });
}

/// A comment as nftables keeps it: type, length, text, NUL. Cut at what a length byte can say.
fn comment(w: &mut Writer, kind: u16, record: u8, comment: Option<&str>) {
    let Some(comment) = comment else { return };
    let comment = &comment[..comment.floor_char_boundary(128)];
    let len = u8::try_from(comment.len() + 1).expect("at most 129 bytes");
    let mut bytes = vec![record, len];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    w.bytes(kind, &bytes);
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
