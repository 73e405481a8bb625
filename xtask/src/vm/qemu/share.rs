//! A process that shows this machine's files to a guest, none of which can be written through it.
//!
//! In a mount namespace of its own each file system is mounted once more, read-only, under a folder;
//! then comes the program that shares that folder. The kernel's own ones are left out: a guest has its
//! own, and no use for what is told there about this machine's processes.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Whose mounts, and those below, are a kernel's or a running system's.
const LEFT_OUT: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Options of the hidden `cargo xtask vm-share`.
#[derive(Args)]
pub struct Options {
    /// Where to mount the files to share.
    #[arg(long)]
    at: PathBuf,
    /// What shares them.
    program: PathBuf,
    /// Its arguments but the one that says what to share.
    #[arg(last = false, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Becomes the program that shares.
pub fn share(options: &Options) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    for from in shared(&mounts) {
        let at = options.at.join(from.trim_start_matches('/'));
        // What is mounted over another one may not be reached any more, and not be shown.
        if mount(Some(from), &at, nothing, MsFlags::MS_BIND, nothing).is_ok() {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(nothing, &at, nothing, flags, nothing)
                .with_context(|| format!("{from} cannot be made read-only"))?;
        }
    }
    let error = Command::new(&options.program)
        .args(&options.arguments)
        .args(["-o", &format!("source={}", options.at.display())])
        .exec();
    Err(error).with_context(|| options.program.display().to_string())
}

/// Where the file systems to share are mounted, outer ones first, as the kernel lists them.
fn shared(mounts: &str) -> impl Iterator<Item = &str> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| !LEFT_OUT.iter().any(|out| Path::new(place).starts_with(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_file_systems_are_left_out() {
        let mounts = "proc /proc proc rw 0 0\n/dev/vda / ext4 rw 0 0\ndev /dev devtmpfs rw 0 0\n\
                      tmpfs /dev/shm tmpfs rw 0 0\n/dev/vdb /devices ext4 rw 0 0\n";
        assert_eq!(shared(mounts).collect::<Vec<_>>(), ["/", "/devices"]);
    }
}
