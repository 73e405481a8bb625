//! `up --detach`: the lab goes on in a session of its own, and the caller waits until it is ready.
//!
//! Events go from the one to the other over a pipe, a line of JSON each; the pipe's end without
//! [`Event::Up`] or a failure means that the other died.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use nix::unistd::{ForkResult, fork as fork_process, setsid};
use serde::{Deserialize, Serialize};

use super::Observer;
use crate::error::{Failure, LabError};
use crate::message::Event;

/// Which of the two this process is.
pub(super) enum Side {
    Parent(File),
    Child(Pipe),
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Event(Event),
    Failed(Failure),
}

/// Where the child's last words go once its observer is gone.
static PARENT: Mutex<Option<File>> = Mutex::new(None);

/// Shows events to the process that waits.
pub(super) struct Pipe(());

/// Splits into the one that waits and the one that goes on, whose standard streams are `log`.
pub(super) fn fork(log: &File) -> Result<Side, LabError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(LabError::kernel("make a pipe"))?;
    // SAFETY: the process has one thread; the child only goes on with what it already has.
    match unsafe { fork_process() }.map_err(LabError::kernel("fork"))? {
        ForkResult::Parent { .. } => Ok(Side::Parent(read.into())),
        ForkResult::Child => {
            setsid().map_err(LabError::kernel("start a session"))?;
            redirect(log).map_err(LabError::kernel("redirect the standard streams"))?;
            if let Ok(mut parent) = PARENT.lock() {
                *parent = Some(OwnedFd::into(write));
            }
            Ok(Side::Child(Pipe(())))
        }
    }
}

fn redirect(log: &File) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(log)?;
    rustix::stdio::dup2_stderr(log)?;
    Ok(())
}

impl Observer for Pipe {
    fn observe(&mut self, event: &Event) {
        say(&Line::Event(event.clone()));
        if matches!(event, Event::Up(_)) {
            // Nobody waits any more.
            if let Ok(mut parent) = PARENT.lock() {
                parent.take();
            }
        }
    }
}

/// Tells the one who waits that the start failed.
pub(super) fn fail(error: &LabError) {
    say(&Line::Failed(Failure::from(error)));
}

fn say(line: &Line) {
    let Ok(mut parent) = PARENT.lock() else { return };
    if let (Some(file), Ok(mut text)) = (parent.as_mut(), serde_json::to_vec(line)) {
        text.push(b'\n');
        if file.write_all(&text).is_err() {
            // The one who waited was interrupted: it no longer wants this lab.
            parent.take();
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
        }
    }
}

/// Waits for the other to be ready, and shows its events.
pub(super) fn follow(
    events: File,
    log: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    for line in BufReader::new(events).lines() {
        let line = line.map_err(LabError::Channel)?;
        match serde_json::from_str(&line).map_err(|error| LabError::Channel(error.into()))? {
            Line::Failed(failure) => return Err(LabError::Inside(failure)),
            Line::Event(event) => {
                observer.observe(&event);
                if matches!(event, Event::Up(_)) {
                    return Ok(());
                }
            }
        }
    }
    Err(LabError::LabDied { status: "no word from it".into(), log: log.to_owned() })
}
