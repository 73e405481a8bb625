//! The numbers of IPVS' commands and attributes, as in ip_vs.h.

pub(super) const FAMILY: &str = "IPVS";
pub(super) const VERSION: u8 = 1;

macro_rules! numbers {
    ($ty:ty, $module:ident { $($name:ident = $value:expr),* $(,)? }) => {
        pub(super) mod $module {
            $(pub(in super::super) const $name: $ty = $value;)*
        }
    };
}

numbers!(u8, cmd {
    NEW_SERVICE = 1, SET_SERVICE = 2, DEL_SERVICE = 3, GET_SERVICE = 4,
    NEW_DEST = 5, SET_DEST = 6, DEL_DEST = 7, GET_DEST = 8,
    SET_CONFIG = 12, GET_CONFIG = 13, GET_INFO = 15, FLUSH = 17,
});
numbers!(u16, top {
    SERVICE = 1, DEST = 2, TIMEOUT_TCP = 4, TIMEOUT_TCP_FIN = 5, TIMEOUT_UDP = 6,
});
numbers!(u16, service {
    AF = 1, PROTOCOL = 2, ADDR = 3, PORT = 4, FWMARK = 5, SCHED_NAME = 6, FLAGS = 7, TIMEOUT = 8,
    NETMASK = 9,
});
numbers!(u16, dest {
    ADDR = 1, PORT = 2, FWD_METHOD = 3, WEIGHT = 4, UPPER_THRESHOLD = 5, LOWER_THRESHOLD = 6,
    ACTIVE_CONNS = 7, INACTIVE_CONNS = 8, PERSISTENT_CONNS = 9, ADDR_FAMILY = 11,
});
numbers!(u16, info { VERSION = 1, CONN_TAB_SIZE = 2 });
numbers!(u32, flag {
    PERSISTENT = 1, HASHED = 2, ONE_PACKET = 4, SCHED1 = 8, SCHED2 = 0x10, SCHED3 = 0x20,
});

pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;
