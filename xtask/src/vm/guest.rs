//! The first process of a guest kernel: this program itself, which finds the host's files where they are.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::boot::{Job, Traits};
use super::packages::said;

/// The variable, out of the kernel's command line, that names the folder of the job.
pub const JOB: &str = "PORTOLAN_VM_JOB";
/// The file that tells how far the job is: see [`progress`].
pub const REPORT: &str = "report";
/// The first line of it.
const BEGUN: &str = "begun";
/// The description of the job.
const DESCRIPTION: &str = "job.json";

/// Where iptables' programs of the older kind are.
const LEGACY: &str = "/run/legacy";

/// What tests use and what the kernel does not load by itself.
const MODULES: [&str; 6] = ["ip_vs", "ip_vs_rr", "nf_conntrack_netlink", "dummy", "veth", "bridge"];
/// The same where iptables is of the older kind.
const LEGACY_MODULES: [&str; 2] = ["iptable_nat", "iptable_filter"];

/// Says to a guest what is to be done.
pub fn write(dir: &Path, job: &Job, traits: &Traits) -> Result<()> {
    let more = job.environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let environment: Vec<(String, String)> = std::env::vars().chain(more).collect();
    let report = traits.report.map_or_else(|| dir.join(REPORT), PathBuf::from);
    let description = json!({
        "program": job.program, "arguments": job.arguments, "directory": job.directory,
        "environment": environment, "modprobe": traits.modprobe, "console": traits.console,
        "report": report, "legacy": traits.is_legacy, "tools": traits.tools,
    });
    fs::write(dir.join(DESCRIPTION), description.to_string())?;
    // A guest opens what is there: what it made itself need not be the host's.
    fs::write(dir.join(REPORT), "")?;
    Ok(())
}

/// How far the job is: not begun, begun, done with that status.
pub fn progress(report: &Path) -> Option<Option<i32>> {
    let report = fs::read_to_string(report).ok()?;
    let mut lines = report.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    (lines.next()? == BEGUN).then(|| lines.next()?.parse().ok())
}

/// The folder of the job, if this process is the first one of a guest.
pub fn is_guest() -> Option<PathBuf> {
    (std::process::id() == 1).then(|| std::env::var_os(JOB).map(PathBuf::from)).flatten()
}

/// Does the job and switches the guest off. What goes wrong before the job stands in the kernel's log.
pub fn run(dir: &Path) -> ! {
    // Without its report the host takes it that the job was never done.
    if let Err(error) = prepare(dir).and_then(|description| perform(&description)) {
        let _ = fs::write("/dev/kmsg", format!("<3>the guest's first process: {error:#}\n"));
    }
    nix::unistd::sync();
    let _ = fs::write("/proc/sysrq-trigger", "o");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn prepare(dir: &Path) -> Result<Value> {
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("devtmpfs", "/dev")]
    {
        attach(kind, at)?;
    }
    for at in ["/dev/shm", "/dev/pts", "/run/lock", "/run/netns"] {
        fs::create_dir_all(at).with_context(|| at.to_owned())?;
    }
    for (kind, at) in [("tmpfs", "/dev/shm"), ("devpts", "/dev/pts"), ("cgroup2", "/sys/fs/cgroup")]
    {
        attach(kind, at)?;
    }
    for (at, to) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        // A kernel may have made them.
        let _ = std::os::unix::fs::symlink(to, Path::new("/dev").join(at));
    }
    let description: Value = serde_json::from_slice(&fs::read(dir.join(DESCRIPTION))?)?;
    let modprobe = description["modprobe"].as_str().context("modprobe")?;
    fs::write("/proc/sys/kernel/modprobe", modprobe).context("the kernel's modprobe")?;
    let is_legacy = description["legacy"] == true;
    let more = LEGACY_MODULES.iter().filter(|_| is_legacy);
    let mut load = Command::new(modprobe);
    load.arg("--all").args(MODULES.iter().chain(more)).env("PATH", "/usr/bin:/bin");
    said(&mut load)?;
    if is_legacy {
        prefer_legacy()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { portolan_netlink::link::Links::open()?.set_up("lo").await })?;
    Ok(description)
}

/// Lets `iptables` be its older kind, by links in a folder that comes first.
fn prefer_legacy() -> Result<()> {
    let legacy = Path::new(LEGACY);
    fs::create_dir_all(legacy)?;
    for program in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            let real = format!("/usr/sbin/{program}-legacy{tool}");
            std::os::unix::fs::symlink(real, legacy.join(format!("{program}{tool}")))?;
        }
    }
    Ok(())
}

fn attach(kind: &str, at: &str) -> Result<()> {
    match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
        // The kernel has done so already.
        Err(Errno::EBUSY) => Ok(()),
        done => done.with_context(|| format!("cannot mount {kind} at {at}")),
    }
}

/// Runs the job with its output on the host's standard output, and reports its status: 128 and the
/// signal's number if one ended it.
fn perform(description: &Value) -> Result<()> {
    let text = |field: &str| description[field].as_str().with_context(|| field.to_owned());
    let console = text("console")?;
    let console =
        File::options().read(true).write(true).open(console).with_context(|| console.to_owned())?;
    let mut settings = tcgetattr(&console)?;
    cfmakeraw(&mut settings);
    tcsetattr(&console, SetArg::TCSANOW, &settings)?;
    let list = |field: &str| description[field].as_array().cloned().unwrap_or_default();
    let arguments =
        list("arguments").into_iter().filter_map(|word| Some(word.as_str()?.to_owned()));
    let environment = list("environment")
        .into_iter()
        .filter_map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())));
    let report = text("report")?;
    let mut report =
        File::options().append(true).open(report).with_context(|| report.to_owned())?;
    writeln!(report, "{BEGUN}")?;
    let status = Command::new(text("program")?)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .env(
            "PATH",
            format!(
                "{LEGACY}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                text("tools")?,
            ),
        )
        .current_dir(text("directory")?)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console.try_clone()?)
        .status()
        .context("cannot start the job")?;
    tcdrain(&console)?;
    use std::os::unix::process::ExitStatusExt as _;
    writeln!(report, "{}", status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_how_far_the_job_is() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (report, expected) in [
            ("", None),
            ("beg", None),
            ("begun\n", Some(None)),
            ("begun\n13", Some(None)),
            ("begun\n137\n", Some(Some(137))),
        ] {
            fs::write(file.path(), report).expect("written");
            assert_eq!(progress(file.path()), expected, "{report:?}");
        }
    }
}
