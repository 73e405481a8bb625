//! What clients on pods, the node and outside get through the rules.

use std::collections::BTreeMap;
use std::process::Command;

use portolan_backend_nftables::{Nftables, Options};
use portolan_model::{Backend, Event, Family, IpMode, LoadBalancerIngress, Model, TrafficPolicy};

use crate::lab::{Lab, Namespace, Outcome, answer, with_namespaces};
use crate::objects::{NODE, NODE_IP, flushed, ip, model, service, slice};

/// The lab's node with the rules of a model.
fn programmed(lab: &Lab, model: &Model) -> Nftables {
    lab.node.run(|| {
        let mut backend = Nftables::open(Family::Ipv4, Options::default()).unwrap();
        backend.start(model.table()).unwrap();
        backend
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

fn nginx() -> Model {
    let mut model = model();
    model.apply(Event::Service(service("nginx", "10.96.0.10", Some(30080))));
    model.apply(slice("nginx", &[("10.244.0.1", NODE), ("10.244.0.2", "node-2")]));
    flushed(model)
}

#[test]
fn both_backends_answer_at_the_cluster_ip_and_the_node_port() {
    with_namespaces("traffic::both_backends_answer_at_the_cluster_ip_and_the_node_port", || {
        let lab = Lab::new(3);
        programmed(&lab, &nginx());
        let from: [(&Namespace, &str, &str); 3] = [
            (&lab.pods[2], "10.244.0.3", NODE_IP),
            (&lab.node, NODE_IP, NODE_IP),
            (&lab.client, NODE_IP, NODE_IP),
        ];
        for (namespace, source_at_cluster_ip, source_at_node_port) in from {
            let counts = count(40, || namespace.get("10.96.0.10:80"));
            assert_both_answer(&counts, source_at_cluster_ip);
            let counts = count(40, || namespace.ask("10.96.0.10:53"));
            assert_both_answer(&counts, source_at_cluster_ip);
            let counts = count(40, || namespace.get("172.30.0.11:30080"));
            assert_both_answer(&counts, source_at_node_port);
            let counts = count(40, || namespace.ask("172.30.0.11:30080"));
            assert_both_answer(&counts, source_at_node_port);
        }
    });
}

/// What the table looks like to an operator. The tool must not choke on rules that its own text
/// cannot express.
#[test]
fn nft_lists_the_table() {
    with_namespaces("traffic::nft_lists_the_table", || {
        let lab = Lab::new(0);
        programmed(&lab, &nginx());
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
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
    });
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    with_namespaces("traffic::an_endpoint_reaches_itself_through_its_service", || {
        let lab = Lab::new(2);
        let mut model = model();
        model.apply(Event::Service(service("self", "10.96.0.11", Some(30081))));
        model.apply(slice("self", &[("10.244.0.1", NODE)]));
        programmed(&lab, &flushed(model));
        assert_eq!(lab.pods[0].get("10.96.0.11:80"), answer("pod-1", NODE_IP));
        assert_eq!(lab.pods[0].ask("10.96.0.11:53"), answer("pod-1", NODE_IP));
        assert_eq!(lab.pods[0].get("172.30.0.11:30081"), answer("pod-1", NODE_IP));
        // Another pod keeps its address, and so does the pod when it names itself directly.
        assert_eq!(lab.pods[1].get("10.96.0.11:80"), answer("pod-1", "10.244.0.2"));
        assert_eq!(lab.pods[0].get("10.244.0.1:8080"), answer("pod-1", "10.244.0.1"));
    });
}

/// Forty in a row: the kernel sends one ICMP error a second to a client after the first few.
#[test]
fn a_service_without_endpoints_refuses_at_once() {
    with_namespaces("traffic::a_service_without_endpoints_refuses_at_once", || {
        let lab = Lab::new(1);
        lab.watch_for_escapes("10.96.0.12");
        let mut model = model();
        model.apply(Event::Service(service("empty", "10.96.0.12", Some(30082))));
        programmed(&lab, &flushed(model));
        for namespace in [&lab.pods[0], &lab.node, &lab.client] {
            let counts = count(40, || namespace.get("10.96.0.12:80"));
            assert!(counts.keys().eq([&Outcome::Refused]), "{counts:?}");
            let counts = count(40, || namespace.get("172.30.0.11:30082"));
            assert!(counts.keys().eq([&Outcome::Refused]), "{counts:?}");
            assert_eq!(namespace.ask("10.96.0.12:53"), Outcome::Refused);
            assert_eq!(namespace.ask("172.30.0.11:30082"), Outcome::Refused);
        }
    });
}

#[test]
fn an_undefined_port_refuses_and_an_unallocated_cluster_ip_is_silent() {
    with_namespaces(
        "traffic::an_undefined_port_refuses_and_an_unallocated_cluster_ip_is_silent",
        || {
            let lab = Lab::new(3);
            lab.watch_for_escapes("10.96.0.10");
            lab.watch_for_escapes("10.96.0.99");
            programmed(&lab, &nginx());
            for namespace in [&lab.pods[2], &lab.node, &lab.client] {
                assert_eq!(namespace.get("10.96.0.10:81"), Outcome::Refused);
                assert_eq!(namespace.get("10.96.0.99:80"), Outcome::Silence);
            }
        },
    );
}

#[test]
fn external_policy_local_binds_only_who_comes_from_outside() {
    with_namespaces("traffic::external_policy_local_binds_only_who_comes_from_outside", || {
        let lab = Lab::new(3);
        let mut model = model();
        let mut local = service("local", "10.96.0.13", Some(30083));
        local.external_traffic_policy = TrafficPolicy::Local;
        model.apply(Event::Service(local));
        model.apply(slice("local", &[("10.244.0.1", NODE), ("10.244.0.2", "node-2")]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let port = "172.30.0.11:30083";
        for _ in 0..20 {
            assert_eq!(lab.client.get(port), answer("pod-1", "172.30.0.254"));
        }
        assert_both_answer(&count(40, || lab.pods[2].get(port)), "10.244.0.3");
        assert_both_answer(&count(40, || lab.node.get(port)), NODE_IP);

        model.apply(slice("local", &[("10.244.0.2", "node-2")]));
        let delta = model.flush();
        backend.apply(model.table(), &delta).unwrap();
        assert_eq!(lab.client.get(port), Outcome::Silence);
        assert_eq!(lab.pods[2].get(port), answer("pod-2", "10.244.0.3"));
        assert_eq!(lab.node.get(port), answer("pod-2", NODE_IP));
    });
}

#[test]
fn source_ranges_admit_only_who_is_within_them() {
    with_namespaces("traffic::source_ranges_admit_only_who_is_within_them", || {
        let lab = Lab::new(2);
        lab.watch_for_escapes("10.96.9.9");
        let mut model = model();
        let mut balanced = service("balanced", "10.96.0.14", None);
        let mode = IpMode::Vip;
        balanced.load_balancer_ingress = vec![LoadBalancerIngress { ip: ip("10.96.9.9"), mode }];
        balanced.load_balancer_source_ranges =
            vec!["172.30.0.128/25".parse().unwrap(), "10.244.0.2/32".parse().unwrap()];
        model.apply(Event::Service(balanced.clone()));
        model.apply(slice("balanced", &[("10.244.0.1", NODE)]));
        model.flush();
        let mut backend = programmed(&lab, &model);
        let at_balancer = |namespace: &Namespace| namespace.get("10.96.9.9:80");
        assert_eq!(at_balancer(&lab.client), answer("pod-1", NODE_IP));
        assert_eq!(at_balancer(&lab.pods[1]), answer("pod-1", NODE_IP));
        assert_eq!(at_balancer(&lab.pods[0]), Outcome::Silence);
        assert_eq!(at_balancer(&lab.node), Outcome::Silence);
        // The cluster IP is for everybody.
        assert_eq!(lab.node.get("10.96.0.14:80"), answer("pod-1", NODE_IP));

        balanced.load_balancer_source_ranges = vec!["172.30.0.0/26".parse().unwrap()];
        model.apply(Event::Service(balanced));
        let delta = model.flush();
        backend.apply(model.table(), &delta).unwrap();
        assert_eq!(at_balancer(&lab.client), Outcome::Silence);
        assert_eq!(at_balancer(&lab.node), answer("pod-1", NODE_IP));
    });
}
