use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::runs::Runs;
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(cidrs: &[(&str, &str)]) -> Addresses {
    let mut addresses = Addresses::default();
    for (name, cidr) in cidrs {
        addresses.set_cidr(name, &[net(cidr)], true);
    }
    addresses
}

/// Steps of seven through whatever bound.
fn sevens() -> impl FnMut(u64) -> u64 {
    let mut draw = 0;
    move |bound| {
        draw += 7;
        draw % bound
    }
}

#[test]
fn the_static_bands_have_upstreams_widths() {
    // What remains of the range once the dynamic band is used up.
    let cases = [
        ("10.96.0.0/20", "10.96.0.1", "10.96.1.0"),
        ("10.96.0.0/24", "10.96.0.1", "10.96.0.16"),
        ("10.96.0.0/27", "10.96.0.1", "10.96.0.16"),
        ("10.96.0.0/18", "10.96.0.1", "10.96.1.0"),
        ("fd00::/112", "fd00::1", "fd00::100"),
    ];
    for (cidr, first, last) in cases {
        let mut addresses = addresses(&[("a", cidr)]);
        let size = addresses.occupancy(net(cidr)).unwrap().available;
        let family = Family::of_net(net(cidr));
        let mut rng = sevens();
        let mut lower = BTreeSet::new();
        for _ in 0..size {
            let (ip, _) = addresses.allocate_next(family, &mut rng).unwrap();
            lower.insert(ip);
            if lower.len() as u64 == size - 1 {
                break;
            }
        }
        let free: Vec<IpAddr> =
            net(cidr).hosts().filter(|ip| addresses.covers(*ip) && !lower.contains(ip)).collect();
        assert_eq!(free.len(), 1, "{cidr}");
        assert!((ip(first)..=ip(last)).contains(&free[0]), "{cidr}: {free:?}");
    }
    let ports = |range| PortAllocator::new(range).allocate_next(&mut |_| 0).unwrap();
    assert_eq!(ports(30000..=32767), 30086);
    assert_eq!(ports(30000..=30015), 30000);
    assert_eq!(ports(30000..=30099), 30016);
}

#[test]
fn the_lower_band_is_used_last_and_then_nothing_is_left() {
    let mut ports = PortAllocator::new(30000..=30099);
    let mut rng = sevens();
    let drawn: Vec<u16> = (0..100).map(|_| ports.allocate_next(&mut rng).unwrap()).collect();
    assert!(drawn[..84].iter().all(|port| *port >= 30016));
    assert!(drawn[84..].iter().all(|port| *port < 30016));
    assert_eq!(ports.allocate_next(&mut rng), Err(AllocError::Full));
    assert_eq!((ports.allocated(), ports.free()), (100, 0));

    let mut addresses = addresses(&[("a", "10.0.0.0/27")]);
    let drawn: Vec<IpAddr> =
        (0..30).map(|_| addresses.allocate_next(Family::V4, &mut rng).unwrap().0).collect();
    assert!(drawn[..14].iter().all(|drawn| *drawn >= ip("10.0.0.17")), "{drawn:?}");
    assert!(drawn[14..].iter().all(|drawn| *drawn < ip("10.0.0.17")), "{drawn:?}");
    assert_eq!(addresses.allocate_next(Family::V4, &mut rng), Err(AllocError::Full));
    assert_eq!(addresses.allocate_next(Family::V6, &mut rng), Err(AllocError::Full));
}

#[test]
fn reserved_addresses_are_never_handed_out() {
    let mut v4 = addresses(&[("a", "10.0.0.0/29")]);
    assert_eq!(v4.occupancy(net("10.0.0.0/29")).unwrap().available, 6);
    for reserved in ["10.0.0.0", "10.0.0.7", "10.0.0.8", "fd00::1"] {
        assert_eq!(v4.allocate(ip(reserved)), Err(AllocError::Mismatched), "{reserved}");
        assert!(!v4.covers(ip(reserved)));
    }
    let mut v6 = addresses(&[("a", "fd00::/112")]);
    assert_eq!(v6.occupancy(net("fd00::/112")).unwrap().available, 65535);
    assert!(v6.allocate(ip("fd00::")).is_err());
    assert_eq!(v6.allocate(ip("fd00::ffff")), Ok(net("fd00::/112")));
}

