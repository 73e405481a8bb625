//! The half of `portolan up` that stays in the host's namespaces.
//!
//! It holds the data directory's lock, shows what happens, binds sockets on the host's loopback
//! and passes them into the lab ([`publisher`]); it touches nothing else of the host. The lab's
//! first process is its child and dies with it.
//!
//! ```text
//!   starting ──Up──▶ running ──signal, `down`──▶ stopping ──Stopped──▶ (0)
//!      │ Failed         │ child ends                │ second signal, or STOP_LIMIT
//!      ▼                ▼                           ▼
//!     (1)              (1)                      SIGKILL (1)
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use crate::channel::{self, AsyncChannel};
use crate::config::{Config, Ipv6, Options};
use crate::data_dir::{DataDir, Lock};
use crate::error::LabError;
use crate::message::{Boot, Event, Port, ToHost, ToLab};
use crate::namespaces;
use crate::privilege::Privilege;
use crate::routes;
use crate::settings::Recorded;

mod clone;
mod detach;
mod publisher;

pub(crate) use clone::CHANNEL_FD;

/// How long the lab's first process may take from closing its channel to its end.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Whether `up` stays in the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// It ends when the lab ends.
    Foreground,
    /// It ends when everything is ready; the lab goes on in a session of its own.
    Detached,
}

/// Who shows what happens.
pub trait Observer {
    /// Something happened.
    fn observe(&mut self, event: &Event);
}

/// How long an orderly stop may take before the lab is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs a lab until it is told to stop, or until it is ready when detached.
///
/// Must be called while the process has one thread: the lab's first process is cloned from it.
///
/// # Errors
/// Wrong arguments, a data directory in use, a port taken, a kernel that refuses; whatever keeps
/// the lab from starting; an end of the lab that nobody asked for.
pub fn up(
    dir: &DataDir,
    options: &Options,
    attachment: Attachment,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    let ipv6 = Ipv6::of_this_kernel();
    let recorded = Recorded::read(dir.path(), dir.path())?;
    let config = Config::parse(options, recorded.as_ref(), ipv6)?;
    if ipv6 == Ipv6::Absent && options.service_cidr.is_none() && options.cluster_cidr.is_none() {
        let message = "this kernel has no IPv6 (ipv6.disable=1?): the lab has IPv4 only".into();
        observer.observe(&Event::Warning { message });
    }
    config.check_against(&routes::of_this_host()?)?;
    let mut lock = dir.lock()?;
    let log = dir.open_log()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.api_port));
    let api = TcpListener::bind(address).map_err(|source| LabError::ApiPort { address, source })?;
    let mut pipe;
    let observer: &mut dyn Observer = match attachment {
        Attachment::Foreground => observer,
        Attachment::Detached => match detach::fork(&log)? {
            detach::Side::Parent(events) => {
                drop((lock, api));
                return detach::follow(events, &dir.log(), observer);
            }
            detach::Side::Child(observer) => {
                pipe = observer;
                &mut pipe
            }
        },
    };
    lock.sign(process::id()).map_err(LabError::file("write", dir.path().join("lock")))?;
    let boot = Boot {
        privilege: Privilege::of_this_process(),
        data_dir: dir.path().to_owned(),
        api_port: api.local_addr().map_err(LabError::kernel("name a socket"))?.port(),
        up_pid: process::id(),
        attachment,
        proxy_mode_given: options.proxy_mode.is_some(),
        config,
    };
    let result = run(dir, &lock, boot, api, &log, observer);
    if let (Attachment::Detached, Err(error)) = (attachment, &result) {
        detach::fail(error);
    }
    result
}

fn run(
    dir: &DataDir,
    lock: &Lock,
    boot: Boot,
    api: TcpListener,
    log: &File,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    let control = dir.bind_control()?;
    let child = clone::lab_init(boot.privilege, log)?;
    child
        .channel
        .send(&ToLab::Boot(Box::new(boot)), &[lock.as_fd(), api.as_fd(), control.as_fd()])
        .map_err(LabError::Channel)?;
    drop((api, control));
    let clone::Child { channel, pidfd } = child;
    namespaces::runtime()?.block_on(async {
        let async_channel = channel.into_async().map_err(LabError::Channel)?;
        let pidfd = channel::register(pidfd).map_err(LabError::kernel("watch the lab"))?;
        Watch { channel: async_channel, pidfd, dir, state: State::Running }.run(observer).await
    })
}

