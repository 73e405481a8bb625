//! A node with pods, a client outside, and a router to which escaped packets would go.
//!
//! ```text
//! pod N 10.244.0.N ──veth── node 172.30.0.11 ──veth── client 172.30.0.254
//!                                └─────────────veth── router 172.31.0.1 (next hop of 10.96.0.0/12)
//! ```
//! The same in IPv6, see [`STACKS`]. Every namespace is anonymous: it vanishes with the process.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use portolan_netlink::link::{Links, Mac, Netns, Route, VethEnd};
use portolan_netlink::sysctl;

use crate::objects::{STACKS, Stack, ip};

/// Set in the process that runs a test as an ordinary user.
const INSIDE: &str = "PORTOLAN_TEST_IN_USER_NAMESPACE";
/// How long a client waits: longer than any hiccup, so that a drop shows as nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Runs a test that makes network namespaces; as an ordinary user in a user namespace, where that is
/// allowed. `path` is the test's own name, with its module.
pub(crate) fn with_namespaces(path: &str, body: impl FnOnce() + Send + 'static) {
    let may = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match may.expect("a bare system call does not panic") {
        Ok(()) => {
            let made = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("it could be made a moment ago");
                body();
            });
            made.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        Err(e) if std::env::var_os(INSIDE).is_some() => panic!("no network namespace: {e}"),
        Err(_) => as_ordinary_user(path),
    }
}

/// Runs the test once more in a user namespace, where it is root over its own namespaces only.
fn as_ordinary_user(path: &str) {
    let exe = std::env::current_exe().expect("a test knows its binary");
    // The usual one is root's alone.
    let xtables_lock = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(exe)
        .args([path, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .env("XTABLES_LOCKFILE", xtables_lock.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => return println!("SKIP {path}: cannot run unshare: {e}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") || text.contains("unshare: ") {
        return println!("SKIP {path}: no user namespaces: {text}");
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// As [`with_namespaces`], but in a user namespace even for root: what the kernel grants an ordinary
/// user only.
pub(crate) fn with_ordinary_rights(path: &str, body: impl FnOnce() + Send + 'static) {
    match std::env::var_os(INSIDE) {
        Some(_) => with_namespaces(path, body),
        None => as_ordinary_user(path),
    }
}

/// A network namespace.
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> Self {
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sysctl::plain_ipv6().unwrap();
            let opened = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            send.send(opened.into()).unwrap();
        });
        Self(receive.recv().unwrap())
    }

    /// Runs something on a thread in this namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Answers every connection with `name source-address`, on TCP and UDP, until the process ends.
    pub(crate) fn serve(&self, name: &str, address: IpAddr, tcp: u16, udp: u16) {
        let (listener, socket) = self.run(|| {
            let listener = TcpListener::bind(SocketAddr::new(address, tcp)).unwrap();
            (listener, UdpSocket::bind(SocketAddr::new(address, udp)).unwrap())
        });
        let answer = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let Ok(peer) = stream.peer_addr() else { continue };
                use std::io::Write;
                // A client that is gone does not matter to the others.
                let _ = write!(stream, "{answer} {}", peer.ip());
            }
        });
        let answer = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{answer} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// Makes this namespace send packets to a loopback address away, by a gateway.
    pub(crate) fn takes_for_remote(&self, address: &str, gateway: &str) {
        self.run(|| {
            sysctl::write("net/ipv4/conf/all/route_localnet", 1).unwrap();
            let ip = |arguments: &[&str]| {
                let done = std::process::Command::new("ip").args(arguments).output().unwrap();
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            };
            // Above all others there is a rule for the local table, where lo has these addresses.
            ip(&["rule", "add", "pref", "1", "lookup", "local"]);
            ip(&["rule", "add", "pref", "0", "to", address, "lookup", "100"]);
            ip(&["rule", "del", "pref", "0", "lookup", "local"]);
            ip(&["route", "add", address, "via", gateway, "table", "100"]);
        });
    }

    /// What answers at that address over TCP.
    pub(crate) fn get(&self, to: &str) -> Outcome {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let outcome = TcpStream::connect_timeout(&to, PATIENCE).and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            });
            Outcome::of(outcome)
        })
    }

    /// What answers at that address over UDP.
    pub(crate) fn ask(&self, to: &str) -> Outcome {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let outcome = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket.connect(to)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(b"?")?;
                let mut buffer = [0; 64];
                let len = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
            });
            Outcome::of(outcome)
        })
    }
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// An answer: who gave it, and which source address it saw.
    Answer(String),
    /// A refusal.
    Refused,
    /// Nothing.
    Silence,
}

impl Outcome {
    fn of(outcome: std::io::Result<String>) -> Self {
        match outcome {
            Ok(answer) => Self::Answer(answer),
            Err(e) => match e.kind() {
                // What a rule refuses on its way out of this machine, the sender is told so.
                ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Self::Refused,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silence,
                _ => panic!("neither answer, refusal nor silence: {e}"),
            },
        }
    }
}

