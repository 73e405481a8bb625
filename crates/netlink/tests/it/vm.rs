//! What needs a kernel of its own, as `cargo xtask vm` boots it: elsewhere the size of the connection
//! tracking table cannot be set, and there may be no IPVS.

mod ipvs;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use portolan_netlink::conntrack::{Deleted, Family, Flow, Socket};
use portolan_netlink::sysctl;

/// `IPS_ASSURED`: not to be dropped early for the sake of a new flow.
const ASSURED: u32 = 1 << 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// A client that has heard from its server for so long that its flow is kept.
fn assured(server: &UdpSocket, socket: &mut Socket) -> Flow {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let began = Instant::now();
    loop {
        client.send(b"ping").unwrap();
        let mut buffer = [0; 8];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..len], from).unwrap();
        client.recv(&mut buffer).unwrap();
        let mut found = None;
        let ours = client.local_addr().unwrap();
        socket
            .dump_udp(Family::V4, |flow| {
                if flow.original.source == ours && flow.status & ASSURED != 0 {
                    found = Some(flow);
                }
            })
            .unwrap();
        if let Some(flow) = found {
            return flow;
        }
        assert!(began.elapsed() < PATIENCE, "the flow is never assured");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Connections until none is let through any more, both ends of each.
fn fill(to: SocketAddr, listener: &TcpListener, most: usize) -> Vec<(TcpStream, TcpStream)> {
    let mut held = Vec::new();
    for _ in 0..most {
        match TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
            Ok(near) => held.push((near, listener.accept().unwrap().0)),
            Err(_) => return held,
        }
    }
    panic!("{most} connections, and the table is not full");
}

#[test]
#[ignore = "needs a connection tracking table of its own: cargo xtask vm"]
fn flows_are_forgotten_while_the_table_is_full() {
    // A rule that asks for it makes the kernel track connections.
    let rule = ["-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"];
    assert!(Command::new("iptables-legacy").args(rule).status().unwrap().success());
    sysctl::write("net/netfilter/nf_conntrack_max", 64).unwrap();
    let mut socket = Socket::open().unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let flow = assured(&server, &mut socket);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let held = fill(to, &listener, 128);
    assert!(held.len() > 30, "only {} connections", held.len());
    let mut seen = 0;
    socket
        .dump_udp(Family::V4, |other| seen += usize::from(other.original == flow.original))
        .unwrap();
    assert_eq!(seen, 1, "it is listed while the table is full");
    assert_eq!(socket.delete(&flow).unwrap(), Deleted::Yes);
    assert_eq!(socket.delete(&flow).unwrap(), Deleted::Already);
    // Its place is another one's now.
    TcpStream::connect_timeout(&to, PATIENCE).unwrap();
}
