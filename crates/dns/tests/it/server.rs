//! Queries over sockets of the loopback, with upstreams of the tests' own.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdp};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use portolan_dns::corefile::{self, Corefile, Surroundings};
use portolan_dns::engine::{Engine, Setup};
use portolan_dns::loops;
use portolan_dns::server::Servers;
use portolan_dns::wire::Message as Raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cases::{cluster, question};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct Nothing;

impl Surroundings for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &str) -> io::Result<String> {
        Err(io::Error::other("no files here"))
    }
}

fn parse(text: &str) -> Corefile {
    corefile::parse(text, 53, &Nothing).unwrap()
}

/// A port of the loopback that nobody else in this process gets.
fn free_port() -> u16 {
    loop {
        let socket = StdUdp::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server that is served by a Corefile; `PORT` in it is its port.
struct Server {
    engine: Arc<Engine>,
    servers: Servers,
    port: u16,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    fn start(corefile: &str) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let engine = Arc::new(Engine::new(tasks.clone()));
        engine.metrics.set_runtime(tokio::runtime::Handle::current());
        let (snapshot, _) = cluster(include_str!("../cases/cluster.txt"));
        engine.snapshot.store(Arc::new(snapshot.snapshot));
        let servers = Servers::new(Arc::clone(&engine), tasks, stop.clone(), 2);
        let mut server = Self { engine, servers, port: free_port(), stop };
        server.set(corefile);
        server
    }

    fn set(&mut self, corefile: &str) {
        let corefile = parse(&corefile.replace("PORT", &self.port.to_string()));
        let setup = Setup { local_ips: Vec::new(), most_waiting: 1000 };
        self.engine.set_config(&corefile, &setup);
        let listen = corefile.servers.iter().flat_map(|server| {
            let ips = server.bind.iter();
            ips.flat_map(|ip| server.zones.iter().map(|zone| SocketAddr::new(*ip, zone.port)))
        });
        let mut listen: Vec<_> = listen.collect();
        listen.dedup();
        self.servers.listen(&listen).unwrap();
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address()).await.unwrap();
        socket.send(query).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        write(&mut stream, query).await;
        read(&mut stream).await
    }

    async fn ask(&self, name: &str) -> Message {
        Message::from_vec(&self.udp(&question(name, 1)).await).unwrap()
    }
}

async fn write(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
    stream.write_all(message).await.unwrap();
}

async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.unwrap();
    message
}

/// What an upstream does with a query.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with so many addresses.
    Answer(usize),
    /// Answers with a code.
    Code(u8),
    /// Says that it does not fit, over UDP.
    Truncate,
    /// Sends others' responses first.
    Spoof,
    /// Nothing.
    Nothing,
    /// Does not know EDNS.
    OldFashioned,
}

/// An upstream of the test's own.
struct Upstream {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    seen: Arc<Mutex<Vec<(SocketAddr, u16, bool)>>>,
    asked: Arc<AtomicUsize>,
    ttl: Arc<AtomicU16>,
}

