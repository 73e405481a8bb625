//! How many queries a second of processor time answers, at 10,000 Services and 100,000 endpoints:
//! the answer alone, and over UDP of the loopback. Also what the names cost in memory, and a change.
//!
//! `cargo run --release -p portolan-dns --example qps`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and may fail")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::answer::{Authority, Limits, LoadBalance, Query, Shuffle, answer};
use portolan_dns::corefile::{self, Surroundings};
use portolan_dns::engine::{Engine, Setup};
use portolan_dns::server::Servers;
use portolan_dns::wire::Name;
use portolan_dns::zone::{
    Endpoint, EndpointSlice, Event, Index, Key, Kind, Options, Port, Protocol, Service, Snapshot,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn ports() -> Vec<Port> {
    vec![Port { name: "http".into(), protocol: Protocol::Tcp, port: 80 }]
}

/// Every tenth Service is headless.
fn is_headless(i: u32) -> bool {
    i.is_multiple_of(10)
}

fn slice(i: u32, first: u32) -> EndpointSlice {
    let endpoint = |j: u32| Endpoint {
        addresses: vec![IpAddr::from((0x0AF4_0000 + i * ENDPOINTS + j).to_be_bytes())],
        hostname: is_headless(i).then(|| format!("web-{j}").into()),
        pod: Some(format!("service-{i}-{j}").into()),
    };
    let endpoints = (first..ENDPOINTS).map(endpoint).collect();
    EndpointSlice { service: format!("service-{i}").into(), ports: ports(), endpoints }
}

fn key(i: u32, suffix: &str) -> Key {
    Key::new(format!("ns-{}", i % 100), format!("service-{i}{suffix}"))
}

fn index() -> Index {
    let mut index = Index::new(Options::default());
    for i in 0..100 {
        index.apply(Event::Namespace(format!("ns-{i}").into()), 1);
    }
    for i in 0..SERVICES {
        let ip = IpAddr::from((0x0A60_0000 + i).to_be_bytes());
        let kind = if is_headless(i) { Kind::Headless } else { Kind::ClusterIp([ip].into()) };
        index.apply(Event::Service(key(i, ""), Some(Service { kind, ports: ports() })), 1);
        index.apply(Event::EndpointSlice(key(i, "-abcde"), Some(slice(i, 0))), 1);
    }
    index.set_loaded();
    index
}

fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    bytes.extend_from_slice(Name::parse(name).unwrap().wire());
    bytes.extend_from_slice(&qtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}

fn kinds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let zone = "svc.cluster.local";
    let some = |name: &dyn Fn(u32) -> String, qtype| {
        (0..SERVICES).step_by(7).map(|i| query(&name(i), qtype)).collect::<Vec<_>>()
    };
    let headless = |i: u32| i / 10 * 10;
    vec![
        ("A of a cluster IP", some(&|i| format!("service-{i}.ns-{}.{zone}", i % 100), 1)),
        (
            "A of a headless Service",
            some(&|i| format!("service-{0}.ns-{1}.{zone}", headless(i), headless(i) % 100), 1),
        ),
        (
            "A of an endpoint",
            some(
                &|i| format!("web-3.service-{0}.ns-{1}.{zone}", headless(i), headless(i) % 100),
                1,
            ),
        ),
        (
            "SRV of a headless Service",
            some(
                &|i| {
                    format!("_http._tcp.service-{0}.ns-{1}.{zone}", headless(i), headless(i) % 100)
                },
                33,
            ),
        ),
        ("AAAA: NODATA", some(&|i| format!("service-{i}.ns-{}.{zone}", i % 100), 28)),
        ("NXDOMAIN", some(&|i| format!("nothing-{i}.ns-{}.{zone}", i % 100), 1)),
        ("NXDOMAIN by search path", some(&|i| format!("www.example{i}.com.ns-1.{zone}"), 1)),
        ("PTR", some(&|i| format!("{}.{}.96.10.in-addr.arpa", i % 256, i / 256), 12)),
    ]
}

fn pure(snapshot: &Snapshot, authority: &Authority) {
    println!("{:32}{:>16}{:>12}", "the answer alone", "queries/CPU-s", "ns/query");
    for (kind, queries) in kinds() {
        let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 1);
        let mut out = Vec::with_capacity(4096);
        let began = Instant::now();
        let mut count = 0_u32;
        while began.elapsed() < Duration::from_millis(700) {
            for bytes in &queries {
                let query = Query::read(black_box(bytes), Limits::Udp { most: 1232 }).unwrap();
                black_box(answer(&query, snapshot, authority, &mut shuffle, &mut out));
                count += 1;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "  {kind:30}{:>16.0}{:>12.0}",
            f64::from(count) / seconds,
            seconds * 1e9 / f64::from(count)
        );
    }
}

