//! What clients on pods, the node and outside get through the rules, of either backend.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use portolan_backend_iptables::{Iptables, Programs};
use portolan_backend_nftables::{Nftables, Options, TABLE};
use portolan_model::{
    Backend, Event, Family, IpMode, LoadBalancerIngress, LocalhostNodePorts, ModeProfile, Model,
    Service, SessionAffinity, SourceRangesHold, TrafficPolicy,
};
use portolan_netlink::sysctl;

use crate::lab::{Lab, Namespace, Outcome, answer, with_namespaces};
use crate::objects::{NODE, STACKS, Stack, at, flushed, ip, service, slice};

/// The backends that must carry the same traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    /// By what `iptables-restore` is by default, which is nf_tables nearly everywhere.
    Iptables,
    IptablesLegacy,
}

const MODES: [Mode; 3] = [Mode::Nftables, Mode::Iptables, Mode::IptablesLegacy];

impl Mode {
    pub(crate) fn profile(self) -> ModeProfile {
        match self {
            Self::Nftables => ModeProfile::NFTABLES,
            Self::Iptables | Self::IptablesLegacy => ModeProfile::IPTABLES,
        }
    }
}

/// The programs that know only the older interface of the kernel.
fn legacy(family: Family) -> Programs {
    let name = if family == Family::Ipv4 { "iptables" } else { "ip6tables" };
    Programs {
        restore: format!("{name}-legacy-restore").into(),
        save: format!("{name}-legacy-save").into(),
        ..Programs::of(family)
    }
}

/// One of them.
pub(crate) enum Rules {
    Nftables(Nftables),
    Iptables(Iptables),
}

impl Rules {
    fn start(&mut self, model: &Model) {
        match self {
            Self::Nftables(nftables) => drop(nftables.start(model.table()).unwrap()),
            Self::Iptables(iptables) => drop(iptables.start(model.table()).unwrap()),
        }
    }

    /// Brings the lab's node to what the model says now.
    fn follow(&mut self, lab: &Lab, model: &mut Model) {
        let delta = model.flush();
        lab.node.run(|| match self {
            Self::Nftables(nftables) => drop(nftables.apply(model.table(), &delta).unwrap()),
            Self::Iptables(iptables) => drop(iptables.apply(model.table(), &delta).unwrap()),
        });
    }

    pub(crate) fn cleanup(&mut self, lab: &Lab) {
        lab.node.run(|| match self {
            Self::Nftables(nftables) => nftables.cleanup().unwrap(),
            Self::Iptables(iptables) => iptables.cleanup().unwrap(),
        });
    }
}

/// Runs a test in a lab of its own for each backend.
fn in_each(test: &str, pods: u8, body: impl Fn(Mode, &Lab) + Send + 'static) {
    in_each_mode(test, pods, "traffic", body);
}

/// As [`in_each`], for tests of another module.
pub(crate) fn in_each_mode(
    test: &str,
    pods: u8,
    module: &str,
    body: impl Fn(Mode, &Lab) + Send + 'static,
) {
    with_namespaces(&format!("{module}::{test}"), move || {
        for mode in MODES {
            println!("{mode:?}");
            body(mode, &Lab::new(pods));
        }
    });
}

/// The lab's node with the rules of a model, beside those of the other family.
pub(crate) fn programmed(mode: Mode, lab: &Lab, model: &Model) -> Rules {
    let family = model.table().family;
    lab.node.run(|| {
        let mut rules = match mode {
            Mode::Nftables => Rules::Nftables(Nftables::open(family, Options::default()).unwrap()),
            Mode::Iptables => Rules::Iptables(Iptables::new(family, Default::default())),
            Mode::IptablesLegacy => {
                Rules::Iptables(Iptables::with_programs(Default::default(), legacy(family)))
            }
        };
        rules.start(model);
        rules
    })
}

fn count(times: usize, mut get: impl FnMut() -> Outcome) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(get()).or_default() += 1;
    }
    counts
}

