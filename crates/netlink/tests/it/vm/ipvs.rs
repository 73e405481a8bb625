//! IPVS in a real kernel: what is applied reads back equal, and what is refused is named.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use portolan_netlink::Errno;
use portolan_netlink::ipvs::{
    Connections, Destination, ForwardingMethod, Granularity, IpvsError, Op, Persistence, Protocol,
    RealServer, Scheduler, Service, ServiceFlags, Socket, Timeouts, VirtualServer,
};
use portolan_netlink::link::Links;

use crate::netns::in_netns;

const SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];
/// What Debian's user-mode-linux 6.1 was built without.
const ABSENT: [&str; 1] = ["twos"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Runs `body` in a network namespace of its own, which there must be. Without any IPv4 address there
/// the kernel would take every address for a broadcast, and no destination.
fn alone(test: &str, body: impl FnOnce(Socket) + Send + 'static) {
    let has_run = Arc::new(AtomicBool::new(false));
    let ran = Arc::clone(&has_run);
    in_netns(test, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Links::open().unwrap().set_up("lo").await.unwrap() });
        body(Socket::open().unwrap());
        ran.store(true, Ordering::Relaxed);
    });
    assert!(has_run.load(Ordering::Relaxed), "{test} was not run");
}

fn scheduler(name: &str) -> Scheduler {
    name.parse().unwrap()
}

fn v4(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low).into()
}

fn v6(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number).into()
}

fn tcp(address: IpAddr, port: u16) -> VirtualServer {
    VirtualServer { address, port, protocol: Protocol::Tcp }
}

fn real(of: &VirtualServer, number: u8) -> RealServer {
    let address = match of.address {
        IpAddr::V4(_) => Ipv4Addr::new(10, 1, 0, number).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()).into(),
    };
    RealServer { address, port: 8080 }
}

fn apply(socket: &mut Socket, ops: &[Op]) {
    let refused = socket.apply(ops).unwrap();
    let first = refused.first().map(|refusal| format!("{refusal}: {}", ops[refusal.op]));
    assert_eq!(first, None, "and {} more", refused.len().saturating_sub(1));
}

fn errnos(socket: &mut Socket, ops: &[Op]) -> Vec<(usize, Errno)> {
    socket.apply(ops).unwrap().into_iter().map(|refusal| (refusal.op, refusal.errno)).collect()
}

fn services(socket: &mut Socket) -> BTreeMap<VirtualServer, Service> {
    let listed = socket.services().unwrap();
    let count = listed.len();
    let found: BTreeMap<_, _> = listed.into_iter().collect();
    assert_eq!(found.len(), count, "none is listed twice");
    found
}

fn destinations(socket: &mut Socket, of: &VirtualServer) -> BTreeMap<RealServer, Destination> {
    let listed = socket.destinations(of).unwrap();
    listed.into_iter().map(|listed| (listed.server, listed.destination)).collect()
}