impl Upstream {
    async fn start(does: Does) -> Self {
        let udp = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (udp, tcp) = udp;
        let upstream = Self {
            address: udp.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            seen: Arc::default(),
            asked: Arc::default(),
            ttl: Arc::new(AtomicU16::new(300)),
        };
        let (does, seen) = (Arc::clone(&upstream.does), Arc::clone(&upstream.seen));
        let (asked, ttl) = (Arc::clone(&upstream.asked), Arc::clone(&upstream.ttl));
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                tokio::select! {
                    received = udp.recv_from(&mut buffer) => {
                        let (length, peer) = received.unwrap();
                        let query = &buffer[..length];
                        asked.fetch_add(1, Ordering::SeqCst);
                        seen.lock().unwrap().push((peer, id(query), false));
                        let now = *does.lock().unwrap();
                        if matches!(now, Does::Spoof) {
                            let mut other = respond(query, Does::Answer(9), 1, false).unwrap();
                            other[0] ^= 1;
                            udp.send_to(&other, peer).await.unwrap();
                            let other = question("another.name", 1);
                            let mut other = respond(&other, Does::Answer(9), 1, false).unwrap();
                            other[..2].copy_from_slice(&query[..2]);
                            udp.send_to(&other, peer).await.unwrap();
                        }
                        if let Some(out) = respond(query, now, ttl.load(Ordering::SeqCst), false) {
                            udp.send_to(&out, peer).await.unwrap();
                        }
                    }
                    accepted = tcp.accept() => {
                        let (mut stream, peer) = accepted.unwrap();
                        let Ok(length) = stream.read_u16().await else { continue };
                        let mut query = vec![0; length.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        asked.fetch_add(1, Ordering::SeqCst);
                        seen.lock().unwrap().push((peer, id(&query), true));
                        let now = *does.lock().unwrap();
                        if let Some(out) = respond(&query, now, ttl.load(Ordering::SeqCst), true) {
                            write(&mut stream, &out).await;
                        }
                    }
                }
            }
        });
        upstream
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn id(query: &[u8]) -> u16 {
    u16::from_be_bytes([query[0], query[1]])
}

fn respond(query: &[u8], does: Does, ttl: u16, is_tcp: bool) -> Option<Vec<u8>> {
    let end = Raw::new(query).unwrap().question().unwrap().1;
    let mut out = query[..end].to_vec();
    (out[2], out[3]) = (0x81, 0x80);
    out[6..12].fill(0);
    let has_edns = query[11] > 0;
    let count = match does {
        Does::Nothing => return None,
        Does::Code(code) => {
            out[3] |= code;
            0
        }
        Does::OldFashioned if has_edns => {
            out[3] |= 1;
            0
        }
        Does::Truncate if !is_tcp => {
            out[2] |= 2;
            0
        }
        Does::Answer(count) => count,
        Does::Truncate => 100,
        Does::Spoof | Does::OldFashioned => 1,
    };
    out[6..8].copy_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
    for i in 0..count {
        out.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0]);
        out.extend_from_slice(&ttl.to_be_bytes());
        out.extend_from_slice(&[0, 4, 192, 0, 2, u8::try_from(i).unwrap()]);
    }
    Some(out)
}

const KUBERNETES: &str = "kubernetes cluster.local in-addr.arpa {\n fallthrough in-addr.arpa\n }";

