//! A running container's probes: one task each, verdicts to the worker.

use tokio::sync::mpsc;
use tokio::time::Instant;

use k8s_openapi::api::core::v1::{Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

use super::{Goal, News, Worker};
use crate::pod::action::{self, Target};
use crate::pod::probe::{self, Kind, Outcome, Verdict};
use crate::pod::record::State;
use crate::recorder::{Recorder, Severity};

impl Worker {
    /// Starts a running container's probes; without one, its answer is good.
    pub(super) fn watch(&mut self, index: usize) {
        let Some(container) = self.container(index).cloned() else { return };
        let record = &mut self.records[index];
        if !record.started && container.startup_probe.is_some() {
            if let Some(probe) = &container.startup_probe {
                self.probe(index, Kind::Startup, probe);
            }
            return;
        }
        record.started = true;
        match &container.readiness_probe {
            Some(probe) => self.probe(index, Kind::Readiness, probe),
            None => record.ready = true,
        }
        if let Some(probe) = &container.liveness_probe {
            self.probe(index, Kind::Liveness, probe);
        }
    }

    fn probe(&mut self, index: usize, kind: Kind, probe: &Probe) {
        let Some(target) = self.target(index) else { return };
        let State::Running { since } = self.records[index].state else { return };
        // On this agent's clock: an adopted container has been running for a while.
        let age = Timestamp::now().duration_since(since);
        let age = Duration::try_from(age).unwrap_or_default();
        let now = Instant::now();
        let started = now.checked_sub(age).unwrap_or(now);
        let prober = Prober {
            target,
            pod: self.pod.clone(),
            probe: probe.clone(),
            kind,
            index,
            attempt: self.records[index].restarts,
            recorder: self.node.recorder.clone(),
            news: self.news.0.clone(),
        };
        self.slots[index].probes.spawn(prober.run(started.max(now - probe_memory(probe))));
    }

    pub(super) fn verdict(&mut self, news: &News) {
        let record = &mut self.records[news.index];
        if record.restarts != news.attempt || !record.is_running() {
            return;
        }
        let name = record.name.clone();
        match (news.kind, news.verdict) {
            (Kind::Readiness, verdict) => record.ready = verdict == Verdict::Good,
            (Kind::Startup, Verdict::Good) => {
                record.started = true;
                self.watch(news.index);
            }
            (Kind::Startup, Verdict::Bad) if self.goal == Goal::Run => {
                let why = format!("Container {name} failed startup probe, will be restarted");
                self.stop(news.index, Some(why));
            }
            (Kind::Liveness, Verdict::Bad) if self.goal == Goal::Run => {
                let why = format!("Container {name} failed liveness probe, will be restarted");
                self.stop(news.index, Some(why));
            }
            _ => {}
        }
    }
}

/// How far back a start may lie before it makes no difference to the schedule.
fn probe_memory(probe: &Probe) -> Duration {
    let seconds = i64::from(probe.initial_delay_seconds.unwrap_or(0))
        + i64::from(probe.period_seconds.unwrap_or(10));
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

struct Prober {
    target: Target,
    pod: Arc<Pod>,
    probe: Probe,
    kind: Kind,
    index: usize,
    attempt: u32,
    recorder: Recorder,
    news: mpsc::UnboundedSender<News>,
}

impl Prober {
    async fn run(self, started: Instant) {
        let mut state = probe::State::new(self.kind, &self.probe, started);
        let mut told = None;
        while !state.is_over() {
            tokio::time::sleep_until(state.next()).await;
            let outcome = action::probe(&self.target, &self.probe).await;
            let now = Instant::now();
            let is_early = state.is_early(now);
            let verdict = state.observe(&outcome, now);
            if let Outcome::Failure(message) = &outcome
                && !is_early
            {
                let message = format!("{} probe failed: {message}", self.kind.word());
                let name = Some(self.target.container.name.as_str());
                self.recorder.pod(&self.pod, name, Severity::Warning, "Unhealthy", message);
            }
            if let Some(verdict) = verdict
                && told != Some(verdict)
            {
                told = Some(verdict);
                let _ = self.news.send(self.news_of(verdict));
            }
        }
    }

    fn news_of(&self, verdict: Verdict) -> News {
        News { index: self.index, attempt: self.attempt, kind: self.kind, verdict }
    }
}
