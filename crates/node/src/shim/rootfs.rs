//! A container's root, put together in its new mount namespace and entered with `pivot_root`.
//!
//! ```text
//! staging (tmpfs)
//! ├─ root            becomes /; itself tmpfs
//! │  ├─ usr, home …  the host's, recursively, read-only
//! │  ├─ etc, …       the host's below a writable layer (rootfs_layer), where mounts need places
//! │  ├─ proc, sys    fresh, masked as container runtimes do
//! │  ├─ dev          six devices, the pod's pts and shm
//! │  └─ run, tmp     private; run/portolan/bin holds our binary
//! └─ up, work        the layers' own directories
//! ```
//!
//! The host's trees are cloned before the staging area is mounted, so that no root shows up
//! inside another. Every path a Pod names is resolved by `openat2` within the new root (mount
//! targets) or within its volume (subPath): no symbolic link leads out.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::protocol::{MountKind, MountSpec, RootSpec};
use super::rootfs_layer;

/// Most bytes a container's root may take in memory.
const SIZE: &str = "mode=0755,size=256m,nr_inodes=64k";
/// Top-level directories that are made anew in each root.
const OWN: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];
const PROC_MASKED: [&str; 8] =
    ["kcore", "keys", "kmsg", "timer_list", "sched_debug", "latency_stats", "acpi", "scsi"];

/// A failed step, for the event: what, where, why.
#[derive(Debug)]
pub(crate) struct RootError(pub(crate) String);

pub(crate) fn context<T, E: Into<io::Error>>(
    result: Result<T, E>,
    what: impl FnOnce() -> String,
) -> Result<T, RootError> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        RootError(format!("{}: {error}", what()))
    })
}

/// Puts the root together and enters it. The caller is single-threaded in a mount namespace of
/// its own.
pub(crate) fn enter(root: &RootSpec) -> Result<(), RootError> {
    let none = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    context(rustix::mount::mount_change("/", none), || "make mounts private".into())?;

    let targets: Vec<Place> = root.mounts.iter().map(|mount| resolve(&mount.target)).collect();
    let layered = |name: &str| {
        name == "etc" || targets.iter().any(|place| place.missing && place.top() == Some(name))
    };
    let host = host_trees()?;
    let sources = root.mounts.iter().map(source).collect::<Result<Vec<_>, _>>()?;
    let binary = clone_tree(rustix::fs::CWD, &root.portolan);
    let binary = context(binary, || format!("open {}", root.portolan.display()))?;
    // SAFETY of order: from here on `/` is still the node's, but the staging area covers its path.
    let staging = stage(&root.staging)?;
    let new = Root { fd: open_dir(staging.as_fd(), "root")? };

    for name in OWN {
        new.directory(name, if name == "tmp" { 0o1777 } else { 0o755 })?;
    }
    for entry in host {
        let name = entry.name.to_string_lossy().into_owned();
        match entry.content {
            Content::Link(text) => {
                context(rustix::fs::symlinkat(text, &new.fd, &entry.name), || format!("/{name}"))?;
            }
            Content::Tree(tree) => {
                new.directory(&name, 0o755)?;
                if layered(&name) {
                    let needed: Vec<&Path> = targets
                        .iter()
                        .filter(|place| place.top() == Some(&name))
                        .map(|place| place.path.as_path())
                        .collect();
                    rootfs_layer::mount(&new, &staging, &name, tree, &needed)?;
                } else {
                    new.attach(&tree, Path::new(&name), Attributes::HOST)?;
                }
            }
        }
    }
    for path in &root.hidden {
        new.hide(path)?;
    }
    own_binary(&new, &binary)?;
    kernel(&new, root)?;
    devices(&new)?;
    let mut order: Vec<_> = root.mounts.iter().zip(sources).collect();
    order.sort_by_key(|(mount, _)| mount.target.components().count());
    for (mount, tree) in order {
        volume(&new, mount, &tree)?;
    }
    if root.read_only {
        let done = set_attributes(new.fd.as_fd(), Attributes::READ_ONLY);
        context(done, || "make the root read-only".into())?;
    }
    context(rustix::process::fchdir(&new.fd), || "enter the root".into())?;
    context(rustix::process::pivot_root(".", "."), || "pivot_root".into())?;
    context(rustix::mount::unmount(".", UnmountFlags::DETACH), || "leave the old root".into())?;
    context(rustix::process::chdir("/"), || "chdir /".into())
}