/// Both pods answer, nothing else happens.
#[track_caller]
fn assert_both_answer(counts: &BTreeMap<Outcome, usize>, source: &str) {
    let expected = [answer("pod-1", source), answer("pod-2", source)];
    assert!(counts.keys().eq(&expected), "{counts:?}");
}

fn nginx(stack: &Stack) -> Model {
    let mut model = stack.model();
    model.apply(Event::Service(service("nginx", &stack.service(10), Some(30080))));
    model.apply(slice("nginx", &[(&stack.pod(1), NODE), (&stack.pod(2), "node-2")]));
    flushed(model)
}

#[test]
fn both_backends_answer_at_the_cluster_ip_and_the_node_port() {
    in_each("both_backends_answer_at_the_cluster_ip_and_the_node_port", 3, |mode, lab| {
        STACKS.iter().for_each(|stack| drop(programmed(mode, lab, &nginx(stack))));
        for stack in &STACKS {
            let pod = stack.pod(3);
            let from: [(&Namespace, &str, &str); 3] = [
                (&lab.pods[2], &pod, stack.node),
                (&lab.node, stack.node, stack.node),
                (&lab.client, stack.node, stack.node),
            ];
            let cluster_ip = stack.service(10);
            for (namespace, source_at_cluster_ip, source_at_node_port) in from {
                let counts = count(40, || namespace.get(&at(&cluster_ip, 80)));
                assert_both_answer(&counts, source_at_cluster_ip);
                let counts = count(40, || namespace.ask(&at(&cluster_ip, 53)));
                assert_both_answer(&counts, source_at_cluster_ip);
                let counts = count(40, || namespace.get(&at(stack.node, 30080)));
                assert_both_answer(&counts, source_at_node_port);
                let counts = count(40, || namespace.ask(&at(stack.node, 30080)));
                assert_both_answer(&counts, source_at_node_port);
            }
        }
    });
}

/// One Service with a cluster IP of each family: each family's rules take their own endpoints.
#[test]
fn a_dual_stack_service_answers_in_both_families_and_a_cleared_one_leaves_the_other() {
    let test = "a_dual_stack_service_answers_in_both_families_and_a_cleared_one_leaves_the_other";
    in_each(test, 2, |mode, lab| {
        let [four, six] = &STACKS;
        let mut backends = STACKS.map(|stack| {
            let mut model = stack.model();
            let mut dual = service("dual", &four.service(20), Some(30090));
            dual.cluster_ips.push(ip(&six.service(20)));
            model.apply(Event::Service(dual));
            model.apply(slice("dual", &[(&four.pod(1), NODE), (&six.pod(2), NODE)]));
            programmed(mode, lab, &flushed(model))
        });
        let expected = [(four, answer("pod-1", four.node)), (six, answer("pod-2", six.node))];
        for (stack, answer) in &expected {
            assert_eq!(lab.client.get(&at(&stack.service(20), 80)), *answer);
            assert_eq!(lab.client.get(&at(stack.node, 30090)), *answer);
        }
        backends[1].cleanup(lab);
        assert_eq!(lab.client.get(&at(&four.service(20), 80)), expected[0].1);
        assert_ne!(lab.client.get(&at(six.node, 30090)), expected[1].1);
    });
}

