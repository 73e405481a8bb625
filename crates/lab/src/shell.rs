//! `portolan shell`: a command inside a node, a pod, or the outside client.
//!
//! The lab passes the namespaces as descriptors; this process enters them, and its child (the
//! first to be in the PID namespace) runs the command on this terminal. Signals: those of the
//! terminal reach the child directly, SIGTERM and SIGHUP are passed on.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::ask;
use crate::data_dir::DataDir;
use crate::error::LabError;
use crate::message::{Namespace, Reply, Request, Target};

/// The administrator's kubeconfig on nodes, pointing at the API server's address in the lab.
pub(crate) const KUBECONFIG_IN_LAB: &str = "/run/portolan/credentials/admin.conf";

/// Runs a command (or the user's shell) in `target` and returns its exit code, 128 + the signal's
/// number when it was killed.
///
/// Must be called while the process has one thread: only such a one may enter a user namespace.
///
/// # Errors
/// No lab, no such node or pod, or a command that cannot be started.
pub fn shell(dir: &DataDir, target: &Target, command: &[OsString]) -> Result<u8, LabError> {
    let channel = ask::connect(dir, &Request::Shell(target.clone()))?;
    let (entry, fds) = match channel.receive::<Reply>().map_err(LabError::Channel)? {
        Some((Reply::Shell(entry), fds)) => (entry, fds),
        Some((Reply::NoTarget { known }, _)) => return Err(no_target(target, known)),
        Some((Reply::Failed(failure), _)) => return Err(LabError::Inside(failure)),
        _ => return Err(LabError::NotRunning { dir: dir.path().to_owned() }),
    };
    drop(channel);
    let user_shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (user_shell, &[][..]),
    };
    for (kind, fd) in entry.namespaces.iter().zip(&fds) {
        enter(*kind, fd)?;
    }
    let mut command = Command::new(&program);
    command.args(arguments).envs(entry.environment).env("PATH", path()).current_dir("/");
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    catch_signals().map_err(LabError::kernel("catch signals"))?;
    let failed = |source: io::Error| {
        let unreadable = source.kind() == io::ErrorKind::PermissionDenied;
        // A directory of PATH that may not be searched hides that the command is nowhere.
        let source = if unreadable && !is_found(&program) {
            io::Error::from_raw_os_error(libc::ENOENT)
        } else {
            source
        };
        LabError::Command { command: program.to_string_lossy().into(), source }
    };
    let mut child = command.spawn().map_err(failed)?;
    CHILD.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    let status = child.wait().map_err(LabError::kernel("wait for the command"))?;
    take_terminal_back();
    Ok(code(status))
}

fn no_target(target: &Target, known: Vec<String>) -> LabError {
    let (kind, name) = match target {
        Target::Node(name) => ("node", name.clone()),
        Target::Pod { namespace, name } => ("pod", format!("{namespace}/{name}")),
        Target::Client => ("client", "client".into()),
    };
    LabError::NoTarget { kind, name, known }
}

fn enter(kind: Namespace, fd: &OwnedFd) -> Result<(), LabError> {
    let flag = match kind {
        Namespace::User => CloneFlags::CLONE_NEWUSER,
        Namespace::Pid => CloneFlags::CLONE_NEWPID,
        Namespace::Net => CloneFlags::CLONE_NEWNET,
        Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Mount => CloneFlags::CLONE_NEWNS,
    };
    setns(fd, flag).map_err(LabError::kernel("enter a namespace of the lab"))?;
    if kind == Namespace::User {
        // The host's root, in a user's lab, becomes that user's root.
        nix::unistd::setgid(0.into()).map_err(LabError::kernel("become root of the lab"))?;
        nix::unistd::setuid(0.into()).map_err(LabError::kernel("become root of the lab"))?;
    }
    Ok(())
}

/// The caller's PATH, with where administration tools and the binary are.
fn path() -> OsString {
    let given = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = env::split_paths(&given).collect();
    for dir in [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
        "/run/portolan/bin",
    ] {
        if !dirs.iter().any(|known| known.as_os_str() == OsStr::new(dir)) {
            dirs.push(dir.into());
        }
    }
    env::join_paths(dirs).unwrap_or(given)
}

/// Whether a command is a path, or a file in some directory of PATH.
fn is_found(program: &OsStr) -> bool {
    program.as_encoded_bytes().contains(&b'/')
        || env::split_paths(&path()).any(|dir| dir.join(program).exists())
}

/// The command, once it runs.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: libc::c_int) {
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill is async-signal-safe.
        unsafe { libc::kill(child, signal) };
    }
}

extern "C" fn leave_to_child(_: libc::c_int) {}

/// Handlers, not ignorance: what is ignored stays ignored in the child.
fn catch_signals() -> nix::Result<()> {
    let action = |handler| {
        SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty())
    };
    for (signal, handler) in [
        (Signal::SIGINT, leave_to_child as extern "C" fn(libc::c_int)),
        (Signal::SIGQUIT, leave_to_child),
        (Signal::SIGTERM, pass_on),
        (Signal::SIGHUP, pass_on),
    ] {
        // SAFETY: both handlers only load an atomic and call kill.
        unsafe { sigaction(signal, &action(handler)) }?;
    }
    Ok(())
}

/// An interactive shell has made itself the terminal's foreground; without this the caller's own
/// shell would find its terminal taken.
fn take_terminal_back() {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return;
    }
    // SAFETY: plain system calls; SIGTTOU, which a background process gets here, is ignored.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        libc::tcsetpgrp(stdin.as_raw_fd(), libc::getpgrp());
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}