/// The new root directory, in which everything is resolved.
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
}

/// Attributes set on a mount, on top of those it has.
#[derive(Clone, Copy)]
pub(crate) struct Attributes(u64);

impl Attributes {
    const READ_ONLY: Attributes = Attributes(libc::MOUNT_ATTR_RDONLY);
    pub(crate) const HOST: Attributes =
        Attributes(libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    const VOLUME: Attributes = Attributes(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    const NONE: Attributes = Attributes(0);
}

fn set_attributes(tree: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    let attr =
        libc::mount_attr { attr_set: attributes.0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: `attr` lives through the call and its size is passed; the path is an empty C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A detached recursive copy of the mounts at a path.
pub(crate) fn clone_tree(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(at, path, flags)?)
}

impl Root {
    /// Makes a directory at the top of the root.
    fn directory(&self, name: &str, mode: u32) -> Result<(), RootError> {
        let made = rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode));
        // The umask does not apply to what a container may write to.
        let made = made.and_then(|()| {
            rustix::fs::chmodat(&self.fd, name, Mode::from_raw_mode(mode), AtFlags::empty())
        });
        context(made, || format!("mkdir /{name}"))
    }

    /// Opens a path within the root, following links but never out of it.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve)
    }

    /// Opens a path within the root, making it and its parents where they are missing.
    pub(crate) fn make(&self, path: &Path, is: Is) -> io::Result<OwnedFd> {
        if path == Path::new("") {
            return Ok(self.open(Path::new("."))?);
        }
        match self.open(path) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = self.make(parent, Is::Directory)?;
        match is {
            Is::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?,
            Is::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
    }

    /// Mounts a detached tree at a path, which is made if missing.
    pub(crate) fn attach(
        &self,
        tree: &OwnedFd,
        path: &Path,
        attributes: Attributes,
    ) -> Result<(), RootError> {
        let at = || format!("mount {}", Path::new("/").join(path).display());
        context(set_attributes(tree.as_fd(), attributes), at)?;
        let target = context(self.make(path, Is::of(tree)), at)?;
        context(attach_at(tree, &target), at)
    }

    /// Covers a path by something empty, if it is there.
    fn hide(&self, path: &Path) -> Result<(), RootError> {
        let Ok(target) = self.open(path) else { return Ok(()) };
        let hidden = match Is::of(&target) {
            Is::Directory => empty(),
            Is::File => clone_tree(rustix::fs::CWD, "/dev/null"),
        };
        let done = hidden.and_then(|tree| attach_at(&tree, &target));
        context(done, || format!("hide {}", path.display()))
    }
}

fn attach_at(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

/// An empty read-only tmpfs, detached.
fn empty() -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "size", "4k")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Whether a path is, or has to be, a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

impl Is {
    fn of(fd: &OwnedFd) -> Is {
        match rustix::fs::fstat(fd) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => Is::Directory,
            _ => Is::File,
        }
    }
}

struct HostEntry {
    name: OsString,
    content: Content,
}

enum Content {
    Link(PathBuf),
    Tree(OwnedFd),
}

