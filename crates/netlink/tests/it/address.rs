//! Addresses come and go many at a time, and are sources for nothing but themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portolan_netlink::address::{AddressError, Op, Socket, SourceOf};
use portolan_netlink::{Errno, sysctl};

use crate::netns::{in_netns, run};

fn v4(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low).into()
}

fn v6(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number).into()
}

fn errnos(socket: &mut Socket, index: u32, ops: &[Op]) -> Vec<(usize, Errno)> {
    let refused = socket.apply(index, ops).unwrap();
    refused.into_iter().map(|refusal| (refusal.op, refusal.errno)).collect()
}

/// The addresses of a link that are one host's, sorted.
fn hosts(socket: &mut Socket, index: u32) -> Vec<IpAddr> {
    let all = socket.addresses().unwrap().into_iter();
    let ours = all.filter(|held| held.link == index && !held.address.is_loopback());
    let ours: Vec<_> = ours.collect();
    for held in &ours {
        assert_eq!(held.prefix, if held.address.is_ipv4() { 32 } else { 128 });
        assert_eq!(held.source_of, SourceOf::Itself, "{held:?}");
    }
    let mut found: Vec<_> = ours.into_iter().map(|held| held.address).collect();
    found.sort_unstable();
    found
}

#[test]
fn addresses_come_and_go_and_each_refusal_is_named() {
    const TEST: &str = "addresses_come_and_go_and_each_refusal_is_named";
    in_netns(TEST, || {
        sysctl::plain_ipv6().unwrap();
        let mut socket = Socket::open().unwrap();
        assert_eq!(socket.index("no-such").unwrap(), None);
        let lo = socket.index("lo").unwrap().unwrap();
        let wanted: Vec<_> = (0..600).map(v4).chain((0..600).map(v6)).collect();
        let add: Vec<_> = wanted.iter().copied().map(Op::Add).collect();
        assert_eq!(errnos(&mut socket, lo, &add), []);
        assert_eq!(hosts(&mut socket, lo), wanted);
        assert_eq!(
            errnos(&mut socket, lo, &add[599..601]),
            [(0, Errno::EEXIST), (1, Errno::EEXIST)]
        );
        let ops = [
            Op::Remove(v4(3)),
            Op::Remove(v4(3)),
            Op::Add(v4(3)),
            Op::Remove(v6(900)),
            Op::Remove(v6(0)),
        ];
        let refused = [(1, Errno::EADDRNOTAVAIL), (3, Errno::EADDRNOTAVAIL)];
        assert_eq!(errnos(&mut socket, lo, &ops), refused);
        assert_eq!(hosts(&mut socket, lo).len(), wanted.len() - 1);
        assert_eq!(errnos(&mut socket, 4_000, &add[..1]), [(0, Errno::ENODEV)]);
        let Some(text) = run(TEST, "ip", &["-o", "address", "show", "dev", "lo"]) else { return };
        let line = |ip: &str| text.lines().find(|line| line.contains(ip)).unwrap_or_default();
        assert!(line(" 10.96.0.1/32 ").contains("scope host"), "{text}");
        assert!(line(" fd00::1:1/128 ").contains("deprecated"), "{text}");
        assert!(!line(" fd00::1:1/128 ").contains("tentative"), "{text}");
    });
}

#[test]
fn a_dummy_link_is_made_where_the_kernel_has_such() {
    in_netns("a_dummy_link_is_made_where_the_kernel_has_such", || {
        let mut socket = Socket::open().unwrap();
        for bad in ["", "sixteen-letters-", "a\0b"] {
            assert!(matches!(socket.add_dummy(bad), Err(AddressError::BadName(_))), "{bad:?}");
        }
        match socket.add_dummy("dummy9") {
            Ok(()) => {
                let index = socket.index("dummy9").unwrap().unwrap();
                let again = socket.add_dummy("dummy9").unwrap_err();
                assert!(
                    matches!(again, AddressError::Refused { errno: Errno::EEXIST, .. }),
                    "{again:?}"
                );
                socket.delete(index).unwrap();
                assert_eq!(socket.index("dummy9").unwrap(), None);
                assert!(socket.delete(index).is_err());
            }
            Err(AddressError::Refused { errno: Errno::EOPNOTSUPP, .. }) => {}
            Err(e) => panic!("{e:?}"),
        }
    });
}

#[test]
fn operations_are_written_as_ip_has_them() {
    for (op, text) in [
        (Op::Add(v4(1)), "add 10.96.0.1/32 scope host"),
        (Op::Add(v6(1)), "add fd00::1:1/128 nodad preferred_lft 0"),
        (Op::Remove(v4(1)), "delete 10.96.0.1/32"),
        (Op::Remove(v6(1)), "delete fd00::1:1/128"),
    ] {
        assert_eq!(op.to_string(), text);
    }
}
