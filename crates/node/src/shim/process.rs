//! Starting a process in a container: clone, put its world together, drop privileges, exec.
//!
//! The child reports a failure over a pipe that a successful `exec` closes, so that the caller
//! learns the exact cause before it answers. Everything here runs in the single-threaded shim,
//! which is why the child may allocate between clone and exec.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::protocol::{ContainerSpec, FailureKind, ProcessSpec};
use super::rootfs;

/// Names under which a missing command stands for the portolan binary.
const OWN_NAMES: [&str; 3] = ["portolan", "kube-proxy", "coredns"];
/// Where every container finds it.
const OWN_DIRECTORY: &str = "/run/portolan/bin";

/// A start that failed, as the agent is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn create(what: &str, error: impl Into<io::Error>) -> Failure {
        let error: io::Error = error.into();
        Failure { kind: FailureKind::Create, message: format!("{what}: {error}") }
    }
}

/// A container's main process and the shim's ends of its streams.
pub(crate) struct Main {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The terminal's master, in place of the three pipes.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Starts a container.
pub(crate) fn start(spec: &ContainerSpec) -> Result<Main, Failure> {
    let failed = |error: io::Error| Failure::create("make the container's streams", error);
    let mut ends = Ends::default();
    let stdio = if spec.tty {
        let (master, slave) = terminal().map_err(failed)?;
        nonblocking(&master).map_err(failed)?;
        ends.terminal = Some(master);
        let twice = (slave.try_clone().map_err(failed)?, slave.try_clone().map_err(failed)?);
        [slave, twice.0, twice.1]
    } else {
        let stdin = if spec.stdin {
            let (read, write) = pipe().map_err(failed)?;
            nonblocking(&write).map_err(failed)?;
            ends.stdin = Some(write);
            read
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed(error.into()))?
        };
        let (stdout, out) = pipe().map_err(failed)?;
        let (stderr, error) = pipe().map_err(failed)?;
        nonblocking(&stdout).and_then(|()| nonblocking(&stderr)).map_err(failed)?;
        ends.stdout = Some(stdout);
        ends.stderr = Some(stderr);
        [stdin, out, error]
    };
    let mut flags = libc::CLONE_NEWNS;
    if !spec.share_pid {
        flags |= libc::CLONE_NEWPID;
    }
    let (pid, pidfd) = launch(flags, stdio, spec.tty, &spec.process, || {
        rootfs::enter(&spec.root)
            .map_err(|error| Failure { kind: FailureKind::Create, message: error.0 })
    })?;
    Ok(Main {
        pid,
        pidfd,
        terminal: ends.terminal,
        stdin: ends.stdin,
        stdout: ends.stdout,
        stderr: ends.stderr,
    })
}

#[derive(Default)]
struct Ends {
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Runs a command in the namespaces of a container's main process. `stdio` are its streams;
/// none: a terminal, whose master is returned.
pub(crate) fn exec(
    process: &ProcessSpec,
    container: &OwnedFd,
    stdio: Option<[OwnedFd; 3]>,
) -> Result<(Pid, OwnedFd, Option<OwnedFd>), Failure> {
    let failed = |what: &'static str| move |error: io::Error| Failure::create(what, error);
    let tty = stdio.is_none();
    let (stdio, master) = match stdio {
        Some(stdio) => (stdio, None),
        None => {
            let (master, slave) = terminal().map_err(failed("make a terminal"))?;
            let copy = || slave.try_clone().map_err(failed("make a terminal"));
            ([copy()?, copy()?, slave], Some(master))
        }
    };
    // Children are born into the container's PID namespace until it is set back.
    let own =
        rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Failure::create("open the PID namespace", error))?;
    setns(container, libc::CLONE_NEWPID).map_err(failed("enter the container"))?;
    let launched = launch(0, stdio, tty, process, || {
        setns(container, libc::CLONE_NEWNS).map_err(failed("enter the container"))
    });
    setns(&own, libc::CLONE_NEWPID).map_err(failed("leave the container"))?;
    let (pid, pidfd) = launched?;
    Ok((pid, pidfd, master))
}

