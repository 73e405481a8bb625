//! Real traffic, which needs nf_tables beside IPVS: `cargo xtask vm --rig qemu`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use portolan_backend_ipvs::{Ipvs, Options};
use portolan_model::{
    Backend, Event, IpMode, LoadBalancerIngress, Model, Service, SessionAffinity, TrafficPolicy,
};

use super::{held, write_sysctls};
use crate::lab::{Lab, Namespace, Outcome, PATIENCE, answer};
use crate::objects::{NODE, STACKS, Stack, at, flushed, ip, service, slice};

/// The lab's node in mode ipvs.
fn programmed(lab: &Lab, model: &Model) -> Ipvs {
    lab.node.run(|| {
        write_sysctls();
        let mut backend = Ipvs::open(model.table().family, Options::default()).unwrap();
        backend.start(model.table()).unwrap();
        backend
    })
}

/// Brings the lab's node to what the model says now.
fn follow(lab: &Lab, backend: &mut Ipvs, model: &mut Model) {
    let delta = model.flush();
    let applied = lab.node.run(|| backend.apply(model.table(), &delta).unwrap());
    assert_eq!(applied.drift, portolan_model::Drift::None);
}

fn count(times: usize, mut get: impl FnMut() -> Outcome) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(get()).or_default() += 1;
    }
    counts
}

/// Round robin: each answers as often as the other.
#[track_caller]
fn assert_in_turn(counts: &BTreeMap<Outcome, usize>, source: &str, times: usize) {
    let each = [1, 2].map(|pod| (answer(&format!("pod-{pod}"), source), times / 2));
    assert_eq!(*counts, BTreeMap::from(each));
}