/// What the table looks like to an operator. The tool must not choke on rules that its own text
/// cannot express.
#[test]
fn nft_lists_the_table() {
    with_namespaces("traffic::nft_lists_the_table", || {
        let lab = Lab::new(0);
        for stack in &STACKS {
            let mut model = nginx(stack);
            model.apply(Event::Service(sticky(stack, 10_800)));
            model.apply(slice("sticky", &[(&stack.pod(1), NODE), (&stack.pod(2), "node-2")]));
            programmed(Mode::Nftables, &lab, &flushed(model));
        }
        let listed = lab.node.run(|| Command::new("nft").args(["list", "ruleset"]).output());
        let Ok(listed) = listed else {
            return println!("SKIP nft_lists_the_table: nft is not installed");
        };
        let errors = String::from_utf8_lossy(&listed.stderr);
        assert!(listed.status.success() && errors.is_empty(), "{errors}");
        let text = String::from_utf8_lossy(&listed.stdout);
        for line in [
            "table ip portolan {",
            "type filter hook prerouting priority dstnat - 10; policy accept;",
            "type nat hook output priority -100; policy accept;",
            "10.96.0.10 . tcp . 80 : ",
            " : 10.244.0.2 . 8080",
            "ip saddr 10.244.0.0/16 goto from-pod",
            "ct status dnat ip saddr . ip daddr @hairpins",
            "table ip6 portolan {",
            "fd00:10:96::10 . tcp . 80 : ",
            " : fd00:10:244::2 . 8080",
            "ip6 saddr fd00:10:244::/48 goto from-pod",
            "ct status dnat ip6 saddr . ip6 daddr @hairpins",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
    });
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    in_each("an_endpoint_reaches_itself_through_its_service", 2, |mode, lab| {
        for stack in &STACKS {
            let (cluster_ip, one, two) = (stack.service(11), stack.pod(1), stack.pod(2));
            let mut model = stack.model();
            model.apply(Event::Service(service("self", &cluster_ip, Some(30081))));
            model.apply(slice("self", &[(&one, NODE)]));
            programmed(mode, lab, &flushed(model));
            let itself = answer("pod-1", stack.node);
            assert_eq!(lab.pods[0].get(&at(&cluster_ip, 80)), itself);
            assert_eq!(lab.pods[0].ask(&at(&cluster_ip, 53)), itself);
            assert_eq!(lab.pods[0].get(&at(stack.node, 30081)), itself);
            // Another pod keeps its address, and so does the pod when it names itself directly.
            assert_eq!(lab.pods[1].get(&at(&cluster_ip, 80)), answer("pod-1", &two));
            assert_eq!(lab.pods[0].get(&at(&one, 8080)), answer("pod-1", &one));
        }
    });
}

/// A Service whose clients keep their endpoint for so many seconds of silence.
fn sticky(stack: &Stack, seconds: u64) -> Service {
    let session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_secs(seconds) };
    Service { session_affinity, ..service("sticky", &stack.service(15), Some(30085)) }
}

fn at_pods(stack: &Stack, numbers: &[u8]) -> Event {
    let pods: Vec<_> = numbers.iter().map(|number| stack.pod(*number)).collect();
    let endpoints: Vec<_> = pods.iter().map(|pod| (pod.as_str(), NODE)).collect();
    slice("sticky", &endpoints)
}

/// The pod that answers, the same one each time.
#[track_caller]
fn the_one(times: usize, get: impl FnMut() -> Outcome) -> Outcome {
    let counts = count(times, get);
    assert_eq!(counts.len(), 1, "{counts:?}");
    let (outcome, _) = counts.into_iter().next().unwrap();
    assert!(matches!(outcome, Outcome::Answer(_)), "{outcome:?}");
    outcome
}

