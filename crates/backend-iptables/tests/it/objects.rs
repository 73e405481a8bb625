//! Short forms of values.

use std::net::IpAddr;
use std::num::NonZeroU16;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port")
}
