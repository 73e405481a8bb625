//! Booting a user-mode kernel for one job.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::guest::{self, JOB, STATUS};

/// How long a kernel may take until the job begins.
const BOOT: Duration = Duration::from_secs(60);

/// A kernel, and what loads its modules.
pub struct Kernel {
    /// The kernel's program.
    pub program: PathBuf,
    /// Called with the names of modules.
    pub modprobe: PathBuf,
    /// The folder of further programs for tests.
    pub tools: PathBuf,
}

/// What is to be run in the guest.
pub struct Job {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it runs.
    pub directory: PathBuf,
}

/// How a boot ended.
pub enum Ended {
    /// With the job's status.
    With(i32),
    /// It was ended, the job not done.
    TooLate,
    /// The kernel ended, or was ended, before the job began; the end of its log.
    BeforeTheJob(String),
}

/// Ends a kernel, all its processes, when it is over with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

impl Kernel {
    /// Boots, runs the job, streams its output and hands each line on.
    pub fn boot(
        &self,
        job: &Job,
        memory: u32,
        limit: Duration,
        each_line: &mut dyn FnMut(&str),
    ) -> Result<Ended> {
        let dir = tempfile::Builder::new().prefix("portolan-vm").tempdir()?;
        guest::write(dir.path(), job, self)?;
        let log = dir.path().join("log");
        let mut child = Running(self.start(dir.path(), &log, memory)?);
        let output = child.0.stdout.take().context("the kernel's output")?;

        // Who waits for a line must not wait for ever: a watch ends the kernel, and so its output.
        let (done, is_done) = mpsc::channel::<()>();
        let is_late = Arc::new(AtomicBool::new(false));
        let group = Pid::from_raw(i32::try_from(child.0.id())?);
        let (begun, late) = (dir.path().join(guest::BEGUN), Arc::clone(&is_late));
        let watch = thread::spawn(move || {
            let is_over = |span| is_done.recv_timeout(span) != Err(mpsc::RecvTimeoutError::Timeout);
            if is_over(BOOT.min(limit)) || (begun.exists() && is_over(limit.saturating_sub(BOOT))) {
                return;
            }
            late.store(true, Ordering::Relaxed);
            let _ = killpg(group, Signal::SIGKILL);
        });
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            let line = line.trim_end_matches('\r');
            each_line(line);
            writeln!(std::io::stdout(), "{line}")?;
        }
        drop(child);
        drop(done);
        let _ = watch.join();

        let status = fs::read_to_string(dir.path().join(STATUS)).ok();
        Ok(match status.and_then(|status| status.trim().parse().ok()) {
            Some(status) => Ended::With(status),
            None if dir.path().join(guest::BEGUN).exists() && is_late.load(Ordering::Relaxed) => {
                Ended::TooLate
            }
            None => Ended::BeforeTheJob(end_of(&log)),
        })
    }

    /// On one processor: tracer and traced hand over to each other at every system call.
    fn start(&self, dir: &Path, log: &Path, memory: u32) -> Result<Child> {
        let log = File::create(log)?;
        let itself = std::env::current_exe()?;
        // Should this program be ended, so is the kernel.
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", "0"])
            .arg(&self.program)
            .args(["rootfstype=hostfs", "rootflags=/", "rw", "panic=-1"])
            .args(["con=null", "con0=null,fd:2", "con1=null,fd:1", "ssl=null"])
            .arg(format!("init={}", itself.display()))
            .arg(format!("mem={memory}M"))
            .arg(format!("uml_dir={}/", dir.display()))
            .arg("umid=kernel")
            .arg(format!("{JOB}={}", dir.display()))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start setpriv, taskset and the kernel")
    }
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