#[test]
fn a_client_keeps_its_endpoint_through_changes_and_restarts() {
    in_each("a_client_keeps_its_endpoint_through_changes_and_restarts", 4, |mode, lab| {
        for stack in &STACKS {
            let mut model = stack.model();
            model.apply(Event::Service(sticky(stack, 10_800)));
            model.apply(at_pods(stack, &[1, 2, 3]));
            model.flush();
            let mut backend = programmed(mode, lab, &model);
            let (ip, node_port) = (at(&stack.service(15), 80), at(stack.node, 30085));
            let udp = at(&stack.service(15), 53);
            // The chance that one of thirty connections of three clients goes elsewhere by itself is
            // as good as certain.
            for client in [&lab.client, &lab.pods[3], &lab.node] {
                the_one(30, || client.get(&ip));
                the_one(30, || client.ask(&udp));
            }
            // Of one policy, it is the same set however it is addressed.
            let here = the_one(10, || lab.client.get(&ip));
            assert_eq!(the_one(30, || lab.client.get(&node_port)), here);

            // One more endpoint, another one less: who has neither does not notice.
            let Outcome::Answer(text) = &here else { panic!("{here:?}") };
            let name = text.split(' ').next().unwrap();
            let kept: u8 = name.strip_prefix("pod-").unwrap().parse().unwrap();
            let others: Vec<u8> = [1, 2, 3].into_iter().filter(|pod| *pod != kept).collect();
            let apply = |model: &mut Model, backend: &mut Rules, event| {
                model.apply(event);
                backend.follow(lab, model);
            };
            apply(&mut model, &mut backend, at_pods(stack, &[kept, others[0]]));
            assert_eq!(the_one(20, || lab.client.get(&ip)), here);
            drop(backend);
            let mut backend = programmed(mode, lab, &model);
            assert_eq!(the_one(20, || lab.client.get(&ip)), here);

            // Its own is gone: another one at once, and that one from then on.
            apply(&mut model, &mut backend, at_pods(stack, &others));
            let next = the_one(20, || lab.client.get(&ip));
            assert_ne!(next, here);
            apply(&mut model, &mut backend, at_pods(stack, &[1, 2, 3]));
            assert_eq!(the_one(20, || lab.client.get(&ip)), next);
        }
    });
}

#[test]
fn a_client_that_was_silent_for_long_enough_chooses_anew() {
    in_each("a_client_that_was_silent_for_long_enough_chooses_anew", 3, |mode, lab| {
        let [stack, _] = &STACKS;
        let mut model = stack.model();
        model.apply(Event::Service(sticky(stack, 2)));
        model.apply(at_pods(stack, &[1, 2, 3]));
        programmed(mode, lab, &flushed(model));
        let ip = at(&stack.service(15), 80);
        // The time begins anew with each connection: five of them over more than the timeout.
        let first = lab.client.get(&ip);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(800));
            assert_eq!(lab.client.get(&ip), first);
        }
        // After silence it is a third of chance to get the same again.
        let others = (0..20).any(|_| {
            std::thread::sleep(Duration::from_millis(2_500));
            lab.client.get(&ip) != first
        });
        assert!(others, "always {first:?}");
    });
}

/// Forty in a row: the kernel sends one ICMP error a second to a client after the first few.
#[test]
fn a_service_without_endpoints_refuses_at_once() {
    in_each("a_service_without_endpoints_refuses_at_once", 1, |mode, lab| {
        for stack in &STACKS {
            let cluster_ip = stack.service(12);
            lab.watch_for_escapes(&cluster_ip);
            let mut model = stack.model();
            model.apply(Event::Service(service("empty", &cluster_ip, Some(30082))));
            programmed(mode, lab, &flushed(model));
            for namespace in [&lab.pods[0], &lab.node, &lab.client] {
                let counts = count(40, || namespace.get(&at(&cluster_ip, 80)));
                assert!(counts.keys().eq([&Outcome::Refused]), "{counts:?}");
                let counts = count(40, || namespace.get(&at(stack.node, 30082)));
                assert!(counts.keys().eq([&Outcome::Refused]), "{counts:?}");
                assert_eq!(namespace.ask(&at(&cluster_ip, 53)), Outcome::Refused);
                assert_eq!(namespace.ask(&at(stack.node, 30082)), Outcome::Refused);
            }
        }
    });
}