fn setns(fd: &OwnedFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor we hold.
    let result = unsafe { libc::setns(fd.as_raw_fd(), kind) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

pub(crate) fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// A terminal of the pod's own devpts: master, slave.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

fn launch(
    flags: libc::c_int,
    stdio: [OwnedFd; 3],
    tty: bool,
    process: &ProcessSpec,
    world: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Pid, OwnedFd), Failure> {
    let (report, child) = pipe().map_err(|error| Failure::create("make a pipe", error))?;
    match clone(flags).map_err(|error| Failure::create("clone", error))? {
        None => {
            let Err(failure) = world().and_then(|()| become_process(&stdio, tty, process));
            let bytes = serde_json::to_vec(&failure).unwrap_or_default();
            let _ = std::fs::File::from(child).write_all(&bytes);
            // SAFETY: ends this child without running the parent's destructors.
            unsafe { libc::_exit(127) }
        }
        Some((pid, pidfd)) => {
            drop(child);
            drop(stdio);
            let mut bytes = Vec::new();
            let read = std::fs::File::from(report).read_to_end(&mut bytes);
            if bytes.is_empty() && read.is_ok() {
                return Ok((pid, pidfd));
            }
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| Failure {
                kind: FailureKind::Create,
                message: "the new process ended before it ran its command".into(),
            }))
        }
    }
}

/// Like fork, with namespaces and a pidfd; `None` in the child.
pub(crate) fn clone(flags: libc::c_int) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: libc::c_int = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork: the child has its own copy of
    // the memory. `pidfd` outlives the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, &raw mut pidfd, 0, 0)
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel stored a new descriptor here, which nothing else owns.
            Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })))
        }
    }
}

/// Turns the child into the process; returns only when that failed.
fn become_process(
    stdio: &[OwnedFd; 3],
    tty: bool,
    process: &ProcessSpec,
) -> Result<std::convert::Infallible, Failure> {
    let failed = |what: &'static str| move |error: io::Error| Failure::create(what, error);
    let errno = |what: &'static str| move |error: rustix::io::Errno| Failure::create(what, error);
    reset_signals();
    rustix::process::setsid().map_err(errno("setsid"))?;
    if tty {
        rustix::process::ioctl_tiocsctty(&stdio[0]).map_err(errno("take the terminal"))?;
    }
    for (fd, number) in stdio.iter().zip(0..) {
        // SAFETY: replaces this child's standard stream by a descriptor we hold.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(failed("set the standard streams")(io::Error::last_os_error()));
        }
    }
    // SAFETY: marks every other descriptor of this child close-on-exec.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if rustix::process::chdir(&process.cwd).is_err() {
        let made = std::fs::create_dir_all(&process.cwd);
        made.and_then(|()| Ok(rustix::process::chdir(&process.cwd)?)).map_err(|error| {
            Failure::create(&format!("chdir to {}", process.cwd.display()), error)
        })?;
    }
    let program = find(process)?;
    restrict(process)?;

    let strings = |what: &'static str, all: &mut dyn Iterator<Item = String>| {
        all.map(CString::new).collect::<Result<Vec<_>, _>>().map_err(|_| Failure {
            kind: FailureKind::Create,
            message: format!("{what} contains a NUL byte"),
        })
    };
    let argv = strings("the command", &mut process.argv.iter().cloned())?;
    let env = process.env.iter().map(|(name, value)| format!("{name}={value}"));
    let env = strings("the environment", &mut { env })?;
    let path = CString::new(program.as_os_str().as_bytes())
        .map_err(|error| Failure::create("the command", io::Error::from(error)))?;
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect()
    };
    // Portolan's own processes do without huge pages; a container's are its own matter. A kernel
    // that cannot turn them off has not turned them off either.
    let _ = nix::sys::prctl::set_thp_disable(false);
    // SAFETY: null-terminated arrays of C strings that live until the call returns.
    unsafe { libc::execve(path.as_ptr(), pointers(&argv).as_ptr(), pointers(&env).as_ptr()) };
    Err(refused(&process.argv, io::Error::last_os_error()))
}

