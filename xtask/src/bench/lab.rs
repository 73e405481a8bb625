//! A lab of the bench's own: started in the foreground, stopped by its process id, even on failure.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::probe::{Prober, monotonic};

/// Builds the release binary and says where it is.
pub fn build_release() -> Result<PathBuf> {
    Ok(release(&["--package", "portolan"])?.join("portolan").canonicalize()?)
}

/// Builds something for release; returns the folder that it is in.
pub fn release(what: &[&str]) -> Result<PathBuf> {
    let done = Command::new(env!("CARGO"))
        .args(["build", "--release"])
        .args(what)
        .status()
        .context("cannot run cargo build")?;
    ensure!(done.success(), "cargo build --release failed");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    Ok(target.join("release"))
}

/// A running `portolan up` with two nodes.
pub struct Lab {
    /// When `up` was started (CLOCK_MONOTONIC).
    pub started: Duration,
    binary: PathBuf,
    data: TempDir,
    up: Child,
}

impl Lab {
    /// Starts `up` on a fresh data directory and any free API port.
    pub fn start(binary: &Path) -> Result<Lab> {
        let data = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
        let started = monotonic()?;
        let up = Command::new(binary)
            .args(["up", "--api-port=0", "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Lab { started, binary: binary.to_owned(), data, up })
    }

    /// The process id of `up`.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.up.id()).unwrap_or(i32::MAX)
    }

    /// A client by the kubeconfig that `up` writes, as soon as the API server answers with it.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = self.data.path().join("kubeconfig");
        let begun = monotonic()?;
        loop {
            if kubeconfig.exists()
                && let Ok(client) = portolan_client::connect(portolan_client::Source::Kubeconfig(
                    kubeconfig.clone(),
                ))
                .await
                && client.apiserver_version().await.is_ok()
            {
                return Ok(client);
            }
            let waited = monotonic()? - begun;
            ensure!(waited < Duration::from_secs(30), "no API server after {waited:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A prober on node-1, retried until the node can be entered.
    pub fn prober(&self, targets: &[String]) -> Result<Prober> {
        let begun = monotonic()?;
        while !self.shell(["true"]).stderr(Stdio::null()).status()?.success() {
            let waited = monotonic()? - begun;
            ensure!(waited < Duration::from_secs(30), "node-1 cannot be entered after {waited:?}");
        }
        let prober = std::env::current_exe()?;
        let child = self
            .shell([prober.to_str().context("the path of this program")?, "bench", "probe"])
            .args(targets)
            .stdout(Stdio::piped())
            .spawn()?;
        Prober::new(child)
    }

    /// When the lab was ready, as `status` tells it.
    pub fn ready(&self) -> Result<Duration> {
        let begun = monotonic()?;
        loop {
            let out = self.portolan(["status", "-o", "json"]).output()?;
            if let Ok(status) = serde_json::from_slice::<serde_json::Value>(&out.stdout)
                && status["state"] == "Running"
            {
                let took = status["readyAfterMillis"].as_u64();
                let took = took.context("a running lab's status has no readyAfterMillis")?;
                return Ok(self.started + Duration::from_millis(took));
            }
            let waited = monotonic()? - begun;
            ensure!(waited < Duration::from_secs(30), "the lab is not ready after {waited:?}");
        }
    }

    /// Asks `up` to stop and waits for it.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
        let status = self.up.wait()?;
        if !status.success()
            && let Some(errors) = self.up.stderr.take()
        {
            BufReader::new(errors).lines().map_while(Result::ok).for_each(|l| eprintln!("up: {l}"));
        }
        ensure!(status.success(), "`up` ended with {status}");
        Ok(())
    }

    fn shell<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = self.portolan(["shell", "--node", "node-1"]);
        command.arg("--").args(words);
        command
    }

    fn portolan<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--data-dir").arg(self.data.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}