/// The node's top-level directories, cloned, and symbolic links; plain files are left out.
fn host_trees() -> Result<Vec<HostEntry>, RootError> {
    let read = context(std::fs::read_dir("/"), || "read /".into())?;
    let mut entries = Vec::new();
    for entry in read.flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) || name == "lost+found" {
            continue;
        }
        let content = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => match std::fs::read_link(entry.path()) {
                Ok(text) => Content::Link(text),
                Err(_) => continue,
            },
            Ok(kind) if kind.is_dir() => {
                let tree = clone_tree(rustix::fs::CWD, entry.path());
                Content::Tree(context(tree, || format!("clone {}", entry.path().display()))?)
            }
            _ => continue,
        };
        entries.push(HostEntry { name, content });
    }
    Ok(entries)
}

fn open_dir(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, RootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    context(rustix::fs::openat(at, name, flags, Mode::empty()), || format!("open {name}"))
}

/// Mounts the staging area and, on `root` in it, the new root.
fn stage(staging: &Path) -> Result<OwnedFd, RootError> {
    let at = || format!("mount {}", staging.display());
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    let data = std::ffi::CString::new(SIZE).unwrap_or_default();
    context(rustix::mount::mount("tmpfs", staging, "tmpfs", flags, data.as_c_str()), at)?;
    let area = open_dir(rustix::fs::CWD.as_fd(), &staging.to_string_lossy())?;
    for name in ["root", "up", "work"] {
        context(rustix::fs::mkdirat(&area, name, Mode::from_raw_mode(0o755)), at)?;
    }
    let root = staging.join("root");
    context(rustix::mount::mount_bind(&root, &root), at)?;
    Ok(area)
}

fn own_binary(new: &Root, binary: &OwnedFd) -> Result<(), RootError> {
    let directory = new.make(Path::new("run/portolan/bin"), Is::Directory);
    let directory = context(directory, || "mkdir /run/portolan/bin".into())?;
    new.attach(binary, Path::new("run/portolan/bin/portolan"), Attributes::HOST)?;
    for name in ["kube-proxy", "coredns"] {
        let linked = rustix::fs::symlinkat("portolan", &directory, name);
        context(linked, || format!("/run/portolan/bin/{name}"))?;
    }
    Ok(())
}

/// /proc and /sys.
fn kernel(new: &Root, root: &RootSpec) -> Result<(), RootError> {
    context(rustix::process::fchdir(&new.fd), || "chdir".into())?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    context(rustix::mount::mount("proc", "proc", "proc", plain, None), || "mount /proc".into())?;
    let network = clone_tree(&new.fd, "proc/sys/net");
    for name in PROC_READ_ONLY {
        let path = Path::new("proc").join(name);
        if let Ok(tree) = clone_tree(&new.fd, &path) {
            new.attach(&tree, &path, Attributes::READ_ONLY)?;
        }
    }
    if root.privileged {
        // A privileged pod sets its own network namespace's parameters, nothing of the kernel's.
        let network = context(network, || "clone /proc/sys/net".into())?;
        new.attach(&network, Path::new("proc/sys/net"), Attributes::NONE)?;
    } else {
        for name in PROC_MASKED {
            new.hide(&Path::new("proc").join(name))?;
        }
    }
    let fresh = rustix::mount::mount("sysfs", "sys", "sysfs", plain | MountFlags::RDONLY, None);
    if fresh.is_err() {
        // Not allowed where the enclosing namespace does not own the network namespace.
        let tree = context(clone_tree(rustix::fs::CWD, "/sys"), || "clone /sys".into())?;
        new.attach(&tree, Path::new("sys"), Attributes::READ_ONLY)?;
    }
    if !root.privileged {
        new.hide(Path::new("sys/firmware"))?;
    }
    Ok(())
}

