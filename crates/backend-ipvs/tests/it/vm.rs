//! What needs a kernel with IPVS: `cargo xtask vm`. What needs nf_tables as well is in [`nft`].

mod nft;
mod servers;
mod terminating;

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use portolan_backend_ipvs::{LINK, Plan, StrictArp, sysctls};
use portolan_netlink::address;
use portolan_netlink::ipvs::{Op, RealServer, Socket, VirtualServer};
use portolan_netlink::link::Links;
use portolan_netlink::sysctl;

/// Runs `body` in a network namespace of its own, its loopback link up with these addresses, the
/// kernel's settings as mode ipvs needs them.
fn alone(addresses: &'static [&'static str], body: impl FnOnce() + Send + 'static) {
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sysctl::plain_ipv6().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = Links::open().unwrap();
            links.set_up("lo").await.unwrap();
            for address in addresses {
                let address: std::net::IpAddr = address.parse().unwrap();
                links.add_address("lo", address.into()).await.unwrap();
            }
        });
        write_sysctls();
        body();
    });
    made.join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// Those that there are in any namespace.
fn write_sysctls() {
    for setting in sysctls(StrictArp::Off, (6, 1)) {
        // User-mode-linux was built without connection tracking for IPVS.
        match sysctl::write(setting.name, setting.value) {
            Err(error) if error.is_absent() => println!("absent: {}", setting.name),
            done => done.unwrap(),
        }
    }
}

/// What `ipvsadm` saves, and what stands on kube-ipvs0.
fn held() -> (BTreeSet<String>, BTreeSet<String>) {
    let output = Command::new("ipvsadm").args(["-S", "-n"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut socket = address::Socket::open().unwrap();
    let link = socket.index(LINK).unwrap();
    let all = socket.addresses().unwrap().into_iter().filter(|held| Some(held.link) == link);
    let lines = text.lines().map(|line| line.trim_end().to_owned()).collect();
    let addresses = all.inspect(|held| assert_eq!(held.source_of, address::SourceOf::Itself));
    (lines, addresses.map(|held| held.address.to_string()).collect())
}

/// The same as a plan for an empty kernel says it.
fn planned(plan: &Plan) -> (BTreeSet<String>, BTreeSet<String>) {
    let addresses = plan.address_ops().map(|op| op.address().to_string());
    (plan.server_ops().map(Op::to_string).collect(), addresses.collect())
}

fn tcp(address: &str, port: u16) -> VirtualServer {
    let protocol = portolan_netlink::ipvs::Protocol::Tcp;
    VirtualServer { address: address.parse().unwrap(), port, protocol }
}

/// The real servers of a virtual one with their weights, sorted.
fn weights(at: &VirtualServer) -> Vec<(RealServer, u32)> {
    let listed = Socket::open().unwrap().destinations(at).unwrap();
    let mut found: Vec<_> =
        listed.into_iter().map(|found| (found.server, found.destination.weight)).collect();
    found.sort_unstable();
    found
}
