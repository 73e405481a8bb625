//! Large tables, other people's changes, and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portolan_backend_nftables::{Nftables, Options};
use portolan_model::{
    Backend, Config, Drift, Event, Family, IpMode, LoadBalancerIngress, LocalDetector,
    LocalhostNodePorts, MasqueradeAll, Model, NodePortAddresses, SessionAffinity, SourceRangesHold,
};
use portolan_netlink::nft::{self, Batch, Op, Socket, TableRef};

use crate::lab::{Lab, Namespace, Outcome, answer, pod_ip, with_namespaces, with_ordinary_rights};
use crate::objects::{NODE, NODE_IP, flushed, ip, model, service, slice};

/// The default of `net.core.wmem_max`, twice: what an ordinary user's transaction may have.
const ORDINARY_BYTES: usize = 2 * 212_992 - 32;

fn open() -> Nftables {
    Nftables::open(Family::Ipv4, Options::default()).unwrap()
}

/// So many Services of two ports, each with two endpoints.
fn many(services: u32) -> Model {
    let mut model = model();
    for number in 0..services {
        let name = format!("service-{number}");
        let cluster_ip = Ipv4Addr::from(0x0a60_0100 + number).to_string();
        model.apply(Event::Service(service(&name, &cluster_ip, None)));
        let endpoints = [0, 1].map(|i| Ipv4Addr::from(0x0af4_0100 + 2 * number + i).to_string());
        model.apply(slice(&name, &[(&endpoints[0], NODE), (&endpoints[1], "node-2")]));
    }
    flushed(model)
}

#[test]
fn an_ordinary_user_loads_twenty_thousand_fronts() {
    with_ordinary_rights("load::an_ordinary_user_loads_twenty_thousand_fronts", || {
        let model = many(10_000);
        assert_eq!(model.table().fronts.len(), 20_000);
        let mut backend = open();
        backend.limit_batch_bytes(ORDINARY_BYTES);
        let applied = backend.start(model.table()).unwrap();
        assert!(applied.commits > 1, "{applied:?}");
        let again = backend.start(model.table()).unwrap();
        assert_eq!((again.commits, again.operations), (0, 0));
        let dump = Socket::open().unwrap().dump(&table()).unwrap().unwrap();
        let len = |name: &str| {
            let of_name = |(set, _): &&(_, Vec<_>)| {
                let set: &std::sync::Arc<nft::Set> = set;
                set.name.as_str() == name
            };
            dump.sets.iter().find(of_name).map(|(_, elements)| elements.len())
        };
        assert_eq!(len("services"), Some(20_000));
        assert_eq!(len("endpoints"), Some(40_000));
        assert!(dump.rules.len() < 80, "{} rules", dump.rules.len());
    });
}

fn table() -> TableRef {
    TableRef::new(nft::Family::Ip, portolan_backend_nftables::TABLE)
}

fn two_pods() -> Model {
    let mut model = model();
    model.apply(Event::Service(service("nginx", "10.96.0.10", Some(30080))));
    model.apply(slice("nginx", &[("10.244.0.1", NODE)]));
    flushed(model)
}

/// A connection through the Service outlives a restart, a scale to nothing and a full rebuild.
#[test]
fn a_restart_changes_nothing_and_cuts_no_connection() {
    with_namespaces("load::a_restart_changes_nothing_and_cuts_no_connection", || {
        let lab = Lab::new(2);
        let mut model = two_pods();
        let (mut server, mut client) = {
            lab.node.run(|| open().start(model.table())).unwrap();
            let listener =
                lab.pods[0].run(|| TcpListener::bind(SocketAddr::new(pod_ip(1), 9090))).unwrap();
            let mut long = service("long", "10.96.0.20", None);
            long.ports.truncate(1);
            model.apply(Event::Service(long));
            model.apply(slice_to_port("long", "10.244.0.1", 9090));
            model.flush();
            lab.node.run(|| open().start(model.table())).unwrap();
            let client = lab.pods[1].run(|| TcpStream::connect("10.96.0.20:80")).unwrap();
            (listener.accept().unwrap().0, client)
        };
        let mut echo = || {
            let mut byte = [0];
            client.write_all(b"x").unwrap();
            server.read_exact(&mut byte).unwrap();
            server.write_all(&byte).unwrap();
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
        };
        echo();
        let again = lab.node.run(|| open().start(model.table())).unwrap();
        assert_eq!((again.commits, again.operations), (0, 0));
        echo();
        let mut backend = lab.node.run(open);
        backend.start(model.table()).unwrap();
        model.apply(slice("long", &[]));
        let delta = model.flush();
        backend.apply(model.table(), &delta).unwrap();
        echo();
        lab.node.run(|| {
            backend.cleanup().unwrap();
            backend.start(model.table()).unwrap();
        });
        echo();
    });
}

