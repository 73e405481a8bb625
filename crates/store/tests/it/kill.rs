//! A child process works and prints what was acknowledged until it is killed; all of that must be
//! in the file. The child is this test binary again, told by an environment variable.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::load::{reached, step};
use super::platter::{Random, Seed};
use super::*;

const FILE: &str = "PORTOLAN_STORE_KILL_TEST";
const WRITERS: usize = 16;
const ROUNDS: u64 = 12;

/// Transactions of three keys, from many writers at once so that they are grouped; the child dies
/// after some acknowledgements and a random moment more.
#[test]
fn every_acknowledged_transaction_survives_sigkill_whole() {
    if let Some(path) = std::env::var_os(FILE) {
        return work_until_killed(path.as_ref());
    }
    let seed = u64::from(std::process::id());
    let _told = Seed(seed);
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged = [0; WRITERS];
    for _ in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill::every_acknowledged_transaction_survives_sigkill_whole",
                "--nocapture",
            ])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut told = lines.filter_map(|line| {
            let (writer, n) = line.strip_prefix("ack ")?.split_once(' ')?;
            Some((writer.parse::<usize>().unwrap(), n.parse::<u64>().unwrap()))
        });
        let mut note = |(writer, n): (usize, u64)| acknowledged[writer] = n;
        told.by_ref().take(100 + random.index(300)).for_each(&mut note);
        // Somewhere within a later commit.
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        child.kill().unwrap();
        told.for_each(note);
        child.wait().unwrap();

        let store = Store::open(&path, Options::default()).unwrap();
        for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
            let n = reached(&store, writer as u64);
            // What was acknowledged is printed before the next one is begun.
            let possible = *acknowledged..=*acknowledged + 1;
            assert!(possible.contains(&n), "writer {writer} was told of {acknowledged}, {n} is in");
            *acknowledged = n;
        }
    }
    assert!(acknowledged.iter().sum::<u64>() >= ROUNDS * 100);
}

fn work_until_killed(path: &std::path::Path) {
    let store = Store::open(path, Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The test's name stands in the line so far.
    std::io::stdout().write_all(b"\n").unwrap();
    runtime.block_on(futures::future::join_all((0..WRITERS as u64).map(|writer| {
        let store = store.clone();
        async move {
            for n in reached(&store, writer) + 1.. {
                step(&store, writer, n).await.unwrap();
                // One write call a line: a line is printed whole or not at all.
                std::io::stdout().write_all(format!("ack {writer} {n}\n").as_bytes()).unwrap();
                std::io::stdout().flush().unwrap();
            }
        }
    })));
}
