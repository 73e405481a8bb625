//! A load whose whole state is told by one number a writer, so that after any crash it can be seen
//! whether transactions are whole and none that was acknowledged is lost.
//!
//! A writer's transaction `n` counts, fills one of five slots with text of a length of its own, and
//! makes or removes a flag: three keys, one revision.

use portolan_store::StoreError;

use super::*;

const SLOTS: u64 = 5;

/// Keys that a writer leaves behind after its transaction `n`, and what they hold.
pub(crate) fn expected(writer: u64, n: u64) -> Vec<(String, serde_json::Value)> {
    let mut keys = Vec::new();
    if n == 0 {
        return keys;
    }
    keys.push((format!("/w/{writer}/count"), json!({ "n": n })));
    if !n.is_multiple_of(2) {
        keys.push((format!("/w/{writer}/flag"), json!({ "n": n })));
    }
    let oldest = n.saturating_sub(SLOTS - 1).max(1);
    let mut slots: Vec<_> = (oldest..=n).map(|n| slot(writer, n)).collect();
    slots.sort_by(|a, b| a.0.cmp(&b.0));
    keys.append(&mut slots);
    keys
}

fn slot(writer: u64, n: u64) -> (String, serde_json::Value) {
    // Up to three pages long.
    let length = usize::try_from((n * 7919 + writer * 104_729) % 12_000).unwrap();
    let text = "x".repeat(if n.is_multiple_of(3) { length } else { length / 20 });
    (format!("/w/{writer}/slot-{}", n % SLOTS), json!({ "n": n, "text": text }))
}

/// One writer's next transaction.
pub(crate) async fn step(store: &Store, writer: u64, n: u64) -> Result<(), StoreError> {
    let put = |key: String, value: serde_json::Value| match store.get(&key) {
        Some(stored) => Op::Update { key, expected: stored.revision, value },
        None => Op::Create { key, value },
    };
    let mut ops = vec![put(format!("/w/{writer}/count"), json!({ "n": n }))];
    let (key, value) = slot(writer, n);
    ops.push(put(key, value));
    let flag = format!("/w/{writer}/flag");
    ops.push(match store.get(&flag) {
        Some(stored) => delete(&flag, stored.revision),
        None => Op::Create { key: flag, value: json!({ "n": n }) },
    });
    store.commit(ops).await.map(drop)
}

/// How far a writer has come, and that its keys hold exactly what that leaves behind.
pub(crate) fn reached(store: &Store, writer: u64) -> u64 {
    let count = store.get(&format!("/w/{writer}/count"));
    let n = count.map_or(0, |count| count.value["n"].as_u64().unwrap());
    let page = store.list(&format!("/w/{writer}/"), ListOptions::default()).unwrap();
    let found: Vec<_> =
        page.items.iter().map(|item| (item.key.to_string(), (*item.value).clone())).collect();
    assert!(
        found == expected(writer, n),
        "writer {writer} at {n}: a transaction is not whole: {:?}",
        found.iter().map(|(key, value)| (key, value["n"].clone())).collect::<Vec<_>>()
    );
    n
}
