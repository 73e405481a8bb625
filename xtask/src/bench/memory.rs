//! The memory of a lab: proportional set sizes (Pss) of `up` and everything below it.
//!
//! Pss counts a page that n processes share as 1/n in each, so the sum is what the machine really
//! gives (proc(5), smaps_rollup). The pods' own servers and their init processes are counted apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

/// A table of roles, processes and KiB, with the sum that the aim is about.
pub fn report(root: i32) -> Result<String> {
    let mut roles: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for pid in tree(root)? {
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let Some(pss) = rollup.lines().find_map(|line| line.strip_prefix("Pss:")) else { continue };
        let pss: u64 = pss.trim().trim_end_matches(" kB").parse().context("Pss")?;
        let role = roles.entry(role(pid)).or_default();
        role.0 += 1;
        role.1 += pss;
    }
    let mut out = String::from("memory (Pss):\n");
    let mut own = 0;
    for (role, (count, kib)) in &roles {
        writeln!(out, "  {role:<20} {count:>3} processes {:>8.1} MiB", *kib as f64 / 1024.0)?;
        if !role.starts_with("pod:") {
            own += kib;
        }
    }
    write!(
        out,
        "  Portolan's own, without the pods' servers: {:.1} MiB   (aim: under 120 MB)",
        own as f64 / 1024.0
    )?;
    Ok(out)
}

/// The role of a process by its command line: `up`, `lab-init`, `node`, `proxy`, or a pod's part.
fn role(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        words.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let program = words.first().map(|w| w.rsplit('/').next().unwrap_or(w)).unwrap_or_default();
    let second = words.get(1).map(String::as_str).unwrap_or_default();
    let third = words.get(2).map(String::as_str).unwrap_or_default();
    match (program, second, third) {
        ("kube-proxy", ..) | (_, "proxy", _) => "proxy".to_owned(),
        (_, "internal", "serve") => "pod: server".to_owned(),
        (_, "internal", "pod-init") => "pod: init".to_owned(),
        (_, "internal", role) => role.to_owned(),
        ("portolan", "up", _) => "up".to_owned(),
        _ => format!("pod: {program}"),
    }
}

/// `root` and all processes below it.
fn tree(root: i32) -> Result<Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command is in parentheses and may hold anything; the parent comes two fields later.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let Some(parent) = rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    Ok(found)
}