/// What `up` does while the lab lives.
struct Watch<'a> {
    channel: AsyncChannel,
    pidfd: AsyncFd<OwnedFd>,
    dir: &'a DataDir,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopping { until: Instant },
}

impl Watch<'_> {
    async fn run(mut self, observer: &mut dyn Observer) -> Result<(), LabError> {
        let listen = |kind| signal(kind).map_err(LabError::kernel("listen for signals"));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hangup = listen(SignalKind::hangup())?;
        loop {
            let limit = match self.state {
                State::Running => None,
                State::Stopping { until } => Some(until),
            };
            tokio::select! {
                message = self.channel.receive::<ToHost>() => {
                    match message.map_err(LabError::Channel)? {
                        Some((ToHost::Stopped { millis }, _)) => {
                            self.reap().await?;
                            observer.observe(&Event::Stopped { millis });
                            return Ok(());
                        }
                        Some((ToHost::Failed(failure), _)) => {
                            self.kill_and_reap().await?;
                            return Err(LabError::Inside(failure));
                        }
                        Some((ToHost::StopRequested, _)) => self.stop().await?,
                        Some((ToHost::Event(event), _)) => observer.observe(&event),
                        Some((ToHost::Bind { id, port }, _)) => {
                            self.bind(id, port).await?;
                        }
                        None => {
                            // It is ending; how is worth a moment.
                            let ended = timeout(LAST_MOMENT, self.pidfd.readable()).await.is_ok();
                            let status =
                                if ended { self.reap().await } else { self.kill_and_reap().await };
                            return Err(self.died(status?));
                        }
                    }
                }
                _ = self.pidfd.readable() => return Err(self.died(self.reap().await?)),
                _ = interrupt.recv() => self.asked().await?,
                _ = terminate.recv() => self.asked().await?,
                _ = hangup.recv() => self.asked().await?,
                () = until(limit) => return self.killed().await,
            }
        }
    }

    /// A signal: the first stops in order, the second at once.
    async fn asked(&mut self) -> Result<(), LabError> {
        match self.state {
            State::Running => self.stop().await,
            State::Stopping { .. } => self.killed().await,
        }
    }

    async fn killed(&self) -> Result<(), LabError> {
        self.kill_and_reap().await?;
        Err(LabError::Killed)
    }

    async fn stop(&mut self) -> Result<(), LabError> {
        if self.state == State::Running {
            self.state = State::Stopping { until: Instant::now() + STOP_LIMIT };
            self.channel.send(&ToLab::Stop, &[]).await.map_err(LabError::Channel)?;
        }
        Ok(())
    }

    async fn bind(&self, id: u64, port: Port) -> Result<(), LabError> {
        let socket = publisher::bind(port);
        let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
        let error = socket.as_ref().err().map(ToString::to_string);
        self.channel.send(&ToLab::Bound { id, error }, &fds).await.map_err(LabError::Channel)
    }

    async fn kill_and_reap(&self) -> Result<ExitStatus, LabError> {
        // A process that has ended already cannot be killed, and need not be.
        let _ =
            rustix::process::pidfd_send_signal(self.pidfd.get_ref(), rustix::process::Signal::KILL);
        self.reap().await
    }

    async fn reap(&self) -> Result<ExitStatus, LabError> {
        let _ended = self
            .pidfd
            .readable()
            .await
            .map_err(LabError::kernel("watch the lab's first process"))?;
        let status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        )
        .map_err(LabError::kernel("wait for the lab's first process"))?;
        Ok(status.map_or_else(ExitStatus::default, |status| exit_status(&status)))
    }

    fn died(&self, status: ExitStatus) -> LabError {
        LabError::LabDied { status: status.to_string(), log: self.dir.log() }
    }
}

async fn until(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

fn exit_status(status: &rustix::process::WaitIdStatus) -> ExitStatus {
    let code = status.exit_status().map_or(0, |code| (code & 0xff) << 8);
    ExitStatus::from_raw(status.terminating_signal().unwrap_or(code))
}
