//! An emulated machine with the kernel Debian has for clouds.
//!
//! ```text
//!   share     ─▶ shows it the host's files, which nobody can write through it
//!   initramfs ─▶ lays memory over them, so that the guest may write; then comes this program
//! ```
//!
//! It has no network device. Its terminal is the host's standard output, its serial line its log.

mod initramfs;
pub mod share;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::boot::{Machine, Traits};
use super::guest::{JOB, REPORT};
use super::packages::{self, said};

/// The machine, what it starts from, what its first process is, and what tests compare with.
const PACKAGES: [&str; 8] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
    "busybox-static",
    "kmod",
    "libkmod2",
    packages::IPVSADM,
];
/// The package that names the one with the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";
/// What shares files, where it is a package of its own.
const SHARER: &str = "virtiofsd";
/// Where it may be.
const SHARERS: [&str; 2] = ["usr/lib/qemu/virtiofsd", "usr/libexec/virtiofsd"];
/// The name of what is shared.
const TAG: &str = "host";

/// The emulator and the kernel, in the folder where they were unpacked.
pub struct Qemu {
    place: PathBuf,
    sharer: PathBuf,
}

impl Qemu {
    /// Fetched when it is not there yet.
    pub fn unpacked(cache: &Path) -> Result<Self> {
        let place = packages::kept(cache, "qemu", &PACKAGES, |new, place| {
            packages::fetch(new, &needed).context("an emulated machine cannot be had")?;
            arrange(new, place)
        })?;
        let sharer = SHARERS.map(|path| place.join(path)).into_iter().find(|path| path.exists());
        Ok(Self { sharer: sharer.context("the packages have no virtiofsd")?, place })
    }

    /// Who listens is its standard input, so that nobody need wait until it does.
    fn share(&self, listener: UnixListener, at: &Path, log: File) -> Result<Child> {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe()?)
            .args(["vm-share", "--at"])
            .arg(at)
            .arg(&self.sharer)
            // An exec in the guest takes 280 ms where nothing is kept.
            .args(["--fd=0", "-o", "cache=always", "-o", "sandbox=chroot"])
            .process_group(0)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start setpriv and what shares the host's files")
    }

    fn emulate(&self, dir: &Path, socket: &Path, log: &Path, memory: u32) -> Result<Child> {
        let file = |path: &Path| path.display().to_string().replace(',', ",,");
        let init = std::env::current_exe()?;
        let command_line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off {JOB}={} -- {}",
            dir.display(),
            init.display()
        );
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "env"])
            .arg(format!("LD_LIBRARY_PATH={}", packages::libraries(&self.place)))
            .arg(self.place.join("usr/bin/qemu-system-x86_64"))
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"])
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-no-reboot"])
            .args(["-machine", "pc,memory-backend=memory", "-m", &memory.to_string()])
            .arg("-object")
            .arg(format!("memory-backend-memfd,id=memory,size={memory}M,share=on"))
            .arg("-L")
            .arg(self.place.join("usr/share/qemu"))
            .arg("-L")
            .arg(self.place.join("usr/share/seabios"))
            .arg("-kernel")
            .arg(self.place.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.place.join("initramfs"))
            .args(["-append", &command_line])
            .arg("-chardev")
            .arg(format!("file,id=log,append=on,path={}", file(log)))
            .args(["-serial", "chardev:log"])
            // The first virtio device: the guest's names of its ports have the number.
            .args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=output,signal=off"])
            .args(["-device", "virtconsole,nr=0,chardev=output", "-chardev"])
            .arg(format!("file,id=report,path={}", file(&dir.join(REPORT))))
            .args(["-device", "virtserialport,nr=1,chardev=report"])
            .arg("-chardev")
            .arg(format!("socket,id=files,path={}", file(socket)))
            .args(["-device", &format!("vhost-user-fs-pci,chardev=files,tag={TAG}")])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).open(log)?)
            .spawn()
            .context("cannot start setpriv and the emulator")
    }
}