fn slice_to_port(service: &str, address: &str, port: u16) -> Event {
    let Event::EndpointSlice(mut slice) = slice(service, &[(address, NODE)]) else {
        unreachable!("it makes slices");
    };
    slice.ports[0].port = crate::objects::port(port);
    Event::EndpointSlice(slice)
}

#[test]
fn rules_that_somebody_removed_come_back() {
    with_namespaces("load::rules_that_somebody_removed_come_back", || {
        let lab = Lab::new(2);
        let mut model = two_pods();
        let mut backend = lab.node.run(open);
        backend.start(model.table()).unwrap();
        let flush = Batch::from(vec![Op::DeleteTable(table())]);
        lab.node.run(|| Socket::open().unwrap().commit(&flush)).unwrap();

        model.apply(slice("nginx", &[("10.244.0.2", NODE)]));
        let delta = model.flush();
        let applied = backend.apply(model.table(), &delta).unwrap();
        assert_eq!(applied.drift, Drift::Repaired);
        assert_eq!(lab.node.get("10.96.0.10:80"), answer("pod-2", "172.30.0.11"));

        // One element less: a delta that does not touch it does not notice, the full sync does.
        let mut socket = lab.node.run(|| Socket::open().unwrap());
        let dump = socket.dump(&table()).unwrap().unwrap();
        let (set, elements) =
            dump.sets.into_iter().find(|(set, _)| set.name.as_str() == "services").unwrap();
        socket.commit(&Batch::from(vec![Op::DeleteElements(set, elements)])).unwrap();
        let applied = backend.start(model.table()).unwrap();
        assert_eq!(applied.operations, model.table().fronts.len() / 2);
        assert_eq!(lab.node.get("10.96.0.10:80"), answer("pod-2", "172.30.0.11"));
    });
}

#[test]
fn other_tables_stay_as_they_are_and_do_not_disturb() {
    with_namespaces("load::other_tables_stay_as_they_are_and_do_not_disturb", || {
        let lab = Lab::new(2);
        let model = two_pods();
        let others = "
            table inet firewall {
                chain input {
                    type filter hook input priority 0; policy accept;
                    ct state established,related accept
                    tcp dport 22 drop
                }
                chain forward {
                    type filter hook forward priority 0; policy accept;
                    ip daddr 10.96.0.0/12 drop
                }
            }
            table ip nat {
                chain prerouting {
                    type nat hook prerouting priority -100; policy accept;
                    tcp dport 2222 redirect to :22
                }
                chain postrouting {
                    type nat hook postrouting priority 100; policy accept;
                    oifname eth1 masquerade
                }
            }";
        let nft = |args: &[&str]| lab.node.run(|| Command::new("nft").args(args).output());
        let Ok(loaded) = nft(&[others]) else {
            return println!("SKIP other_tables_stay_as_they_are: nft is not installed");
        };
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let listed = |table: &str| {
            let [family, name] = table.split(' ').collect::<Vec<_>>()[..] else { return None };
            Some(nft(&["list", "table", family, name]).unwrap().stdout)
        };
        let before = [listed("inet firewall"), listed("ip nat")];
        let mut backend = lab.node.run(open);
        backend.start(model.table()).unwrap();
        assert_eq!(lab.pods[1].get("10.96.0.10:80"), answer("pod-1", "10.244.0.2"));
        assert_eq!(lab.client.get("172.30.0.11:30080"), answer("pod-1", "172.30.0.11"));
        assert_eq!([listed("inet firewall"), listed("ip nat")], before);
        backend.cleanup().unwrap();
        assert_eq!([listed("inet firewall"), listed("ip nat")], before);
        let tables = lab.node.run(|| Socket::open().unwrap()).tables().unwrap();
        assert!(tables.iter().all(|other| other.id != table()));
    });
}