fn web(stack: &Stack) -> Model {
    let mut model = stack.model();
    model.apply(Event::Service(service("web", &stack.service(10), Some(30080))));
    model.apply(slice("web", &[(&stack.pod(1), NODE), (&stack.pod(2), "node-2")]));
    flushed(model)
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn cluster_ip_and_node_port_answer_in_turn_from_everywhere() {
    let lab = Lab::new(3);
    let _backends = STACKS.each_ref().map(|stack| programmed(&lab, &web(stack)));
    for stack in &STACKS {
        let (pod, cluster_ip) = (stack.pod(3), stack.service(10));
        let from: [(&Namespace, &str); 3] =
            [(&lab.pods[2], &pod), (&lab.node, stack.node), (&lab.client, stack.node)];
        for (namespace, source) in from {
            assert_in_turn(&count(10, || namespace.get(&at(&cluster_ip, 80))), source, 10);
            assert_in_turn(&count(10, || namespace.ask(&at(&cluster_ip, 53))), source, 10);
            let node_port = at(stack.node, 30080);
            assert_in_turn(&count(10, || namespace.get(&node_port)), stack.node, 10);
            assert_in_turn(&count(10, || namespace.ask(&node_port)), stack.node, 10);
        }
    }
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn what_a_backend_left_is_found_as_it_should_be_and_goes_without_trace() {
    let lab = Lab::new(0);
    let nothing = lab.node.run(held);
    for stack in &STACKS {
        let mut model = web(stack);
        let guarded = balanced(stack, &[stack.around_client, stack.around_node]);
        model.apply(Event::Service(guarded));
        model.apply(slice("balanced", &[(&stack.pod(1), NODE)]));
        model.apply(Event::Service(service("empty", &stack.service(12), None)));
        model.flush();
        let mut first = programmed(&lab, &model);
        lab.node.run(|| {
            assert!(first.drift(model.table()).unwrap().is_empty());
            let mut other = Ipvs::open(stack.family, Options::default()).unwrap();
            assert_eq!(other.start(model.table()).unwrap().operations, 0);
            let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            let errors = String::from_utf8_lossy(&listed.stderr);
            assert!(listed.status.success() && errors.is_empty(), "{errors}");
            let text = String::from_utf8_lossy(&listed.stdout);
            for line in ["portolan-ipvs {", "goto mark-pod", "@hairpins", "set admitted {"] {
                assert!(text.contains(line), "no {line:?} in:\n{text}");
            }
            // Somebody removes the table; somebody changes it.
            let nft = |command: &str| {
                assert!(Command::new("nft").arg(command).status().unwrap().success());
            };
            let family = if ip(stack.node).is_ipv4() { "ip" } else { "ip6" };
            nft(&format!("delete table {family} portolan-ipvs"));
            assert!(first.start(model.table()).unwrap().operations > 20);
            nft(&format!("flush chain {family} portolan-ipvs check"));
            nft(&format!("flush set {family} portolan-ipvs guarded"));
            assert!(first.start(model.table()).unwrap().operations > 2);
            assert_eq!(first.start(model.table()).unwrap().operations, 0);
            first.cleanup().unwrap();
            assert_eq!(held(), nothing);
            let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "");
        });
    }
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn an_endpoint_reaches_itself_through_its_service() {
    let lab = Lab::new(2);
    for stack in &STACKS {
        let (cluster_ip, one, two) = (stack.service(11), stack.pod(1), stack.pod(2));
        let mut model = stack.model();
        model.apply(Event::Service(service("self", &cluster_ip, Some(30081))));
        model.apply(slice("self", &[(&one, NODE)]));
        let _backend = programmed(&lab, &flushed(model));
        let itself = answer("pod-1", stack.node);
        assert_eq!(lab.pods[0].get(&at(&cluster_ip, 80)), itself);
        assert_eq!(lab.pods[0].ask(&at(&cluster_ip, 53)), itself);
        assert_eq!(lab.pods[0].get(&at(stack.node, 30081)), itself);
        assert_eq!(lab.pods[1].get(&at(&cluster_ip, 80)), answer("pod-1", &two));
        assert_eq!(lab.pods[0].get(&at(&one, 8080)), answer("pod-1", &one));
    }
}

/// The node has the Service's address, so that its own sockets would answer there.
#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn ports_that_no_service_defines_are_refused_though_a_socket_of_the_node_listens() {
    let lab = Lab::new(1);
    for stack in &STACKS {
        let mut model = web(stack);
        let external_ips = vec![ip(&stack.service(200))];
        let external = Service { external_ips, ..service("external", &stack.service(11), None) };
        model.apply(Event::Service(external));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let any: IpAddr = ip(if ip(stack.node).is_ipv4() { "0.0.0.0" } else { "::" });
        let port = if any.is_ipv4() { 7000 } else { 7100 };
        lab.node.serve("host", any, port, port + 1);
        for number in [10, 200] {
            for from in [&lab.client, &lab.pods[0], &lab.node] {
                let address = stack.service(number);
                assert_eq!(from.get(&at(&address, port)), Outcome::Refused);
                assert_eq!(from.ask(&at(&address, port + 1)), Outcome::Refused);
            }
        }
        // The node's own address is nobody's business, and neither is one that no Service has now.
        assert_eq!(lab.client.get(&at(stack.node, port)), answer("host", stack.client));
        // Fronts without endpoints refuse, too.
        assert_eq!(lab.client.get(&at(&stack.service(200), 80)), Outcome::Refused);
        assert_eq!(lab.node.ask(&at(&stack.service(11), 53)), Outcome::Refused);
        model.apply(slice("external", &[(&stack.pod(1), NODE)]));
        follow(&lab, &mut backend, &mut model);
        let masqueraded = answer("pod-1", stack.node);
        assert_eq!(lab.client.get(&at(&stack.service(200), 80)), masqueraded);
        model.apply(slice("external", &[]));
        follow(&lab, &mut backend, &mut model);
        assert_eq!(lab.client.get(&at(&stack.service(200), 80)), Outcome::Refused);
        lab.node.run(|| backend.cleanup().unwrap());
    }
}

/// A Service with a load balancer's address that only these ranges may use.
fn balanced(stack: &Stack, ranges: &[&str]) -> Service {
    let address = LoadBalancerIngress { ip: ip(&stack.service(201)), mode: IpMode::Vip };
    Service {
        load_balancer_ingress: vec![address],
        load_balancer_source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..service("balanced", &stack.service(13), None)
    }
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn only_admitted_sources_use_a_load_balancers_address() {
    let lab = Lab::new(2);
    for stack in &STACKS {
        let mut model = stack.model();
        model.apply(Event::Service(balanced(stack, &[stack.around_client])));
        model.apply(slice("balanced", &[(&stack.pod(1), NODE)]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let (to, served) = (at(&stack.service(201), 80), answer("pod-1", stack.node));
        assert_eq!(lab.client.get(&to), served);
        assert_eq!(lab.pods[1].get(&to), Outcome::Silence);
        assert_eq!(lab.node.get(&to), Outcome::Silence);
        // Its cluster IP is everybody's.
        let cluster_ip = at(&stack.service(13), 80);
        assert_eq!(lab.pods[1].get(&cluster_ip), answer("pod-1", &stack.pod(2)));
        model.apply(Event::Service(balanced(stack, &[stack.around_node])));
        follow(&lab, &mut backend, &mut model);
        assert_eq!(lab.client.get(&to), Outcome::Silence);
        // From the address itself, which the kernel gives it as source.
        assert_eq!(lab.node.get(&to), served);
        model.apply(Event::Service(balanced(stack, &[])));
        follow(&lab, &mut backend, &mut model);
        for from in [&lab.client, &lab.pods[1], &lab.node] {
            assert_eq!(from.get(&to), served);
        }
    }
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn under_policy_local_everybody_goes_to_this_nodes_endpoints() {
    let lab = Lab::new(3);
    for stack in &STACKS {
        let mut model = stack.model();
        let local = Service {
            external_traffic_policy: TrafficPolicy::Local,
            external_ips: vec![ip(&stack.service(202))],
            ..service("local", &stack.service(14), Some(30084))
        };
        model.apply(Event::Service(local));
        model.apply(slice("local", &[(&stack.pod(1), NODE), (&stack.pod(2), "node-2")]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let pod = stack.pod(3);
        let from: [(&Namespace, &str); 3] =
            [(&lab.client, stack.client), (&lab.pods[2], &pod), (&lab.node, stack.node)];
        for to in [at(&stack.service(202), 80), at(stack.node, 30084)] {
            for (namespace, source) in from {
                let only = BTreeMap::from([(answer("pod-1", source), 4)]);
                assert_eq!(count(4, || namespace.get(&to)), only, "{to}");
            }
        }
        assert_in_turn(&count(4, || lab.pods[2].get(&at(&stack.service(14), 80))), &pod, 4);
        // Without any of its own the node drops, and refuses when there is none at all.
        model.apply(slice("local", &[(&stack.pod(2), "node-2")]));
        follow(&lab, &mut backend, &mut model);
        assert_eq!(lab.client.get(&at(&stack.service(202), 80)), Outcome::Silence);
        assert_eq!(lab.pods[2].get(&at(stack.node, 30084)), Outcome::Silence);
        model.apply(slice("local", &[]));
        follow(&lab, &mut backend, &mut model);
        assert_eq!(lab.client.get(&at(&stack.service(202), 80)), Outcome::Refused);
    }
}

#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn a_client_keeps_its_endpoint_and_gets_another_when_that_leaves() {
    let lab = Lab::new(3);
    for stack in &STACKS {
        let mut model = stack.model();
        let session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_secs(600) };
        let sticky =
            Service { session_affinity, ..service("sticky", &stack.service(15), Some(30085)) };
        model.apply(Event::Service(sticky));
        model.apply(slice("sticky", &[(&stack.pod(1), NODE), (&stack.pod(2), NODE)]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let to = at(&stack.service(15), 80);
        let mut kept = Vec::new();
        for from in [&lab.client, &lab.pods[2], &lab.node] {
            let counts = count(8, || from.get(&to));
            assert_eq!(counts.len(), 1, "{counts:?}");
            kept.extend(counts.into_keys());
        }
        let first = |outcome: &Outcome| matches!(outcome, Outcome::Answer(text) if text.starts_with("pod-1"));
        let (left, name) = if first(&kept[0]) { (2, "pod-2") } else { (1, "pod-1") };
        model.apply(slice("sticky", &[(&stack.pod(left), NODE)]));
        follow(&lab, &mut backend, &mut model);
        let only = BTreeMap::from([(answer(name, stack.node), 4)]);
        assert_eq!(count(4, || lab.client.get(&to)), only);
        lab.node.run(|| backend.tend(Instant::now()).unwrap());
        lab.node.run(|| backend.cleanup().unwrap());
    }
}

/// A client that goes on sending from one port, as resolvers do.
#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn datagrams_of_one_client_go_elsewhere_once_their_endpoint_leaves() {
    let lab = Lab::new(2);
    for stack in &STACKS {
        let mut model = web(stack);
        let mut backend = programmed(&lab, &model);
        let to: std::net::SocketAddr = at(&stack.service(10), 53).parse().unwrap();
        let socket = lab.client.run(|| UdpSocket::bind((ip(stack.client), 5300)).unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let ask = || {
            let mut buffer = [0; 64];
            socket.send(b"?").ok()?;
            let len = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        let first = ask().unwrap();
        assert_eq!(ask().as_ref(), Some(&first), "one flow stays where it is");
        let left = if first.starts_with("pod-1") { 2 } else { 1 };
        model.apply(slice("web", &[(&stack.pod(left), NODE)]));
        follow(&lab, &mut backend, &mut model);
        let other = format!("pod-{left} {}", stack.node);
        // The first one finds that its endpoint is gone, and may be lost.
        assert!((0..8).any(|_| ask().as_ref() == Some(&other)), "never by {other}");
        assert_eq!(ask(), Some(other));
        lab.node.run(|| backend.cleanup().unwrap());
    }
}

/// A client of an endpoint that leaves goes on, and is told when the time is up.
#[test]
#[ignore = "needs a kernel with IPVS and nf_tables: cargo xtask vm"]
fn a_connection_from_outside_outlives_its_endpoint_and_ends_in_a_reset() {
    let lab = Lab::new(2);
    for stack in &STACKS {
        let mut model = stack.model();
        let mut slow = service("slow", &stack.service(17), None);
        slow.ports.truncate(1);
        model.apply(Event::Service(slow));
        let echo = |pod: u8| {
            lab.pods[usize::from(pod) - 1]
                .run(|| TcpListener::bind((ip(&stack.pod(pod)), 8080 + u16::from(pod))).unwrap())
        };
        let listener = echo(1);
        let at_pod = |numbers: &[u8]| {
            let pods: Vec<_> = numbers.iter().map(|number| stack.pod(*number)).collect();
            let endpoints: Vec<_> = pods.iter().map(|pod| (pod.as_str(), NODE)).collect();
            let Event::EndpointSlice(mut slice) = slice("slow", &endpoints) else { unreachable!() };
            slice.ports[0].port = crate::objects::port(8081);
            Event::EndpointSlice(slice)
        };
        model.apply(at_pod(&[1]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let to = at(&stack.service(17), 80).parse().unwrap();
        let mut near = lab.client.run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (mut far, _) = listener.accept().unwrap();
        let mut talks = |near: &mut TcpStream| {
            near.write_all(b"x").unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            far.read_exact(&mut [0; 1]).unwrap();
        };
        talks(&mut near);
        model.apply(at_pod(&[]));
        follow(&lab, &mut backend, &mut model);
        talks(&mut near);
        let began = Instant::now();
        lab.node.run(|| {
            assert!(backend.tend(began).unwrap().is_some());
            backend.start(model.table()).unwrap();
        });
        talks(&mut near);
        assert_eq!(lab.client.get(&at(&stack.service(17), 80)), Outcome::Refused);
        let later = began + Options::default().termination_deadline;
        assert_eq!(lab.node.run(|| backend.tend(later).unwrap()), None);
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        near.write_all(b"x").unwrap();
        let error = near.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        lab.node.run(|| backend.cleanup().unwrap());
    }
}
