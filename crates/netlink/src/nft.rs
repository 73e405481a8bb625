//! nf_tables: an intermediate form of tables, chains, sets and rules, its text, and its transport.
//!
//! The form ([`Batch`], [`Rule`], [`Expr`], …) is the kernel's own instruction set with names, so
//! that it can say what the text of older `nft` cannot, and so that what is dumped compares equal
//! to what was committed. [`std::fmt::Display`] writes it as `nft` text for people and golden
//! files; [`Socket::commit`] writes it to the kernel as one transaction.
//!
//! A plan that people should be able to list with `nft` keeps to what it can read back: nft 1.0.6
//! fails an assertion on a lookup or dynset whose key or data is the result of another lookup, and
//! reads a constant loaded into a key as of an invalid type. A lookup's result as a NAT's target, as
//! a mark, or compared with a constant is fine, and so is a mark as part of a key.
//!
//! Upstream rule: include/uapi/linux/netfilter/nf_tables.h and the nftables `src/datatype.c`.

mod attr;
mod batch;
mod codes;
mod commit;
mod data;
mod decode;
mod dump;
mod encode;
mod expr;
mod monitor;
mod object;
mod text;

pub use batch::{Batch, Op};
pub use commit::{NftError, Refusal, Socket};
pub use data::{Data, DataType, Field, SetType};
pub use dump::Dump;
pub use expr::{
    BitwiseOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibFlags, FibResult, LogLevel, MetaKey,
    NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, RegRange, RejectKind, ct_status,
    icmp_unreach, icmpx,
};
pub use monitor::{Monitor, Touched};
pub use object::{
    BaseChain, Chain, ChainKind, ChainRef, Element, ElementData, Family, Handle, Hook, Name,
    Policy, Rule, Set, SetData, SetFlags, SetRef, Table, TableRef, Verdict, priority,
};
pub use text::Script;
