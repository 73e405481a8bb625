use proptest::collection::vec;
use proptest::prelude::*;

use super::super::encode::{self, Key, Op};
use super::*;
use crate::wire::Writer;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from),]
}

fn server() -> impl Strategy<Value = VirtualServer> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (address(), any::<u16>(), protocol).prop_map(|(address, port, protocol)| VirtualServer {
        address,
        port,
        protocol,
    })
}

/// Prefixes and masks in the form that is read back, of either family.
fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![Just(Granularity::Host), (1..32_u8).prop_map(Granularity::Prefix)]
}

fn service() -> impl Strategy<Value = Service> {
    let persistence = (any::<u32>(), granularity())
        .prop_map(|(timeout, granularity)| Persistence { timeout, granularity });
    let flags = any::<[bool; 4]>().prop_map(|[one_packet, sched1, sched2, sched3]| ServiceFlags {
        one_packet,
        sched1,
        sched2,
        sched3,
    });
    ("[a-z0-9_-]{1,15}", proptest::option::of(persistence), flags).prop_map(
        |(name, persistence, flags)| Service {
            scheduler: name.parse().unwrap(),
            persistence,
            flags,
        },
    )
}

fn destination() -> impl Strategy<Value = (RealServer, Destination)> {
    (address(), any::<u16>(), any::<[u32; 3]>(), 0..8_u32).prop_map(
        |(address, port, [weight, upper_threshold, lower_threshold], code)| {
            let forwarding = ForwardingMethod::from_code(code);
            let real = RealServer { address, port };
            (real, Destination { weight, forwarding, upper_threshold, lower_threshold })
        },
    )
}

fn body(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    write(&mut w);
    w.finish().unwrap()
}

fn read_all(bytes: &[u8]) {
    for address in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0_u8; 16])] {
        let of = VirtualServer { address, port: 1, protocol: Protocol::Tcp };
        let _ = super::destination(bytes, &of);
    }
    let _ = super::service(bytes);
    let _ = timeouts(bytes);
    let _ = info(bytes);
}

proptest! {
    #[test]
    fn a_service_reads_back_equal(server in server(), wanted in service()) {
        let bytes = body(|w| Op::AddService(server, wanted).body(w));
        prop_assert_eq!(super::service(&bytes).unwrap(), Some((server, wanted)));
    }

    #[test]
    fn a_destination_reads_back_equal(of in server(), (real, wanted) in destination()) {
        let bytes = body(|w| Op::AddDestination(of, real, wanted).body(w));
        let read = super::destination(&bytes, &of).unwrap();
        prop_assert_eq!((read.server, read.destination), (real, wanted));
        prop_assert_eq!(read.connections, Connections::default());
    }

    #[test]
    fn timeouts_read_back_equal([tcp, tcp_fin, udp] in any::<[u32; 3]>()) {
        let wanted = Timeouts { tcp, tcp_fin, udp };
        prop_assert_eq!(timeouts(&body(|w| encode::timeouts(w, wanted))).unwrap(), wanted);
    }

    #[test]
    fn hostile_bytes_are_refused_not_fatal(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn damaged_messages_are_refused_not_fatal(
        server in server(),
        wanted in service(),
        (real, destination) in destination(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for op in [Op::AddService(server, wanted), Op::AddDestination(server, real, destination)] {
            let mut bytes = body(|w| op.body(w));
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            read_all(&bytes);
        }
    }
}

#[test]
fn an_ipv4_mask_of_any_form_reads_back() {
    let address = IpAddr::from([10, 0, 0, 1]);
    let server = VirtualServer { address, port: 80, protocol: Protocol::Tcp };
    let odd = Granularity::Mask([255, 0, 255, 0].into());
    for (sent, read) in [
        (odd, odd),
        (Granularity::Prefix(0), Granularity::Prefix(0)),
        (Granularity::Prefix(32), Granularity::Host),
        (Granularity::Prefix(99), Granularity::Host),
        (Granularity::Mask([255, 255, 0, 0].into()), Granularity::Prefix(16)),
    ] {
        let persistence = |granularity| Some(Persistence { timeout: 1, granularity });
        let wanted = Service { persistence: persistence(sent), ..Service::default() };
        let bytes = body(|w| Op::AddService(server, wanted).body(w));
        let (_, found) = super::service(&bytes).unwrap().unwrap();
        assert_eq!(found.persistence, persistence(read), "{sent:?}");
    }
}

#[test]
fn what_goes_by_a_mark_is_passed_over() {
    let bytes = body(|w| encode::full_service(w, Key::Mark(7), &Service::default()));
    assert_eq!(super::service(&bytes).unwrap(), None);
}

#[test]
fn the_kernels_own_flag_is_never_sent() {
    let server = VirtualServer { address: [10, 0, 0, 1].into(), port: 80, protocol: Protocol::Udp };
    let flags = ServiceFlags { one_packet: true, sched1: true, sched2: true, sched3: true };
    let wanted =
        Service { persistence: Some(Persistence::of_hosts(5)), flags, ..Service::default() };
    let bytes = body(|w| Op::SetService(server, wanted).body(w));
    let found = Attrs::<2>::parse(&bytes).unwrap();
    let found = Attrs::<10>::parse(found.required(top::SERVICE).unwrap()).unwrap();
    let flags = found.required(service::FLAGS).unwrap();
    assert_eq!(wire::ne32(&flags[..4]).unwrap(), 0x3d);
    assert_eq!(wire::ne32(&flags[4..]).unwrap(), !2);
}

#[test]
fn the_version_is_three_numbers() {
    let bytes = body(|w| {
        w.ne32(info::VERSION, 0x01_02_01);
        w.ne32(info::CONN_TAB_SIZE, 4096);
    });
    let wanted = Info { version: [1, 2, 1], connection_table_size: 4096 };
    assert_eq!(super::info(&bytes).unwrap(), wanted);
}
