//! A pod's namespaces and first process: made, adopted, stopped.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use super::link::{Link, StartError, register};
use crate::shim::channel;
use crate::shim::protocol::{
    ContainerSpec, ContainerState, ExecSpec, OnClose, Reply, Request, SandboxSpec,
};
use crate::shim::spawn::{self, HostNamespaces};

/// A living sandbox.
pub(crate) struct Sandbox {
    directory: PathBuf,
    pidfd: AsyncFd<OwnedFd>,
    netns: OwnedFd,
    /// Watches; also carries signals and the order to stop.
    link: Link,
}

impl Sandbox {
    /// Makes the namespaces and starts the first process in them. The network namespace is
    /// there, empty, when this returns; [`Sandbox::ready`] waits for the rest.
    pub(crate) async fn create(
        portolan: &Path,
        directory: &Path,
        spec: &SandboxSpec,
        host: HostNamespaces,
    ) -> io::Result<Sandbox> {
        let listener = channel::listen(directory)?;
        let (pid, pidfd) = spawn::spawn(portolan, directory, &listener, spec, host)?;
        drop(listener);
        tokio::spawn(reap(register(pidfd.try_clone()?)?));
        Sandbox::assemble(directory, pid, pidfd).await
    }

    /// Finds a sandbox that an earlier agent left running, and what runs in it. None: it is gone.
    pub(crate) async fn adopt(
        directory: &Path,
    ) -> io::Result<Option<(Sandbox, Vec<ContainerState>)>> {
        match channel::connect(directory) {
            Ok(_) => {}
            Err(error) => {
                let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
                return if gone.contains(&error.kind()) { Ok(None) } else { Err(error) };
            }
        }
        // A socket that accepts proves that the process is alive, so its number is not another's.
        let pid = std::fs::read_to_string(directory.join("shim.pid"))?;
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
        let sandbox = Sandbox::assemble(directory, pid, pidfd).await?;
        let state = sandbox.ready().await?;
        Ok(Some((sandbox, state)))
    }

    async fn assemble(directory: &Path, pid: Pid, pidfd: OwnedFd) -> io::Result<Sandbox> {
        std::fs::write(directory.join("shim.pid"), pid.as_raw_nonzero().to_string())?;
        let netns = std::fs::File::open(format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
        let link = Link::connect(directory)?;
        link.send(&Request::Watch, &[]).await?;
        Ok(Sandbox {
            directory: directory.to_owned(),
            pidfd: register(pidfd)?,
            netns: netns.into(),
            link,
        })
    }

    /// Waits for the first process to be set up; once, before [`Sandbox::next_end`].
    pub(crate) async fn ready(&self) -> io::Result<Vec<ContainerState>> {
        match self.link.receive().await {
            Ok((Reply::State(state), _)) => Ok(state),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                let said = std::fs::read_to_string(self.directory.join("shim.log"));
                match said.as_deref().map(|text| text.lines().last()) {
                    Ok(Some(line)) => Err(io::Error::other(line.to_owned())),
                    _ => Err(error),
                }
            }
        }
    }

    /// The next container's end; an error when the sandbox is gone. Cancel safe.
    pub(crate) async fn next_end(&self) -> io::Result<ContainerState> {
        loop {
            if let (Reply::Exited(state), _) = self.link.receive().await? {
                return Ok(state);
            }
        }
    }

    /// The pod's network namespace (the node's, with hostNetwork).
    pub(crate) fn netns(&self) -> &OwnedFd {
        &self.netns
    }

    /// Starts a container; when it started, in nanoseconds since the epoch.
    pub(crate) async fn start(&self, spec: &ContainerSpec) -> Result<u64, StartError> {
        let link = Link::connect(&self.directory)?;
        let memfd = channel::enclose(spec)?;
        link.send(&Request::Start, &[memfd.as_fd()]).await?;
        Ok(link.started().await?.0)
    }

    /// Sends a signal to a container's main process.
    pub(crate) fn signal(&self, container: &str, attempt: u32, signal: i32) -> io::Result<()> {
        let container = container.to_owned();
        self.link.send_now(&Request::Signal { container, attempt, signal })
    }

    /// Kills everything in the pod and waits until it is gone.
    pub(crate) async fn stop(&self) {
        crate::shim::signal(self.pidfd.get_ref(), libc::SIGKILL);
        // Readable when the process has ended, and with it its PID namespace.
        let _ = self.pidfd.readable().await;
    }
}

/// Collects the first process when it ends, so that it does not stay a zombie.
async fn reap(pidfd: AsyncFd<OwnedFd>) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _ = pidfd.readable().await;
    let _ = waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED);
}

/// A command's or an attachment's connection, and the ends of its streams.
pub(crate) struct Streamed {
    pub(crate) link: Arc<Link>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A pair of pipe ends, or the null device in place of one.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = std::io::pipe()?;
    Ok((read.into(), write.into()))
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Runs a command in a container of the pod in `directory`.
pub(crate) async fn exec(
    directory: &Path,
    container: &str,
    argv: &[String],
    terminal: super::Terminal,
    streams: super::Streams,
    on_close: OnClose,
) -> Result<Streamed, StartError> {
    let tty = terminal == super::Terminal::Pty;
    let spec = ExecSpec { container: container.into(), tty, argv: argv.to_vec(), on_close };
    let link = Link::connect(directory)?;
    let memfd = channel::enclose(&spec)?;
    if tty {
        link.send(&Request::Exec, &[memfd.as_fd()]).await?;
        let (_, terminal) = link.started().await?;
        let link = Arc::new(link);
        return Ok(Streamed { link, terminal, stdin: None, stdout: None, stderr: None });
    }
    let (stdin, input) = if streams.stdin { split(pipe()?) } else { (null()?, None) };
    let (stdout, output) = if streams.stdout { swapped(pipe()?) } else { (null()?, None) };
    let (stderr, errors) = if streams.stderr { swapped(pipe()?) } else { (null()?, None) };
    let fds = [memfd.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    link.send(&Request::Exec, &fds).await?;
    drop((stdin, stdout, stderr));
    link.started().await?;
    let link = Arc::new(link);
    Ok(Streamed { link, terminal: None, stdin: input, stdout: output, stderr: errors })
}

/// The process's end, then ours: it reads, we write.
fn split((read, write): (OwnedFd, OwnedFd)) -> (OwnedFd, Option<OwnedFd>) {
    (read, Some(write))
}

/// The process's end, then ours: it writes, we read.
fn swapped((read, write): (OwnedFd, OwnedFd)) -> (OwnedFd, Option<OwnedFd>) {
    (write, Some(read))
}

/// Joins the streams of a container of the pod in `directory`.
pub(crate) async fn attach(
    directory: &Path,
    container: &str,
    streams: super::Streams,
) -> Result<Streamed, StartError> {
    let link = Link::connect(directory)?;
    let mut theirs = Vec::new();
    let mut ours = [None, None, None];
    if streams.stdin {
        let (read, write) = pipe()?;
        theirs.push(read);
        ours[0] = Some(write);
    }
    for (wanted, mine) in [(streams.stdout, 1), (streams.stderr, 2)] {
        if wanted {
            let (read, write) = pipe()?;
            theirs.push(write);
            ours[mine] = Some(read);
        }
    }
    let request = Request::Attach {
        container: container.into(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let fds: Vec<_> = theirs.iter().map(OwnedFd::as_fd).collect();
    link.send(&request, &fds).await?;
    drop(theirs);
    let (_, terminal) = link.started().await?;
    let [stdin, stdout, stderr] = ours;
    Ok(Streamed { link: Arc::new(link), terminal, stdin, stdout, stderr })
}
