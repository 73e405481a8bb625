//! Stopping: one container, the pod, and what is left of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Busy, Deletion, Done, Goal, SandboxState, Worker, sooner};
use crate::network;
use crate::pod::action;
use crate::pod::record::{Role, State};
use crate::recorder::Severity;
use crate::runtime::sandbox::Sandbox;

/// After a preStop hook that took the whole grace period, a container still has this long.
const LEAST: Duration = Duration::from_secs(2);
/// How long the network of a pod that is gone stays: by then every node's rules have followed.
const FAREWELL: Duration = Duration::from_secs(1);

impl Worker {
    /// Stops a running container: preStop, SIGTERM, and SIGKILL when its time is up. `why` is
    /// the event's text if it is not the usual one.
    pub(super) fn stop(&mut self, index: usize, why: Option<String>) {
        if !self.records[index].is_running() || !matches!(self.slots[index].busy, Busy::Idle) {
            return;
        }
        let SandboxState::Ready(sandbox) = self.sandbox.clone() else { return };
        let Some(target) = self.target(index) else { return };
        let name = self.records[index].name.clone();
        let message = why.unwrap_or_else(|| format!("Stopping container {name}"));
        self.event(Some(&name), Severity::Normal, "Killing", message);
        let attempt = self.records[index].restarts;
        let lifecycle = target.container.lifecycle.clone().unwrap_or_default();
        let signal = lifecycle.stop_signal.as_deref().and_then(signal_number);
        let recorder = self.node.recorder.clone();
        let pod = self.pod.clone();
        let mut deadline = match self.goal {
            Goal::Stop => self.deadline.subscribe(),
            Goal::Run => {
                let grace = self.restart_grace(index);
                tokio::sync::watch::channel(Instant::now() + grace).1
            }
        };
        let job = self.jobs.spawn(async move {
            if let Some(hook) = &lifecycle.pre_stop {
                let limit = deadline.borrow().saturating_duration_since(Instant::now());
                let hook = action::hook(&target, hook, limit);
                // A deadline that moves up ends the wait for the hook, too.
                let mut until = deadline.clone();
                let result = tokio::select! {
                    result = hook => result,
                    () = passed(&mut until) => {
                        Err("the grace period is over".to_owned())
                    }
                };
                if let Err(message) = result {
                    let message = format!("PreStopHook failed: {message}");
                    let reason = "FailedPreStopHook";
                    recorder.pod(&pod, Some(&name), Severity::Warning, reason, message);
                }
            }
            let asked = Instant::now();
            let _ = sandbox.signal(&name, attempt, signal.unwrap_or(libc::SIGTERM));
            let least = if lifecycle.pre_stop.is_some() { LEAST } else { Duration::ZERO };
            passed(&mut deadline).await;
            tokio::time::sleep_until(asked + least).await;
            let _ = sandbox.signal(&name, attempt, libc::SIGKILL);
            Done::Stopped
        });
        self.slots[index].busy = Busy::Stopping(job);
    }

