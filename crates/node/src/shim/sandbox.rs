//! The pod's namespaces, set up by the first process before anything else runs in them.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::events::Shim;
use super::protocol::SandboxSpec;

/// Descriptor number of the listening socket that the agent hands over.
pub(crate) const LISTENER: i32 = 3;

/// Why the pod's first process could not set up or go on.
#[derive(Debug)]
pub(crate) struct SandboxError(pub(crate) String);

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn step<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> Result<T, SandboxError> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        SandboxError(format!("{what}: {error}"))
    })
}

/// Sets the namespaces up and returns the shim, ready to run.
pub(crate) fn enter(args: &[OsString]) -> Result<Shim, SandboxError> {
    let spec = args.first().and_then(|arg| arg.to_str()).unwrap_or_default();
    let spec: SandboxSpec = step("read the specification", serde_json::from_str(spec))?;
    // SAFETY: the agent passes the listening socket under this number; nothing else owns it.
    let listener = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    let close_on_exec = rustix::io::FdFlags::CLOEXEC;
    step("take the listening socket", rustix::io::fcntl_setfd(&listener, close_on_exec))?;
    let _ = rustix::process::setsid();
    let signals = step("block signals", block_signals())?;

    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make mounts private", rustix::mount::mount_change("/", private))?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    step("mount /proc", rustix::mount::mount("proc", "/proc", "proc", plain, None))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let data = c"newinstance,ptmxmode=0666,mode=0620";
    step("mount /dev/pts", rustix::mount::mount("devpts", "/dev/pts", "devpts", flags, data))?;
    let data = c"mode=1777,size=64m";
    step("mount /dev/shm", rustix::mount::mount("shm", "/dev/shm", "tmpfs", plain, data))?;
    for (directory, size) in &spec.tmpfs {
        memory_volume(directory, *size)?;
    }
    if let Some(name) = &spec.hostname {
        step("set the host name", rustix::system::sethostname(name.as_bytes()))?;
        // Any user of the pod may bind any port of it, as with container runtimes.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name);
        step(&format!("set sysctl {name}"), fs::write(path, value))?;
    }
    Ok(Shim::new(listener, signals))
}

fn memory_volume(directory: &Path, size: Option<u64>) -> Result<(), SandboxError> {
    let data = match size {
        Some(size) => format!("mode=0777,size={size}"),
        None => "mode=0777,size=50%".to_owned(),
    };
    let data = std::ffi::CString::new(data).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let what = format!("mount {}", directory.display());
    step(&what, rustix::mount::mount("tmpfs", directory, "tmpfs", flags, data.as_c_str()))
}

/// SIGCHLD comes through a descriptor; SIGPIPE is an error code instead.
fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; signalfd returns a new descriptor that
    // nothing else owns.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