#[test]
fn an_undefined_port_refuses_and_an_unallocated_cluster_ip_is_silent() {
    with_namespaces(
        "traffic::an_undefined_port_refuses_and_an_unallocated_cluster_ip_is_silent",
        || {
            let lab = Lab::new(3);
            for stack in &STACKS {
                let (cluster_ip, unallocated) = (stack.service(10), stack.service(99));
                lab.watch_for_escapes(&cluster_ip);
                lab.watch_for_escapes(&unallocated);
                programmed(Mode::Nftables, &lab, &nginx(stack));
                for namespace in [&lab.pods[2], &lab.node, &lab.client] {
                    assert_eq!(namespace.get(&at(&cluster_ip, 81)), Outcome::Refused);
                    assert_eq!(namespace.get(&at(&unallocated, 80)), Outcome::Silence);
                }
            }
        },
    );
}

#[test]
fn external_policy_local_binds_only_who_comes_from_outside() {
    in_each("external_policy_local_binds_only_who_comes_from_outside", 3, |mode, lab| {
        for stack in &STACKS {
            let [one, two, three] = [1, 2, 3].map(|number| stack.pod(number));
            let mut model = stack.model();
            let mut local = service("local", &stack.service(13), Some(30083));
            local.external_traffic_policy = TrafficPolicy::Local;
            model.apply(Event::Service(local));
            model.apply(slice("local", &[(&one, NODE), (&two, "node-2")]));
            model.flush();
            let mut backend = programmed(mode, lab, &model);
            let port = at(stack.node, 30083);
            for _ in 0..20 {
                assert_eq!(lab.client.get(&port), answer("pod-1", stack.client));
            }
            assert_both_answer(&count(40, || lab.pods[2].get(&port)), &three);
            assert_both_answer(&count(40, || lab.node.get(&port)), stack.node);

            model.apply(slice("local", &[(&two, "node-2")]));
            backend.follow(lab, &mut model);
            assert_eq!(lab.client.get(&port), Outcome::Silence);
            assert_eq!(lab.pods[2].get(&port), answer("pod-2", &three));
            assert_eq!(lab.node.get(&port), answer("pod-2", stack.node));
        }
    });
}

#[test]
fn source_ranges_admit_only_who_is_within_them() {
    in_each("source_ranges_admit_only_who_is_within_them", 2, |mode, lab| {
        for stack in &STACKS {
            let (cluster_ip, address) = (stack.service(14), stack.service(99));
            lab.watch_for_escapes(&address);
            let mut model = stack.model();
            let mut balanced = service("balanced", &cluster_ip, None);
            let vip = LoadBalancerIngress { ip: ip(&address), mode: IpMode::Vip };
            balanced.load_balancer_ingress = vec![vip];
            let pod = ip(&stack.pod(2)).into();
            balanced.load_balancer_source_ranges = vec![stack.around_client.parse().unwrap(), pod];
            model.apply(Event::Service(balanced.clone()));
            model.apply(slice("balanced", &[(&stack.pod(1), NODE)]));
            model.flush();
            let mut backend = programmed(mode, lab, &model);
            let at_balancer = |namespace: &Namespace| namespace.get(&at(&address, 80));
            let admitted = answer("pod-1", stack.node);
            assert_eq!(at_balancer(&lab.client), admitted);
            assert_eq!(at_balancer(&lab.pods[1]), admitted);
            assert_eq!(at_balancer(&lab.pods[0]), Outcome::Silence);
            assert_eq!(at_balancer(&lab.node), Outcome::Silence);
            // The cluster IP is for everybody.
            assert_eq!(lab.node.get(&at(&cluster_ip, 80)), admitted);

            balanced.load_balancer_source_ranges = vec![stack.around_node.parse().unwrap()];
            model.apply(Event::Service(balanced));
            backend.follow(lab, &mut model);
            assert_eq!(at_balancer(&lab.client), Outcome::Silence);
            assert_eq!(at_balancer(&lab.node), admitted);
        }
    });
}

