//! The proxy on a node whose connection tracking table is full, in a kernel of its own, as
//! `cargo xtask vm` boots it: elsewhere the size of that table cannot be set.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use portolan_netlink::conntrack::{Family, Flow, Socket};
use portolan_netlink::sysctl;
use serde_json::json;

use crate::fixture::{NODE, PODS, ask, in_mode, iptables_save, server, until, until_answer};

const LIMIT: &str = "net/netfilter/nf_conntrack_max";

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

/// `IPS_ASSURED`: not to be dropped early for the sake of a new flow.
const ASSURED: u32 = 1 << 2;

/// How many flows there are from this client that are kept even when the table is full.
fn flows_of(client: &UdpSocket) -> usize {
    let ours = client.local_addr().unwrap();
    let (mut socket, mut seen) = (Socket::open().unwrap(), 0);
    let is_ours = |flow: Flow| flow.original.source == ours && flow.status & ASSURED != 0;
    socket.dump_udp(Family::V4, |flow| seen += usize::from(is_ours(flow))).unwrap();
    seen
}

/// The API server's connections are not tracked, so that a full table keeps nobody from it, as on a node
/// whose API server is reached by connections that are there already.
fn do_not_track_the_api_server() {
    for (chain, side) in [("OUTPUT", "--dport"), ("OUTPUT", "--sport")] {
        let rule = ["-t", "raw", "-A", chain, "-p", "tcp", side, "6443", "-j", "CT", "--notrack"];
        assert!(Command::new("iptables").args(rule).status().unwrap().success());
    }
}

#[test]
#[ignore = "needs a connection tracking table of its own: cargo xtask vm"]
fn changes_take_effect_while_the_table_is_full() {
    // Of all namespaces together, and writable outside of them only.
    let before = sysctl::read(LIMIT).unwrap();
    sysctl::write(LIMIT, 64).unwrap();
    let test = "changes_take_effect_while_the_table_is_full";
    in_mode("iptables", test, async |api| {
        do_not_track_the_api_server();
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let proxy = api.proxy();
        let web = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((web, 80), "one").await;
        let dns = api.service("dns", json!({"ports": [{"port": 53, "protocol": "UDP"}]})).await;
        let resolvers = PODS.map(|pod| UdpSocket::bind((pod, 5353)).unwrap());
        resolvers[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let at = resolvers.each_ref().map(|socket| socket.local_addr().unwrap());
        api.endpoints("dns", "UDP", &at[..1]).await;
        let rule_to = |end: SocketAddr| format!("--to-destination {end}");
        until("the UDP endpoint", async || iptables_save().contains(&rule_to(at[0])).then_some(()))
            .await;
        let client = UdpSocket::bind((NODE, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect((dns, 53)).unwrap();
        until("a flow that is kept", async || {
            let mut buffer = [0; 8];
            client.send(b"?").ok()?;
            let (len, from) = resolvers[0].recv_from(&mut buffer).ok()?;
            resolvers[0].send_to(&buffer[..len], from).ok()?;
            client.recv(&mut buffer).ok()?;
            (flows_of(&client) == 1).then_some(())
        })
        .await;

        let listener = TcpListener::bind((NODE, 0)).unwrap();
        let held = fill(listener.local_addr().unwrap(), &listener, 4096);
        assert_eq!(ask((web, 80)).await, Err(ErrorKind::TimedOut), "the table is full");

        api.endpoints("web", "TCP", &[two]).await;
        api.endpoints("dns", "UDP", &at[1..]).await;
        for end in [two, at[1]] {
            until("the rule", async || iptables_save().contains(&rule_to(end)).then_some(())).await;
        }
        until("the old flow to go", async || (flows_of(&client) == 0).then_some(())).await;
        assert!(!iptables_save().contains(&rule_to(one)));
        drop(held);
        until_answer((web, 80), "two").await;
        proxy.stop().await;
    });
    sysctl::write(LIMIT, before.trim()).unwrap();
}
