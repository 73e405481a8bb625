//! What a user waits for, measured on a release build: cold start, memory, a Service's first answer.
//!
//! Every run starts its own lab in its own data directory; requests are made by a prober inside a
//! node of that lab, never from the machine's own network. Figures are wall-clock times on whatever
//! machine this is, so they are printed with the number of runs and their spread, and compared as
//! ratios within one run; nothing is asserted.

mod api;
mod lab;
mod memory;
mod probe;
mod proxy;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use lab::Lab;

/// The cluster IP that the measured Service asks for: in the static band of 10.96.0.0/12.
const CLUSTER_IP: &str = "10.96.0.80";

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// The portolan binary to measure; built with `--release` when not given.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// How many cold starts, and how many Services, to measure.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(Subcommand)]
enum Inside {
    /// Measure the API server alone, on loopback: writes, lists, watches, memory, start.
    Api(api::Options),
    /// Measure the proxy: first sync, one change to the kernel and to a client, CPU, memory.
    Proxy(proxy::Options),
    /// Runs inside a node: connects until an HTTP answer comes and prints the monotonic time.
    #[command(hide = true)]
    Probe {
        /// `address:port`, one a measured Service.
        targets: Vec<String>,
    },
}

/// Runs the benches, or the prober when called inside a lab.
pub fn run(options: &Options) -> Result<()> {
    match &options.inside {
        Some(Inside::Probe { targets }) => return probe::until_answered(targets),
        Some(Inside::Api(options)) => return api::run(options),
        Some(Inside::Proxy(options)) => return proxy::run(options),
        None => {}
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => lab::build_release()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a tokio runtime")?;
    println!("binary: {} MiB", std::fs::metadata(&binary)?.len() >> 20);
    let mut starts = Samples::default();
    let mut ready = Samples::default();
    let mut services = Samples::default();
    for run in 1..=options.runs {
        let lab = Lab::start(&binary)?;
        let client = runtime.block_on(lab.client())?;
        let prober = lab.prober(&[format!("{CLUSTER_IP}:80")])?;
        runtime.block_on(create(&client, &workload()))?;
        runtime.block_on(create(&client, &service("cold", Some(CLUSTER_IP))))?;
        starts.push(prober.first_answer()?.saturating_sub(lab.started));
        ready.push(lab.ready()?.saturating_sub(lab.started));
        if run == options.runs {
            println!("{}", memory::report(lab.pid())?);
            for round in 0..options.runs {
                services.push(runtime.block_on(one_service(&lab, &client, round))?);
            }
        }
        lab.stop()?;
    }
    println!("`up` started → lab ready (`up --detach` would return):  {ready}");
    println!("`up` started → first answer through a cluster IP:       {starts}   (aim: under 2 s)");
    println!(
        "Service created → first answer through its cluster IP:  {services}   (aim: under 50 ms)"
    );
    Ok(())
}

/// The time from the request that creates a Service to the first answer through its address.
async fn one_service(lab: &Lab, client: &kube::Client, round: usize) -> Result<Duration> {
    let address = format!("10.96.0.{}", 100 + round % 100);
    let prober = lab.prober(&[format!("{address}:80")])?;
    prober.wait_until_trying()?;
    let begun = probe::monotonic()?;
    create(client, &service(&format!("round-{round}"), Some(&address))).await?;
    let answered = prober.first_answer()?;
    Ok(answered.saturating_sub(begun))
}

async fn create(client: &kube::Client, object: &Value) -> Result<()> {
    use kube::api::{Api, DynamicObject, PostParams};
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let types = object.types.clone().context("an object without a kind")?;
    let resource =
        kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    api.create(&PostParams::default(), &object).await.context("creating an object")?;
    Ok(())
}

fn workload() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nginx"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "nginx"}}, "template": {
            "metadata": {"labels": {"app": "nginx"}},
            "spec": {"containers": [
                {"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}]}]}}},
    })
}

fn service(name: &str, cluster_ip: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "nginx"}, "clusterIP": cluster_ip,
                 "ports": [{"port": 80, "targetPort": 80}]},
    })
}

/// Durations of one measurement; shown as minimum, median and maximum.
#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn push(&mut self, sample: Duration) {
        self.0.push(sample);
        self.0.sort_unstable();
    }
}

impl std::fmt::Display for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: &Duration| d.as_secs_f64() * 1e3;
        match (self.0.first(), self.0.get(self.0.len() / 2), self.0.last()) {
            (Some(min), Some(median), Some(max)) => write!(
                f,
                "min {:.1} ms, median {:.1} ms, max {:.1} ms, n = {}",
                ms(min),
                ms(median),
                ms(max),
                self.0.len()
            ),
            _ => f.write_str("no sample"),
        }
    }
}
