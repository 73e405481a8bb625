//! Debian's user-mode-linux: a kernel that is a process of this machine, and shares its files.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::boot::{Machine, Traits};
use super::guest::JOB;
use super::packages;

/// A kernel with its modules, what loads them, and what tests compare with, with its libraries.
const PACKAGES: [&str; 7] = [
    "user-mode-linux",
    "kmod",
    "libkmod2",
    packages::IPVSADM,
    "libnl-3-200",
    "libnl-genl-3-200",
    "libpopt0",
];

/// A kernel, and what loads its modules.
pub struct Uml {
    program: PathBuf,
    place: PathBuf,
}

impl Uml {
    /// The unpacked kernel, fetched when it is not there yet.
    pub fn unpacked(cache: &Path) -> Result<Self> {
        let place = packages::kept(cache, "uml", &PACKAGES, |new, place| {
            packages::fetch(new, &|| Ok(PACKAGES.map(str::to_owned).to_vec()))
                .context("Debian's user-mode-linux cannot be had")?;
            ensure!(new.join("usr/bin/linux.uml").exists(), "the package has no kernel");
            packages::arrange_modules(new, place, Path::new("usr/lib/uml/modules"))?;
            packages::arrange_tool(new, place, packages::IPVSADM)
        })?;
        Ok(Self { program: place.join("usr/bin/linux.uml"), place })
    }
}

impl Machine for Uml {
    fn traits(&self) -> Traits {
        Traits {
            modprobe: self.place.join(packages::MODPROBE),
            tools: self.place.join(packages::TOOLS),
            console: "/dev/tty1",
            report: None,
            is_legacy: true,
        }
    }

    /// On one processor: tracer and traced hand over to each other at every system call.
    fn start(&self, dir: &Path, log: &Path, memory: u32) -> Result<Vec<Child>> {
        let log = File::create(log)?;
        let itself = std::env::current_exe()?;
        // Should this program be ended, so is the kernel.
        let kernel = Command::new("setpriv")
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
            .context("cannot start setpriv, taskset and the kernel")?;
        Ok(vec![kernel])
    }
}
