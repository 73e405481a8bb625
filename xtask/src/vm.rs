//! `cargo xtask vm`: test binaries in a kernel that has what this machine's lacks (ip_vs, dummy links, a
//! connection tracking table whose size may be set).
//!
//! ```text
//!   packages ─▶ kernel and modules, unpacked under target/vm
//!   uml      ─▶ boots it as a process of this machine, which writes the host's files
//!   qemu     ─▶ boots it in an emulated machine, which reads them and keeps what it writes to itself
//!   guest    ─▶ is its first process: mounts, modules, the job, its status, power off
//! ```
//!
//! Either has the host's files at the same paths, one processor and no network. The job's output is
//! streamed, its status is this task's. A kernel that hung before the job began is booted once more.

mod boot;
mod guest;
mod packages;
mod qemu;
mod uml;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use boot::{Ended, Job, Machine};
pub use guest::{is_guest, run as run_guest};
use qemu::Qemu;
pub use qemu::share::{Options as ShareOptions, share};
use uml::Uml;

/// The packages with tests that belong into such a kernel: ignored elsewhere, in a module `vm`.
const SUITES: [&str; 3] = ["portolan-netlink", "portolan-backend-ipvs", "portolan-proxy"];
/// What each suite is called with.
const WORDS: [&str; 3] = ["--ignored", "--test-threads=1", "vm::"];
/// What it is called with where there is no nf_tables.
const WITHOUT_NFT: [&str; 2] = ["--skip", "vm::nft"];

/// Options of `cargo xtask vm`.
#[derive(Args)]
pub struct Options {
    /// What the kernel runs in [default: uml for programs that are named, and else first the one and
    /// then the other]
    #[arg(long, value_enum)]
    rig: Option<Rig>,
    /// How long all of a job may take, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The guest's memory, in MiB.
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Programs to run as root in there, each with the words after `--`; none: every test that belongs
    /// there.
    tests: Vec<PathBuf>,
    /// What each program is called with.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What a guest kernel runs in.
#[derive(Clone, Copy, ValueEnum)]
enum Rig {
    /// Debian's user-mode-linux: a process of this machine. It has no nf_tables for IPv4 and IPv6.
    Uml,
    /// An emulated machine with the kernel Debian has for clouds: all of it, and slower.
    Qemu,
}

impl Rig {
    /// What suites are called with.
    fn words(self) -> Vec<String> {
        let without: &[&str] = match self {
            Self::Uml => &WITHOUT_NFT,
            Self::Qemu => &[],
        };
        WORDS.iter().chain(without).map(|word| (*word).to_owned()).collect()
    }

    fn unpacked(self, cache: &Path) -> Result<Box<dyn Machine>> {
        Ok(match self {
            Self::Uml => Box::new(Uml::unpacked(cache)?),
            Self::Qemu => Box::new(Qemu::unpacked(cache)?),
        })
    }
}

/// How many tests there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    /// Takes a line of a test binary into account.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.trim_end().strip_prefix("test result: ") else { return };
        for (count, what) in rest.split(['.', ';']).filter_map(|part| part.trim().split_once(' ')) {
            let Ok(count) = count.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                _ => {}
            }
        }
    }
}

/// What came of all jobs.
#[derive(Default)]
struct Outcome {
    counts: Counts,
    faults: Vec<String>,
    statuses: Vec<i32>,
}

/// Runs the jobs.
pub fn run(options: &Options) -> Result<ExitCode> {
    let rigs = match (options.rig, options.tests.is_empty()) {
        (Some(rig), _) => vec![rig],
        (None, true) => vec![Rig::Uml, Rig::Qemu],
        (None, false) => vec![Rig::Uml],
    };
    let programs = programs(options)?;
    let (mut outcome, mut is_tried) = (Outcome::default(), false);
    for rig in rigs {
        match rig.unpacked(&cache()?) {
            Ok(machine) => {
                is_tried = true;
                let words = match options.tests.is_empty() {
                    true => rig.words(),
                    false => options.arguments.clone(),
                };
                run_in(machine.as_ref(), options, (&programs, &words), &mut outcome)?;
            }
            // Nothing but the want of a rig may end without a test.
            Err(why) => println!("SKIP vm: {why:#}"),
        }
    }
    let Outcome { counts, faults, statuses } = outcome;
    println!("vm: {} passed, {} failed", counts.passed, counts.failed);
    if let ([_], [status]) = (options.tests.as_slice(), statuses.as_slice()) {
        return Ok(ExitCode::from(u8::try_from(*status).unwrap_or(1)));
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    let is_empty = options.tests.is_empty() && is_tried && counts.passed == 0;
    ensure!(!is_empty, "not a single test was run");
    Ok(ExitCode::SUCCESS)
}

/// The programs to run.
fn programs(options: &Options) -> Result<Vec<PathBuf>> {
    if options.tests.is_empty() {
        return SUITES.into_iter().map(binary).collect();
    }
    let absolute = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
    options.tests.iter().map(absolute).collect()
}

/// Runs the programs, each with these words, in one machine after the other.
fn run_in(
    machine: &dyn Machine,
    options: &Options,
    (programs, words): (&[PathBuf], &[String]),
    outcome: &mut Outcome,
) -> Result<()> {
    let Outcome { counts, faults, statuses } = outcome;
    for program in programs {
        println!("vm: {}", program.display());
        let arguments = words.to_vec();
        let job = Job { program: program.clone(), arguments, directory: std::env::current_dir()? };
        let limit = Duration::from_secs(options.timeout);
        let mut boot = || {
            let each = &mut |line: &str| counts.read(line);
            boot::boot(machine, &job, options.memory, limit, each)
        };
        let ended = match boot()? {
            Ended::BeforeTheJob(log) => {
                eprintln!("vm: the kernel did not come up; once more. Its log ends:\n{log}");
                boot()?
            }
            ended => ended,
        };
        match ended {
            Ended::With(status) => {
                statuses.push(status);
                if status != 0 {
                    faults.push(format!("{}: status {status}", program.display()));
                }
            }
            Ended::TooLate => faults.push(format!("{}: not done in time", program.display())),
            Ended::Midway(log) => {
                faults.push(format!("{}: the kernel ended, its log so:\n{log}", program.display()));
            }
            Ended::BeforeTheJob(log) => bail!("the kernel does not come up; its log ends:\n{log}"),
        }
    }
    Ok(())
}

/// Where kernels are kept: in the target folder, which nobody commits.
fn cache() -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let cache = target.join("vm");
    std::fs::create_dir_all(&cache)?;
    Ok(cache.canonicalize()?)
}

/// The integration tests of a package, built.
fn binary(package: &str) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--no-run", "--message-format=json", "--test=it", "--package"])
        .arg(package)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests of {package} do not build");
    let lines = String::from_utf8(output.stdout)?;
    let built = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable =
        built.filter_map(|line| Some(line["executable"].as_str()?.to_owned())).next_back();
    Ok(Path::new(&executable.with_context(|| format!("{package} has no tests"))?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_test_binaries_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.1s",
            "test vm::x ... FAILED\r\n",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 3s\r\n",
        ] {
            counts.read(line);
        }
        assert_eq!(counts, Counts { passed: 5, failed: 1 });
    }
}
