//! The shim's loop: one `poll` over the socket, its clients, SIGCHLD, and containers' streams.
//!
//! The set is made anew from the state each time round, so there is no registration to go stale.
//! Nothing blocks but the start of a container, which is this pod's own business.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};

use super::channel;
use super::connection::{Connection, Exec};
use super::log::Stream;
use super::process::{self, Failure};
use super::protocol::{
    ContainerSpec, ContainerState, End, ExecSpec, FailureKind, OnClose, Reply, Request, now,
};
use super::sandbox::SandboxError;
use super::streams::{Attachment, Container, Progress};

/// Most clients at a time: each probe, exec and attach is one.
const CLIENTS: usize = 256;

/// The pod's first process.
pub(crate) struct Shim {
    listener: OwnedFd,
    signals: OwnedFd,
    connections: Vec<Connection>,
    next_connection: u64,
    containers: Vec<Container>,
    /// Told to stop.
    stopping: bool,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Output(usize, Stream),
    Input(usize),
    AttachedInput(usize, u64),
    AttachedOutput(usize, u64, Stream),
}

impl Shim {
    pub(crate) fn new(listener: OwnedFd, signals: OwnedFd) -> Shim {
        Shim {
            listener,
            signals,
            connections: Vec::new(),
            next_connection: 0,
            containers: Vec::new(),
            stopping: false,
        }
    }

    /// Serves until told to stop; then everything in the pod dies with this process.
    pub(crate) fn run(mut self) -> Result<(), SandboxError> {
        while !self.stopping {
            let ready = self.poll().map_err(|error| SandboxError(format!("poll: {error}")))?;
            for source in ready {
                self.handle(source);
            }
        }
        Ok(())
    }

