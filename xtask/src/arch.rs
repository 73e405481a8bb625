//! Holds the workspace to its layers: a crate may only depend on crates of a lower layer.
//!
//! The table is the one in ARCHITECTURE.md. Development dependencies are free, since tests may look
//! at the whole; a crate that stands in no layer is an error, so the table cannot fall behind.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The layers from the ground up; arrows point from a later line to an earlier one.
const LAYERS: &[&[&str]] = &[
    &["model", "netlink", "patch", "store", "stream", "client", "exposition"],
    &["api", "backend-iptables", "backend-ipvs", "backend-nftables"],
    &["apiserver", "controllers", "proxy", "dns", "node"],
    &["lab", "trace"],
];

/// Crates that must not see a dependency, and why.
const BANS: &[(&str, &str, &str)] = &[
    ("model", "k8s-openapi", "the model is fed plain values and stays pure"),
    ("model", "tokio", "the model knows no clock, no I/O and no async"),
    ("backend-iptables", "k8s-openapi", "a backend never looks at a Service object"),
    ("backend-ipvs", "k8s-openapi", "a backend never looks at a Service object"),
    ("backend-nftables", "k8s-openapi", "a backend never looks at a Service object"),
    ("patch", "tokio", "patches are pure functions of values"),
    ("api", "tokio", "kinds, defaults and validation are pure"),
];

/// Reads `cargo metadata` and reports every arrow that points up or sideways.
pub fn check() -> Result<()> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).context("cargo metadata's output")?;
    let mut faults = Vec::new();
    let mut arrows = 0;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(from) = name.strip_prefix("portolan-") else { continue };
        let Some(height) = layer(from) else {
            faults.push(format!("{from} stands in no layer of xtask/src/arch.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if !dependency["kind"].is_null() {
                continue;
            }
            let to = dependency["name"].as_str().unwrap_or_default();
            for (_, banned, why) in BANS.iter().filter(|(of, ban, _)| *of == from && *ban == to) {
                faults.push(format!("{from} depends on {banned}, but {why}"));
            }
            let Some(to) = to.strip_prefix("portolan-") else { continue };
            arrows += 1;
            if layer(to).is_none_or(|below| below >= height) {
                faults.push(format!("{from} → {to} does not point down"));
            }
        }
    }
    ensure!(arrows > 0, "cargo metadata named no dependency between the crates");
    if !faults.is_empty() {
        bail!("the crates' arrows must point down:\n  {}", faults.join("\n  "));
    }
    println!("{arrows} arrows between crates, all of them down");
    Ok(())
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}
