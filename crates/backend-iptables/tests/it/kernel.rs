//! The kernel takes the rules, by either iptables, and tampering is seen and put right.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use portolan_backend_iptables::{INVALID_DROPPED, Iptables, LOCALHOST_ACCEPTED, Programs};
use portolan_model::*;
use portolan_netlink::nfacct;

use crate::agreement::COUNTED;
use crate::objects::{ip, port};

/// Runs something in a network namespace of its own, which vanishes with the thread.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    let made = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if let Err(e) = made.expect("a bare system call does not panic") {
        return println!("SKIP {test}: no network namespaces: {e}");
    }
    let inside = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("it could be made a moment ago");
        body();
    });
    inside.join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// Addresses of one family.
pub(crate) struct Stack {
    pub(crate) family: Family,
    pods: &'static str,
    node: &'static str,
    cluster_ip: &'static str,
    balanced: &'static str,
    range: &'static str,
    endpoints: [&'static str; 3],
}

pub(crate) const STACKS: [Stack; 2] = [
    Stack {
        family: Family::Ipv4,
        pods: "10.244.0.0/16",
        node: "172.30.0.11",
        cluster_ip: "10.96.0.10",
        balanced: "192.0.2.3",
        range: "198.51.100.0/24",
        endpoints: ["10.244.0.1", "10.244.0.2", "10.244.1.1"],
    },
    Stack {
        family: Family::Ipv6,
        pods: "fd02::/64",
        node: "fd00::11",
        cluster_ip: "fd01::10",
        balanced: "2001:db8::3",
        range: "2001:db8:1::/48",
        endpoints: ["fd02::1", "fd02::2", "fd02::1:1"],
    },
];

impl Stack {
    pub(crate) fn model(&self) -> Model {
        let config = Config {
            node_name: "node-0".into(),
            local_detector: LocalDetector::Cidrs(vec![self.pods.parse().unwrap()]),
            ..Config::default()
        };
        let mut model = Model::new(self.family, config);
        model.apply(Event::Node(Node { zone: None, addresses: [ip(self.node)].into() }));
        model.apply(Event::NodePortAddresses(NodePortAddresses::AllLocal));
        model.apply(Event::Service(Service {
            name: NamespacedName::new("default", "web"),
            cluster_ips: vec![ip(self.cluster_ip)],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: port(80),
                node_port: NodePort::new(30080),
            }],
            session_affinity: SessionAffinity::ClientIp { timeout: Duration::from_secs(10800) },
            external_traffic_policy: TrafficPolicy::Local,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_ips: Vec::new(),
            load_balancer_ingress: vec![LoadBalancerIngress {
                ip: ip(self.balanced),
                mode: IpMode::Vip,
            }],
            load_balancer_source_ranges: vec![self.range.parse().unwrap()],
            health_check_node_port: NodePort::new(32000),
        }));
        model
    }

    /// The first so many endpoints, two of them on this node.
    pub(crate) fn endpoints(&self, number: usize) -> Event {
        self.slice(0..number)
    }

    /// The endpoint on another node.
    pub(crate) fn remote_endpoint(&self) -> Event {
        self.slice(2..3)
    }

    fn slice(&self, which: std::ops::Range<usize>) -> Event {
        let endpoint = |index: usize| Endpoint {
            address: ip(self.endpoints[index]),
            conditions: Conditions { ready: true, serving: true, terminating: false },
            node_name: Some(format!("node-{}", index / 2).into()),
            hints: Hints::default(),
        };
        Event::EndpointSlice(EndpointSlice {
            name: NamespacedName::new("default", "web-1"),
            service: "web".into(),
            ports: vec![EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: port(8080),
            }],
            endpoints: which.map(endpoint).collect(),
        })
    }

    fn programs(&self, variant: &str) -> Programs {
        let name = match self.family {
            Family::Ipv4 => "iptables",
            Family::Ipv6 => "ip6tables",
        };
        Programs {
            restore: format!("/usr/sbin/{name}-{variant}-restore").into(),
            save: format!("/usr/sbin/{name}-{variant}-save").into(),
            limit: Duration::from_secs(60),
            limit_per_line: Duration::ZERO,
        }
    }
}

