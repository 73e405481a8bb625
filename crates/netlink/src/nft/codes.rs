//! The kernel's number for each of our enumerations' variants, both ways.

use super::expr::{
    CmpOp, CtDirection, CtKey, DynsetOp, FibResult, LogLevel, MetaKey, NatKind, NumgenKind,
    PayloadBase, RangeOp,
};
use super::object::{ChainKind, Family, Hook, Policy};

macro_rules! codes {
    ($ty:ty as $repr:ty { $($variant:ident = $code:expr),* $(,)? }) => {
        impl $ty {
            pub(super) const fn code(self) -> $repr {
                match self { $(Self::$variant => $code,)* }
            }

            pub(super) const fn from_code(code: $repr) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

codes!(Family as u8 { Inet = 1, Ip = 2, Ip6 = 10 });
codes!(Hook as u32 { Prerouting = 0, Input = 1, Forward = 2, Output = 3, Postrouting = 4 });
codes!(Policy as u32 { Drop = 0, Accept = 1 });
codes!(MetaKey as u32 {
    Length = 0, Protocol = 1, Mark = 3, Iif = 4, Oif = 5, IifName = 6, OifName = 7,
    NfTrace = 12, NfProto = 15, L4Proto = 16,
});
codes!(PayloadBase as u32 { Link = 0, Network = 1, Transport = 2 });
codes!(CtKey as u32 {
    State = 0, Direction = 1, Status = 2, Mark = 3, Protocol = 10, ProtoSrc = 11, ProtoDst = 12,
    SrcIp = 19, DstIp = 20, SrcIp6 = 21, DstIp6 = 22,
});
codes!(CtDirection as u8 { Original = 0, Reply = 1 });
codes!(NumgenKind as u32 { Incremental = 0, Random = 1 });
codes!(DynsetOp as u32 { Add = 0, Update = 1, Delete = 2 });
codes!(CmpOp as u32 { Eq = 0, Neq = 1, Lt = 2, Lte = 3, Gt = 4, Gte = 5 });
codes!(RangeOp as u32 { Eq = 0, Neq = 1 });
codes!(NatKind as u32 { Snat = 0, Dnat = 1 });
codes!(FibResult as u32 { Oif = 1, OifName = 2, AddrType = 3 });
codes!(LogLevel as u32 {
    Emerg = 0, Alert = 1, Crit = 2, Err = 3, Warning = 4, Notice = 5, Info = 6, Debug = 7,
});

impl ChainKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|kind| kind.name() == name)
    }
}