fn refused(argv: &[String], error: io::Error) -> Failure {
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT) => FailureKind::NotFound,
        Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::ENOTDIR) => {
            FailureKind::NotExecutable
        }
        _ => FailureKind::Create,
    };
    let command = argv.first().map_or("", String::as_str);
    let cause = match error.raw_os_error() {
        Some(libc::ENOENT) if !command.contains('/') => "executable file not found in $PATH".into(),
        Some(libc::ENOENT) => format!("stat {command}: no such file or directory"),
        Some(libc::EACCES) => "permission denied".into(),
        _ => error.to_string(),
    };
    Failure { kind, message: format!("exec: {command:?}: {cause}") }
}

fn reset_signals() {
    // SAFETY: sets this child's signal state back to the default; the set is initialised by
    // sigemptyset before use.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// The file to execute, as a shell would find it, or our own binary for its well-known names.
fn find(process: &ProcessSpec) -> Result<PathBuf, Failure> {
    let command = process.argv.first().map_or("", String::as_str);
    let own = || {
        let name = Path::new(command).file_name().and_then(OsStr::to_str)?;
        OWN_NAMES.contains(&name).then(|| Path::new(OWN_DIRECTORY).join(name))
    };
    if command.contains('/') {
        if Path::new(command).exists() {
            return Ok(command.into());
        }
        return own().ok_or_else(|| refused(&process.argv, missing()));
    }
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value);
    let mut error = missing();
    for directory in std::env::split_paths(path).filter(|_| !command.is_empty()) {
        let file = directory.join(command);
        if file.is_file() {
            match rustix::fs::access(&file, rustix::fs::Access::EXEC_OK) {
                Ok(()) => return Ok(file),
                Err(denied) => error = denied.into(),
            }
        }
    }
    own().ok_or_else(|| refused(&process.argv, error))
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

/// Gives up everything the process may not have.
fn restrict(process: &ProcessSpec) -> Result<(), Failure> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    for number in 0..64 {
        if process.capabilities & (1 << number) == 0 {
            // SAFETY: a prctl on numbers; an unknown capability ends the loop's use, not an error.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        }
    }
    let user = &process.user;
    let errno = |what: &str| {
        let error = io::Error::last_os_error();
        Failure::create(&format!("{what} (uid {}, gid {})", user.uid, user.gid), error)
    };
    // SAFETY: plain system calls on this single-threaded child, in the order in which each is
    // still allowed.
    unsafe {
        let same = user.uid == libc::getuid() && user.gid == libc::getgid();
        if !(same && user.groups.is_empty())
            && libc::setgroups(user.groups.len(), user.groups.as_ptr()) != 0
        {
            return Err(errno("setgroups"));
        }
        if libc::setresgid(user.gid, user.gid, user.gid) != 0 {
            return Err(errno("setgid"));
        }
        if libc::setresuid(user.uid, user.uid, user.uid) != 0 {
            return Err(errno("setuid"));
        }
    }
    if user.uid == 0 {
        let held = rustix::thread::capabilities(None)
            .map_err(|error| Failure::create("read capabilities", error))?;
        let allowed = CapabilitySet::from_bits_retain(process.capabilities) & held.permitted;
        let sets = CapabilitySets {
            effective: allowed,
            permitted: allowed,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets)
            .map_err(|error| Failure::create("set capabilities", error))?;
    }
    if !process.new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| Failure::create("set no_new_privs", error))?;
    }
    Ok(())
}

/// Sends a signal to a process we hold a pidfd of; one that is gone is no error.
pub(crate) fn signal(pidfd: impl AsFd, signal: i32) {
    // SAFETY: a plain system call on a descriptor we hold.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}
