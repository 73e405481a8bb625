//! The numbers of nf_tables' messages and attributes, as in nf_tables.h.

/// `NFNL_SUBSYS_NFTABLES`, shifted to its place in a message's type.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
/// `NFNL_SUBSYS_NFTABLES` as the resource of a batch's first and last message.
pub(super) const RES_ID: u16 = 10;

pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

macro_rules! numbers {
    ($ty:ty, $module:ident { $($name:ident = $value:expr),* $(,)? }) => {
        pub(super) mod $module {
            $(pub(in super::super) const $name: $ty = $value;)*
        }
    };
}

numbers!(u16, msg {
    NEW_TABLE = 0, GET_TABLE = 1, DEL_TABLE = 2,
    NEW_CHAIN = 3, GET_CHAIN = 4, DEL_CHAIN = 5,
    NEW_RULE = 6, GET_RULE = 7, DEL_RULE = 8,
    NEW_SET = 9, GET_SET = 10, DEL_SET = 11,
    NEW_ELEM = 12, GET_ELEM = 13, DEL_ELEM = 14,
    NEW_GEN = 15, GET_GEN = 16,
});
numbers!(u16, table { NAME = 1, USERDATA = 6 });
numbers!(u16, chain { TABLE = 1, NAME = 3, HOOK = 4, POLICY = 5, TYPE = 7, USERDATA = 12 });
numbers!(u16, hook { NUM = 1, PRIORITY = 2 });
numbers!(u16, rule { TABLE = 1, CHAIN = 2, HANDLE = 3, EXPRESSIONS = 4, USERDATA = 7 });
numbers!(u16, set {
    TABLE = 1, NAME = 2, FLAGS = 3, KEY_TYPE = 4, KEY_LEN = 5, DATA_TYPE = 6, DATA_LEN = 7,
    DESC = 9, ID = 10, TIMEOUT = 11, USERDATA = 13,
});
numbers!(u16, desc { SIZE = 1, CONCAT = 2 });
numbers!(u32, set_flag {
    ANONYMOUS = 1, CONSTANT = 2, INTERVAL = 4, MAP = 8, TIMEOUT = 0x10, EVAL = 0x20, CONCAT = 0x80,
});
numbers!(u16, elem_list { TABLE = 1, SET = 2, ELEMENTS = 3 });
numbers!(u16, elem {
    KEY = 1, DATA = 2, FLAGS = 3, TIMEOUT = 4, USERDATA = 6, KEY_END = 10,
});
numbers!(u32, elem_flag { INTERVAL_END = 1, CATCHALL = 2 });
numbers!(u16, data { VALUE = 1, VERDICT = 2 });
numbers!(u16, verdict { CODE = 1, CHAIN = 2 });
numbers!(i32, verdict_code {
    DROP = 0, ACCEPT = 1, CONTINUE = -1, JUMP = -3, GOTO = -4, RETURN = -5,
});
numbers!(u16, generation { ID = 1 });
numbers!(u16, expr { NAME = 1, DATA = 2 });
numbers!(u16, meta { DREG = 1, KEY = 2, SREG = 3 });
numbers!(u16, payload { DREG = 1, BASE = 2, OFFSET = 3, LEN = 4, SREG = 5 });
numbers!(u16, ct { DREG = 1, KEY = 2, DIRECTION = 3, SREG = 4 });
numbers!(u16, numgen { DREG = 1, MODULUS = 2, TYPE = 3, OFFSET = 4 });
numbers!(u16, lookup { SET = 1, SREG = 2, DREG = 3, FLAGS = 5 });
numbers!(u16, dynset {
    SET_NAME = 1, OP = 3, SREG_KEY = 4, SREG_DATA = 5, TIMEOUT = 6, EXPR = 7, FLAGS = 9,
    EXPRESSIONS = 10,
});
numbers!(u16, immediate { DREG = 1, DATA = 2 });
numbers!(u16, bitwise {
    SREG = 1, DREG = 2, LEN = 3, MASK = 4, XOR = 5, OP = 6, DATA = 7,
});
numbers!(u16, byteorder { SREG = 1, DREG = 2, OP = 3, LEN = 4, SIZE = 5 });
numbers!(u16, cmp { SREG = 1, OP = 2, DATA = 3 });
numbers!(u16, range { SREG = 1, OP = 2, FROM = 3, TO = 4 });
numbers!(u16, nat {
    TYPE = 1, FAMILY = 2, ADDR_MIN = 3, ADDR_MAX = 4, PROTO_MIN = 5, PROTO_MAX = 6, FLAGS = 7,
});
numbers!(u32, nat_flag {
    MAP_IPS = 1, PROTO_SPECIFIED = 2, RANDOM = 4, PERSISTENT = 8, FULLY_RANDOM = 16,
});
numbers!(u16, masq { FLAGS = 1, PROTO_MIN = 2, PROTO_MAX = 3 });
numbers!(u16, redir { PROTO_MIN = 1, PROTO_MAX = 2, FLAGS = 3 });
numbers!(u16, reject { TYPE = 1, CODE = 2 });
numbers!(u16, fib { DREG = 1, RESULT = 2, FLAGS = 3 });
numbers!(u32, fib_flag { SADDR = 1, DADDR = 2, MARK = 4, IIF = 8, OIF = 16, PRESENT = 32 });
numbers!(u16, counter { BYTES = 1, PACKETS = 2 });
numbers!(u16, log { GROUP = 1, PREFIX = 2, LEVEL = 5 });
numbers!(u16, limit { RATE = 1, UNIT = 2, BURST = 3, TYPE = 4, FLAGS = 5 });

/// The item of every list.
pub(super) const LIST_ELEM: u16 = 1;
/// `NFT_DATA_VERDICT`, the data type of verdict maps.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

/// nftables' own records within user data.
pub(super) mod userdata {
    pub(in super::super) const COMMENT: u8 = 0;
    pub(in super::super) const SET_COMMENT: u8 = 7;
}
