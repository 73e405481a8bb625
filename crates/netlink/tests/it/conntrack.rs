//! Connection tracking: UDP flows are listed with where they lead to, and forgotten one by one.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use portolan_netlink::conntrack::{Deleted, Family, Flow, Socket};
use portolan_netlink::link::Links;
use portolan_netlink::nft::{
    self, BaseChain, Batch, Chain, ChainKind, ChainRef, Data, DataType, Element, Expr, Field, Hook,
    Op, Policy, Reg, Rule, Set, Table, TableRef, priority,
};
use portolan_netlink::sysctl;

use crate::netns::{as_ordinary_user, in_netns};

fn lo_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Links::open().unwrap().set_up("lo").await.unwrap() });
}

/// Sends what goes to 127.0.0.9:53 to 127.0.0.1 at another port.
fn redirect(to: SocketAddr) {
    let table = TableRef::new(nft::Family::Ip, "redirect");
    let chain = ChainRef { table: table.clone(), name: "output".into() };
    let base = BaseChain {
        kind: ChainKind::Nat,
        hook: Hook::Output,
        priority: priority::DSTNAT,
        policy: Policy::Accept,
    };
    let types = [DataType::Ipv4Addr, DataType::InetService];
    let map = Arc::new(Set::map(table.clone(), "to", types, types));
    let from = [Field::Ipv4([127, 0, 0, 9].into()), Field::Port(53)];
    let target = [Field::ip(to.ip()), Field::Port(to.port())];
    let batch = Batch::from(vec![
        Op::AddTable(Table { id: table.clone(), comment: None }),
        Op::AddChain(Chain { table, name: "output".into(), base: Some(base), comment: None }),
        Op::AddSet(Arc::clone(&map)),
        Op::AddElements(map, vec![Element::map(Data::concat(&from), Data::concat(&target))]),
        Op::AddRule(Rule::new(
            &chain,
            vec![
                Expr::l4proto(Reg::R0),
                Expr::eq(Reg::R0, Field::Proto(17)),
                Expr::daddr(nft::Family::Ip, Reg::R0),
                Expr::dport(Reg::at(1)),
                Expr::lookup("to", Reg::R0, Reg::R0),
                Expr::dnat(nft::Family::Ip, Reg::R0, Some(Reg::at(1))),
            ],
        )),
    ]);
    nft::Socket::open().unwrap().commit(&batch).unwrap();
}

fn flows(socket: &mut Socket) -> Vec<Flow> {
    let mut flows = Vec::new();
    socket.dump_udp(Family::V4, |flow| flows.push(flow)).unwrap();
    flows
}

#[test]
fn a_rewritten_flow_is_listed_and_forgotten() {
    in_netns("a_rewritten_flow_is_listed_and_forgotten", || {
        lo_up();
        sysctl::write("net/netfilter/nf_conntrack_acct", 1).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let endpoint = server.local_addr().unwrap();
        redirect(endpoint);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", "127.0.0.9:53").unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from, client.local_addr().unwrap());

        let mut socket = Socket::open().unwrap();
        let found = flows(&mut socket);
        let flow = found.iter().find(|f| f.original.source == from).expect("our flow");
        assert_eq!(flow.original.destination, "127.0.0.9:53".parse().unwrap());
        assert_eq!(flow.reply.source, endpoint);
        assert_eq!(flow.sent.map(|sent| sent.packets), Some(1));
        assert_ne!(flow.status & nft::ct_status::DNAT, 0);

        assert_eq!(socket.delete(flow).unwrap(), Deleted::Yes);
        assert_eq!(socket.delete(flow).unwrap(), Deleted::Already);
        assert!(flows(&mut socket).iter().all(|f| f.original.source != from));
        let mut v6 = Vec::new();
        socket.dump_udp(Family::V6, |flow| v6.push(flow)).unwrap();
        assert_eq!(v6, []);
    });
}

#[test]
fn a_flow_is_forgotten_in_a_user_namespace_too() {
    as_ordinary_user(
        "a_flow_is_forgotten_in_a_user_namespace_too",
        "conntrack::a_rewritten_flow_is_listed_and_forgotten",
    );
}