pub(crate) fn answer(name: &str, source: &str) -> Outcome {
    Outcome::Answer(format!("{name} {source}"))
}

/// The namespaces, connected.
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) pods: Vec<Namespace>,
    pub(crate) client: Namespace,
    router: Namespace,
}

impl Lab {
    /// A lab with so many pods: pod-1 at 10.244.0.1 and fd00:10:244::1 and so on, each serving TCP
    /// 8080 and UDP 5353.
    pub(crate) fn new(pods: u8) -> Self {
        let node = Namespace::new();
        let (client, router) = (Namespace::new(), Namespace::new());
        let pods: Vec<_> = (0..pods).map(|_| Namespace::new()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = Links::open_in(&node.0).unwrap();
            links.set_up("lo").await.unwrap();
            let outside = connect(&links, "eth0", &client, |s| (s.node, s.client)).await;
            let beyond = connect(&links, "eth1", &router, |s| (s.beside_router, s.router)).await;
            for stack in &STACKS {
                let services = stack.services.parse().unwrap();
                let escape = Route::via(services, ip(stack.router), "eth1").prefer(ip(stack.node));
                links.add_route(&escape).await.unwrap();
                outside.add_route(&Route::via(services, ip(stack.node), "eth0")).await.unwrap();
                let everywhere = stack.everywhere.parse().unwrap();
                let back = Route::via(everywhere, ip(stack.beside_router), "eth0");
                beyond.add_route(&back).await.unwrap();
            }
            for (number, pod) in (1..).zip(&pods) {
                plug(&links, number, pod).await;
            }
        });
        node.run(|| {
            sysctl::write("net/ipv4/ip_forward", 1)?;
            sysctl::write("net/ipv6/conf/all/forwarding", 1)
        })
        .unwrap();
        for (number, pod) in (1..).zip(&pods) {
            for stack in &STACKS {
                pod.serve(&format!("pod-{number}"), ip(&stack.pod(number)), 8080, 5353);
            }
        }
        Self { node, pods, client, router }
    }

    /// Makes a Service's address answer beyond the node, so that a packet that leaves the node with
    /// it is seen: it gets the answer `escaped`.
    pub(crate) fn watch_for_escapes(&self, service: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = Links::open_in(&self.router.0).unwrap();
            links.set_up("lo").await.unwrap();
            links.add_address("lo", ip(service).into()).await.unwrap();
        });
        self.router.serve("escaped", ip(service), 80, 53);
    }
}

pub(crate) fn pod_ip(number: u8) -> IpAddr {
    IpAddr::from([10, 244, 0, number])
}

/// A pair of links with the addresses of both families at both ends; the far end's namespace.
async fn connect(
    links: &Links,
    near: &str,
    to: &Namespace,
    ends: impl Fn(&Stack) -> (&'static str, &'static str),
) -> Links {
    let names = [near, "eth0"].map(|name| VethEnd { name, mac: None });
    links.add_veth(names[0], names[1], Netns::Fd(to.0.as_fd())).await.unwrap();
    let far = Links::open_in(&to.0).unwrap();
    links.set_up(near).await.unwrap();
    far.set_up("eth0").await.unwrap();
    for stack in &STACKS {
        let (here, there) = ends(stack);
        for (links, name, address) in [(links, near, here), (&far, "eth0", there)] {
            let net = format!("{address}/{}", stack.subnet).parse().unwrap();
            links.add_address(name, net).await.unwrap();
        }
    }
    far
}

/// A routed pair with permanent neighbours, as the lab of the product has.
async fn plug(links: &Links, number: u8, pod: &Namespace) {
    let near = format!("pod{number}");
    let [near_mac, far_mac] = [1, 2].map(|end| Mac([2, 0, 0, 0, number, end]));
    let ends = (
        VethEnd { name: &near, mac: Some(near_mac) },
        VethEnd { name: "eth0", mac: Some(far_mac) },
    );
    links.add_veth(ends.0, ends.1, Netns::Fd(pod.0.as_fd())).await.unwrap();
    links.set_up(&near).await.unwrap();
    let inside = Links::open_in(&pod.0).unwrap();
    inside.set_up("lo").await.unwrap();
    inside.set_up("eth0").await.unwrap();
    for stack in &STACKS {
        let (address, node) = (ip(&stack.pod(number)), ip(stack.node));
        inside.add_address("eth0", address.into()).await.unwrap();
        links.add_route(&Route::on_link(address.into(), &near).prefer(node)).await.unwrap();
        let default = stack.everywhere.parse().unwrap();
        inside.add_route(&Route::via(default, node, "eth0").onlink()).await.unwrap();
        links.add_neighbour(&near, address, far_mac).await.unwrap();
        inside.add_neighbour("eth0", node, near_mac).await.unwrap();
    }
}