/// Every scheduler that there is, with every protocol, in both families.
fn every_service() -> BTreeMap<VirtualServer, Service> {
    let mut wanted = BTreeMap::new();
    let schedulers = SCHEDULERS.into_iter().filter(|name| !ABSENT.contains(name));
    for (number, name) in (1..).zip(schedulers) {
        for protocol in PROTOCOLS {
            for address in [v4(number), v6(number)] {
                let service = Service { scheduler: scheduler(name), ..Service::default() };
                wanted.insert(VirtualServer { address, port: 80, protocol }, service);
            }
        }
    }
    wanted
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn every_scheduler_serves_every_protocol_in_both_families() {
    alone("every_scheduler_serves_every_protocol_in_both_families", |mut socket| {
        let wanted = every_service();
        assert_eq!(wanted.len(), 13 * 3 * 2);
        let ops: Vec<_> = wanted.iter().map(|(server, s)| Op::AddService(*server, *s)).collect();
        apply(&mut socket, &ops);
        assert_eq!(services(&mut socket), wanted);
        let again = errnos(&mut socket, &ops);
        let everywhere: Vec<_> = (0..ops.len()).map(|op| (op, Errno::EEXIST)).collect();
        assert_eq!(again, everywhere);

        for (server, service) in &wanted {
            assert_eq!(socket.service(server).unwrap(), Some(*service));
            assert_eq!(socket.destinations(server).unwrap(), []);
        }
        let (gone, left) = ops.split_at(7);
        let gone: Vec<_> = gone
            .iter()
            .filter_map(|op| match op {
                Op::AddService(server, _) => Some(Op::DeleteService(*server)),
                _ => None,
            })
            .collect();
        apply(&mut socket, &gone);
        assert_eq!(services(&mut socket).len(), left.len());
        assert_eq!(errnos(&mut socket, &gone[..1]), [(0, Errno::ESRCH)]);
        socket.flush().unwrap();
        assert_eq!(socket.services().unwrap(), []);
        assert_eq!(socket.service(&tcp(v4(1), 80)).unwrap(), None);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn schedulers_are_told_from_absent_ones_and_nothing_is_left() {
    alone("schedulers_are_told_from_absent_ones_and_nothing_is_left", |mut socket| {
        let service = Service::default();
        apply(&mut socket, &[Op::AddService(tcp(v4(1), 80), service)]);
        let before = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap();
        assert!(before.contains("0A600001:0050"), "{before}");
        let unknown = SCHEDULERS
            .into_iter()
            .filter(|name| !socket.scheduler_known(&scheduler(name)).unwrap())
            .collect::<Vec<_>>();
        println!("absent here: {unknown:?}");
        assert_eq!(unknown, ABSENT);
        // A persistence engine's module, another module of IPVS, and no scheduler at all.
        for name in ["pe_sip", "ftp", "none", "no-such", "x"] {
            assert!(!socket.scheduler_known(&scheduler(name)).unwrap(), "{name}");
        }
        assert_eq!(std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap(), before);
        let absent = Service { scheduler: scheduler("twos"), ..service };
        let (there, new) = (tcp(v4(1), 80), tcp(v4(2), 80));
        assert_eq!(
            errnos(&mut socket, &[Op::SetService(there, absent), Op::AddService(new, absent)]),
            [(0, Errno::ENOENT), (1, Errno::ENOENT)]
        );
        assert_eq!(socket.service(&there).unwrap(), Some(service));
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_service_becomes_another_and_keeps_its_destinations() {
    alone("a_service_becomes_another_and_keeps_its_destinations", |mut socket| {
        let kept = |timeout, granularity| Some(Persistence { timeout, granularity });
        let flags = ServiceFlags { sched1: true, sched2: true, ..ServiceFlags::default() };
        let one_packet = ServiceFlags { one_packet: true, ..ServiceFlags::default() };
        let steps = [
            Service { persistence: kept(10_800, Granularity::Host), ..Service::default() },
            Service { persistence: kept(86_400, Granularity::Prefix(24)), ..Service::default() },
            Service { scheduler: scheduler("mh"), flags, ..Service::default() },
            Service { scheduler: scheduler("wlc"), flags: one_packet, ..Service::default() },
            Service::default(),
        ];
        for address in [v4(1), v6(1)] {
            for protocol in PROTOCOLS {
                let server = VirtualServer { address, port: 443, protocol };
                let member = real(&server, 1);
                let listed = BTreeMap::from([(member, Destination::masquerade(1))]);
                apply(
                    &mut socket,
                    &[
                        Op::AddService(server, Service::default()),
                        Op::AddDestination(server, member, Destination::masquerade(1)),
                    ],
                );
                for step in steps {
                    apply(&mut socket, &[Op::SetService(server, step)]);
                    assert_eq!(socket.service(&server).unwrap(), Some(step));
                    assert_eq!(destinations(&mut socket, &server), listed);
                }
            }
        }
        let odd = Granularity::Mask(Ipv4Addr::new(255, 0, 255, 0));
        let odd = Service { persistence: kept(5, odd), ..Service::default() };
        apply(&mut socket, &[Op::SetService(tcp(v4(1), 443), odd)]);
        assert_eq!(services(&mut socket)[&tcp(v4(1), 443)], odd);
        assert_eq!(
            errnos(
                &mut socket,
                &[Op::SetService(tcp(v6(1), 443), odd), Op::SetService(tcp(v4(9), 443), odd)]
            ),
            [(0, Errno::EINVAL), (1, Errno::ESRCH)]
        );
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn destinations_come_change_and_go() {
    alone("destinations_come_change_and_go", |mut socket| {
        for address in [v4(1), v6(1)] {
            for protocol in PROTOCOLS {
                let server = VirtualServer { address, port: 80, protocol };
                let bounded = Destination {
                    upper_threshold: 100,
                    lower_threshold: 50,
                    ..Destination::masquerade(65_535)
                };
                let direct = Destination {
                    forwarding: ForwardingMethod::DirectRoute,
                    ..Destination::masquerade(3)
                };
                let mut wanted = BTreeMap::from([
                    (real(&server, 1), Destination::masquerade(1)),
                    (real(&server, 2), bounded),
                    (real(&server, 3), direct),
                ]);
                let mut ops = vec![Op::AddService(server, Service::default())];
                ops.extend(wanted.iter().map(|(r, d)| Op::AddDestination(server, *r, *d)));
                apply(&mut socket, &ops);
                assert_eq!(destinations(&mut socket, &server), wanted);
                let quiet = Destination::masquerade(0);
                let (first, second) = (real(&server, 1), real(&server, 2));
                apply(
                    &mut socket,
                    &[
                        Op::SetDestination(server, first, quiet),
                        Op::DeleteDestination(server, second),
                    ],
                );
                wanted.insert(first, quiet);
                wanted.remove(&second);
                assert_eq!(destinations(&mut socket, &server), wanted);
                let unsound = Destination { lower_threshold: 1, ..quiet };
                let nowhere = RealServer { address: Ipv4Addr::BROADCAST.into(), port: 1 };
                let other = VirtualServer { port: 81, ..server };
                assert_eq!(
                    errnos(
                        &mut socket,
                        &[
                            Op::AddDestination(server, first, quiet),
                            Op::SetDestination(server, second, quiet),
                            Op::DeleteDestination(server, second),
                            Op::AddDestination(other, first, quiet),
                            Op::DeleteDestination(other, first),
                            Op::AddDestination(server, second, unsound),
                            Op::AddDestination(server, second, Destination::masquerade(1 << 31)),
                            Op::AddDestination(server, nowhere, quiet),
                        ]
                    ),
                    [
                        (0, Errno::EEXIST),
                        (1, Errno::ENOENT),
                        (2, Errno::ENOENT),
                        (3, Errno::ESRCH),
                        (4, Errno::ESRCH),
                        (5, Errno::ERANGE),
                        (6, Errno::ERANGE),
                        (7, Errno::EINVAL),
                    ],
                    "{server}"
                );
                assert_eq!(destinations(&mut socket, &server), wanted);
            }
        }
    });
}

/// `count` services with two destinations each, by tens of thousands at most.
fn many(count: u16) -> Vec<Op> {
    (0..count)
        .flat_map(|number| {
            let server = tcp(v4(number), 80);
            let add = |real| Op::AddDestination(server, real, Destination::masquerade(1));
            let service = Op::AddService(server, Service::default());
            [service, add(real(&server, 1)), add(real(&server, 2))]
        })
        .collect()
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn one_fault_in_a_long_batch_is_named_and_the_rest_applied() {
    alone("one_fault_in_a_long_batch_is_named_and_the_rest_applied", |mut socket| {
        let mut ops = many(1000);
        let lost = tcp(v6(1), 80);
        ops.insert(1500, Op::AddDestination(lost, real(&lost, 1), Destination::masquerade(1)));
        let refused = errnos(&mut socket, &ops);
        assert_eq!((refused.len(), refused[0]), (1, (1500, Errno::ESRCH)));
        let wanted: BTreeSet<_> = (0..1000).map(|number| tcp(v4(number), 80)).collect();
        assert_eq!(services(&mut socket).into_keys().collect::<BTreeSet<_>>(), wanted);
        for server in &wanted {
            assert_eq!(socket.destinations(server).unwrap().len(), 2, "{server}");
        }
        // When all of them fail no answer is lost.
        ops.remove(1500);
        let again = errnos(&mut socket, &ops);
        let other = again.iter().enumerate().find(|(at, it)| **it != (*at, Errno::EEXIST));
        assert_eq!((other, again.len()), (None, ops.len()));
        assert_eq!(errnos(&mut socket, &[]), []);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn five_thousand_services_are_applied_listed_and_removed() {
    alone("five_thousand_services_are_applied_listed_and_removed", |mut socket| {
        let ops = many(5000);
        let began = Instant::now();
        apply(&mut socket, &ops);
        let applied = began.elapsed();
        let began = Instant::now();
        assert_eq!(services(&mut socket).len(), 5000);
        let listed = began.elapsed();
        let removals: Vec<_> = ops
            .iter()
            .filter_map(|op| match op {
                Op::AddDestination(server, real, _) => Some(Op::DeleteDestination(*server, *real)),
                _ => None,
            })
            .chain((0..5000).map(|number| Op::DeleteService(tcp(v4(number), 80))))
            .collect();
        let began = Instant::now();
        apply(&mut socket, &removals);
        println!("15,000 operations {applied:?}, list {listed:?}, back {:?}", began.elapsed());
        assert_eq!(socket.services().unwrap(), []);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn timeouts_are_set_one_by_one() {
    alone("timeouts_are_set_one_by_one", |mut socket| {
        let info = socket.info().unwrap();
        println!("IPVS {:?}, {} heads", info.version, info.connection_table_size);
        assert_eq!(info.version, [1, 2, 1]);
        assert!(info.connection_table_size >= 256, "{info:?}");
        let before = socket.timeouts().unwrap();
        assert_eq!(before, Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
        let wanted = Timeouts { tcp: 7200, tcp_fin: 60, udp: 30 };
        socket.set_timeouts(wanted).unwrap();
        assert_eq!(socket.timeouts().unwrap(), wanted);
        socket.set_timeouts(Timeouts { udp: 77, ..Timeouts::default() }).unwrap();
        assert_eq!(socket.timeouts().unwrap(), Timeouts { udp: 77, ..wanted });
        let refused = socket.set_timeouts(Timeouts { tcp: u32::MAX, ..wanted }).unwrap_err();
        assert!(matches!(refused, IpvsError::Refused { errno: Errno::EINVAL, .. }), "{refused:?}");
        assert_eq!(socket.timeouts().unwrap(), Timeouts { udp: 77, ..wanted });
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_connection_is_counted_at_its_destination() {
    alone("a_connection_is_counted_at_its_destination", |mut socket| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = tcp(v4(1), 80);
        runtime.block_on(async {
            let address = "10.96.0.1/32".parse().unwrap();
            Links::open().unwrap().add_address("lo", address).await.unwrap();
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let member = RealServer { address: local.ip(), port: local.port() };
        let persistence = Some(Persistence::of_hosts(60));
        apply(
            &mut socket,
            &[
                Op::AddService(server, Service { persistence, ..Service::default() }),
                Op::AddDestination(server, member, Destination::masquerade(1)),
            ],
        );
        let _near = TcpStream::connect("10.96.0.1:80").unwrap();
        let _far = listener.accept().unwrap();
        let listed = socket.destinations(&server).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].server, member);
        assert_eq!(listed[0].connections, Connections { active: 1, inactive: 0, persistent: 1 });
    });
}

/// The output of `ipvsadm`, given `rules`.
fn ipvsadm(args: &[&str], rules: &str) -> String {
    let mut child = Command::new("ipvsadm")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ipvsadm {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn ipvsadm_reads_and_writes_the_same() {
    alone("ipvsadm_reads_and_writes_the_same", |mut socket| {
        let mut wanted = every_service();
        let persistence = |granularity| Some(Persistence { timeout: 10_800, granularity });
        let flags = ServiceFlags { one_packet: true, ..ServiceFlags::default() };
        for (server, service) in [
            (
                tcp(v4(100), 1),
                Service { persistence: persistence(Granularity::Prefix(24)), ..Service::default() },
            ),
            (
                tcp(v6(100), 1),
                Service { persistence: persistence(Granularity::Prefix(64)), ..Service::default() },
            ),
            (
                tcp(v4(101), 1),
                Service { persistence: persistence(Granularity::Host), ..Service::default() },
            ),
            (
                VirtualServer { protocol: Protocol::Udp, ..tcp(v4(102), 1) },
                Service { flags, ..Service::default() },
            ),
        ] {
            wanted.insert(server, service);
        }
        let ops: Vec<_> = wanted
            .iter()
            .flat_map(|(server, service)| {
                let add = |n| {
                    Op::AddDestination(*server, real(server, n), Destination::masquerade(n.into()))
                };
                [Op::AddService(*server, *service), add(1), add(2)]
            })
            .collect();
        let text: BTreeSet<_> = ops.iter().map(Op::to_string).collect();
        apply(&mut socket, &ops);
        let saved = ipvsadm(&["-S", "-n"], "");
        let lines: BTreeSet<_> = saved.lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines, text);
        socket.flush().unwrap();
        let rules: String = ops.iter().map(|op| format!("{op}\n")).collect();
        ipvsadm(&["-R"], &rules);
        assert_eq!(services(&mut socket), wanted);
        for server in wanted.keys() {
            let members = destinations(&mut socket, server);
            let two = [1, 2].map(|n| (real(server, n), Destination::masquerade(n.into())));
            assert_eq!(members, BTreeMap::from(two), "{server}");
        }
        let counts = ipvsadm(&["-L", "-n"], "");
        assert!(
            counts.contains("10.96.0.100:1 rr persistent 10800 mask 255.255.255.0"),
            "{counts}"
        );
    });
}
