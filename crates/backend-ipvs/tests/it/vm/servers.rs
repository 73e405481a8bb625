//! Virtual servers and addresses are as planned, whatever was there before.

use std::time::{Duration, Instant};

use portolan_backend_ipvs::{Ipvs, Options, Planner};
use portolan_model::{
    Backend, Drift, Event, Family, LoadBalancerIngress, Model, Service, SessionAffinity,
};
use portolan_netlink::ipvs::{Destination, Op, RealServer, Socket};
use portolan_netlink::{address, ipvs};

use super::{alone, held, planned, tcp};
use crate::objects::{NODE, STACKS, Stack, ip, service, slice};

const NODE_ADDRESSES: &[&str] = &["172.30.0.11", "fd00:172:30::11"];

fn open(family: Family) -> Ipvs {
    Ipvs::open_without_rules(family, Options::default()).unwrap()
}

/// A Service of everything, one whose clients keep their endpoint, one without endpoints.
fn model(stack: &Stack) -> Model {
    let mut model = stack.model();
    let all = Service {
        external_ips: vec![ip(&stack.service(200)), ip(stack.node)],
        load_balancer_ingress: vec![LoadBalancerIngress {
            ip: ip(&stack.service(201)),
            mode: portolan_model::IpMode::Vip,
        }],
        ..service("all", &stack.service(10), Some(30080))
    };
    model.apply(Event::Service(all));
    model.apply(slice("all", &[(&stack.pod(1), NODE), (&stack.pod(2), "node-2")]));
    let session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_secs(10_800) };
    let sticky = Service { session_affinity, ..service("sticky", &stack.service(11), None) };
    model.apply(Event::Service(sticky));
    model.apply(slice("sticky", &[(&stack.pod(3), NODE)]));
    model.apply(Event::Service(service("empty", &stack.service(12), Some(30081))));
    model.flush();
    model
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn the_kernel_holds_what_is_planned_in_both_families() {
    alone(NODE_ADDRESSES, || {
        let mut all = (Default::default(), Default::default());
        let mut backends = Vec::new();
        for stack in &STACKS {
            let model = model(stack);
            let mut backend = open(stack.family);
            assert!(backend.start(model.table()).unwrap().operations > 10);
            let (mut servers, mut addresses) = planned(&backend.plan_full(model.table()));
            assert!(!addresses.contains(stack.node), "the node's own address stays where it is");
            assert_eq!((servers.len(), addresses.len()), (38, 5), "{servers:#?} {addresses:?}");
            let (s, a) = &mut all;
            std::collections::BTreeSet::append(s, &mut servers);
            std::collections::BTreeSet::append(a, &mut addresses);
            // Once more there is nothing to do, for this one and for one that knows nothing.
            assert_eq!(backend.start(model.table()).unwrap().operations, 0);
            assert_eq!(open(stack.family).start(model.table()).unwrap().operations, 0);
            assert!(backend.drift(model.table()).unwrap().is_empty());
            backends.push((backend, model));
        }
        assert_eq!(held(), all);
        // Each family goes by itself, and the link with the last one.
        backends[0].0.cleanup().unwrap();
        let (servers, addresses) = held();
        assert!(servers.iter().all(|line| line.contains("[fd00:")), "{servers:?}");
        assert!(addresses.iter().all(|ip| ip.starts_with("fd00:")), "{addresses:?}");
        backends[1].0.cleanup().unwrap();
        assert_eq!(held(), Default::default());
        assert_eq!(address::Socket::open().unwrap().index("kube-ipvs0").unwrap(), None);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn changes_lead_to_what_a_fresh_start_would() {
    alone(NODE_ADDRESSES, || {
        for stack in &STACKS {
            let mut model = model(stack);
            let mut backend = open(stack.family);
            backend.start(model.table()).unwrap();
            for event in [
                slice("empty", &[(&stack.pod(5), NODE)]),
                slice("sticky", &[(&stack.pod(3), NODE), (&stack.pod(4), NODE)]),
                Event::Service(service("sticky", &stack.service(11), Some(30085))),
                Event::Service(service("all", &stack.service(10), None)),
                Event::Service(service("new", &stack.service(13), None)),
                Event::ServiceDeleted(portolan_model::NamespacedName::new("default", "empty")),
            ] {
                model.apply(event);
                let delta = model.flush();
                let applied = backend.apply(model.table(), &delta).unwrap();
                assert_eq!(applied.drift, Drift::None);
                // What left has no connection.
                assert_eq!(backend.tend(Instant::now()).unwrap(), None);
                let fresh = Planner::new(stack.family, Options::default()).full(model.table());
                assert_eq!(held(), planned(&fresh));
            }
            backend.cleanup().unwrap();
        }
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn what_others_did_is_put_right_and_what_is_excluded_stays() {
    alone(NODE_ADDRESSES, || {
        let stack = &STACKS[0];
        let mut model = model(stack);
        let excluded = "203.0.113.0/24".parse().unwrap();
        let options = Options { exclude_cidrs: vec![excluded], ..Options::default() };
        let mut backend = Ipvs::open_without_rules(Family::Ipv4, options).unwrap();
        backend.start(model.table()).unwrap();
        let (servers, addresses) = held();
        let mut socket = Socket::open().unwrap();
        let kept = tcp("203.0.113.1", 80);
        let strange = |at| Op::AddService(at, ipvs::Service::default());
        let real = RealServer { address: ip("10.244.9.9"), port: 1 };
        let ops = [
            strange(kept),
            strange(tcp("10.96.0.99", 80)),
            Op::AddDestination(tcp("10.96.0.10", 80), real, Destination::masquerade(1)),
            Op::DeleteService(tcp("10.96.0.12", 80)),
        ];
        assert_eq!(socket.apply(&ops).unwrap(), []);
        let mut links = address::Socket::open().unwrap();
        let link = links.index("kube-ipvs0").unwrap().unwrap();
        let theirs = [
            address::Op::Add(ip("203.0.113.2")),
            address::Op::Add(ip("10.96.0.98")),
            address::Op::Remove(ip("10.96.0.10")),
        ];
        assert_eq!(links.apply(link, &theirs).unwrap(), []);
        // A change of what somebody removed makes it look at everything.
        model.apply(slice("empty", &[(&stack.pod(5), NODE)]));
        let delta = model.flush();
        let applied = backend.apply(model.table(), &delta).unwrap();
        assert_eq!(applied.drift, Drift::Repaired);
        let (mut now, mut on_link) = held();
        assert!(now.remove("-A -t 203.0.113.1:80 -s rr"), "{now:?}");
        assert!(on_link.remove("203.0.113.2"));
        // Nobody knows what connections it has: it takes no new one, and goes in its time.
        assert!(now.remove("-a -t 10.96.0.10:80 -r 10.244.9.9:1 -m -w 0"), "{now:?}");
        let come = now.difference(&servers).count();
        assert_eq!((come, servers.difference(&now).count()), (4, 0), "{now:#?}");
        assert_eq!(on_link, addresses);
        backend.tend(Instant::now()).unwrap();
        assert_eq!(super::weights(&tcp("10.96.0.10", 80)).len(), 2);
        // Without the link nothing is known to be ours.
        backend.cleanup().unwrap();
        assert_eq!(held().0.len(), 1);
        assert_eq!(socket.apply(&[strange(tcp("198.51.100.1", 80))]).unwrap(), []);
        backend.cleanup().unwrap();
        assert_eq!(held().0.len(), 2);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_scheduler_that_there_is_not_is_named_and_others_are_taken() {
    alone(NODE_ADDRESSES, || {
        let model = model(&STACKS[0]);
        let with = |name: &str| {
            let options = Options { scheduler: name.parse().unwrap(), ..Options::default() };
            Ipvs::open_without_rules(Family::Ipv4, options).unwrap()
        };
        assert!(!with("no-such").has_scheduler().unwrap());
        assert!(with("lc").has_scheduler().unwrap());
        let timeouts = ipvs::Timeouts { tcp: 7200, tcp_fin: 60, udp: 30 };
        with("rr").set_timeouts(timeouts).unwrap();
        assert_eq!(Socket::open().unwrap().timeouts().unwrap(), timeouts);
        let refused = with("no-such").start(model.table()).unwrap_err().to_string();
        assert!(refused.contains("no such scheduler; hint:"), "{refused}");
        for name in ["lc", "mh", "sh", "rr"] {
            let mut backend = with(name);
            backend.start(model.table()).unwrap();
            let (servers, addresses) = held();
            // ipvsadm knows how that scheduler names its flags.
            let servers = servers.iter().map(|line| line.replace("mh-port", "flag-2")).collect();
            let planned = planned(&backend.plan_full(model.table()));
            assert_eq!((servers, addresses), planned, "{name}");
        }
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn node_ports_answer_at_every_address_of_the_node_and_never_at_a_services() {
    alone(&["172.30.0.11", "198.51.100.9"], || {
        let stack = &STACKS[0];
        let mut model = model(stack);
        model.apply(Event::NodePortAddresses(portolan_model::NodePortAddresses::AllLocal));
        model.flush();
        let mut backend = open(Family::Ipv4);
        backend.start(model.table()).unwrap();
        let (servers, addresses) = held();
        let at = servers.iter().filter(|line| line.contains("-A -t") && line.contains(":30080"));
        let at: Vec<_> = at.collect();
        assert_eq!(at, ["-A -t 172.30.0.11:30080 -s rr", "-A -t 198.51.100.9:30080 -s rr"]);
        assert!(!addresses.contains("172.30.0.11"));
        assert_eq!(backend.start(model.table()).unwrap().operations, 0);
        // Nobody holds the Service's address twice.
        let external_ips = vec![ip("198.51.100.9"), ip("198.51.100.10")];
        let external = Service { external_ips, ..service("all", &stack.service(10), None) };
        model.apply(Event::Service(external));
        let delta = model.flush();
        backend.apply(model.table(), &delta).unwrap();
        let (servers, addresses) = held();
        assert!(servers.contains("-A -t 198.51.100.9:80 -s rr"));
        assert!(!addresses.contains("198.51.100.9") && addresses.contains("198.51.100.10"));
        assert_eq!(backend.start(model.table()).unwrap().operations, 0);
    });
}

/// kube-proxy's addresses may be picked as a source for anything.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn what_kube_proxy_left_is_taken_over() {
    alone(NODE_ADDRESSES, || {
        let run = |arguments: &[&str]| {
            let done = std::process::Command::new("ip").args(arguments).status().unwrap();
            assert!(done.success(), "{arguments:?}");
        };
        run(&["link", "add", "kube-ipvs0", "type", "dummy"]);
        for stack in &STACKS {
            for number in [10, 99] {
                run(&["address", "add", &stack.service(number), "dev", "kube-ipvs0"]);
            }
        }
        for stack in &STACKS {
            let mut backend = open(stack.family);
            let model = model(stack);
            let ops = [Op::AddService(tcp(&stack.service(10), 80), ipvs::Service::default())];
            assert_eq!(Socket::open().unwrap().apply(&ops).unwrap(), []);
            backend.start(model.table()).unwrap();
            assert_eq!(backend.start(model.table()).unwrap().operations, 0);
        }
        let (_, addresses) = held();
        assert_eq!(addresses.len(), 10);
    });
}

/// Whatever stands in a Service or an EndpointSlice, the others are served.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn addresses_that_no_host_can_have_are_left_out_alone() {
    alone(NODE_ADDRESSES, || {
        for (stack, multicast, broadcast) in
            [(&STACKS[0], "224.0.0.5", "255.255.255.255"), (&STACKS[1], "ff02::5", "ff02::1")]
        {
            let mut model = model(stack);
            let mut backend = open(stack.family);
            backend.start(model.table()).unwrap();
            let external_ips = vec![ip(multicast), ip(&stack.service(203))];
            let odd = Service { external_ips, ..service("odd", &stack.service(16), None) };
            model.apply(Event::Service(odd));
            model.apply(slice("odd", &[(broadcast, NODE), (&stack.pod(1), NODE)]));
            model.apply(slice("empty", &[(&stack.pod(2), NODE)]));
            let delta = model.flush();
            backend.apply(model.table(), &delta).unwrap();
            let holds = |number: u8, pod: u8| {
                let listed = super::weights(&tcp(&stack.service(number), 80));
                listed.iter().any(|(to, _)| to.address == ip(&stack.pod(pod)))
            };
            assert!(holds(16, 1) && holds(203, 1) && holds(12, 2));
            assert!(held().1.contains(&stack.service(203)));
            model.apply(slice("odd", &[(&stack.pod(2), NODE)]));
            let delta = model.flush();
            backend.apply(model.table(), &delta).unwrap();
            assert!(holds(16, 2));
            backend.cleanup().unwrap();
        }
    });
}

/// How long it takes is printed, not asserted.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn ten_thousand_services_are_held_and_found_again() {
    alone(NODE_ADDRESSES, || {
        let stack = &STACKS[0];
        let mut model = stack.model();
        for number in 0..10_000u16 {
            let [high, low] = number.to_be_bytes();
            let name = format!("service-{number}");
            let mut one = service(&name, &format!("10.97.{high}.{low}"), None);
            one.ports.truncate(1);
            model.apply(Event::Service(one));
            let pods: Vec<_> = (0..5).map(|n| format!("10.{}.{high}.{low}", 200 + n)).collect();
            let endpoints: Vec<_> = pods.iter().map(|pod| (pod.as_str(), NODE)).collect();
            model.apply(slice(&name, &endpoints));
        }
        model.flush();
        let mut backend = open(Family::Ipv4);
        let began = Instant::now();
        let plan = backend.plan_full(model.table());
        let planned = began.elapsed();
        let (servers, addresses) = (plan.server_ops().count(), plan.address_ops().count());
        assert_eq!((servers, addresses), (60_000, 10_000));
        let began = Instant::now();
        backend.start(model.table()).unwrap();
        let first = began.elapsed();
        let began = Instant::now();
        assert_eq!(backend.start(model.table()).unwrap().operations, 0);
        let again = began.elapsed();
        model.apply(slice("service-7", &[("10.244.0.1", NODE)]));
        let delta = model.flush();
        let began = Instant::now();
        let applied = backend.apply(model.table(), &delta).unwrap();
        println!(
            "10,000 Services of five endpoints: planned in {planned:?}, first sync {first:?}, \
             compared in {again:?}, one change ({} operations) {:?}",
            applied.operations,
            began.elapsed()
        );
        let began = Instant::now();
        backend.cleanup().unwrap();
        println!("removed in {:?}", began.elapsed());
    });
}
