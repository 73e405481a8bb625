//! The lab's and the nodes' mounts. All of them are in private mount namespaces.
//!
//! The data directory and the binary may lie anywhere on the host, also where a tmpfs is about to
//! hide them, so each is opened first and then bound to its fixed place.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags};

use super::{BINARY, DATA};
use crate::error::LabError;
use crate::privilege::Privilege;

/// Cuts every mount off from the host's: from here on nothing done here shows there.
pub(super) fn make_private() -> Result<(), LabError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(LabError::kernel("make mounts private"))
}

/// A /proc of the lab's own processes, and a /run with the data directory and the binary.
pub(super) fn furnish_lab(data_dir: &Path) -> Result<(), LabError> {
    let data = open_path(data_dir)?;
    let binary =
        fs::read_link("/proc/self/exe").map_err(LabError::file("read", "/proc/self/exe"))?;
    let binary = open_path(&binary)?;
    let careful = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), careful, None::<&str>)
        .map_err(LabError::kernel("mount /proc"))?;
    tmpfs("/run", "mode=755")?;
    bind(&data, Path::new(DATA), Kind::Directory)?;
    bind(&binary, Path::new(BINARY), Kind::File)
}

/// What a node's files are made of.
#[derive(Debug, Clone)]
pub(super) struct NodeFiles {
    pub(super) name: String,
    pub(super) privilege: Privilege,
    /// All nodes and the API server, by name, for /etc/hosts.
    pub(super) hosts: Vec<(IpAddr, String)>,
    /// Files to write, all for root's eyes only.
    pub(super) secrets: Vec<(PathBuf, String)>,
    /// Files to write, readable by all.
    pub(super) files: Vec<(PathBuf, String)>,
}

/// Where a node keeps what outlives its agent, inside the node.
pub(super) const NODE_STATE: &str = "/run/portolan/state";

/// A node's own /run, /tmp, /etc and /sys; called inside its new mount namespace.
pub(super) fn furnish_node(node: &NodeFiles) -> Result<(), LabError> {
    let state = Path::new(DATA).join("nodes").join(&node.name);
    make_dir(&state)?;
    let state = open_path(&state)?;
    let binary = open_path(Path::new(BINARY))?;
    tmpfs("/run", "mode=755")?;
    tmpfs("/tmp", "mode=1777")?;
    bind(&state, Path::new(NODE_STATE), Kind::Directory)?;
    bind(&binary, Path::new(BINARY), Kind::File)?;
    overlay_etc(node.privilege)?;
    fresh_sys(&node.name);
    write("/etc/hostname", &format!("{}\n", node.name), 0o644)?;
    write("/etc/resolv.conf", "# No name server: there is no way out of a lab.\n", 0o644)?;
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    for (address, name) in &node.hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    write("/etc/hosts", &hosts, 0o644)?;
    for (path, text) in &node.files {
        write(path, text, 0o644)?;
    }
    for (path, text) in &node.secrets {
        write(path, text, 0o600)?;
    }
    Ok(())
}

/// /etc, writable, over the host's; /etc/kubernetes never shows the host's.
fn overlay_etc(privilege: Privilege) -> Result<(), LabError> {
    let upper = Path::new("/run/portolan/etc/upper");
    let work = Path::new("/run/portolan/etc/work");
    make_dir(upper)?;
    make_dir(work)?;
    fs::set_permissions(upper, fs::Permissions::from_mode(0o755))
        .map_err(LabError::file("open to all", upper))?;
    let mut options =
        format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    if privilege == Privilege::UserNamespace {
        options.push_str(",userxattr");
    }
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(LabError::kernel("mount an overlay on /etc"))?;
    let kubernetes = Path::new("/etc/kubernetes");
    if kubernetes.exists() {
        tmpfs("/etc/kubernetes", "mode=755")?;
    } else {
        fs::create_dir(kubernetes).map_err(LabError::file("create", kubernetes))?;
    }
    Ok(())
}

/// A /sys that shows the node's own links. Where /sys is partly hidden the kernel refuses one,
/// and the host's stays: only tools that read /sys/class/net notice.
fn fresh_sys(node: &str) {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(error) = mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>) {
        tracing::info!(node, %error, "no /sys of its own");
    }
}

fn tmpfs(path: &'static str, options: &str) -> Result<(), LabError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .map_err(LabError::kernel("mount a tmpfs"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

fn bind(what: &OwnedFd, place: &Path, kind: Kind) -> Result<(), LabError> {
    match kind {
        Kind::Directory => make_dir(place)?,
        Kind::File => {
            make_dir(place.parent().expect("a place is an absolute path of two or more parts"))?;
            File::create(place).map_err(LabError::file("create", place))?;
        }
    }
    let source = format!("/proc/self/fd/{}", what.as_raw_fd());
    mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(LabError::kernel("bind a file to its place in the lab"))
}

fn open_path(path: &Path) -> Result<OwnedFd, LabError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| LabError::file("open", path)(errno.into()))
}

fn make_dir(path: &Path) -> Result<(), LabError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(LabError::file("create", path))
}

/// Writes a new file in place of whatever has that name: a lower file of an overlay may belong to
/// a user that this user namespace does not know, so it is replaced and never written to.
fn write(path: impl AsRef<Path>, text: &str, mode: u32) -> Result<(), LabError> {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(LabError::File { action: "replace", path: path.to_owned(), source: error });
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(LabError::file("write", path))
}
