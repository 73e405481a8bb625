//! Starting a pod's first process from the node agent.
//!
//! The agent has threads, so between clone and exec the child makes system calls only: no
//! allocation, no lock.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::Pid;

use super::process::clone;
use super::protocol::SandboxSpec;
use super::sandbox::LISTENER;

/// Which of the node's namespaces a pod shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostNamespaces {
    /// None.
    None,
    /// Network and host name (`hostNetwork`).
    Network,
}

/// Starts `portolan internal pod-init` as PID 1 of new namespaces, listening on `listener`. What
/// it complains of goes to `directory/shim.log`.
pub(crate) fn spawn(
    portolan: &Path,
    directory: &Path,
    listener: &OwnedFd,
    spec: &SandboxSpec,
    host: HostNamespaces,
) -> io::Result<(Pid, OwnedFd)> {
    let path = CString::new(portolan.as_os_str().as_bytes())?;
    let json = CString::new(serde_json::to_string(spec)?)?;
    let argv = [
        path.as_ptr(),
        c"internal".as_ptr(),
        c"pod-init".as_ptr(),
        json.as_ptr(),
        std::ptr::null(),
    ];
    let environment = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(),
        std::ptr::null(),
    ];
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let complaints =
        OpenOptions::new().create(true).append(true).open(directory.join("shim.log"))?;
    // Above the numbers they are copied to, so that no copy overwrites a source.
    let high = |fd: &dyn std::os::fd::AsRawFd| -> io::Result<OwnedFd> {
        // SAFETY: the descriptor is open for the duration of this call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        Ok(rustix::io::fcntl_dupfd_cloexec(fd, 10)?)
    };
    let (null, complaints, listener) = (high(&null)?, high(&complaints)?, high(listener)?);
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    if host == HostNamespaces::None {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    let Some(child) = clone(flags)? else {
        // SAFETY: the child of a process with threads: async-signal-safe calls only, on memory
        // prepared before the clone.
        unsafe {
            libc::dup2(null.as_raw_fd(), 0);
            libc::dup2(complaints.as_raw_fd(), 1);
            libc::dup2(complaints.as_raw_fd(), 2);
            libc::dup2(listener.as_raw_fd(), LISTENER);
            libc::syscall(libc::SYS_close_range, LISTENER + 1, u32::MAX, 0);
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::execve(path.as_ptr(), argv.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    };
    Ok(child)
}
