//! The asking side of the control socket: `portolan status` and `portolan down`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::channel::Channel;
use crate::data_dir::DataDir;
use crate::error::LabError;
use crate::message::{Reply, Request};
use crate::status::Status;

/// How long a lab may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// How long a lab may take to tell its status.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How often to look whether the data directory is free.
const LOOK: Duration = Duration::from_millis(10);

/// Asks the lab on a data directory for its status.
///
/// # Errors
/// No lab runs there, or it does not answer.
pub fn ask(dir: &DataDir) -> Result<Status, LabError> {
    let channel = connect(dir, &Request::Status)?;
    channel.limit(ANSWER_LIMIT).map_err(LabError::Channel)?;
    match channel.receive::<Reply>().map_err(LabError::Channel)? {
        Some((Reply::Status(status), _)) => Ok(*status),
        _ => Err(LabError::NotRunning { dir: dir.path().to_owned() }),
    }
}

/// Stops the lab on a data directory and waits until nothing of it is left.
///
/// # Errors
/// No lab runs there, or it could not even be killed.
pub fn down(dir: &DataDir) -> Result<(), LabError> {
    let owner = dir.owner();
    let process = owner.and_then(process);
    let channel = connect(dir, &Request::Down)?;
    let until = Instant::now() + STOP_LIMIT;
    channel.limit(STOP_LIMIT).map_err(LabError::Channel)?;
    // First that it stops, then the end of the lab; or neither, when it hangs.
    while matches!(channel.receive::<Reply>(), Ok(Some(_))) {}
    if Instant::now() >= until
        && dir.is_locked()
        && let Some(owner) = owner.and_then(|pid| i32::try_from(pid).ok())
    {
        let killed = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(owner),
            nix::sys::signal::Signal::SIGKILL,
        );
        killed.map_err(LabError::kernel("kill a lab that does not stop"))?;
    }
    let until = Instant::now() + STOP_LIMIT;
    while dir.is_locked() {
        if Instant::now() >= until {
            return Err(LabError::Locked { dir: dir.path().to_owned(), pid: dir.owner() });
        }
        std::thread::sleep(LOOK);
    }
    // It has let go of the directory as the last thing but one.
    if let Some(process) = process {
        ended(&process, until).map_err(LabError::kernel("wait for the end of a lab"))?;
    }
    Ok(())
}

/// A process, whoever gets its number later; none when it is gone.
fn process(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits until a process has ended, if only its parent has still to be told.
fn ended(process: &OwnedFd, until: Instant) -> io::Result<()> {
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))
            .map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
        }
    }
}

pub(crate) fn connect(dir: &DataDir, request: &Request) -> Result<Channel, LabError> {
    let channel = Channel::from_fd(dir.connect_control()?);
    channel.send(request, &[]).map_err(LabError::Channel)?;
    Ok(channel)
}
