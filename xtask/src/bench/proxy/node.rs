//! The measured proxy: a process whose metrics, processor time and memory are read.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::iptables::Mode;

const METRICS: &str = "127.0.0.1:10249";

/// A running proxy.
pub struct Node {
    child: Child,
    dir: TempDir,
}

/// What its metrics say, both families together; seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metrics {
    /// All full syncs.
    pub full_sync: f64,
    /// How many syncs there were.
    pub syncs: f64,
    /// All syncs.
    pub sync_seconds: f64,
}

impl Node {
    /// Starts it for the node `node-1`.
    pub fn start(
        program: &Path,
        kubeconfig: &Path,
        mode: &Mode,
        arguments: &[String],
    ) -> Result<Node> {
        let dir = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
        let log = std::fs::File::create(log_of(dir.path()))?;
        let child = Command::new(program)
            .args(["proxy", "--hostname-override=node-1", "--cluster-cidr=10.128.0.0/9"])
            .arg(format!("--proxy-mode={}", mode.name))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--metrics-bind-address={METRICS}"))
            .args(arguments)
            .env("PATH", mode.path()?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Node { child, dir })
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_of(self.dir.path())).unwrap_or_default()
    }

    /// Its metrics, as soon as they tell of the first sync: the first packet may be quicker.
    pub async fn first_sync(&self) -> Result<Metrics> {
        for _ in 0..1_000 {
            let metrics = self.metrics().await?;
            if metrics.full_sync > 0.0 {
                return Ok(metrics);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("no full sync is counted: {}", self.log())
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let mut stream = TcpStream::connect(METRICS).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        Ok(Metrics {
            full_sync: sum("kubeproxy_sync_full_proxy_rules_duration_seconds_sum"),
            syncs: sum("kubeproxy_sync_proxy_rules_duration_seconds_count"),
            sync_seconds: sum("kubeproxy_sync_proxy_rules_duration_seconds_sum"),
        })
    }

    /// Processor time so far, that of its ended children included; in steps of a clock tick.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("a process's stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime, stime, cutime and cstime are the 14th to 17th field; the third comes first here.
        let mut ticks = 0;
        for field in fields.get(11..15).context("a process's times")? {
            ticks += field.parse::<u64>()?;
        }
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Resident memory, now and at its peak.
    pub fn resident(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.with_context(|| name.to_owned())?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<f64>()? / 1024.0)
        };
        Ok(format!("{:.1} MiB (peak {:.1})", of("VmRSS:")?, of("VmHWM:")?))
    }

    /// Ends it and waits for it.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the proxy ended with {status}: {}", self.log());
        Ok(())
    }
}

/// Removes all rules of all modes from this namespace.
pub fn cleanup(program: &Path, mode: &Mode) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.args(["proxy", "--cleanup"]).env("PATH", mode.path()?).status()?;
    ensure!(status.success(), "the proxy's --cleanup ended with {status}");
    Ok(())
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join("log")
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
