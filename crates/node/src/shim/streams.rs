//! A container in the shim: its process, its log, and the clients attached to its streams.
//!
//! The log gets everything. An attached client gets what it can take: one that lags behind by
//! more than [`BACKLOG`] is cut off, so that it can neither stop the container nor fill memory.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::log::{self, Lines, Log, Stream};
use super::process::{self, Failure};
use super::protocol::{ContainerSpec, ContainerState, End, ProcessSpec, now};

/// How far an attached client may lag, and how much input waits for a container; bytes.
const BACKLOG: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;

/// Whether a read left something for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Something was read; there may be more.
    More,
    /// Nothing for now, or the end.
    Done,
}

/// A container's last instance.
pub(crate) struct Container {
    pub(crate) state: ContainerState,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// As what its commands run as well.
    pub(crate) process: ProcessSpec,
    terminal: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    input: Vec<u8>,
    lines: [Lines; 2],
    log: Option<Log>,
    attached: Vec<Attachment>,
}

/// A client on a container's streams.
pub(crate) struct Attachment {
    client: u64,
    stdin: Option<OwnedFd>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

struct Sink {
    fd: OwnedFd,
    backlog: Vec<u8>,
}

impl Sink {
    /// Adds output and writes what fits; `false` when the client is gone or too slow.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.backlog.extend_from_slice(bytes);
        drain(&self.fd, &mut self.backlog) && self.backlog.len() <= BACKLOG
    }
}

