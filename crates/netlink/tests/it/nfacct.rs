//! Named counters: made once, counted in by rules of iptables, read, removed when nobody counts in them.

use std::net::UdpSocket;
use std::process::Command;

use nix::errno::Errno;
use portolan_netlink::link::Links;
use portolan_netlink::nfacct::{Counted, NfacctError, Socket};

use crate::netns::in_netns;

#[test]
fn a_counter_counts_what_rules_say() {
    in_netns("a_counter_counts_what_rules_say", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Links::open().unwrap().set_up("lo").await.unwrap() });
        let mut socket = Socket::open().unwrap();
        assert_eq!(socket.read("pings").unwrap(), None);
        socket.ensure("pings").unwrap();
        assert_eq!(socket.read("pings").unwrap(), Some(Counted::default()));
        let rule = ["-p", "udp", "--dport", "9", "-m", "nfacct", "--nfacct-name", "pings"];
        let iptables = |verb: &str| {
            Command::new("iptables").args([verb, "INPUT"]).args(rule).status().unwrap().success()
        };
        assert!(iptables("-A"));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            // Nobody listens there, and the kernel says so at the next one.
            let _ = sender.send_to(b"ping", "127.0.0.1:9");
        }
        socket.ensure("pings").unwrap();
        let counted = socket.read("pings").unwrap().unwrap();
        assert_eq!(counted.bytes, counted.packets * 32);
        assert!(counted.packets > 0);
        let held = socket.delete("pings").unwrap_err();
        assert!(matches!(held, NfacctError::Refused { errno: Errno::EBUSY, .. }), "{held}");
        assert!(iptables("-D"));
        socket.delete("pings").unwrap();
        socket.delete("pings").unwrap();
        assert_eq!(socket.read("pings").unwrap(), None);
        for name in ["", "a\0b", &"long".repeat(8)] {
            assert!(matches!(socket.ensure(name), Err(NfacctError::Name(_))), "{name:?}");
        }
    });
}
