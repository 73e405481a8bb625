//! Booting a kernel of either rig for one job.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::guest::{self, REPORT};

/// How long a kernel may take until the job begins.
const BOOT: Duration = Duration::from_secs(60);
/// How long a guest may say nothing: no test is as quiet for so long, so it hangs.
const SILENCE: Duration = Duration::from_secs(120);
/// How often a guest is looked after.
const GLANCE: Duration = Duration::from_secs(1);

/// What boots a kernel whose first process is this program.
pub trait Machine {
    /// What the first process has to know of its kernel.
    fn traits(&self) -> Traits;

    /// Starts it, with its own log at `log`: the processes, each leading a group of its own, that end
    /// when this one does. The first one's standard output is the job's.
    fn start(&self, dir: &Path, log: &Path, memory: u32) -> Result<Vec<Child>>;
}

/// How a guest differs from others.
pub struct Traits {
    /// Called with the names of modules, by the kernel too.
    pub modprobe: PathBuf,
    /// The folder of further programs for tests.
    pub tools: PathBuf,
    /// The terminal that is the host's standard output.
    pub console: &'static str,
    /// What the host's file of the job's progress is written through; none: as it is.
    pub report: Option<&'static str>,
    /// There is no nf_tables for IPv4 and IPv6, and so not what iptables is elsewhere.
    pub is_legacy: bool,
}

/// What is to be run in the guest.
pub struct Job {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it finds in its environment besides this program's.
    pub environment: &'static [(&'static str, &'static str)],
    /// Where it runs.
    pub directory: PathBuf,
}

/// How a boot ended.
pub enum Ended {
    /// With the job's status.
    With(i32),
    /// It was ended, the job not done.
    TooLate,
    /// It was ended, as it had not said anything for long.
    Silent,
    /// The kernel ended during the job; the end of its log.
    Midway(String),
    /// The kernel ended, or was ended, before the job began; the end of its log.
    BeforeTheJob(String),
}

/// Ends a guest, all its processes, when it is over with it.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
    }
}

/// Boots, runs the job, streams its output and hands each line on.
pub fn boot(
    machine: &dyn Machine,
    job: &Job,
    memory: u32,
    limit: Duration,
    each_line: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let dir = tempfile::Builder::new().prefix("portolan-vm").tempdir()?;
    guest::write(dir.path(), job, &machine.traits())?;
    let (log, report) = (dir.path().join("log"), dir.path().join(REPORT));
    let mut running = Running(machine.start(dir.path(), &log, memory)?);
    let first = running.0.first_mut().context("a machine without processes")?;
    let output = first.stdout.take().context("the kernel's output")?;

    // Who waits for a line must not wait for ever: a watch ends the kernel, and so its output.
    let (done, is_done) = mpsc::channel::<()>();
    let (is_late, is_silent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let heard = Arc::new(Mutex::new(Instant::now()));
    let group = Pid::from_raw(i32::try_from(first.id())?);
    let (begun, last) = (report.clone(), Arc::clone(&heard));
    let (late, silent) = (Arc::clone(&is_late), Arc::clone(&is_silent));
    let watch = thread::spawn(move || {
        let began = Instant::now();
        let silence = || last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        while is_done.recv_timeout(GLANCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let has_begun = guest::progress(&begun).is_some();
            let is_late = began.elapsed() > limit || (!has_begun && began.elapsed() > BOOT);
            if is_late || (has_begun && silence() > SILENCE) {
                let why = if is_late { &late } else { &silent };
                why.store(true, Ordering::Relaxed);
                let _ = killpg(group, Signal::SIGKILL);
                return;
            }
        }
    });
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let line = line.trim_end_matches('\r');
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        each_line(line);
        writeln!(std::io::stdout(), "{line}")?;
    }
    drop(running);
    drop(done);
    let _ = watch.join();

    Ok(match guest::progress(&report) {
        Some(Some(status)) => Ended::With(status),
        Some(None) if is_late.load(Ordering::Relaxed) => Ended::TooLate,
        Some(None) if is_silent.load(Ordering::Relaxed) => Ended::Silent,
        Some(None) => Ended::Midway(end_of(&log)),
        None => Ended::BeforeTheJob(end_of(&log)),
    })
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(50)..].join("\n")
}