/// A packet may see rules of one generation and elements of the next; it must never be refused for
/// that, nor leave the node with the Service's address.
#[test]
fn a_set_that_flaps_between_sizes_refuses_nothing() {
    with_namespaces("load::a_set_that_flaps_between_sizes_refuses_nothing", || {
        let lab = Lab::new(6);
        lab.watch_for_escapes("10.96.0.10");
        let all: Vec<_> = (1..=5).map(|number| pod_ip(number).to_string()).collect();
        let without = |gone: Option<usize>| {
            let present = all.iter().enumerate().filter(|(index, _)| Some(*index) != gone);
            let present: Vec<_> = present.map(|(_, address)| (address.as_str(), NODE)).collect();
            slice("nginx", &present)
        };
        let mut model = model();
        model.apply(Event::Service(service("nginx", "10.96.0.10", Some(30080))));
        model.apply(without(None));
        model.flush();
        let mut backend = lab.node.run(open);
        backend.start(model.table()).unwrap();
        // The first time that sets have a size, its chains go ahead in a transaction of their own.
        for (gone, commits) in [(Some(0), 2), (None, 1)] {
            model.apply(without(gone));
            let delta = model.flush();
            assert_eq!(backend.apply(model.table(), &delta).unwrap().commits, commits);
        }

        let stop = AtomicBool::new(false);
        let tried = [const { AtomicUsize::new(0) }; 3];
        std::thread::scope(|scope| {
            let (lab, stop, tried) = (&lab, &stop, &tried);
            let done = |tried: &[AtomicUsize]| {
                tried.iter().all(|count| count.load(Ordering::Relaxed) >= 400)
            };
            let clients = [
                (&lab.pods[5], "10.96.0.10:80"),
                (&lab.node, "10.96.0.10:80"),
                (&lab.client, "172.30.0.11:30080"),
            ];
            let clients = [0, 1, 2].map(|index| {
                let (namespace, to): (&Namespace, _) = clients[index];
                scope.spawn(move || {
                    let mut counts = BTreeMap::<_, usize>::new();
                    while !stop.load(Ordering::Relaxed) {
                        *counts.entry(namespace.get(to)).or_default() += 1;
                        tried[index].fetch_add(1, Ordering::Relaxed);
                    }
                    counts
                })
            });
            let mut outcomes = BTreeSet::new();
            // Changes go on until every client has tried its luck often enough.
            for round in (0..20_000).take_while(|_| !done(tried)) {
                for gone in [Some(round % all.len()), None] {
                    model.apply(without(gone));
                    let delta = model.flush();
                    let applied = backend.apply(model.table(), &delta);
                    outcomes.insert(
                        applied.map_or(None, |a| Some((a.commits, a.drift == Drift::None))),
                    );
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(outcomes, [Some((1, true))].into());
            for client in clients {
                let counts = client.join().unwrap();
                let answered = |outcome: &Outcome| matches!(outcome, Outcome::Answer(text) if text.starts_with("pod-"));
                assert!(counts.keys().all(answered), "{counts:?}");
                assert_eq!(counts.len(), 5, "{counts:?}");
            }
        });
    });
}

/// A rule that does not read back as it was written would be written again at every start.
#[test]
fn every_kind_of_rule_reads_back_as_it_was_written() {
    with_namespaces("load::every_kind_of_rule_reads_back_as_it_was_written", || {
        let detectors = [
            LocalDetector::None,
            LocalDetector::Cidrs(vec![
                "10.244.0.0/17".parse().unwrap(),
                "fd02::/64".parse().unwrap(),
            ]),
            LocalDetector::Bridge("cni0".into()),
            LocalDetector::InterfacePrefix("veth".into()),
        ];
        for family in [Family::Ipv4, Family::Ipv6] {
            for detector in &detectors {
                let config = Config {
                    node_name: NODE.into(),
                    masquerade_all: MasqueradeAll::Always,
                    local_detector: detector.clone(),
                    localhost_node_ports: LocalhostNodePorts::On,
                    source_ranges_hold: SourceRangesHold::AtNodePortsToo,
                };
                let mut model = Model::new(family, config);
                let mut service = service("dual", "10.96.0.10", Some(30080));
                service.cluster_ips.push(ip("fd01::10"));
                let mut sticky = service.clone();
                sticky.name.name = "sticky".into();
                sticky.cluster_ips = vec![ip("10.96.0.11"), ip("fd01::11")];
                sticky.ports.iter_mut().for_each(|port| port.node_port = None);
                let timeout = Duration::from_secs(10_800);
                sticky.session_affinity = SessionAffinity::ClientIp { timeout };
                let mode = IpMode::Vip;
                service.load_balancer_ingress = ["192.0.2.1", "2001:db8::1"]
                    .map(|address| LoadBalancerIngress { ip: ip(address), mode })
                    .to_vec();
                service.load_balancer_source_ranges =
                    vec!["203.0.113.0/25".parse().unwrap(), "2001:db8::/33".parse().unwrap()];
                model.apply(Event::Service(service));
                model.apply(Event::Service(sticky));
                let endpoints = [("10.244.0.1", NODE), ("10.244.0.2", NODE), ("fd02::1", NODE)];
                model.apply(slice("dual", &endpoints));
                model.apply(slice("sticky", &endpoints));
                model.apply(Event::ServiceCidrs(vec![
                    "10.96.0.0/12".parse().unwrap(),
                    "fd01::/108".parse().unwrap(),
                ]));
                model.flush();
                let mut backend = Nftables::open(family, Options::default()).unwrap();
                let only = NodePortAddresses::Only([ip(NODE_IP), ip("fd00::11")].into());
                for addresses in [NodePortAddresses::AllLocal, only] {
                    model.apply(Event::NodePortAddresses(addresses));
                    let delta = model.flush();
                    backend.apply(model.table(), &delta).unwrap();
                    let again = backend.start(model.table()).unwrap();
                    assert_eq!((again.commits, again.operations), (0, 0), "{family} {detector:?}");
                }
                backend.cleanup().unwrap();
            }
        }
    });
}