fn devices(new: &Root) -> Result<(), RootError> {
    for name in DEVICES {
        let tree = clone_tree(rustix::fs::CWD, Path::new("/dev").join(name));
        let tree = context(tree, || format!("open /dev/{name}"))?;
        new.attach(&tree, &Path::new("dev").join(name), Attributes::NONE)?;
    }
    // The pod's own instances, mounted by the sandbox.
    for name in ["pts", "shm"] {
        let tree = clone_tree(rustix::fs::CWD, Path::new("/dev").join(name));
        let tree = context(tree, || format!("open /dev/{name}"))?;
        new.attach(&tree, &Path::new("dev").join(name), Attributes::NONE)?;
    }
    let dev = open_dir(new.fd.as_fd(), "dev")?;
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (text, name) in links {
        context(rustix::fs::symlinkat(text, &dev, name), || format!("/dev/{name}"))?;
    }
    Ok(())
}

/// Opens and clones what a mount shows, subPath resolved beneath its volume.
fn source(mount: &MountSpec) -> Result<OwnedFd, RootError> {
    let at = || match &mount.sub_path {
        None => format!("open {}", mount.source.display()),
        Some(sub) => format!("open subPath {:?} of {}", sub, mount.source.display()),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut open = context(rustix::fs::open(&mount.source, flags, Mode::empty()), at)?;
    if let Some(sub) = &mount.sub_path {
        open = context(beneath(&open, sub), at)?;
    }
    context(clone_tree(&open, ""), at)
}

/// Opens a path that must stay within a directory, making missing directories on the way.
fn beneath(directory: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => beneath(directory, parent)?,
        _ => rustix::io::fcntl_dupfd_cloexec(directory, 0)?,
    };
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?)
}

fn volume(new: &Root, mount: &MountSpec, tree: &OwnedFd) -> Result<(), RootError> {
    let path = mount.target.strip_prefix("/").unwrap_or(&mount.target);
    if mount.kind == MountKind::Managed {
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent =
            context(new.make(parent, Is::Directory), || mount.target.display().to_string());
        if let (Ok(parent), Some(name)) = (parent, path.file_name())
            && rustix::fs::readlinkat(&parent, name, Vec::new()).is_ok()
        {
            let gone = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
            context(gone, || format!("replace {}", mount.target.display()))?;
        }
    }
    let mut attributes = match mount.kind {
        MountKind::Volume | MountKind::Managed => Attributes::VOLUME.0,
        MountKind::Host => libc::MOUNT_ATTR_NOSUID,
    };
    if mount.read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    new.attach(tree, path, Attributes(attributes))
}

/// Where a mount target is on the host, links followed as far as they exist.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Without the leading slash.
    path: PathBuf,
    missing: bool,
}

impl Place {
    fn top(&self) -> Option<&str> {
        self.path.components().next().and_then(|first| first.as_os_str().to_str())
    }
}

fn resolve(target: &Path) -> Place {
    let mut rest: Vec<OsString> =
        target.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut path = PathBuf::from("/");
    let mut missing = false;
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => path = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                path.pop();
            }
            Some(Component::Normal(name)) => {
                let next = path.join(name);
                match std::fs::read_link(&next) {
                    Ok(text) if links < 40 => {
                        links += 1;
                        rest.extend(
                            text.components().rev().map(|part| part.as_os_str().to_owned()),
                        );
                    }
                    _ => {
                        missing |= !next.exists();
                        path = next;
                    }
                }
            }
            _ => {}
        }
    }
    Place { path: path.strip_prefix("/").unwrap_or(&path).to_owned(), missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_exists_is_not_missing() {
        assert_eq!(resolve(Path::new("/usr")), Place { path: "usr".into(), missing: false });
    }

    #[test]
    fn a_target_is_followed_through_links_to_its_top_directory() {
        // /bin is a link to usr/bin on every merged-usr system; elsewhere it is a directory.
        let place = resolve(Path::new("/bin/no-such-file-here"));
        assert!(place.missing);
        assert!(["usr", "bin"].contains(&place.top().unwrap()));
    }

    #[test]
    fn dot_dot_never_climbs_above_the_root() {
        assert_eq!(resolve(Path::new("/../../../usr")).path, PathBuf::from("usr"));
    }
}