/// The names of our chains that the kernel holds.
fn chains(programs: &Programs) -> BTreeSet<String> {
    let saved = Command::new(&programs.save).output().unwrap();
    assert!(saved.status.success());
    let text = String::from_utf8(saved.stdout).unwrap();
    text.lines().filter(|line| line.contains("KUBE-")).map(str::to_owned).collect()
}

/// How many rules of ours the kernel holds, by table.
fn counted(programs: &Programs) -> BTreeMap<String, usize> {
    let saved = Command::new(&programs.save).output().unwrap();
    let text = String::from_utf8(saved.stdout).unwrap();
    let (mut counts, mut table) = (BTreeMap::new(), "");
    for line in text.lines() {
        table = line.strip_prefix('*').unwrap_or(table);
        if line.starts_with("-A") && line.contains("KUBE-") {
            *counts.entry(table.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// The same as the backend has it; a table without rules is none.
fn claimed(backend: &Iptables) -> BTreeMap<String, usize> {
    let counts = backend.rules().into_iter().filter(|count| count.total > 0);
    counts.map(|count| (count.table.to_owned(), count.total)).collect()
}

fn a_life(stack: &Stack, variant: &str) {
    let programs = stack.programs(variant);
    let mut counters = nfacct::Socket::open().unwrap();
    for name in [INVALID_DROPPED, LOCALHOST_ACCEPTED] {
        counters.ensure(name).unwrap();
    }
    let mut backend = Iptables::with_programs(COUNTED, programs.clone());
    let mut model = stack.model();
    model.flush();
    backend.start(model.table()).unwrap();
    assert!(backend.verify(model.table()).unwrap(), "after the first start");
    for number in [3, 1, 2, 0, 2] {
        model.apply(stack.endpoints(number));
        let delta = model.flush();
        let applied = backend.apply(model.table(), &delta).unwrap();
        assert_eq!(applied.drift, Drift::None);
        assert!(backend.verify(model.table()).unwrap(), "with {number} endpoints");
        assert_eq!(claimed(&backend), counted(&programs), "with {number} endpoints");
    }
    let restore = programs.restore.to_str().unwrap();
    let iptables = restore.strip_suffix("-restore").unwrap();
    for damage in [
        &["-t", "nat", "-F", "KUBE-SERVICES"][..],
        &["-t", "nat", "-D", "KUBE-NODEPORTS", "1"],
        &["-t", "filter", "-F", "INPUT"],
        &["-t", "nat", "-N", "KUBE-SVC-OFANEARLIERONE"],
    ] {
        let done = Command::new(iptables).args(damage).status().unwrap();
        assert!(done.success(), "{damage:?}");
        assert!(!backend.verify(model.table()).unwrap(), "{damage:?} was not seen");
        backend.start(model.table()).unwrap();
        assert!(backend.verify(model.table()).unwrap(), "{damage:?} was not put right");
        assert_eq!(claimed(&backend), counted(&programs), "after {damage:?}");
    }
    backend.cleanup().unwrap();
    assert_eq!(chains(&programs), BTreeSet::new());
}

fn a_life_in_both_families(test: &'static str, variant: &'static str) {
    if let Some(stack) = STACKS.iter().find(|stack| !stack.programs(variant).restore.exists()) {
        return println!("SKIP {test}: no {}", stack.programs(variant).restore.display());
    }
    in_namespace(test, move || STACKS.iter().for_each(|stack| a_life(stack, variant)));
}

#[test]
fn iptables_legacy_takes_the_rules() {
    a_life_in_both_families("iptables_legacy_takes_the_rules", "legacy");
}

#[test]
fn iptables_nft_takes_the_rules() {
    a_life_in_both_families("iptables_nft_takes_the_rules", "nft");
}
