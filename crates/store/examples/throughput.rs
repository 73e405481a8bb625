//! Durable writes a second of the store alone, and what an object takes in memory:
//!
//! ```sh
//! cargo run --release -p portolan-store --example throughput -- DIRECTORY WRITERS PRESENT
//! ```
//!
//! Objects are 1.4 kB of JSON, the size of a Service as it is stored. Nothing is asserted.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use portolan_store::{ListOptions, Op, Options, Store};
use serde_json::{Value, json};

const WRITES: u64 = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(writers), Some(present)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: throughput DIRECTORY WRITERS PRESENT".into());
    };
    let (writers, present): (u64, u64) = (writers.parse()?, present.parse()?);
    std::fs::create_dir_all(&directory)?;
    let path = Path::new(&directory).join("throughput");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let before = resident()?;
    let store = Store::open(&path, Options::default())?;
    for start in (0..present).step_by(500) {
        let ops = (start..present.min(start + 500)).map(|n| create("present", n)).collect();
        runtime.block_on(store.commit(ops))?;
    }
    if let Some(each) = (resident()? - before).checked_div(present) {
        println!("{present} objects: {each} bytes resident each");
    }
    let (counts, begun, next) = (store.written(), Instant::now(), AtomicU64::new(0));
    runtime.block_on(async {
        let writer = || async {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= WRITES {
                    return Ok::<(), portolan_store::StoreError>(());
                }
                // Not in key order, as Services of many namespaces are not.
                store.commit(vec![create("new", n * 7919 % WRITES)]).await?;
            }
        };
        futures::future::try_join_all((0..writers).map(|_| writer())).await
    })?;
    let (took, written) = (begun.elapsed().as_secs_f64(), store.written());
    println!(
        "{:.0} writes/s, {:.0} syncs/s, {:.1} writes a sync",
        WRITES as f64 / took,
        (written.groups - counts.groups) as f64 / took,
        WRITES as f64 / (written.groups - counts.groups) as f64,
    );
    let begun = Instant::now();
    let page = store.list("/new/", ListOptions::default())?;
    println!("list of {}: {:.2} ms", page.items.len(), begun.elapsed().as_secs_f64() * 1e3);
    drop((page, store));
    let begun = Instant::now();
    let store = Store::open(&path, Options::default())?;
    println!("opened again in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    drop(store);
    std::fs::remove_file(&path)?;
    Ok(())
}

fn create(place: &str, n: u64) -> Op {
    Op::Create { key: format!("/{place}/{n:08}"), value: service(n) }
}

fn service(n: u64) -> Value {
    let field = json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:ports": {
        "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}}}}});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("service-{n}"), "namespace": "default",
            "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "creationTimestamp": "2026-11-25T00:00:00Z", "labels": {"app": format!("app-{n}")},
            "annotations": {"note": "x".repeat(500)},
            "managedFields": [{"manager": "bench", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-25T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": field}],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "selector": {"app": format!("app-{n}")},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "metrics", "port": 9090, "protocol": "TCP", "targetPort": 9090}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// Resident bytes of this process.
fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
