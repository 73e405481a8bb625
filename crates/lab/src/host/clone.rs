//! Clones the lab's first process into its namespaces.
//!
//! ```text
//!   up                                   child (one thread, a copy of up's memory)
//!   clone3(NEWUSER? NEWPID NEWNS ...)──▶ setsid, die with up (PR_SET_PDEATHSIG)
//!   write uid_map, setgroups, gid_map    wait for one message
//!   send "go" ─────────────────────────▶ exec /proc/self/exe internal lab-init
//! ```
//! If `up` dies before the child asked to die with it, the child reads the end of the channel
//! instead of the message: no window is open in which it could be left behind.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::channel::Channel;
use crate::error::LabError;
use crate::privilege::Privilege;

/// Where the first process finds its end of the channel.
pub(crate) const CHANNEL_FD: RawFd = 3;

/// The lab's first process, as `up` holds it.
pub(super) struct Child {
    pub(super) channel: Channel,
    pub(super) pidfd: OwnedFd,
}

/// Clones the first process; its standard output and error go to `log`.
pub(super) fn lab_init(privilege: Privilege, log: &File) -> Result<Child, LabError> {
    let threads =
        fs::read_dir("/proc/self/task").map_err(LabError::file("read", "/proc/self/task"))?;
    assert_eq!(threads.count(), 1, "the lab is cloned from a process of one thread");
    let null = File::open("/dev/null").map_err(LabError::file("open", "/dev/null"))?;
    let (ours, theirs) = Channel::pair().map_err(LabError::Channel)?;
    let mut flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    if privilege == Privilege::UserNamespace {
        flags |= libc::CLONE_NEWUSER;
    }
    let arguments = [c"portolan", c"internal", c"lab-init"];
    let mut pidfd: RawFd = -1;
    // Everything the child needs exists before the clone.
    let argv: Vec<*const libc::c_char> =
        arguments.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    let environment: Vec<CString> = environment();
    let envp: Vec<*const libc::c_char> =
        environment.iter().map(|v| v.as_ptr()).chain([std::ptr::null()]).collect();
    let pid = clone3(flags, &mut pidfd).map_err(LabError::kernel("make the lab's namespaces"))?;
    if pid == 0 {
        drop(ours);
        become_init(&theirs, null.as_raw_fd(), log.as_raw_fd(), &argv, &envp);
    }
    drop(theirs);
    // SAFETY: the kernel has just put a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if privilege == Privilege::UserNamespace {
        map_ids(pid)?;
    }
    ours.send(&"go", &[]).map_err(LabError::Channel)?;
    Ok(Child { channel: ours, pidfd })
}

/// Of `up`'s environment only what a program inside may need.
fn environment() -> Vec<CString> {
    ["PATH", "HOME", "LANG", "TERM", "RUST_LOG", "RUST_BACKTRACE"]
        .iter()
        .filter_map(|name| {
            let value = std::env::var(name).ok()?;
            CString::new(format!("{name}={value}")).ok()
        })
        .collect()
}

/// Forks into new namespaces; 0 in the child.
fn clone3(flags: libc::c_int, pidfd: &mut RawFd) -> io::Result<libc::pid_t> {
    /// As in the kernel's <linux/sched.h>, up to its first version's end.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
    }
    let unsigned = |value: libc::c_int| u64::from(value.cast_unsigned());
    let arguments = CloneArgs {
        flags: unsigned(flags) | unsigned(libc::CLONE_PIDFD),
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: unsigned(libc::SIGCHLD),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and without a stack this is a fork: the child runs on its own copy
    // of the memory. The process has one thread, so no lock can be held by a thread that the
    // child lacks. The arguments outlive the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::pid_t::try_from(pid).expect("the kernel's process numbers fit pid_t"))
}

/// The child's way from the clone to the exec.
fn become_init(
    channel: &Channel,
    null: RawFd,
    log: RawFd,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> ! {
    // SAFETY: plain system calls on descriptors that are open, and an exec whose three arguments
    // are NUL-terminated strings and null-terminated lists that outlive it.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    if !matches!(channel.receive::<String>(), Ok(Some(_))) {
        // SAFETY: ends this process, running nothing of the parent's.
        unsafe { libc::_exit(1) }
    }
    // SAFETY: as above. A channel that already has the right number only loses close-on-exec.
    unsafe {
        libc::dup2(null, 0);
        libc::dup2(log, 1);
        libc::dup2(log, 2);
        if channel.as_raw_fd() == CHANNEL_FD {
            libc::fcntl(CHANNEL_FD, libc::F_SETFD, 0);
        } else {
            libc::dup2(channel.as_raw_fd(), CHANNEL_FD);
        }
        libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), envp.as_ptr());
        libc::_exit(127)
    }
}

/// Makes the caller root inside, and nobody else anybody.
fn map_ids(pid: libc::pid_t) -> Result<(), LabError> {
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(LabError::kernel("map a user into the lab's user namespace"))
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}