/// Whether they may use a load balancer holds at its node port, too, where that is asked for.
#[test]
fn source_ranges_hold_at_node_ports_where_that_is_asked_for() {
    in_each("source_ranges_hold_at_node_ports_where_that_is_asked_for", 2, |mode, lab| {
        for stack in &STACKS {
            let source_ranges_hold = SourceRangesHold::AtNodePortsToo;
            let mut model =
                stack.model_with(|config| config.source_ranges_hold = source_ranges_hold);
            let mut balanced = service("balanced", &stack.service(14), Some(30084));
            balanced.load_balancer_source_ranges = vec![stack.around_client.parse().unwrap()];
            model.apply(Event::Service(balanced.clone()));
            model.apply(slice("balanced", &[(&stack.pod(1), NODE)]));
            model.flush();
            let mut backend = programmed(mode, lab, &model);
            let port = at(stack.node, 30084);
            let admitted = answer("pod-1", stack.node);
            assert_eq!(lab.client.get(&port), admitted);
            assert_eq!(lab.pods[1].get(&port), Outcome::Silence);
            assert_eq!(lab.node.get(&port), Outcome::Silence);
            assert_eq!(
                lab.pods[1].get(&at(&stack.service(14), 80)),
                answer("pod-1", &stack.pod(2))
            );

            balanced.load_balancer_source_ranges = vec![stack.around_node.parse().unwrap()];
            model.apply(Event::Service(balanced));
            backend.follow(lab, &mut model);
            assert_eq!(lab.client.get(&port), Outcome::Silence);
            assert_eq!(lab.node.get(&port), admitted);
        }
    });
}

/// At 127.0.0.1 the node's own processes are answered and nobody else is (CVE-2020-8558), even where
/// the kernel lets such packets in.
#[test]
fn node_ports_answer_at_localhost_for_the_node_alone() {
    in_each("node_ports_answer_at_localhost_for_the_node_alone", 2, |mode, lab| {
        let [stack, _] = &STACKS;
        lab.node.run(|| sysctl::write("net/ipv4/conf/all/route_localnet", 1)).unwrap();
        // A process of the node's own that nobody else should reach.
        lab.node.serve("private", ip("127.0.0.1"), 9090, 9090);
        let localhost = LocalhostNodePorts::On;
        let mut model = stack.model_with(|config| config.localhost_node_ports = localhost);
        let mut nginx = service("nginx", &stack.service(10), Some(30080));
        nginx.external_traffic_policy = TrafficPolicy::Local;
        model.apply(Event::Service(nginx));
        model.apply(slice("nginx", &[(&stack.pod(1), NODE)]));
        model.flush();
        let mut backend = programmed(mode, lab, &model);
        let by_node = answer("pod-1", stack.node);
        assert_eq!(lab.node.get("127.0.0.1:30080"), by_node);
        assert_eq!(lab.node.ask("127.0.0.1:30080"), by_node);
        assert_eq!(lab.node.get("127.0.0.1:9090"), answer("private", "127.0.0.1"));
        lab.client.takes_for_remote("127.0.0.1", stack.node);
        assert_eq!(lab.client.get("127.0.0.1:9090"), Outcome::Silence);
        assert_eq!(lab.client.get("127.0.0.1:30080"), Outcome::Silence);
        // The guard is what keeps it out, and comes back.
        let harm: &[&str] = match mode {
            Mode::Nftables => &["nft", "flush", "chain", "ip", TABLE, "filter-prerouting"],
            Mode::Iptables => &["iptables", "-F", "KUBE-FIREWALL"],
            Mode::IptablesLegacy => &["iptables-legacy", "-F", "KUBE-FIREWALL"],
        };
        lab.node
            .run(|| assert!(Command::new(harm[0]).args(&harm[1..]).status().unwrap().success()));
        assert_eq!(lab.client.get("127.0.0.1:9090"), answer("private", stack.client));
        lab.node.run(|| backend.start(&model));
        assert_eq!(lab.client.get("127.0.0.1:9090"), Outcome::Silence);
        // Without endpoints it refuses, as elsewhere.
        model.apply(slice("nginx", &[]));
        backend.follow(lab, &mut model);
        assert_eq!(lab.node.get("127.0.0.1:30080"), Outcome::Refused);
    });
}
