//! Running `iptables-restore` and `iptables-save`.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use portolan_model::Family;
use thiserror::Error;

/// How much of what a program complained about is kept, in bytes.
const COMPLAINT_BYTES: usize = 1024;
/// How often a program is looked after.
const GLANCE: Duration = Duration::from_millis(2);
/// `iptables-restore`'s status when it did not get the lock within `-w`.
const STATUS_LOCKED: i32 = 4;

/// Which programs are run, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `iptables-restore` or `ip6tables-restore`; looked up in PATH unless it is a path.
    pub restore: PathBuf,
    /// `iptables-save` or `ip6tables-save`.
    pub save: PathBuf,
    /// How long each may take before it is ended.
    pub limit: Duration,
    /// How much longer for each line that it is given.
    pub limit_per_line: Duration,
}

impl Programs {
    /// The system's programs for one family, each with half a minute and a hundredth of a second for
    /// each line.
    pub fn of(family: Family) -> Self {
        let (restore, save) = match family {
            Family::Ipv4 => ("iptables-restore", "iptables-save"),
            Family::Ipv6 => ("ip6tables-restore", "ip6tables-save"),
        };
        Self {
            restore: restore.into(),
            save: save.into(),
            limit: Duration::from_secs(30),
            limit_per_line: Duration::from_millis(10),
        }
    }

    /// Whether the programs can be run and are new enough for the text that they get.
    ///
    /// # Errors
    /// When `iptables-restore` is missing, does not tell its version, or is older than
    /// [`Version::NEEDED`].
    pub fn check(&self) -> Result<(), ProgramError> {
        let said = run(&self.restore, &["--version"], "", self.limit)?;
        match Version::of(&said) {
            Some(version) if version >= Version::NEEDED => Ok(()),
            _ => Err(ProgramError::TooOld {
                program: self.restore.clone(),
                said: said.lines().next().unwrap_or_default().escape_debug().to_string(),
            }),
        }
    }

    /// Hands text to the kernel; each table is changed as a whole or not at all.
    pub(crate) fn restore(&self, text: &str) -> Result<(), ProgramError> {
        let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
        let limit = self.limit + self.limit_per_line.saturating_mul(lines);
        run(&self.restore, &["--noflush", "-w", "5", "--counters"], text, limit).map(drop)
    }

    /// Reads what the kernel holds.
    pub(crate) fn save(&self) -> Result<String, ProgramError> {
        // As many rules are read as an earlier one may have written.
        run(&self.save, &[], "", self.limit * 10)
    }
}

/// A version of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version([u32; 3]);

impl Version {
    /// The first whose `iptables-restore` waits for the lock and which knows `--random-fully`.
    pub(crate) const NEEDED: Self = Self([1, 6, 2]);

    /// Reads what `--version` says, as in `iptables-restore v1.8.9 (nf_tables)`.
    fn of(text: &str) -> Option<Self> {
        let number = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let mut next = || parts.next().unwrap_or(Some(0));
        Some(Self([next()?, next()?, next()?]))
    }
}

/// Why a program did not do its work.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It is not installed.
    #[error("{program} is not installed, or not in PATH")]
    Missing {
        /// The program.
        program: PathBuf,
    },
    /// It lacks what the rules need.
    #[error("{program} says \"{said}\", but the rules need iptables 1.6.2 or later")]
    TooOld {
        /// The program.
        program: PathBuf,
        /// What it says of its version.
        said: String,
    },
    /// It could not be run, or not be talked to.
    #[error("cannot run {program}: {source}")]
    Unusable {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another program kept the xtables lock.
    #[error("{program} did not get the xtables lock: {complaint}")]
    Locked {
        /// The program.
        program: PathBuf,
        /// The end of its standard error.
        complaint: String,
    },
    /// It failed.
    #[error("{program} failed, {status}: {complaint}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        complaint: String,
    },
    /// It took too long and was ended.
    #[error("{program} did not finish within {limit:?} and was ended")]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// How long it was given.
        limit: Duration,
    },
}

fn run(
    program: &Path,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, ProgramError> {
    let unusable = |source| ProgramError::Unusable { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| match source.kind() {
            ErrorKind::NotFound => ProgramError::Missing { program: program.to_owned() },
            _ => unusable(source),
        })?;
    // Threads of their own, so that a program that neither reads nor writes is ended nevertheless.
    let feeder = child.stdin.take().map(|mut stdin| {
        let input = input.to_owned();
        thread::spawn(move || stdin.write_all(input.as_bytes()))
    });
    let output = child.stdout.take().map(collect);
    let complaint = child.stderr.take().map(collect);
    let Some(status) = wait(&mut child, limit).map_err(unusable)? else {
        return Err(ProgramError::TimedOut { program: program.to_owned(), limit });
    };
    let text = |reader: Option<JoinHandle<io::Result<Vec<u8>>>>| {
        let bytes =
            reader.map_or(Ok(Vec::new()), |reader| reader.join().expect("it only reads"))?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let complaint = tail(text(complaint).map_err(unusable)?.trim());
    let output = text(output).map_err(unusable)?;
    let program = program.to_owned();
    if status.code() == Some(STATUS_LOCKED) && complaint.contains("lock") {
        return Err(ProgramError::Locked { program, complaint });
    }
    if !status.success() {
        return Err(ProgramError::Failed { program, status, complaint });
    }
    match feeder.map_or(Ok(()), |feeder| feeder.join().expect("it only writes")) {
        Err(source) => Err(ProgramError::Unusable { program, source }),
        Ok(()) => Ok(output),
    }
}

/// Waits for a program's end; ends it with all that it started, and returns nothing, when it takes too
/// long.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            // Its group is there until the child is waited for.
            let group = Pid::from_raw(child.id().try_into().map_err(io::Error::other)?);
            killpg(group, Signal::SIGKILL)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map(|_| bytes)
    })
}

/// The end of a text, at most [`COMPLAINT_BYTES`] long.
fn tail(text: &str) -> String {
    let mut start = text.len().saturating_sub(COMPLAINT_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (text, version) in [
            ("iptables-restore v1.8.9 (nf_tables)\n", Some([1, 8, 9])),
            ("iptables-restore v1.6.2", Some([1, 6, 2])),
            ("iptables-restore v1.10", Some([1, 10, 0])),
            ("iptables-restore vNext", None),
            ("", None),
        ] {
            assert_eq!(Version::of(text), version.map(Version), "{text}");
        }
        assert!(Version([1, 10, 0]) > Version::NEEDED && Version([1, 4, 21]) < Version::NEEDED);
    }
}
