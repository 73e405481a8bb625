//! nf_tables: what is committed is there, and reads back as it was.

use std::net::Ipv4Addr;
use std::sync::Arc;

use portolan_netlink::nft::{
    BaseChain, Batch, Chain, ChainKind, ChainRef, Data, DataType, Element, Expr, Family, Field,
    Hook, NftError, Op, Policy, Reg, Rule, Set, Socket, Table, TableRef, Verdict, priority,
};

use crate::netns::{as_ordinary_user, in_netns, run};

const TABLE: &str = "portolan-test";

fn table() -> TableRef {
    TableRef::new(Family::Ip, TABLE)
}

fn chain(name: &str) -> ChainRef {
    ChainRef { table: table(), name: name.into() }
}

fn front(ip: Ipv4Addr, port: u16) -> Data {
    Data::concat(&[Field::Ipv4(ip), Field::Proto(6), Field::Port(port)])
}

/// A service of two endpoints in the shape that the planner uses.
fn service() -> Batch {
    let services = Arc::new(Set::verdict_map(
        table(),
        "services",
        [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService],
    ));
    let endpoints = Arc::new(Set::map(
        table(),
        "endpoints",
        [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService, DataType::Mark],
        [DataType::Ipv4Addr, DataType::InetService],
    ));
    let vip = Ipv4Addr::new(10, 96, 0, 10);
    let endpoint = |slot, last| {
        let key = [Field::Ipv4(vip), Field::Proto(6), Field::Port(80), Field::Mark(slot)];
        let to = [Field::Ipv4(Ipv4Addr::new(10, 244, 0, last)), Field::Port(8080)];
        Element::map(Data::concat(&key), Data::concat(&to))
    };
    let load =
        [Expr::daddr(Family::Ip, Reg::R0), Expr::l4proto(Reg::at(1)), Expr::dport(Reg::at(2))];
    let mut pick = load.to_vec();
    pick.extend([
        Expr::random(2, Reg::at(3)),
        Expr::lookup("endpoints", Reg::R0, Reg::at(4)),
        Expr::dnat(Family::Ip, Reg::at(4), Some(Reg::at(5))),
    ]);
    let mut look = load.to_vec();
    look.push(Expr::vmap("services", Reg::R0));
    Batch::from(vec![
        Op::AddTable(Table { id: table(), comment: Some("ours".into()) }),
        Op::AddSet(Arc::clone(&services)),
        Op::AddSet(Arc::clone(&endpoints)),
        Op::AddChain(Chain { table: table(), name: "lb-2".into(), base: None, comment: None }),
        Op::AddChain(Chain {
            table: table(),
            name: "prerouting".into(),
            base: Some(BaseChain {
                kind: ChainKind::Nat,
                hook: Hook::Prerouting,
                priority: priority::DSTNAT,
                policy: Policy::Accept,
            }),
            comment: None,
        }),
        Op::AddRule(Rule::new(&chain("lb-2"), pick)),
        Op::AddRule(Rule::new(&chain("prerouting"), look).with_comment("to the services")),
        Op::AddElements(endpoints, vec![endpoint(0, 5), endpoint(1, 6)]),
        Op::AddElements(
            services,
            vec![Element::verdict(front(vip, 80), Verdict::Goto("lb-2".into()))],
        ),
    ])
}

#[test]
fn nft_lists_what_the_text_says() {
    let test = "nft_lists_what_the_text_says";
    in_netns(test, move || {
        let batch = service();
        Socket::open().unwrap().commit(&batch).unwrap();
        let text = batch.to_string();
        println!("{text}");
        let Some(listed) = run(test, "nft", &["list", "ruleset"]) else { return };
        println!("{listed}");
        for rule in [
            "ip daddr . meta l4proto . th dport vmap @services comment \"to the services\"",
            "10.96.0.10 . tcp . 80 : goto lb-2",
        ] {
            assert!(listed.contains(rule), "nft does not list {rule}");
            assert!(text.contains(rule), "our text does not have {rule}");
        }
    });
}

#[test]
fn an_ordinary_user_commits_too() {
    as_ordinary_user("an_ordinary_user_commits_too", "nft::nft_lists_what_the_text_says");
}

#[test]
fn a_refusal_names_the_operation() {
    in_netns("a_refusal_names_the_operation", || {
        let mut socket = Socket::open().unwrap();
        let mut batch = service();
        batch.push(Op::AddRule(Rule::new(&chain("nowhere"), vec![Expr::counter()])));
        let Err(NftError::NotFound(refusal)) = socket.commit(&batch) else { panic!("expected") };
        assert_eq!(refusal.op, Some(batch.ops.len() - 1));
        assert!(refusal.to_string().contains("add rule ip portolan-test nowhere counter"));
    });
}
