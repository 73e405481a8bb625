//! The end of a lab: every process but this one is asked to end, then made to.
//!
//! Node agents first, so that none starts a container again or writes to an API server that is
//! about to close; then everything that is left, which is the pods.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long pods may take to end after SIGTERM. Shorter than a pod's own grace period: whoever
/// stops a lab waits for it.
const PODS_GRACE: Duration = Duration::from_secs(2);

/// How often to look whether they have ended.
const LOOK: Duration = Duration::from_millis(10);

/// Ends all other processes of the lab; called when the agents are gone.
pub(super) async fn everyone() {
    let all = Pid::from_raw(-1);
    // ESRCH: there is nobody left to signal.
    let _ = kill(all, Signal::SIGTERM);
    wait(PODS_GRACE).await;
    let _ = kill(all, Signal::SIGKILL);
    wait(PODS_GRACE).await;
}

async fn wait(limit: Duration) {
    let until = Instant::now() + limit;
    while Instant::now() < until && others_live() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether /proc, which shows this lab only, has a process besides this one and the pods' first
/// ones: those wait for an agent that is gone, and have nothing of their own to finish.
fn others_live() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .any(|pid| pid != 1 && !is_pod_init(pid))
}

fn is_pod_init(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(2) == Some(b"pod-init")
}
