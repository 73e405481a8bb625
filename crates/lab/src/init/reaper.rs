//! Reaps every process that ends in the lab, as PID 1 must, and tells those who wait for one.
//!
//! One lock is held both while a child is made and noted, and while the dead are collected: so no
//! child can end and be forgotten before its waiter is noted.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::LabError;

/// Makes children and collects the dead.
#[derive(Debug, Clone, Default)]
pub(super) struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>>,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    /// Resolves when it has ended.
    pub(super) ended: oneshot::Receiver<ExitStatus>,
}

impl Reaper {
    /// Begins to listen for the dead; on the runtime it is called in.
    pub(super) fn start() -> Result<Reaper, LabError> {
        let reaper = Reaper::default();
        let mut died =
            signal(SignalKind::child()).map_err(LabError::kernel("listen for signals"))?;
        let collector = reaper.clone();
        tokio::spawn(async move {
            while died.recv().await.is_some() {
                collector.collect();
            }
        });
        Ok(reaper)
    }

    /// Starts a command.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Running> {
        let mut waiting = self.waiting.lock();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).expect("process numbers fit an i32");
        let (tell, ended) = oneshot::channel();
        waiting.insert(pid, tell);
        Ok(Running { pid: Pid::from_raw(pid), ended })
    }

    fn collect(&self) {
        let mut waiting = self.waiting.lock();
        loop {
            // Looking first and reaping then: a status is never lost to an unknown form of it.
            match waitid(
                Id::All,
                WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
            ) {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let Some(pid) = status.pid() else { return };
                    let status = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                        Ok(WaitStatus::Exited(_, code)) => ExitStatus::from_raw((code & 0xff) << 8),
                        Ok(WaitStatus::Signaled(_, signal, _)) => {
                            ExitStatus::from_raw(signal as i32)
                        }
                        _ => return,
                    };
                    if let Some(tell) = waiting.remove(&pid.as_raw()) {
                        // Whoever waited may have stopped waiting.
                        let _ = tell.send(status);
                    }
                }
            }
        }
    }
}
