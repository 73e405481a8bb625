//! A log's bytes: where the wanted lines begin, on through rotation, and waiting for more.
//!
//! A follower waits for a change of the log's directory (inotify) or of the container's state,
//! and looks again after a while all the same: a missed change costs delay, never lines. It ends
//! once the instance it follows has ended and all is read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::runtime::{ContainerInfo, ContainerPhase, LogFiles};

/// What is read at once.
const READ_SIZE: u64 = 64 << 10;
/// The longest that a follower waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The same where the kernel gives no more inotify instances.
const LOOK_OFTEN: Duration = Duration::from_millis(100);

/// Whether to wait for more at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Yes,
    No,
}

/// Reads a log from where it was asked to.
pub(super) struct Source {
    files: LogFiles,
    file: File,
    /// The current file, when `file` is the rotated one.
    next: Option<File>,
    follow: Follow,
    state: watch::Receiver<ContainerInfo>,
    attempt: u32,
    changes: Changes,
}

impl Source {
    /// Opens the files and finds the beginning of the last `tail` lines.
    pub(super) fn open(
        files: LogFiles,
        tail: Option<u64>,
        follow: Follow,
        state: watch::Receiver<ContainerInfo>,
    ) -> io::Result<Source> {
        let changes = match follow {
            Follow::Yes => Changes::of(&files.current),
            Follow::No => Changes::Unwatched,
        };
        // A rotation between the two leaves one file twice, which is noticed and mended.
        let mut current = File::open(&files.current)?;
        let mut rotated = File::open(&files.rotated).ok();
        if let Some(old) = &rotated
            && old.metadata()?.ino() == current.metadata()?.ino()
        {
            current = File::open(&files.current)?;
        }
        if let Some(tail) = tail {
            let found = seek_to_last(&mut current, tail)?;
            match &mut rotated {
                Some(old) if found < tail => {
                    seek_to_last(old, tail - found)?;
                }
                _ => rotated = None,
            }
        }
        let (file, next) = match rotated {
            Some(old) => (old, Some(current)),
            None => (current, None),
        };
        let attempt = state.borrow().attempt;
        Ok(Source { files, file, next, follow, state, attempt, changes })
    }

    /// Appends the next bytes; 0 at the end of all. Safe to be dropped while it waits.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            // Asked before reading: what was written before the end is read after it.
            let ended = self.follow == Follow::No || self.has_ended();
            // The page cache answers; a log that is being followed was written a moment ago.
            let size = (&self.file).take(READ_SIZE).read_to_end(buffer)?;
            if size > 0 {
                return Ok(size);
            }
            if self.move_on()? {
                continue;
            }
            if ended {
                return Ok(0);
            }
            self.changed().await;
        }
    }

    /// At the end of a file that is no longer written, goes on to the one after it.
    fn move_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.take() {
            self.file = next;
            return Ok(true);
        }
        let present = match File::open(&self.files.current) {
            Ok(file) => file,
            // The pod is being removed, or rotation is between its two steps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if present.metadata()?.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        // What was written to the old file after its end was seen and before it was renamed is
        // read first: the new one waits until the old one is at its end once more.
        self.next = Some(present);
        Ok(true)
    }

    fn has_ended(&self) -> bool {
        let state = self.state.borrow();
        state.phase != ContainerPhase::Running || state.attempt != self.attempt
    }

    async fn changed(&mut self) {
        let wait = match &self.changes {
            Changes::Unwatched => LOOK_OFTEN,
            Changes::Watched(_) => LOOK_AGAIN,
        };
        tokio::select! {
            () = self.changes.next() => {}
            changed = self.state.changed() => if changed.is_err() {
                // The pod is gone, and its container with it.
                self.follow = Follow::No;
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Places a file at the beginning of its last `count` lines; how many there are of those.
fn seek_to_last(file: &mut File, count: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let mut block = vec![0; usize::try_from(READ_SIZE).unwrap_or(usize::MAX)];
    while end > 0 {
        let start = end.saturating_sub(READ_SIZE);
        let size = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for (place, _) in block[..size].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n')
        {
            if found == count {
                // The newline of the line before the first wanted one.
                file.seek(SeekFrom::Start(start + place as u64 + 1))?;
                return Ok(found);
            }
            found += 1;
        }
        end = start;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(found)
}

/// Changes of a log's directory.
enum Changes {
    Watched(AsyncFd<OwnedFd>),
    Unwatched,
}

impl Changes {
    fn of(file: &Path) -> Changes {
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let directory = file.parent().unwrap_or(file);
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
            inotify::add_watch(&descriptor, directory, flags)?;
            // SAFETY: the descriptor is owned, and stays open until after it is deregistered.
            Ok(unsafe { AsyncFd::register(descriptor) }?)
        };
        match watch() {
            Ok(descriptor) => Changes::Watched(descriptor),
            Err(error) => {
                tracing::debug!(%error, "watch a log's directory");
                Changes::Unwatched
            }
        }
    }

    async fn next(&self) {
        let Changes::Watched(descriptor) = self else { return std::future::pending().await };
        let mut events = [0; 4096];
        let read = descriptor.async_io(tokio::io::Interest::READABLE, |descriptor| {
            Ok(rustix::io::read(descriptor, &mut events)?)
        });
        if let Err(error) = read.await {
            tracing::debug!(%error, "read a log directory's changes");
            std::future::pending().await
        }
    }
}
