//! `cargo xtask bench api`: what the API server does alone, on a release build, over TLS on loopback.
//!
//! The server is a process of its own (`control_plane`, an example of the controllers' crate) on a
//! fresh directory; this program, built for release as well, is the client on the same processors.
//! Every step is bounded in count and time; a step that ran out of time says how far it came. The
//! figures are printed as they come and nothing is asserted.

pub(super) mod load;
pub(super) mod server;
mod watch;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use load::{Load, account, pod, service};
use server::Server;

/// Options of `cargo xtask bench api`.
#[derive(Args)]
pub struct Options {
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How many Services to have at most; the steps beyond are left out.
    #[arg(long, default_value_t = 100_000)]
    most: usize,
    /// Watchers of one kind at once.
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// The watchers alone, on an empty server.
    #[arg(long)]
    watchers_only: bool,
    /// The built server; set by this program for itself.
    #[arg(long, hide = true)]
    server: Option<PathBuf>,
}

/// Runs the benches; a debug build of this program builds and becomes the release build.
pub fn run(options: &Options) -> Result<()> {
    let Some(program) = &options.server else {
        let what = [
            "--package=xtask",
            "--package=portolan-controllers",
            "--bin=xtask",
            "--example=control_plane",
        ];
        let built = super::lab::release(&what)?;
        let error = Command::new(built.join("xtask"))
            .args(std::env::args_os().skip(1))
            .arg("--server")
            .arg(built.join("examples/control_plane"))
            .exec();
        return Err(error).context("cannot start the release build of this program");
    };
    // A connection for each watcher, here and in the server, which inherits this.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a tokio runtime")?;
    runtime.block_on(measure(options, program.clone()))
}

const SOME: usize = 10_000;
const MORE: usize = 2_000;

async fn measure(options: &Options, program: PathBuf) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    println!("{} connections, {cores} processors for server and client", options.connections);
    let data = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
    let start = async |controllers| Server::start(&program, data.path(), controllers).await;

    let mut server = start(false).await?;
    if options.watchers_only {
        watch::many(&server, options.watchers, &mut 0).await?;
        return server.stop();
    }
    row("start to ready, empty", &millis(server.ready));
    row("resident, empty", &server.resident()?);
    let load = Load::new(&server, options.connections).await?;
    let mut there = 0;
    create(&mut server, &load, "Services, from 0", &mut there, SOME.min(options.most)).await?;
    under_load(&mut server, &load, &mut there, options).await?;
    list(&server, there).await?;
    server.stop()?;

    let server = start(true).await?;
    row(&format!("start to ready, {there} Services, controllers"), &millis(server.ready));
    let slices = "/apis/discovery.k8s.io/v1/endpointslices?limit=1";
    let took = server.until_there(slices, there, Duration::from_secs(120)).await?;
    row("  until every Service has its slice", &took.map_or("over 120 s".to_owned(), millis));
    row("  resident, controllers included", &server.resident()?);
    server.stop()?;

    let mut server = start(false).await?;
    row(&format!("start to ready, {there} Services + slices"), &millis(server.ready));
    row("  resident", &server.resident()?);
    let load = Load::new(&server, options.connections).await?;
    let name = format!("Services, {there} + slices there");
    create(&mut server, &load, &name, &mut there, MORE).await?;
    row("  resident after that", &server.resident()?);
    watch::many(&server, options.watchers, &mut there).await?;
    if options.most > there + MORE {
        let missing = options.most - there;
        create(&mut server, &load, &format!("Services, from {there}"), &mut there, missing).await?;
        create(&mut server, &load, &format!("Services, {there} there"), &mut there, MORE).await?;
        row("  resident", &server.resident()?);
        // Once for the connection, which was idle for long.
        server.get("/readyz").await?;
        let page = server.get("/api/v1/services?limit=500").await?;
        row("  first page of 500", &format!("{}, {} kB", millis(page.1), page.0.len() / 1000));
        server.stop()?;
        server = start(false).await?;
        row(&format!("start to ready, {there} Services"), &millis(server.ready));
    }
    server.stop()?;

    let data = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
    let mut server = Server::start(&program, data.path(), false).await?;
    let load = Load::new(&server, options.connections).await?;
    // No controller runs that would make it.
    load.run(&mut server, 1, |_| account()).await?;
    let run = load.run(&mut server, 5_000, pod).await?;
    row("Pods, from 0", &run.to_string());
    server.stop()
}

async fn create(
    server: &mut Server,
    load: &Load,
    what: &str,
    there: &mut usize,
    count: usize,
) -> Result<()> {
    let first = *there;
    let run = load.run(server, count, |n| service(first + n)).await?;
    // Also those that were not made for want of time have their names used up.
    *there += count;
    row(what, &run.to_string());
    Ok(())
}

/// Creates with one watcher beside.
async fn under_load(
    server: &mut Server,
    load: &Load,
    there: &mut usize,
    options: &Options,
) -> Result<()> {
    let first = *there;
    let watching = watch::Watching::start(server, 1, first, MORE).await?;
    let times = watching.times();
    load.run(server, MORE, |n| service(first + n).timed(&times, n)).await?;
    *there += MORE;
    let seen = watching.finish().await?;
    row(&format!("create to event, {} writers", options.connections), &seen);
    Ok(())
}

async fn list(server: &Server, there: usize) -> Result<()> {
    let mut took = Vec::new();
    let mut bytes = 0;
    for _ in 0..7 {
        let (text, time) = server.get("/api/v1/services").await?;
        bytes = text.len();
        took.push(time);
    }
    took.sort_unstable();
    let (best, median) = (millis(took[0]), millis(took[took.len() / 2]));
    row(
        &format!("list of {there} Services"),
        &format!("median {median}, best {best}, {bytes} bytes"),
    );
    row("  resident after seven lists", &server.resident()?);
    Ok(())
}

pub(super) fn row(what: &str, figure: &str) {
    println!("{what:<46} {figure}");
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A share of sorted times.
pub(super) fn share(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
