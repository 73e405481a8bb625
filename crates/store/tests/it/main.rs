//! The store through its public interface: semantics, watches, the file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod file;
mod kill;
mod load;
mod model;
mod platter;
mod power;
mod semantics;
mod watch;

use portolan_store::{ListOptions, Op, Options, Revision, Store};
use serde_json::json;

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("store"), Options::default()).unwrap()
}

fn create(key: &str, value: u64) -> Op {
    Op::Create { key: key.into(), value: json!({ "n": value }) }
}

fn update(key: &str, expected: Revision, value: u64) -> Op {
    Op::Update { key: key.into(), expected, value: json!({ "n": value }) }
}

fn delete(key: &str, expected: Revision) -> Op {
    Op::Delete { key: key.into(), expected }
}

fn keys(store: &Store, prefix: &str, options: ListOptions) -> Vec<String> {
    let page = store.list(prefix, options).unwrap();
    page.items.iter().map(|s| s.key.to_string()).collect()
}
