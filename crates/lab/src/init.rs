//! PID 1 of a lab: `portolan internal lab-init`.
//!
//! First, on one thread: die with `up`, take the boot message, make the mounts. Then a runtime:
//! bring everything up, supervise it, stop it in order. Its end is the end of every process and
//! namespace of the lab, so wherever it fails it may simply end.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::channel::{AsyncChannel, Channel};
use crate::error::{Failure, LabError};
use crate::host::CHANNEL_FD;
use crate::message::{Boot, ToHost, ToLab};
use crate::settings;

mod agents;
mod board;
mod bring_up;
mod control;
mod kube_system;
mod mounts;
mod observe;
mod pod_routes;
mod pods;
mod probe;
mod publish;
mod readiness;
mod reaper;
mod relay;
mod stop;
mod uplink;

/// Where the data directory is seen inside the lab.
pub(crate) const DATA: &str = "/run/portolan/data";

/// Where the binary is seen inside the lab, on nodes as well.
pub(crate) const BINARY: &str = "/run/portolan/bin/portolan";

/// What `up` passes at the start.
struct Passed {
    boot: Boot,
    /// Held, so that the data directory stays taken until this process is gone.
    lock: OwnedFd,
    api: OwnedFd,
    control: OwnedFd,
}

/// Runs the lab; must be called while the process has one thread.
pub fn lab_init_main() -> ExitCode {
    // SAFETY: `up` put the channel there and nothing else of this process knows that number. In a
    // process that `up` did not start, what is there is no channel, and the first read says so.
    let channel = Channel::from_fd(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) });
    match receive_boot(&channel).and_then(|passed| prepare(&passed.boot).map(|()| passed)) {
        Ok(passed) => run(passed, channel),
        Err(error) => {
            tracing::error!(%error, "the lab cannot start");
            // Without `up` there is nobody to tell.
            let _ = channel.send(&ToHost::Failed(Failure::from(&error)), &[]);
            ExitCode::FAILURE
        }
    }
}

fn receive_boot(channel: &Channel) -> Result<Passed, LabError> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(LabError::kernel("bind a process's life to its parent's"))?;
    let strange = || LabError::Channel(io::Error::other("not started by `portolan up`"));
    let (message, fds) =
        channel.receive::<ToLab>().map_err(LabError::Channel)?.ok_or_else(strange)?;
    let (ToLab::Boot(boot), Ok([lock, api, control])) = (message, <[OwnedFd; 3]>::try_from(fds))
    else {
        return Err(strange());
    };
    Ok(Passed { boot: *boot, lock, api, control })
}

fn prepare(boot: &Boot) -> Result<(), LabError> {
    // Files of nodes and pods have the modes they are given, whatever the caller's umask.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    raise_file_limit();
    nix::unistd::sethostname("portolan").map_err(LabError::kernel("set a host name"))?;
    mounts::make_private()?;
    probe::kernel(boot.privilege, &boot.config.fabric.families())?;
    mounts::furnish_lab(&boot.data_dir)?;
    settings::check(Path::new(DATA), &boot.config, &boot.data_dir)
}

/// Nodes and clients are many descriptors; where the limit cannot be raised it stays.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::info!(?current, %error, "the limit of open files stays");
    }
}

fn run(passed: Passed, channel: Channel) -> ExitCode {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = LabError::Kernel { action: "start a runtime", source };
            let _ = channel.send(&ToHost::Failed(Failure::from(&error)), &[]);
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let host: Arc<AsyncChannel> = match channel.into_async() {
            Ok(channel) => Arc::new(channel),
            Err(error) => {
                tracing::error!(%error, "the channel to `up` cannot be used");
                return ExitCode::FAILURE;
            }
        };
        let Passed { boot, lock, api, control } = passed;
        let _held = lock;
        let (last_word, code) = match bring_up::live(boot, Arc::clone(&host), api, control).await {
            Ok(millis) => (ToHost::Stopped { millis }, ExitCode::SUCCESS),
            Err(error) => {
                tracing::error!(%error, "the lab ends");
                (ToHost::Failed(Failure::from(&error)), ExitCode::FAILURE)
            }
        };
        let _ = host.send(&last_word, &[]).await;
        code
    })
}
