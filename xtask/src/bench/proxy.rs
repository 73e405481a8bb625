//! `cargo xtask bench proxy`: how fast a change takes effect on one node, on a release build.
//!
//! Everything runs in a network namespace made for it, without a way out: an API server, the measured
//! `portolan proxy`, and this program as the client whose packets go through the rules. The load is
//! N Services of M endpoints on other nodes, which nobody contacts; one more Service, `probe`, has an
//! endpoint here that comes and goes. Every step is bounded in count and time.

mod client;
mod iptables;
mod node;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::api::load::{Create, Load};
use super::api::server::Server;
use super::api::{millis, row, share};
use client::Probe;
use iptables::Mode;
use node::Node;

/// Options of `cargo xtask bench proxy`.
#[derive(Args)]
pub struct Options {
    /// How many Services there are; one round for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    services: Vec<usize>,
    /// How many endpoints each of them has.
    #[arg(long, default_value_t = 5)]
    endpoints: usize,
    /// The proxy's modes; each is measured on every number. `iptables-legacy` and `iptables-nft` are
    /// mode iptables with programs of that kind.
    #[arg(long = "mode", value_delimiter = ',', default_values = ["nftables"])]
    modes: Vec<String>,
    /// How many times the endpoint comes and goes.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Further arguments for the proxy.
    #[arg(last = true)]
    arguments: Vec<String>,
    /// Where the built programs are; set by this program for itself.
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Runs the bench; a debug build of this program builds and becomes the release build.
pub fn run(options: &Options) -> Result<()> {
    let Some(built) = &options.built else {
        let what = [
            "--package=xtask",
            "--package=portolan",
            "--package=portolan-controllers",
            "--bin=xtask",
            "--bin=portolan",
            "--example=control_plane",
        ];
        let built = super::lab::release(&what)?.canonicalize()?;
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        let end = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
        let (own, rest) = arguments.split_at(end);
        let mut command = Command::new(built.join("xtask"));
        command.args(own).arg("--built").arg(&built).args(rest);
        return Err(command.exec()).context("cannot start the release build of this program");
    };
    unshare(CloneFlags::CLONE_NEWNET)
        .context("cannot make a network namespace: this bench needs root")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a tokio runtime")?;
    runtime.block_on(async {
        client::network().await?;
        for services in &options.services {
            measure(options, built, *services).await?;
        }
        Ok(())
    })
}

async fn measure(options: &Options, built: &Path, services: usize) -> Result<()> {
    let data = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
    let mut server =
        Server::start(&built.join("examples/control_plane"), data.path(), false).await?;
    let load = Load::new(&server, 16).await?;
    load.run(&mut server, services, service).await?;
    load.run(&mut server, services, |n| slice(n, options.endpoints)).await?;
    let mut probe = Probe::create(&server).await?;
    for mode in &options.modes {
        println!("{services} Services of {} endpoints, {mode}", options.endpoints);
        let proxy = built.join("portolan");
        let kubeconfig = data.path().join("kubeconfig");
        probe.set(true).await?;
        let mode = Mode::of(mode)?;
        let begun = Instant::now();
        let mut node = Node::start(&proxy, &kubeconfig, &mode, &options.arguments)?;
        probe.until(true, Duration::from_secs(300)).await.with_context(|| node.log())?;
        row("  start to first answer", &millis(begun.elapsed()));
        let first = node.first_sync().await?;
        row("  first sync of the rules", &seconds(first.full_sync));
        changes(options, &mut probe, &mut node).await?;
        if let Some(mut took) = mode.bare(options.changes)? {
            took.sort_unstable();
            row("  one bare iptables-restore --noflush", &spread(&took));
        }
        row("  resident", &node.resident()?);
        node.stop()?;
        node::cleanup(&proxy, &mode)?;
        ensure!(!probe.is_answered().await, "rules are left after --cleanup");
    }
    drop(load);
    server.stop()
}

/// The endpoint comes and goes; how long until a client sees it, and what it costs the proxy.
async fn changes(options: &Options, probe: &mut Probe, node: &mut Node) -> Result<()> {
    let limit = Duration::from_secs(60);
    probe.set(false).await?;
    probe.until(false, limit).await?;
    let (before, cpu) = (node.metrics().await?, node.cpu()?);
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for _ in 0..options.changes {
        for (is_there, took) in [(true, &mut came), (false, &mut went)] {
            let begun = Instant::now();
            probe.set(is_there).await?;
            probe.until(is_there, limit).await?;
            took.push(begun.elapsed());
        }
    }
    let (after, cpu) = (node.metrics().await?, node.cpu()? - cpu);
    came.sort_unstable();
    went.sort_unstable();
    row("  slice written to reachable", &spread(&came));
    row("  slice written to refused", &spread(&went));
    let syncs = after.syncs - before.syncs;
    let mean = (after.sync_seconds - before.sync_seconds) / syncs.max(1.0);
    row("  one sync, mean", &format!("{} ({syncs:.0} syncs)", seconds(mean)));
    let each = cpu / u32::try_from(options.changes.max(1))?;
    row("  CPU of the proxy for one add and delete", &millis(each));
    Ok(())
}

/// Of sorted times.
fn spread(took: &[Duration]) -> String {
    format!("p50 {}, p99 {}", millis(share(took, 0.5)), millis(share(took, 0.99)))
}

fn seconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn service(n: usize) -> Create {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("service-{n}")},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    });
    Create::new("/api/v1/namespaces/default/services", &object)
}

/// Endpoints out of 10.128.0.0/9, no two alike.
fn slice(n: usize, endpoints: usize) -> Create {
    let endpoint = |k: usize| {
        let number = u32::try_from(n * endpoints + k).unwrap_or(u32::MAX) & 0x007f_ffff;
        let address = std::net::Ipv4Addr::from(0x0a80_0000 | number);
        json!({"addresses": [address], "nodeName": "node-2", "conditions": {"ready": true}})
    };
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("service-{n}"),
            "labels": {"kubernetes.io/service-name": format!("service-{n}")},
        },
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    });
    Create::new("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &object)
}