    /// How long a container may take that is stopped to be started again.
    fn restart_grace(&self, index: usize) -> Duration {
        let container = self.container(index);
        let probe = container.and_then(|container| container.liveness_probe.as_ref());
        let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
        let seconds = own.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Ends everything: main containers first, then sidecars, last ones first; then the sandbox;
    /// then, if that was asked for, the Pod object.
    pub(super) fn wind_down(&mut self, wake: &mut Option<Instant>) {
        let is_alive = |worker: &Worker, index: usize| {
            worker.records[index].is_running() || !matches!(worker.slots[index].busy, Busy::Idle)
        };
        let all = 0..self.records.len();
        let (sidecars, others): (Vec<_>, Vec<_>) =
            all.partition(|index| self.records[*index].role == Role::Sidecar);
        for index in &others {
            self.stop(*index, None);
        }
        if !others.iter().any(|index| is_alive(self, *index)) {
            for index in sidecars.iter().rev() {
                self.stop(*index, None);
                if is_alive(self, *index) {
                    break;
                }
            }
        }
        if (0..self.records.len()).any(|index| is_alive(self, index)) {
            // A hook that hangs, or a process that no signal ends, goes with the sandbox.
            let end = *self.deadline.borrow() + 2 * LEAST;
            if Instant::now() < end || self.failure.is_none() && !self.is_deleted() {
                sooner(wake, end);
                return;
            }
        }
        match &self.sandbox {
            SandboxState::Ready(sandbox) => {
                let sandbox = sandbox.clone();
                let node = self.node.clone();
                let interface = network::interface(&self.uid);
                let uid = self.uid.clone();
                let shared = self.is_host_network();
                let going = self.is_deleted();
                *self.entry.netns.write() = None;
                if going {
                    self.keep_link(&sandbox);
                }
                self.sandbox = SandboxState::Stopping;
                self.jobs.spawn(async move {
                    sandbox.stop().await;
                    if !going {
                        if !shared {
                            let _ = node.network.disconnect(&interface).await;
                        }
                        node.release(&uid);
                    }
                    Done::SandboxGone
                });
            }
            // Its result is waited for; then it is stopped.
            SandboxState::Making | SandboxState::Stopping => {}
            SandboxState::None => {
                self.is_stopped = true;
                self.end_waiting();
                self.delete(wake);
            }
        }
    }

    fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// What never ran, or waits to run again, does so no more.
    fn end_waiting(&mut self) {
        for record in &mut self.records {
            if matches!(record.state, State::Waiting { .. })
                && let Some(end) = record.last.clone()
            {
                record.state = State::Terminated(end);
            }
        }
    }

    /// Reports the final status and takes the Pod out of the API, if its deletion was asked for.
    fn delete(&mut self, wake: &mut Option<Instant>) {
        if !self.is_deleted() || self.deletion != Deletion::None {
            return;
        }
        if let Some(retry) = self.delete_retry.filter(|retry| *retry > Instant::now()) {
            sooner(wake, retry);
            return;
        }
        self.deletion = Deletion::UnderWay;
        let status = self.compute_status();
        let last = self.reporter.last_report(status);
        self.jobs.spawn(async move { Done::Deleted(last.await) });
    }

    /// Holds the network of a pod that goes: without processes its kernel side refuses connections,
    /// where without a link they would wait for an answer.
    fn keep_link(&mut self, sandbox: &Sandbox) {
        if !self.is_host_network() {
            self.link = sandbox.netns().try_clone().ok();
        }
    }

    /// The Pod is gone from the API: its processes and files go at once, its network once nothing
    /// leads to it any more.
    pub(super) async fn clear_away(mut self) {
        self.jobs.shutdown().await;
        match &self.sandbox {
            SandboxState::Ready(sandbox) => {
                let sandbox = sandbox.clone();
                self.keep_link(&sandbox);
                sandbox.stop().await;
            }
            _ => {
                // One may have been under way.
                let directory = &self.directory;
                if let Ok(Some((sandbox, _))) =
                    crate::runtime::sandbox::Sandbox::adopt(directory).await
                {
                    sandbox.stop().await;
                }
            }
        }
        self.node.runtime.remove(&self.key, &self.uid);
        remove_directory(&self.directory);
        if self.link.is_some() {
            tokio::time::sleep(FAREWELL).await;
        }
        if !self.is_host_network() {
            let _ = self.node.network.disconnect(&network::interface(&self.uid)).await;
        }
        self.node.release(&self.uid);
    }
}

/// Removes a pod's files; what cannot be removed is said and left.
pub(crate) fn remove_directory(directory: &std::path::Path) {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", directory.display());
        }
        _ => {}
    }
}

/// Waits until the deadline, which may move up, has passed.
async fn passed(deadline: &mut tokio::sync::watch::Receiver<Instant>) {
    loop {
        let until = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            Ok(()) = deadline.changed() => {}
        }
    }
}

fn signal_number(name: &str) -> Option<i32> {
    let known = [
        ("SIGHUP", libc::SIGHUP),
        ("SIGINT", libc::SIGINT),
        ("SIGQUIT", libc::SIGQUIT),
        ("SIGABRT", libc::SIGABRT),
        ("SIGKILL", libc::SIGKILL),
        ("SIGUSR1", libc::SIGUSR1),
        ("SIGUSR2", libc::SIGUSR2),
        ("SIGTERM", libc::SIGTERM),
        ("SIGWINCH", libc::SIGWINCH),
    ];
    known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
