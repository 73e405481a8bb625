//! A writable layer over one of the host's top-level directories.
//!
//! An overlay where the kernel allows one: not over a directory with locked submounts in a user
//! namespace, and not on top of two overlays already. Otherwise a farm: a directory of our own
//! whose entries are symbolic links to the host's, mounted read-only under /run/portolan/host;
//! only directories on the way to a mount target are real.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::rootfs::{Attributes, Is, Root, RootError, context};

/// Mounts the layer for `/name`. `tree` is the host's directory, cloned; `needed` are the mount
/// targets below it, without their leading slash.
pub(crate) fn mount(
    new: &Root,
    staging: &OwnedFd,
    name: &str,
    tree: OwnedFd,
    needed: &[&Path],
) -> Result<(), RootError> {
    if overlay(staging, name) {
        if needed.iter().all(|target| writable(new, target)) {
            return Ok(());
        }
        let done = rustix::process::fchdir(staging).and_then(|()| {
            rustix::mount::unmount(Path::new("root").join(name), UnmountFlags::DETACH)
        });
        context(done, || format!("unmount the layer of /{name}"))?;
    }
    farm(new, name, &tree, needed)
}

/// Whether the target is there, or may be made. In a user namespace the host's directories belong
/// to nobody known there: its root may write to the overlay's top, which is ours, and not below.
fn writable(new: &Root, target: &Path) -> bool {
    for (depth, path) in target.ancestors().enumerate() {
        let Ok(found) = new.open(path) else { continue };
        return depth == 0
            || rustix::fs::accessat(&found, ".", Access::WRITE_OK, AtFlags::empty()).is_ok();
    }
    false
}

fn overlay(staging: &OwnedFd, name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if !name.chars().all(plain) {
        return false;
    }
    let mode = Mode::from_raw_mode(0o755);
    let made = rustix::process::fchdir(staging)
        .and_then(|()| rustix::fs::mkdir(Path::new("up").join(name), mode))
        .and_then(|()| rustix::fs::mkdir(Path::new("work").join(name), mode));
    if made.is_err() {
        return false;
    }
    let target = Path::new("root").join(name);
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    // Only a user namespace other than the first needs user.* attributes, and only it is refused
    // trusted.* ones.
    ["", ",userxattr"].iter().any(|extra| {
        let data = format!("lowerdir=/{name},upperdir=up/{name},workdir=work/{name}{extra}");
        std::ffi::CString::new(data).is_ok_and(|data| {
            rustix::mount::mount("overlay", &target, "overlay", flags, data.as_c_str()).is_ok()
        })
    })
}

fn farm(new: &Root, name: &str, tree: &OwnedFd, needed: &[&Path]) -> Result<(), RootError> {
    new.attach(tree, &Path::new("run/portolan/host").join(name), Attributes::HOST)?;
    plant(new, Path::new(name), needed)
}

fn plant(new: &Root, path: &Path, needed: &[&Path]) -> Result<(), RootError> {
    let at = || format!("lay out /{}", path.display());
    let host = Path::new("/").join(path);
    let directory = context(new.make(path, Is::Directory), at)?;
    for entry in context(std::fs::read_dir(&host), at)?.flatten() {
        let name = entry.file_name();
        let here = path.join(&name);
        let real = entry.file_type().is_ok_and(|kind| kind.is_dir())
            && needed.iter().any(|target| target.starts_with(&here));
        if real {
            plant(new, &here, needed)?;
        } else {
            context(link(&directory, &name, &host, &here), at)?;
        }
    }
    Ok(())
}

/// A link stays the link it is, so that relative ones go on working; all else points to the
/// host's.
fn link(directory: &OwnedFd, name: &OsStr, host: &Path, here: &Path) -> std::io::Result<()> {
    let text = std::fs::read_link(host.join(name))
        .unwrap_or_else(|_| Path::new("/run/portolan/host").join(here));
    Ok(rustix::fs::symlinkat(text, directory.as_fd(), name)?)
}