struct Nothing;

impl Surroundings for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &str) -> std::io::Result<String> {
        Err(std::io::Error::other("no files here"))
    }
}

/// Processor time of the threads that answer, in seconds.
fn answering() -> f64 {
    let mut ticks = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        if let Some((_, rest)) =
            stat.split_once("(udp-").and_then(|(_, rest)| rest.split_once(") "))
        {
            let fields: Vec<f64> =
                rest.split(' ').skip(11).take(2).map(|n| n.parse().unwrap()).collect();
            ticks += fields[0] + fields[1];
        }
    }
    ticks / 100.0
}

async fn sockets(snapshot: Snapshot) {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let engine = Arc::new(Engine::new(tasks.clone()));
    engine.metrics.set_runtime(tokio::runtime::Handle::current());
    engine.snapshot.store(Arc::new(snapshot));
    let text = format!(
        ".:{port} {{\n bind 127.0.0.1\n loadbalance\n prometheus\n kubernetes cluster.local in-addr.arpa {{\n pods insecure\n }}\n}}"
    );
    engine.set_config(&corefile::parse(&text, 53, &Nothing).unwrap(), &Setup::default());
    let mut servers = Servers::new(Arc::clone(&engine), tasks, stop.clone(), 1);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    servers.listen(&vec![at]).unwrap();
    println!("{:32}{:>16}{:>12}", "over UDP", "queries/CPU-s", "queries/s");
    for (kind, queries) in kinds() {
        let done = tokio::task::spawn_blocking(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut buffer = [0; 4096];
            let (began, before) = (Instant::now(), answering());
            let (mut count, mut next) = (0_u32, queries.iter().cycle());
            // Some on their way at any time, so that the server does not sleep for each.
            for bytes in next.by_ref().take(64) {
                socket.send(bytes).unwrap();
            }
            while began.elapsed() < Duration::from_secs(2) {
                if socket.recv(&mut buffer).is_ok() {
                    count += 1;
                }
                socket.send(next.next().unwrap()).unwrap();
            }
            (f64::from(count), answering() - before, began.elapsed().as_secs_f64())
        });
        let (count, cpu, wall) = done.await.unwrap();
        println!("  {kind:30}{:>16.0}{:>12.0}", count / cpu, count / wall);
    }
    latency(at).await;
    stop.cancel();
}

/// Round trips at 5,000 queries a second.
async fn latency(at: SocketAddr) {
    let (_, queries) = kinds().remove(0);
    let done = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(at).unwrap();
        let mut buffer = [0; 4096];
        let began = Instant::now();
        let mut took = Vec::new();
        for (i, bytes) in queries.iter().cycle().take(15_000).enumerate() {
            let due = Duration::from_micros(200) * u32::try_from(i).unwrap();
            while began.elapsed() < due {
                std::thread::yield_now();
            }
            let sent = Instant::now();
            socket.send(bytes).unwrap();
            socket.recv(&mut buffer).unwrap();
            took.push(sent.elapsed());
        }
        took.sort();
        took
    });
    let took = done.await.unwrap();
    let at = |part: usize| took[took.len() * part / 1000].as_micros();
    println!(
        "round trips at 5,000 queries/s: p50 {} us, p99 {} us, p99.9 {} us",
        at(500),
        at(990),
        at(999)
    );
}

fn main() {
    let before = resident();
    let began = Instant::now();
    let mut index = index();
    let loaded = began.elapsed();
    let snapshot = index.snapshot();
    println!(
        "{SERVICES} Services, {} endpoints: {:.1} MB resident, {:.1} before; indexed in {loaded:?}",
        SERVICES * ENDPOINTS,
        resident(),
        before
    );
    let mut held = snapshot.clone();
    let began = Instant::now();
    for round in 0..10_000_u32 {
        let i = round * 7 % SERVICES;
        index.apply(Event::EndpointSlice(key(i, "-abcde"), Some(slice(i, round % 2))), 2);
        held = index.snapshot();
    }
    println!("a change of one slice and a new snapshot: {:?}", began.elapsed() / 10_000);
    drop(held);
    let zones = ["cluster.local", "in-addr.arpa"].map(|zone| Name::parse(zone).unwrap());
    pure(&snapshot, &Authority::new(zones.into()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(sockets(index.snapshot()));
}