#[test]
fn tiny_and_enormous_ranges_do_no_harm() {
    for cidr in ["10.0.0.1/32", "10.0.0.0/31", "255.255.255.255/32", "0.0.0.0/0"] {
        let mut addresses = addresses(&[("a", cidr)]);
        let found = addresses.allocate_next(Family::V4, &mut |bound| bound - 1);
        assert_eq!(found.is_ok(), cidr == "0.0.0.0/0", "{cidr}");
    }
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";
    for (cidr, some) in [("fd00::/48", false), ("fd00::/64", true), ("::/0", false), (last, false)]
    {
        let mut addresses = addresses(&[("a", cidr)]);
        let found = addresses.allocate_next(Family::V6, &mut |bound| bound - 1);
        assert_eq!(found.is_ok(), some, "{cidr}");
    }
}

#[test]
fn messages_are_upstreams() {
    let mut ports = PortAllocator::new(30000..=32767);
    ports.allocate(30080).unwrap();
    let text = |result: Result<u16, AllocError>| result.unwrap_err().to_string();
    assert_eq!(text(ports.allocate(30080)), "provided port is already allocated");
    for outside in [80, -1, 70_000, i64::MAX] {
        assert_eq!(
            text(ports.allocate(outside)),
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
    }
    let mut ips = addresses(&[("a", "10.96.0.0/12")]);
    ips.allocate(ip("10.96.0.1")).unwrap();
    let text = |result: Result<IpNet, AllocError>| result.unwrap_err().to_string();
    assert_eq!(text(ips.allocate(ip("10.96.0.1"))), "provided IP is already allocated");
    assert_eq!(
        text(ips.allocate(ip("192.168.0.1"))),
        "the provided network does not match the current range"
    );
    assert_eq!(AllocError::Full.to_string(), "range is full");
}

#[test]
fn only_ready_ranges_are_allocated_from_but_all_are_released_to() {
    let mut addresses = addresses(&[("a", "10.0.0.0/28")]);
    addresses.set_cidr("b", &[net("10.1.0.0/28"), net("fd00::/120")], false);
    assert_eq!(addresses.allocate(ip("10.1.0.1")), Err(AllocError::Mismatched));
    assert!(addresses.allocate_next(Family::V6, &mut |_| 0).is_err());
    addresses.set_cidr("b", &[net("10.1.0.0/28"), net("fd00::/120")], true);
    assert_eq!(addresses.allocate(ip("10.1.0.1")), Ok(net("10.1.0.0/28")));
    addresses.set_cidr("a", &[net("10.0.0.0/28")], false);
    let (next, range) = addresses.allocate_next(Family::V4, &mut |_| 0).unwrap();
    assert_eq!((next, range), (ip("10.1.0.2"), net("10.1.0.0/28")));
    addresses.set_cidr("b", &[net("10.1.0.0/28"), net("fd00::/120")], false);
    assert!(addresses.release(ip("10.1.0.1")) && !addresses.release(ip("10.1.0.1")));
    addresses.remove_cidr("b");
    assert!(addresses.has(ip("10.1.0.2")), "what was taken stays taken");
    assert!(!addresses.covers(ip("10.1.0.2")));
}

#[test]
fn a_range_that_two_objects_name_lasts_as_long_as_one_of_them() {
    let mut addresses = addresses(&[("a", "10.0.0.0/28"), ("b", "10.0.0.0/28")]);
    addresses.set_cidr("a", &[net("10.0.0.0/28")], false);
    assert!(addresses.allocate(ip("10.0.0.1")).is_ok(), "b is ready");
    addresses.remove_cidr("b");
    assert!(addresses.allocate(ip("10.0.0.2")).is_err());
    assert!(addresses.covers(ip("10.0.0.2")));
}

#[test]
fn overlapping_ranges_share_their_addresses_and_count_them_both() {
    let mut addresses = addresses(&[("small", "10.0.0.0/29"), ("large", "10.0.0.0/24")]);
    for last in 1..=6 {
        addresses.take(ip(&format!("10.0.0.{last}")));
    }
    let of = |addresses: &Addresses, cidr| {
        let occupancy = addresses.occupancy(net(cidr)).unwrap();
        (occupancy.allocated, occupancy.available)
    };
    assert_eq!(of(&addresses, "10.0.0.0/29"), (6, 0));
    assert_eq!(of(&addresses, "10.0.0.0/24"), (6, 248));
    // The full one is passed over.
    let (_, range) = addresses.allocate_next(Family::V4, &mut |_| 0).unwrap();
    assert_eq!(range, net("10.0.0.0/24"));
    // A range that comes later counts what is there.
    addresses.set_cidr("late", &[net("10.0.0.0/28")], true);
    assert_eq!(of(&addresses, "10.0.0.0/28"), (6, 8));
    // 10.0.0.7 is the small one's broadcast address and a common one of the large.
    assert_eq!(addresses.allocate(ip("10.0.0.7")), Ok(net("10.0.0.0/24")));
    assert_eq!(of(&addresses, "10.0.0.0/29"), (6, 0));
}

proptest! {
    #[test]
    fn runs_behave_like_a_set(
        steps in prop::collection::vec((0u8..4, 0u128..60), 0..300),
    ) {
        let base = u128::MAX - 50;
        let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
        for (step, number) in steps {
            let number = base.saturating_add(number);
            match step {
                0 | 1 => prop_assert_eq!(runs.insert(number), model.insert(number)),
                _ => prop_assert_eq!(runs.remove(number), model.remove(&number)),
            }
            prop_assert_eq!(runs.contains(number), model.contains(&number));
            let free = (number..=u128::MAX).find(|n| !model.contains(n));
            prop_assert_eq!(runs.first_free(number, u128::MAX), free);
            let count = model.range(number..=u128::MAX).count() as u64;
            prop_assert_eq!(runs.count(number, u128::MAX), count);
        }
        prop_assert_eq!(runs.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn an_allocator_of_ports_behaves_like_a_set(
        steps in prop::collection::vec((0u8..3, 0u16..40, any::<u64>()), 0..200),
    ) {
        let mut ports = PortAllocator::new(100..=130);
        let mut model = BTreeSet::new();
        for (step, number, seed) in steps {
            let port = 95 + number;
            let inside = (100..=130).contains(&port);
            match step {
                0 => prop_assert_eq!(
                    ports.allocate(port.into()).is_ok(), inside && model.insert(port)
                ),
                1 => prop_assert_eq!(ports.release(port), model.remove(&port)),
                _ => match ports.allocate_next(&mut |bound| seed % bound) {
                    Ok(port) => prop_assert!((100..=130).contains(&port) && model.insert(port)),
                    Err(_) => prop_assert_eq!(model.len(), 31),
                },
            }
            prop_assert_eq!(ports.has(port), model.contains(&port));
            prop_assert_eq!(ports.free(), 31 - model.len() as u64);
        }
        prop_assert_eq!(ports.taken().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn counts_follow_every_step_whatever_the_ranges(
        steps in prop::collection::vec((0u8..6, 0u8..40, 0usize..4, any::<u64>()), 0..120),
    ) {
        let nets = [net("10.0.0.0/28"), net("10.0.0.0/27"), net("10.0.0.16/28"), net("10.0.0.8/30")];
        let mut addresses = Addresses::default();
        for (step, last, which, seed) in steps {
            let ip = IpAddr::from([10, 0, 0, last]);
            match step {
                0 => addresses.set_cidr(&which.to_string(), &nets[which..=which], seed % 3 > 0),
                1 => addresses.remove_cidr(&which.to_string()),
                2 => { addresses.take(ip); }
                3 => { addresses.release(ip); }
                4 => { let _ = addresses.allocate(ip); }
                _ => {
                    if let Ok((ip, net)) = addresses.allocate_next(Family::V4, &mut |b| seed % b) {
                        prop_assert!(addresses.has(ip) && net.contains(&ip) && addresses.covers(ip));
                    }
                }
            }
            let taken: BTreeSet<IpAddr> = addresses.taken().collect();
            for net in addresses.nets().collect::<Vec<_>>() {
                // Prefixes of these lengths have all hosts but the first and last to give.
                let usable: Vec<IpAddr> = net.hosts().collect();
                let allocated = usable.iter().filter(|ip| taken.contains(ip)).count() as u64;
                let available = usable.len() as u64 - allocated;
                prop_assert_eq!(
                    addresses.occupancy(net), Some(Occupancy { net, allocated, available })
                );
            }
        }
    }
}