fn block(more: &str) -> String {
    format!(".:PORT {{\n bind 127.0.0.1\n {KUBERNETES}\n loadbalance\n {more}\n}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_cluster_are_answered_over_udp_and_tcp() {
    let server = Server::start(&block(""));
    let query = question("svc1.testns.svc.cluster.local", 1);
    for response in [server.udp(&query).await, server.tcp(&query).await] {
        let message = Message::from_vec(&response).unwrap();
        assert_eq!(message.answers.len(), 1);
        assert!(message.metadata.authoritative && !message.metadata.recursion_available);
    }
    assert_eq!(server.ask("example.org").await.metadata.response_code.to_string(), "Query Refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_many_questions_over_one_connection() {
    let upstream = Upstream::start(Does::Nothing).await;
    let server = Server::start(&block(&format!("forward . {}", upstream.address)));
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut slow = question("slow.example.org", 1);
    slow[1] = 1;
    write(&mut stream, &slow).await;
    // What can be answered is, while another waits.
    for i in 2..20 {
        let mut query = question("svc1.testns.svc.cluster.local", 1);
        (query[0], query[1]) = (0, i);
        write(&mut stream, &query).await;
    }
    for i in 2..20 {
        assert_eq!(id(&read(&mut stream).await), i);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_forwarded_and_remembered_with_each_questions_case() {
    let upstream = Upstream::start(Does::Answer(3)).await;
    let server = Server::start(&block(&format!("cache 60\n forward . {}", upstream.address)));
    for name in ["Example.ORG", "example.org", "eXAMPLE.org"] {
        let message = server.ask(name).await;
        assert_eq!(message.queries[0].name().to_string(), format!("{name}."));
        assert_eq!(message.answers[0].name.to_string(), format!("{name}."));
        assert!(message.answers.len() == 3 && message.answers[0].ttl <= 60);
        assert!(message.metadata.recursion_available && !message.metadata.authoritative);
    }
    assert_eq!(upstream.asked(), 1);
    upstream.does(Does::Code(3));
    for _ in 0..2 {
        assert_eq!(u16::from(server.ask("no.example.org").await.metadata.response_code), 3);
    }
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_asked_for_over_tcp() {
    let upstream = Upstream::start(Does::Truncate).await;
    let server = Server::start(&block(&format!("cache 60\n forward . {}", upstream.address)));
    let message = server.ask("big.example.org").await;
    // This client takes 512 bytes; the whole is remembered for one that takes more.
    assert!(message.metadata.truncation && message.answers.len() < 100);
    let whole = server.tcp(&question("big.example.org", 1)).await;
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 100);
    let transports: Vec<_> = upstream.seen.lock().unwrap().iter().map(|seen| seen.2).collect();
    assert_eq!(transports, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_responses_are_not_taken_and_ports_and_ids_cannot_be_guessed() {
    let upstream = Upstream::start(Does::Spoof).await;
    let server = Server::start(&block(&format!("forward . {}", upstream.address)));
    for i in 0..48 {
        let message = server.ask(&format!("n{i}.example.org")).await;
        assert_eq!(message.answers.len(), 1);
    }
    let seen = upstream.seen.lock().unwrap();
    let ports: HashSet<u16> = seen.iter().map(|seen| seen.0.port()).collect();
    let ids: HashSet<u16> = seen.iter().map(|seen| seen.1).collect();
    assert!(ports.len() > 40 && ids.len() > 40, "{} {}", ports.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_knows_no_edns_is_asked_without() {
    let upstream = Upstream::start(Does::OldFashioned).await;
    let server = Server::start(&block(&format!("forward . {}", upstream.address)));
    assert_eq!(server.ask("example.org").await.answers.len(), 1);
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_is_passed_over_and_comes_back() {
    let good = Upstream::start(Does::Answer(1)).await;
    let bad = Upstream::start(Does::Nothing).await;
    let server = Server::start(&block(&format!(
        "forward . {} {} {{\n policy sequential\n health_check 50ms\n max_fails 1\n }}",
        bad.address, good.address
    )));
    assert_eq!(server.ask("one.example.org").await.answers.len(), 1);
    let is_down = || {
        let config = server.engine.config.load();
        let block = &config.ports[&server.port][0];
        block.forwards[0].upstreams[0].is_down(1)
    };
    until(is_down).await;
    let before = bad.seen.lock().unwrap().len();
    assert_eq!(server.ask("two.example.org").await.answers.len(), 1);
    assert!(bad.seen.lock().unwrap().len() <= before + 1, "only checks go there");
    bad.does(Does::Answer(2));
    until(|| !is_down()).await;
    assert_eq!(server.ask("three.example.org").await.answers.len(), 2);
}

async fn until(is: impl Fn() -> bool) {
    let done = timeout(PATIENCE, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_and_that_is_a_failure_not_a_denial() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let server = Server::start(&block(&format!("forward . {dead}")));
    for name in ["example.org", "external.testns.svc.cluster.local", "9.9.9.10.in-addr.arpa"] {
        let qtype = if name.ends_with("arpa") { 12 } else { 1 };
        let message = Message::from_vec(&server.udp(&question(name, qtype)).await).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), 2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_answers_are_given_while_upstreams_fail() {
    let upstream = Upstream::start(Does::Answer(1)).await;
    let server = Server::start(&block(&format!(
        "cache {{\n success 100 1 1\n serve_stale\n }}\n forward . {}",
        upstream.address
    )));
    assert_eq!(server.ask("example.org").await.answers.len(), 1);
    upstream.does(Does::Code(2));
    let stale = async {
        loop {
            let message = server.ask("example.org").await;
            assert_eq!(message.answers.len(), 1);
            if message.answers[0].ttl == 0 && upstream.asked() >= 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, stale).await.unwrap();
    // The failure in the meantime hides nothing.
    assert_eq!(server.ask("example.org").await.answers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_name_is_followed_upstream() {
    let upstream = Upstream::start(Does::Answer(2)).await;
    let server = Server::start(&block(&format!("cache 30\n forward . {}", upstream.address)));
    let message = server.ask("External-To-External.testns.svc.cluster.local").await;
    let lines: Vec<_> = message.answers.iter().map(ToString::to_string).collect();
    assert_eq!(message.answers.len(), 4, "{lines:?}");
    assert!(lines[0].contains("External-To-External") && lines[0].contains("CNAME"), "{lines:?}");
    assert!(lines[2].starts_with("ext.interwebs.test. ") && lines[2].contains(" A "), "{lines:?}");
    // A name that does not exist leaves the alias, as upstream has it.
    upstream.does(Does::Code(3));
    let message =
        Message::from_vec(&server.udp(&question("external.testns.svc.cluster.local", 28)).await)
            .unwrap();
    assert_eq!((u16::from(message.metadata.response_code), message.answers.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_zone_decides_who_is_asked() {
    let (all, stub) =
        (Upstream::start(Does::Answer(1)).await, Upstream::start(Does::Answer(2)).await);
    let server = Server::start(&format!(
        "{}corp.test:PORT {{\n bind 127.0.0.1\n forward . {}\n}}\n",
        block(&format!("forward . {} {{\n except closed.test\n }}", all.address)),
        stub.address
    ));
    assert_eq!(server.ask("a.example.org").await.answers.len(), 1);
    assert_eq!(server.ask("a.CORP.test").await.answers.len(), 2);
    assert_eq!(server.ask("acorp.test").await.answers.len(), 1);
    assert_eq!(u16::from(server.ask("a.closed.test").await.metadata.response_code), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_found_and_goes_round_once() {
    let upstream = Upstream::start(Does::Code(3)).await;
    let mut server = Server::start(&block(&format!("loop\n forward . {}", upstream.address)));
    assert_eq!(loops::find(&server.engine).await, None);
    let own = server.address();
    server.set(&block(&format!("loop\n forward . {own}")));
    let found = loops::find(&server.engine).await.unwrap();
    assert_eq!((found.upstream, found.zone.as_str()), (own, "."));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_is_answered_in_short_and_transfers_are_refused() {
    let upstream = Upstream::start(Does::Answer(50)).await;
    let server = Server::start(&block(&format!("forward . {}", upstream.address)));
    for name in ["example.org", "svc1.testns.svc.cluster.local"] {
        let any = Message::from_vec(&server.udp(&question(name, 255)).await).unwrap();
        assert_eq!(any.answers.len(), 1);
        assert_eq!(any.answers[0].record_type().to_string(), "HINFO");
        for qtype in [251, 252] {
            let refused = Message::from_vec(&server.tcp(&question(name, qtype)).await).unwrap();
            assert_eq!(u16::from(refused.metadata.response_code), 5);
        }
    }
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_waiting_queries_are_refused() {
    let upstream = Upstream::start(Does::Nothing).await;
    let text = format!("forward . {} {{\n max_concurrent 4\n }}", upstream.address);
    let server = Server::start(&block(&text));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address()).await.unwrap();
    for i in 0..20 {
        socket.send(&question(&format!("n{i}.example.org"), 1)).await.unwrap();
    }
    let mut buffer = [0; 512];
    for _ in 0..16 {
        timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(buffer[3] & 0xF, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_from_the_address_that_was_asked() {
    let mut server = Server::start(&block(""));
    let wildcard = portolan_dns::server::wildcard(server.port);
    server.servers.listen(&Vec::new()).unwrap();
    server.port = free_port();
    let wildcard = SocketAddr::new(wildcard.ip(), server.port);
    let text = block("").replace(" bind 127.0.0.1\n", "").replace("PORT", &server.port.to_string());
    server.engine.set_config(&parse(&text), &Setup::default());
    server.servers.listen(&vec![wildcard]).unwrap();
    for target in ["127.0.0.1", "127.7.7.7", "127.0.0.9"] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Connected: it takes responses from nobody else.
        socket.connect((target, server.port)).await.unwrap();
        socket.send(&question("svc1.testns.svc.cluster.local", 1)).await.unwrap();
        let mut buffer = [0; 512];
        timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_is_lost_while_settings_change() {
    let upstream = Upstream::start(Does::Answer(1)).await;
    let mut server = Server::start(&block(""));
    let (address, stop) = (server.address(), CancellationToken::new());
    let token = stop.clone();
    let client = tokio::spawn(async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let (mut count, mut buffer) = (0, [0; 512]);
        while !token.is_cancelled() {
            socket.send(&question("svc1.testns.svc.cluster.local", 1)).await.unwrap();
            timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a lost query").unwrap();
            assert_eq!(buffer[3] & 0xF, 0);
            count += 1;
        }
        count
    });
    let other = free_port();
    for i in 0..50 {
        let more = if i % 2 == 0 {
            format!("cache {}\n forward . {}", i + 1, upstream.address)
        } else {
            format!("}}\nother.test:{other} {{\n bind 127.0.0.1\n")
        };
        server.set(&block(&more));
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    stop.cancel();
    assert!(client.await.unwrap() > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_sockets_harms_nobody() {
    let upstream = Upstream::start(Does::Answer(1)).await;
    let text = format!("cache 30\n forward . {}", upstream.address);
    let server = Server::start(&block(&text));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address()).await.unwrap();
    let mut state = 1_u64;
    let mut chance = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for i in 0..2000_usize {
        let mut bytes = question("a.example.org", 1);
        bytes.resize(bytes.len() + i % 50, 0);
        for _ in 0..4 {
            let at = usize::from(chance()) % bytes.len();
            bytes[at] = chance();
        }
        bytes.truncate(usize::from(chance()) % 60);
        let _ = socket.send(&bytes).await;
    }
    // Longer than any query, and compressed in circles.
    let _ = socket.send(&vec![0xC0; 9000]).await;
    let _ = socket.send(&[&question(".", 1)[..12], &[0xC0, 12, 0, 1, 0, 1]].concat()).await;
    for bytes in [&[0_u8, 0][..], &[0, 5, 1, 2, 3, 4, 5], &[0xFF; 3000], &[0]] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    let ask = async {
        assert_eq!(server.ask("svc1.testns.svc.cluster.local").await.answers.len(), 1);
        assert_eq!(server.ask("other.example.org").await.answers.len(), 1);
        let query = question("svc1.testns.svc.cluster.local", 1);
        assert_eq!(Message::from_vec(&server.tcp(&query).await).unwrap().answers.len(), 1);
    };
    timeout(PATIENCE, ask).await.unwrap();
    assert!(portolan_dns::metrics::render(&server.engine).contains("coredns_panics_total 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_lines_that_prometheus_reads() {
    let upstream = Upstream::start(Does::Answer(1)).await;
    let server = Server::start(&block(&format!("cache 30\n forward . {}", upstream.address)));
    for name in ["a.example.org", "a.example.org", "svc1.testns.svc.cluster.local"] {
        server.ask(name).await;
    }
    let text = portolan_dns::metrics::render(&server.engine);
    let mut names = HashSet::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            assert!(names.insert(head.split(' ').next().unwrap()), "twice: {head}");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(names.contains(name) || base.is_some_and(|base| names.contains(base)), "{line}");
        assert_eq!(series.matches('"').count() % 2, 0, "{line}");
    }
    for line in [
        "coredns_cache_hits_total{server=\"dns://:",
        "coredns_dns_responses_total{plugin=\"cache\",rcode=\"NOERROR\"",
        "coredns_dns_responses_total{plugin=\"forward\",rcode=\"NOERROR\"",
        "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",rcode=\"NOERROR\"",
        "coredns_cache_entries{",
        "coredns_forward_max_concurrent_rejects_total 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
