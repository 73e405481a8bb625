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

/// A suite of tests that belongs into such a kernel.
#[derive(Clone, Copy)]
struct Suite {
    package: &'static str,
    /// What its program is called with.
    words: &'static [&'static str],
    /// What it finds in its environment.
    environment: &'static [(&'static str, &'static str)],
}

/// Those that run nowhere else: ignored elsewhere, in a module `vm`.
const fn own(package: &'static str, words: &'static [&'static str]) -> Suite {
    Suite { package, words, environment: &[] }
}

const OWN: [&str; 3] = ["--ignored", "--test-threads=1", "vm::"];
/// The same where there is no nf_tables.
const WITHOUT_NFT: [&str; 5] = ["--ignored", "--test-threads=1", "vm::", "--skip", "vm::nft"];

const IN_UML: [Suite; 3] = [
    own("portolan-netlink", &WITHOUT_NFT),
    own("portolan-backend-ipvs", &WITHOUT_NFT),
    own("portolan-proxy", &WITHOUT_NFT),
];

/// With those that other modes pass on this machine: in mode ipvs, and all modes on an older kernel. Those of
/// netlink are left to the quick rig: in this one the guest hung in some of their runs.
const IN_QEMU: [Suite; 4] = [
    own("portolan-backend-ipvs", &OWN),
    own("portolan-proxy", &OWN),
    Suite {
        package: "portolan-proxy",
        words: &["--test-threads=4", "rules::", "udp::", "mirrored::"],
        environment: &[("PORTOLAN_TEST_MODES", "ipvs")],
    },
    own(
        "portolan-backend-nftables",
        &["--test-threads=4", "traffic::both", "traffic::nft_lists", "traffic::an_"],
    ),
];

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
    fn suites(self) -> &'static [Suite] {
        match self {
            Self::Uml => &IN_UML,
            Self::Qemu => &IN_QEMU,
        }
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
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

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
    let (mut outcome, mut is_tried) = (Outcome::default(), false);
    for rig in rigs {
        match rig.unpacked(&cache()?) {
            Ok(machine) => {
                is_tried = true;
                run_in(machine.as_ref(), options, jobs(rig, options)?, &mut outcome)?;
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

/// What is to be run: what is named, or all that belongs there.
fn jobs(rig: Rig, options: &Options) -> Result<Vec<Job>> {
    let directory = std::env::current_dir()?;
    let job = |program, arguments, environment| Job {
        program,
        arguments,
        environment,
        directory: directory.clone(),
    };
    if options.tests.is_empty() {
        let of_suite = |suite: &Suite| {
            let words = suite.words.iter().map(|word| (*word).to_owned()).collect();
            Ok(job(binary(suite.package)?, words, suite.environment))
        };
        return rig.suites().iter().map(of_suite).collect();
    }
    let named = |path: &PathBuf| {
        let program = path.canonicalize().with_context(|| path.display().to_string())?;
        Ok(job(program, options.arguments.clone(), &[]))
    };
    options.tests.iter().map(named).collect()
}

/// Runs the jobs in one machine after the other.
fn run_in(
    machine: &dyn Machine,
    options: &Options,
    jobs: Vec<Job>,
    outcome: &mut Outcome,
) -> Result<()> {
    let Outcome { counts, faults, statuses } = outcome;
    for job in jobs {
        let program = &job.program;
        println!("vm: {} {}", program.display(), job.arguments.join(" "));
        let limit = Duration::from_secs(options.timeout);
        let mut heard = Counts::default();
        let mut boot = || {
            heard = Counts::default();
            let each = &mut |line: &str| heard.read(line);
            boot::boot(machine, &job, options.memory, limit, each)
        };
        let ended = match boot()? {
            Ended::BeforeTheJob(log) => {
                eprintln!("vm: the kernel did not come up; once more. Its log ends:\n{log}");
                boot()?
            }
            Ended::Silent => {
                eprintln!("vm: the guest fell silent and was ended; once more");
                boot()?
            }
            ended => ended,
        };
        counts.add(heard);
        match ended {
            Ended::With(status) => {
                statuses.push(status);
                if status != 0 {
                    faults.push(format!("{}: status {status}", program.display()));
                }
            }
            Ended::Silent => faults.push(format!("{}: the guest fell silent", program.display())),
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
