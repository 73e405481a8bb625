//! The monitor tells what others do to our tables, and only that.

use std::time::Duration;

use portolan_netlink::nft::{Batch, Chain, Family, Monitor, Op, Socket, Table, TableRef, Touched};

use crate::netns::{as_ordinary_user, in_netns};

fn table(name: &str) -> TableRef {
    TableRef::new(Family::Ip, name)
}

fn add(name: &str) -> Batch {
    Batch::from(vec![Op::AddTable(Table { id: table(name), comment: None })])
}

async fn word(monitor: &mut Monitor) -> Option<Touched> {
    let wait = Duration::from_millis(300);
    tokio::time::timeout(wait, monitor.touched()).await.ok().map(Result::unwrap)
}

#[test]
fn others_changes_to_our_table_are_told_at_once() {
    in_netns("others_changes_to_our_table_are_told_at_once", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut ours, mut others) = (Socket::open().unwrap(), Socket::open().unwrap());
            let own = vec![ours.port().unwrap()];
            let mut monitor = Monitor::open(vec![table("ours")], own).unwrap();
            ours.commit(&add("ours")).unwrap();
            others.commit(&add("theirs")).unwrap();
            assert_eq!(word(&mut monitor).await, None);

            let chain = Chain { table: table("ours"), name: "c".into(), base: None, comment: None };
            others.commit(&Batch::from(vec![Op::AddChain(chain)])).unwrap();
            assert_eq!(word(&mut monitor).await, Some(Touched::Table));
            others.commit(&Batch::from(vec![Op::DeleteTable(table("theirs"))])).unwrap();
            assert_eq!(word(&mut monitor).await, None);

            others.commit(&Batch::from(vec![Op::DeleteTable(table("ours"))])).unwrap();
            monitor.discard();
            assert_eq!(word(&mut monitor).await, None);
            ours.commit(&add("ours")).unwrap();
            others.commit(&Batch::from(vec![Op::DeleteTable(table("ours"))])).unwrap();
            assert_eq!(word(&mut monitor).await, Some(Touched::Table));
        });
    });
}

#[test]
fn an_ordinary_user_is_told_too() {
    as_ordinary_user(
        "an_ordinary_user_is_told_too",
        "monitor::others_changes_to_our_table_are_told_at_once",
    );
}
