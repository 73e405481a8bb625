//! Links, addresses, routes and neighbours, and what `ip` says of them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use portolan_netlink::Errno;
use portolan_netlink::link::{LinkError, Links, Mac, Netns, Route, VethEnd};
use portolan_netlink::sysctl;

use crate::netns::{as_ordinary_user, in_netns, run};

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

fn own_netns() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Another namespace: its descriptor, alive as long as that is held.
fn other_netns() -> OwnedFd {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        send.send(own_netns()).unwrap();
    });
    receive.recv().unwrap()
}

const NEAR: VethEnd<'_> = VethEnd { name: "veth0", mac: Some(Mac([2, 0, 0, 0, 0, 1])) };
const FAR: VethEnd<'_> = VethEnd { name: "eth0", mac: Some(Mac([2, 0, 0, 0, 0, 2])) };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_routed_pair_leads_to_the_other_namespace() {
    let test = "a_routed_pair_leads_to_the_other_namespace";
    in_netns(test, move || {
        block_on(async {
            let other = other_netns();
            let (here, there) = (Links::open().unwrap(), Links::open_in(&other).unwrap());
            here.set_up("lo").await.unwrap();
            here.add_veth(NEAR, FAR, Netns::Fd(other.as_fd())).await.unwrap();
            here.set_up("veth0").await.unwrap();
            there.set_up("eth0").await.unwrap();
            here.add_address("lo", "172.30.0.11/32".parse().unwrap()).await.unwrap();
            there.add_address("eth0", "10.244.0.5/32".parse().unwrap()).await.unwrap();
            let to_pod =
                Route::on_link("10.244.0.5/32".parse().unwrap(), "veth0").prefer(ip("172.30.0.11"));
            here.add_route(&to_pod).await.unwrap();
            here.add_route(&to_pod).await.unwrap();
            let default =
                Route::via("0.0.0.0/0".parse().unwrap(), ip("172.30.0.11"), "eth0").onlink();
            there.add_route(&default).await.unwrap();
            here.add_neighbour("veth0", ip("10.244.0.5"), FAR.mac.unwrap()).await.unwrap();
            there.add_neighbour("eth0", ip("172.30.0.11"), NEAR.mac.unwrap()).await.unwrap();

            assert_eq!(
                here.default_route_link(portolan_netlink::link::AddressFamily::V4).await.unwrap(),
                None
            );
            let links = there.links().await.unwrap();
            let eth0 = links.iter().find(|link| link.name == "eth0").unwrap();
            assert!(eth0.is_up);
            assert_eq!(eth0.mac, FAR.mac);
            assert_eq!(
                there.default_route_link(portolan_netlink::link::AddressFamily::V4).await.unwrap(),
                Some(eth0.index)
            );
            assert!(
                there
                    .addresses()
                    .await
                    .unwrap()
                    .iter()
                    .any(|address| { address.net.addr() == ip("10.244.0.5") && address.is_global })
            );
            if let Some(routes) = run(test, "ip", &["route"]) {
                assert!(
                    routes.contains("10.244.0.5 dev veth0 proto static scope link src 172.30.0.11")
                );
            }
            if let Some(neighbours) = run(test, "ip", &["neigh"]) {
                assert!(neighbours.contains("10.244.0.5 dev veth0 lladdr 02:00:00:00:00:02 PERM"));
            }
            // A refusal comes from the other end: packets went there and back.
            let far = SocketAddr::new(ip("10.244.0.5"), 80);
            let refused = TcpStream::connect_timeout(&far, Duration::from_secs(10)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
            here.delete_route(&to_pod).await.unwrap();
            here.delete("veth0").await.unwrap();
            assert!(matches!(there.index("eth0").await, Err(LinkError::NoLink(_))));
        });
    });
}

#[test]
fn a_pair_in_a_user_namespace_works_too() {
    as_ordinary_user(
        "a_pair_in_a_user_namespace_works_too",
        "link::a_routed_pair_leads_to_the_other_namespace",
    );
}

#[test]
fn a_bridge_takes_ports() {
    in_netns("a_bridge_takes_ports", || {
        block_on(async {
            let links = Links::open().unwrap();
            links.add_bridge("fabric", None).await.unwrap();
            links.add_veth(NEAR, FAR, Netns::Here).await.unwrap();
            links.set_master("veth0", "fabric").await.unwrap();
            if let Some(ports) = run("a_bridge_takes_ports", "ip", &["link", "show", "veth0"]) {
                assert!(ports.contains("master fabric"), "{ports}");
            }
            let other = other_netns();
            links.move_to("eth0", Netns::Fd(other.as_fd())).await.unwrap();
            Links::open_in(&other).unwrap().set_up("eth0").await.unwrap();
        });
    });
}

#[test]
fn faults_say_what_was_asked() {
    in_netns("faults_say_what_was_asked", || {
        block_on(async {
            let links = Links::open().unwrap();
            let missing = links.set_up("eth7").await.unwrap_err();
            assert_eq!(missing.to_string(), "no link named eth7 in this network namespace");
            links.add_veth(NEAR, FAR, Netns::Here).await.unwrap();
            let taken = links.add_veth(NEAR, FAR, Netns::Here).await.unwrap_err();
            assert_eq!(taken.errno(), Some(Errno::EEXIST));
            assert!(taken.to_string().starts_with("cannot make the veth pair veth0 and eth0: "));
            let long = links.add_bridge("a-name-of-16-byt", None).await.unwrap_err();
            assert!(matches!(long, LinkError::BadName(_)));
            let unknown = Route::via("10.0.0.0/8".parse().unwrap(), ip("192.0.2.1"), "lo");
            assert!(links.add_route(&unknown).await.is_err());
        });
    });
}

#[test]
fn settings_are_those_of_the_thread() {
    in_netns("settings_are_those_of_the_thread", || {
        sysctl::write("net/ipv4/ip_forward", 1).unwrap();
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
        sysctl::write("net/ipv4/ip_forward", 0).unwrap();
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "0");
        assert!(sysctl::read("net/no/such").unwrap_err().is_absent());
    });
}
