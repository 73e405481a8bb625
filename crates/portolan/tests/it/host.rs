//! What the host has of its own, for comparing before and after, and what a lab consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The host's network, firewall, settings and mounts, as text by name.
pub(crate) fn snapshot() -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for arguments in [
        &["-o", "-d", "link"][..],
        &["-o", "address"],
        &["route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["rule"],
        &["netns"],
    ] {
        let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        seen.insert(format!("ip {}", arguments.join(" ")), without_lifetimes(&text));
    }
    if let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        seen.insert("nft list ruleset".into(), text);
    }
    for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/proc/sys/kernel/hostname"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let changed = fs::metadata(file).and_then(|meta| meta.modified()).ok();
        seen.insert(file.into(), format!("{changed:?} {text}"));
    }
    for root in ["/proc/sys/net", "/proc/sys/kernel", "/proc/sys/user"] {
        settings(Path::new(root), &mut seen);
    }
    seen
}

/// Router advertisements count down while one looks.
fn without_lifetimes(text: &str) -> String {
    let words: Vec<_> = text.split(' ').collect();
    let mut kept = Vec::new();
    let mut skip = false;
    for word in words {
        if !skip && !word.ends_with("sec") {
            kept.push(word);
        }
        skip = matches!(word, "expires" | "age");
    }
    kept.join(" ")
}

/// Settings that the kernel itself changes as it runs, whoever does what.
const RESTLESS: &[&str] = &[
    "nf_conntrack_count",
    "random",
    "ns_last_pid",
    "pty",
    "tcp_fastopen_key",
    "sched_domain",
    "perf_event_max_sample_rate",
    "keys",
];

fn settings(path: &Path, seen: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if RESTLESS.iter().any(|restless| name == *restless) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => settings(&path, seen),
            _ => {
                if let Ok(text) = fs::read_to_string(&path) {
                    seen.insert(path.display().to_string(), text);
                }
            }
        }
    }
}

/// Fails with what differs. What is new after (a module's settings) is not the host's own.
pub(crate) fn assert_untouched(before: &BTreeMap<String, String>) {
    let after = snapshot();
    for (name, was) in before {
        assert_eq!(Some(was), after.get(name), "{name} is not as it was");
    }
}

/// A lab's processes and namespaces, seen from the host while it runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    processes: BTreeSet<(u32, u64)>,
    namespaces: BTreeSet<String>,
    /// When the youngest process began, in the kernel's ticks.
    taken: u64,
}

impl Footprint {
    /// Of `up` and everything below it.
    pub(crate) fn of(up: u32) -> Footprint {
        let parents: BTreeMap<u32, u32> =
            processes().filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
        let below = |mut pid: u32| {
            while let Some(parent) = parents.get(&pid) {
                if pid == up {
                    return true;
                }
                pid = *parent;
            }
            false
        };
        let members: Vec<u32> = parents.keys().copied().filter(|pid| below(*pid)).collect();
        let own = namespaces_of(std::process::id());
        let namespaces = members
            .iter()
            .flat_map(|pid| namespaces_of(*pid))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        let processes: BTreeSet<_> =
            members.into_iter().filter_map(|pid| Some((pid, stat(pid)?.0))).collect();
        let taken = processes.iter().map(|(_, began)| *began).max().unwrap_or(0);
        Footprint { processes, namespaces, taken }
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.processes.len(), self.namespaces.len())
    }

    /// What of it is still there.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (pid, began) in &self.processes {
            // A zombie is gone, but for whoever should have waited for it.
            if stat(*pid).is_some_and(|(now, _)| &now == began) && !is_zombie(*pid) {
                left.push(format!("process {pid}"));
            }
        }
        // The kernel gives a namespace's number to a later one, of another lab say: only processes
        // of this one's time can still be in it.
        for pid in
            processes().filter(|pid| stat(*pid).is_some_and(|(began, _)| began <= self.taken))
        {
            let still = namespaces_of(pid);
            left.extend(self.namespaces.intersection(&still).map(|ns| format!("{ns} of {pid}")));
        }
        left
    }
}

/// Whether a mount of the host mentions this directory.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts.contains(dir.to_str().expect("a plain path"))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// When it began, and its parent.
fn stat(pid: u32) -> Option<(u64, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.get(1)?.parse().ok()?))
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| text.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
}

/// Of all its threads: some live in other network namespaces.
fn namespaces_of(pid: u32) -> BTreeSet<String> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    threads
        .flatten()
        .flat_map(|thread| {
            ["user", "pid", "net", "mnt", "uts", "ipc"]
                .map(|kind| fs::read_link(thread.path().join("ns").join(kind)))
        })
        .flatten()
        .map(|link| link.display().to_string())
        .collect()
}