/// Writes what fits; `false` when the other side is gone.
fn drain(fd: &OwnedFd, backlog: &mut Vec<u8>) -> bool {
    while !backlog.is_empty() {
        match rustix::io::write(fd, backlog) {
            Ok(written) => drop(backlog.drain(..written)),
            Err(Errno::AGAIN) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

impl Attachment {
    pub(crate) fn new(
        client: u64,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Attachment {
        let sink =
            |fd: OwnedFd| process::nonblocking(&fd).ok().map(|()| Sink { fd, backlog: Vec::new() });
        Attachment {
            client,
            stdin: stdin.filter(|fd| process::nonblocking(fd).is_ok()),
            stdout: stdout.and_then(sink),
            stderr: stderr.and_then(sink),
        }
    }

    fn sink(&mut self, stream: Stream) -> &mut Option<Sink> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Container {
    pub(crate) fn start(spec: &ContainerSpec) -> Result<Container, Failure> {
        let log = Log::create(&spec.log, spec.log_limit)
            .map_err(|error| Failure::create("open the log", error))?;
        let main = process::start(spec)?;
        Ok(Container {
            state: ContainerState {
                name: spec.name.clone(),
                attempt: spec.attempt,
                id: spec.id.clone(),
                started_at: now(),
                end: None,
            },
            pid: main.pid,
            pidfd: main.pidfd,
            process: spec.process.clone(),
            terminal: main.terminal,
            stdout: main.stdout,
            stderr: main.stderr,
            stdin: main.stdin,
            stdin_once: spec.stdin_once,
            input: Vec::new(),
            lines: [Lines::new(Stream::Stdout), Lines::new(Stream::Stderr)],
            log: Some(log),
            attached: Vec::new(),
        })
    }

    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(OwnedFd::as_fd)
    }

    /// What the container writes to; a terminal counts as standard output.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let stdout = self.terminal.as_ref().or(self.stdout.as_ref());
        let stdout = stdout.map(|fd| (Stream::Stdout, fd.as_fd()));
        stdout.into_iter().chain(self.stderr.as_ref().map(|fd| (Stream::Stderr, fd.as_fd())))
    }

    fn input_fd(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref().or(self.stdin.as_ref())
    }

    /// The container's input, when something waits to be written to it.
    pub(crate) fn input_backlog(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() { None } else { self.input_fd().map(OwnedFd::as_fd) }
    }

    /// Clients' inputs, unless the container has enough to read.
    pub(crate) fn attached_inputs(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let room = self.input.len() < CHUNK;
        let attached = self.attached.iter().filter(move |_| room);
        attached.filter_map(|one| one.stdin.as_ref().map(|fd| (one.client, fd.as_fd())))
    }

    /// Clients' outputs that have something waiting.
    pub(crate) fn attached_backlogs(&self) -> impl Iterator<Item = (u64, Stream, BorrowedFd<'_>)> {
        self.attached.iter().flat_map(|one| {
            [(Stream::Stdout, &one.stdout), (Stream::Stderr, &one.stderr)].into_iter().filter_map(
                |(stream, sink)| {
                    let sink = sink.as_ref().filter(|sink| !sink.backlog.is_empty())?;
                    Some((one.client, stream, sink.fd.as_fd()))
                },
            )
        })
    }

    /// Reads output once, to the log and to those attached.
    pub(crate) fn read_output(&mut self, stream: Stream) -> Progress {
        let fd = match stream {
            Stream::Stdout => self.terminal.as_ref().or(self.stdout.as_ref()),
            Stream::Stderr => self.stderr.as_ref(),
        };
        let Some(fd) = fd else { return Progress::Done };
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(fd, &mut chunk) {
            Ok(count) if count > 0 => {
                chunk.truncate(count);
                self.publish(stream, &chunk);
                Progress::More
            }
            Err(Errno::AGAIN | Errno::INTR) => Progress::Done,
            // The end; a terminal says EIO when its last process is gone.
            Ok(_) | Err(_) => {
                match stream {
                    Stream::Stdout => {
                        self.terminal = None;
                        self.stdout = None;
                    }
                    Stream::Stderr => self.stderr = None,
                }
                Progress::Done
            }
        }
    }

    fn publish(&mut self, stream: Stream, bytes: &[u8]) {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let lines = match stream {
            Stream::Stdout => &mut self.lines[0],
            Stream::Stderr => &mut self.lines[1],
        };
        lines.push(bytes, &log::timestamp(), &mut out);
        self.record(&out);
        for one in &mut self.attached {
            let sink = one.sink(stream);
            if !sink.as_mut().is_none_or(|sink| sink.push(bytes)) {
                *sink = None;
            }
        }
    }

    /// A log that cannot be written (disk full) loses lines; the container goes on.
    fn record(&mut self, lines: &[u8]) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(lines)
        {
            let message = format!("log of {}: {error}\n", self.state.name);
            let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
        }
    }

    /// Reads a client's input once.
    pub(crate) fn read_attached(&mut self, client: u64) {
        let Some(one) = self.attached.iter_mut().find(|one| one.client == client) else { return };
        let Some(fd) = &one.stdin else { return };
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(fd, &mut chunk) {
            Ok(count) if count > 0 => {
                self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
                self.write_input();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                one.stdin = None;
                if self.stdin_once && self.input.is_empty() {
                    self.stdin = None;
                }
            }
        }
    }

    /// Passes waiting input on.
    pub(crate) fn write_input(&mut self) {
        let fd = self.terminal.as_ref().or(self.stdin.as_ref());
        let alive = fd.is_some_and(|fd| drain(fd, &mut self.input));
        if !alive {
            self.input.clear();
            self.stdin = None;
        }
        let nobody = self.attached.iter().all(|one| one.stdin.is_none());
        if self.stdin_once && nobody && self.input.is_empty() {
            self.stdin = None;
        }
    }

    pub(crate) fn attach(&mut self, attachment: Attachment) {
        self.attached.push(attachment);
    }

    /// A client is gone.
    pub(crate) fn detach(&mut self, client: u64) {
        let had_input = self.attached.iter().any(|one| one.client == client);
        self.attached.retain(|one| one.client != client);
        if had_input && self.stdin_once && self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Passes on what a client could not take before.
    pub(crate) fn write_attached(&mut self, client: u64, stream: Stream) {
        for one in self.attached.iter_mut().filter(|one| one.client == client) {
            let sink = one.sink(stream);
            if !sink.as_mut().is_none_or(|sink| sink.push(&[])) {
                *sink = None;
            }
        }
    }

    /// The process ended and its output has been read.
    pub(crate) fn finish(&mut self, end: End) {
        self.state.end = Some(end);
        let mut out = Vec::new();
        for lines in &mut self.lines {
            lines.finish(&log::timestamp(), &mut out);
        }
        self.record(&out);
        self.log = None;
        self.terminal = None;
        self.stdout = None;
        self.stderr = None;
        self.stdin = None;
        self.input.clear();
    }

    /// The clients that were attached; their streams close after what still fits.
    pub(crate) fn take_attached(&mut self) -> Vec<u64> {
        self.attached.drain(..).map(|one| one.client).collect()
    }
}