    fn poll(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        let mut set = Vec::new();
        {
            let mut add = |source, fd, flags| {
                sources.push(source);
                set.push(PollFd::from_borrowed_fd(fd, flags));
            };
            for (index, container) in self.containers.iter().enumerate() {
                for (stream, fd) in container.outputs() {
                    add(Source::Output(index, stream), fd, PollFlags::IN);
                }
                if let Some(fd) = container.input_backlog() {
                    add(Source::Input(index), fd, PollFlags::OUT);
                }
                for (client, fd) in container.attached_inputs() {
                    add(Source::AttachedInput(index, client), fd, PollFlags::IN);
                }
                for (client, stream, fd) in container.attached_backlogs() {
                    add(Source::AttachedOutput(index, client, stream), fd, PollFlags::OUT);
                }
            }
            add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
            for connection in &self.connections {
                let source = Source::Connection(connection.id);
                add(source, connection.socket.as_fd(), PollFlags::IN);
            }
            if self.connections.len() < CLIENTS {
                add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
            }
        }
        match rustix::event::poll(&mut set, None) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let ready = sources.into_iter().zip(&set);
        Ok(ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.reap(),
            Source::Connection(id) => self.serve(id),
            Source::Output(index, stream) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.read_output(stream);
                }
            }
            Source::Input(index) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.write_input();
                }
            }
            Source::AttachedInput(index, client) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.read_attached(client);
                }
            }
            Source::AttachedOutput(index, client, stream) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.write_attached(client, stream);
                }
            }
        }
    }

    fn accept(&mut self) {
        if let Ok(socket) = channel::accept(&self.listener) {
            let id = self.next_connection;
            self.next_connection += 1;
            self.connections.push(Connection { id, socket, watches: false, exec: None });
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(index) = self.connections.iter().position(|connection| connection.id == id) else {
            return;
        };
        match channel::receive(&self.connections[index].socket) {
            Ok(Some((request, descriptors))) => self.request(index, request, descriptors),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.close(index),
        }
    }

    fn close(&mut self, index: usize) {
        let connection = self.connections.swap_remove(index);
        if let Some(exec) = connection.exec
            && exec.on_close == OnClose::Kill
        {
            process::signal(&exec.pidfd, libc::SIGKILL);
        }
        for container in &mut self.containers {
            container.detach(connection.id);
        }
    }

    fn request(&mut self, index: usize, request: Request, mut descriptors: Vec<OwnedFd>) {
        let reply = match request {
            Request::Watch => {
                self.connections[index].watches = true;
                let states = self.containers.iter().map(|container| container.state.clone());
                Some(Reply::State(states.collect()))
            }
            Request::Start => Some(answer(self.start(descriptors))),
            Request::Signal { container, attempt, signal } => {
                if let Some(container) = self.running(&container)
                    && container.state.attempt == attempt
                {
                    process::signal(&container.pidfd, signal);
                }
                None
            }
            Request::Exec => match self.exec(index, descriptors) {
                Ok((at, None)) => Some(Reply::Started { at }),
                Ok((at, Some(master))) => {
                    let socket = &self.connections[index].socket;
                    let _ = channel::send(socket, &Reply::Started { at }, &[master.as_fd()]);
                    None
                }
                Err(failure) => Some(failed(failure)),
            },
            Request::Kill => {
                if let Some(exec) = &self.connections[index].exec {
                    process::signal(&exec.pidfd, libc::SIGKILL);
                }
                None
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                descriptors.reverse();
                let mut next = |wanted: bool| if wanted { descriptors.pop() } else { None };
                let attachment = Attachment::new(
                    self.connections[index].id,
                    next(stdin),
                    next(stdout),
                    next(stderr),
                );
                let at = now();
                let found = self.containers.iter_mut().find(|one| one.state.name == container);
                match found.filter(|one| one.state.end.is_none()) {
                    Some(found) => {
                        let terminal: Vec<_> = found.terminal().into_iter().collect();
                        let socket = &self.connections[index].socket;
                        let _ = channel::send(socket, &Reply::Started { at }, &terminal);
                        found.attach(attachment);
                        None
                    }
                    None => Some(failed(not_running(&container))),
                }
            }
            Request::Stop => {
                self.stopping = true;
                None
            }
        };
        if let Some(reply) = reply
            && !self.connections[index].reply(&reply)
        {
            self.close(index);
        }
    }

    fn running(&self, name: &str) -> Option<&Container> {
        let found = self.containers.iter().find(|container| container.state.name == name);
        found.filter(|container| container.state.end.is_none())
    }

    fn start(&mut self, descriptors: Vec<OwnedFd>) -> Result<u64, Failure> {
        let spec: ContainerSpec = specification(descriptors.into_iter().next())?;
        if self.running(&spec.name).is_some() {
            let message = format!("container {:?} is running already", spec.name);
            return Err(Failure { kind: FailureKind::Create, message });
        }
        let container = Container::start(&spec)?;
        let at = container.state.started_at;
        self.containers.retain(|old| old.state.name != spec.name);
        self.containers.push(container);
        Ok(at)
    }

    fn exec(
        &mut self,
        index: usize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(u64, Option<OwnedFd>), Failure> {
        let mut descriptors = descriptors.into_iter();
        let spec: ExecSpec = specification(descriptors.next())?;
        let container = self.running(&spec.container);
        let container = container.ok_or_else(|| not_running(&spec.container))?;
        let stdio = match (descriptors.next(), descriptors.next(), descriptors.next()) {
            _ if spec.tty => None,
            (Some(stdin), Some(stdout), Some(stderr)) => Some([stdin, stdout, stderr]),
            _ => {
                let error = io::Error::from(io::ErrorKind::InvalidInput);
                return Err(Failure::create("take the streams", error));
            }
        };
        let mut command = container.process.clone();
        command.argv = spec.argv;
        if spec.tty && !command.env.iter().any(|(name, _)| name == "TERM") {
            command.env.push(("TERM".into(), "xterm".into()));
        }
        let (pid, pidfd, master) = process::exec(&command, &container.pidfd, stdio)?;
        let started_at = now();
        self.connections[index].exec =
            Some(Exec { pid, pidfd, started_at, on_close: spec.on_close });
        Ok((started_at, master))
    }

    /// Collects every process that ended; orphans of the pod among them.
    fn reap(&mut self) {
        let mut drained = [0u8; 512];
        while rustix::io::read(&self.signals, &mut drained).is_ok_and(|count| count > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal();
            let code = signal.map_or_else(|| status.exit_status().unwrap_or(255), |s| 128 + s);
            self.ended(pid, End { at: now(), code, signal });
        }
    }

    fn ended(&mut self, pid: Pid, end: End) {
        let found = self.containers.iter_mut().find(|container| container.pid == pid);
        if let Some(container) = found {
            // What it wrote last is in the log before anyone hears of its end.
            for stream in [Stream::Stdout, Stream::Stderr] {
                while container.read_output(stream) == Progress::More {}
            }
            container.finish(end);
            let attached = container.take_attached();
            let reply = Reply::Exited(container.state.clone());
            let told =
                |connection: &Connection| connection.watches || attached.contains(&connection.id);
            self.connections.retain(|one| !told(one) || one.reply(&reply));
            return;
        }
        let is_exec = |one: &Connection| one.exec.as_ref().is_some_and(|exec| exec.pid == pid);
        if let Some(index) = self.connections.iter().position(is_exec)
            && let Some(exec) = self.connections[index].exec.take()
        {
            let reply = Reply::Exited(ContainerState {
                name: String::new(),
                attempt: 0,
                id: String::new(),
                started_at: exec.started_at,
                end: Some(end),
            });
            if !self.connections[index].reply(&reply) {
                self.close(index);
            }
        }
    }
}

fn specification<T: serde::de::DeserializeOwned>(memfd: Option<OwnedFd>) -> Result<T, Failure> {
    let memfd = memfd.ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from);
    memfd.and_then(channel::unclose).map_err(|error| Failure::create("read the request", error))
}

fn not_running(container: &str) -> Failure {
    let message = format!("container {container:?} is not running");
    Failure { kind: FailureKind::NotRunning, message }
}

fn answer(started: Result<u64, Failure>) -> Reply {
    match started {
        Ok(at) => Reply::Started { at },
        Err(failure) => failed(failure),
    }
}

fn failed(Failure { kind, message }: Failure) -> Reply {
    Reply::Failed { kind, message }
}
