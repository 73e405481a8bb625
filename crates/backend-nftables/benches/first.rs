//! A first sync in its parts: events into the model, the table, the plan, the transactions, the kernel,
//! and reading it back; with the memory that is resident after each. `SERVICES=50000` for another size.
//! In a network namespace of its own.

#![expect(clippy::print_stdout, reason = "it tells what it measured")]

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use portolan_backend_nftables::{Nftables, Options, Planner};
use portolan_model::{
    Backend, Conditions, Config, Endpoint, EndpointPort, EndpointSlice, Event, Family, Hints,
    LocalDetector, Model, NamespacedName, Protocol, Service, ServicePort, SessionAffinity,
    TrafficPolicy,
};

const ENDPOINTS: u32 = 5;

fn feed(model: &mut Model, number: u32) {
    let port = |number| NonZeroU16::new(number).expect("a literal");
    let name = NamespacedName::new("default", format!("service-{number}"));
    model.apply(Event::Service(Service {
        name: name.clone(),
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0100 + number).into()],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
        }],
        session_affinity: SessionAffinity::None,
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ingress: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
    }));
    let endpoint = |slot| Endpoint {
        address: Ipv4Addr::from(0x0a80_0000 + number * 8 + slot).into(),
        conditions: Conditions::default(),
        node_name: Some("node-2".into()),
        hints: Hints::default(),
    };
    model.apply(Event::EndpointSlice(EndpointSlice {
        service: name.name.clone(),
        name,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: port(8080) }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }));
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    };
    format!("{:.0} MiB (peak {:.0})", of("VmRSS:"), of("VmHWM:"))
}

fn part<T>(name: &str, body: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = body();
    println!("{name:<24} {:>8.1} ms  {}", begun.elapsed().as_secs_f64() * 1e3, resident());
    done
}

fn main() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this needs root");
    let services = std::env::var("SERVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    println!("{services} Services of {ENDPOINTS} endpoints");
    let config = Config {
        node_name: "node-1".into(),
        local_detector: LocalDetector::Cidrs(vec!["10.128.0.0/9".parse().expect("a literal")]),
        ..Config::default()
    };
    let mut model = Model::new(Family::Ipv4, config.clone());
    let mut other = Model::new(Family::Ipv6, config);
    part("events", || (0..services).for_each(|number| feed(&mut model, number)));
    part("events, other family", || (0..services).for_each(|number| feed(&mut other, number)));
    part("flush", || drop(model.flush()));
    part("flush, other family", || drop(other.flush()));
    {
        let planner = Planner::new(Family::Ipv4, Options::default());
        let plan = part("plan", || planner.full(model.table()));
        let batches = part("pack", || plan.pack(usize::MAX));
        part("plan is let go", || drop((plan, batches)));
    }
    let mut backend = Nftables::open(Family::Ipv4, Options::default()).expect("nf_tables");
    let begun = part("start", || backend.start(model.table()).expect("rules"));
    let again = part("start again", || backend.start(model.table()).expect("rules"));
    println!("{begun:?}\n{again:?}");
    feed(&mut model, services);
    let delta = model.flush();
    part("one more", || backend.apply(model.table(), &delta).expect("rules"));
}
