//! A child process writes and prints what was acknowledged until it is killed; all of that must be
//! in the file. The child is this test binary again, told by an environment variable.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const FILE: &str = "PORTOLAN_STORE_KILL_TEST";

#[test]
fn every_acknowledged_write_survives_sigkill() {
    if let Some(path) = std::env::var_os(FILE) {
        return write_until_killed(path.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged = Vec::new();
    for round in 0..4u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::every_acknowledged_write_survives_sigkill", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut lines = lines.filter_map(|line| line.strip_prefix("ack ").map(str::to_owned));
        acknowledged.extend(lines.by_ref().take(40));
        // Somewhere within a later commit, another place in each round.
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        acknowledged.extend(lines);
        child.wait().unwrap();

        let store = Store::open(&path, Options::default()).unwrap();
        for key in &acknowledged {
            assert!(store.get(key).is_some(), "{key} was acknowledged and is lost");
        }
    }
    assert!(acknowledged.len() >= 160);
}

/// Four writers, so that commits are grouped.
fn write_until_killed(path: &std::path::Path) {
    let store = Store::open(path, Options::default()).unwrap();
    let start = store.revision().0;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(futures::future::join_all((0..4).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0u64.. {
                let key = format!("/k/{start}-{writer}-{n}");
                store.commit(vec![create(&key, n)]).await.unwrap();
                // One write call a line: a line is printed whole or not at all.
                std::io::stdout().write_all(format!("ack {key}\n").as_bytes()).unwrap();
                std::io::stdout().flush().unwrap();
            }
        }
    })));
}