impl Machine for Qemu {
    fn traits(&self) -> Traits {
        Traits {
            modprobe: self.place.join(packages::MODPROBE),
            tools: self.place.join(packages::TOOLS),
            console: "/dev/hvc0",
            report: Some("/dev/vport0p1"),
            is_legacy: false,
        }
    }

    fn start(&self, dir: &Path, log: &Path, memory: u32) -> Result<Vec<Child>> {
        ensure!(nix::unistd::geteuid().is_root(), "only root can show the host's files to a guest");
        let socket = dir.join("files.sock");
        let listener = UnixListener::bind(&socket)?;
        let at = dir.join("share");
        fs::create_dir(&at)?;
        let log_file = File::options().create(true).append(true).open(log)?;
        let mut sharer = self.share(listener, &at, log_file)?;
        match self.emulate(dir, &socket, log, memory) {
            Ok(emulator) => Ok(vec![emulator, sharer]),
            Err(error) => {
                sharer.kill()?;
                sharer.wait()?;
                Err(error)
            }
        }
    }
}

/// The packages to fetch: those the emulator needs and this machine lacks are known to apt alone.
fn needed() -> Result<Vec<String>> {
    let has_sharer = said(Command::new("apt-cache").args(["show", SHARER])).is_ok();
    let named = PACKAGES.into_iter().chain(has_sharer.then_some(SHARER)).map(str::to_owned);
    let mut names: Vec<_> = named.collect();
    let would = said(
        Command::new("apt-get")
            .args(["install", "--simulate", "--no-install-recommends"])
            .args([PACKAGES[0], packages::IPVSADM].into_iter().chain(has_sharer.then_some(SHARER))),
    )?;
    names.extend(would.lines().filter_map(installed).map(str::to_owned));
    let newest = said(Command::new("apt-cache").args(["depends", "--important", NEWEST]))?;
    let kernel = newest.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    names.push(format!("linux-image-{}", kernel.context("there is no kernel for clouds")?));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The package a line of apt's says it would install.
fn installed(line: &str) -> Option<&str> {
    line.strip_prefix("Inst ")?.split(' ').next()
}

/// Makes of the unpacked packages what a machine starts from.
fn arrange(root: &Path, place: &Path) -> Result<()> {
    let images = fs::read_dir(root.join("boot"))?.filter_map(Result::ok);
    let version = images
        .filter_map(|image| Some(image.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
        .next()
        .context("the package has no kernel")?;
    symlink(format!("boot/vmlinuz-{version}"), root.join("vmlinuz"))?;
    let folders = ["lib/modules", "usr/lib/modules"].map(Path::new);
    let modules = folders.into_iter().find(|folder| root.join(folder).exists());
    packages::arrange_modules(root, place, modules.context("the package has no modules")?)?;
    packages::arrange_tool(root, place, packages::IPVSADM)?;
    let call = |applet: &str| {
        let mut command = Command::new(root.join("applets").join(applet));
        command.env("LD_LIBRARY_PATH", packages::libraries(root));
        command
    };
    // An installation would list what modules need; nothing is installed.
    said(call("depmod").arg("-b").arg(root.join("root")).arg(&version))?;
    let mut first = call("modprobe");
    first.arg("-d").arg(root.join("root")).args(["-S", &version, "--show-depends", "--all"]);
    let listed = said(first.args(initramfs::MODULES))?;
    let mut loaded: Vec<&str> = Vec::new();
    for module in listed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
        if !loaded.contains(&module.trim()) {
            loaded.push(module.trim());
        }
    }
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let busybox = busybox.into_iter().find(|path| path.exists()).context("there is no busybox")?;
    initramfs::write(&root.join("initramfs"), &busybox, &loaded, TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read() {
        assert_eq!(installed("Inst libfdt1 (1.6.1-4+b1 Debian:12.15 [amd64])"), Some("libfdt1"));
        assert_eq!(installed("Remv qemu-utils [1:10.0.2]"), None);
        assert_eq!(installed("Conf libfdt1 (1.6.1-4+b1 Debian:12.15 [amd64])"), None);
    }
}
