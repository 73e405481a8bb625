//! The loop of the proxy: what happened goes to the models, and the kernel is brought to them.
//!
//! ```text
//!   Services ──┐
//!   slices   ──┼─ informers (coalesce) ─▶ feed ─▶ Syncer::sync on a blocking thread ─▶ reports
//!   own Node ──┤                           ▲                 │                          │
//!   CIDRs    ──┘                           │                 │                          │
//!   nf_tables monitor ── distrust ─────────┘                 └─ meanwhile changes gather┘
//! ```
//!
//! Level-triggered: a change is applied at once when nothing is in flight, and changes that come
//! during a commit are merged into the next. A sync is of every family that has something to do; one
//! that the kernel refuses is tried again with growing waits, by itself, and what the kernel held
//! before stays. Nothing is synced before every list is complete, so that a restart never takes away
//! what is about to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use portolan_client::informer::{Change, Changes, Informer, ObjectKey};
use portolan_model::{
    Applied, Backend, Drift, EndpointSlice, Event, Family, NamespacedName, Service,
};
use portolan_netlink::nft::{Monitor, NftError, Touched};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cleaner::Cleaner;
use crate::config::{Mode, Settings};
use crate::events::Events;
use crate::health::Eligibility;
use crate::health_checks::HealthChecks;
use crate::http::Pages;
use crate::sync::{Kind, Report, Syncer};
use crate::{ProxyError, addresses, convert, kernel, sysctls};

mod turn;

use turn::{Turn, Waiting};

/// How long to wait for more after somebody else changed our rules.
const SETTLE: Duration = Duration::from_millis(20);
/// Everything is compared with the kernel at least so often where the kernel says what others do to
/// our rules (upstream's `FullSyncPeriod`); elsewhere, every `syncPeriod`.
const FULL_SYNC: Duration = Duration::from_secs(3600);
/// A comparison waits for so many times as long as the last one took, so that it is never more than a
/// hundredth of the work.
const REST: u32 = 100;

/// What is watched.
pub(crate) struct Watches {
    /// Nothing is a Service that has no part in the rules.
    pub(crate) services: Informer<Option<Service>>,
    pub(crate) slices: Informer<Slice>,
    pub(crate) node: Informer<core::Node>,
    pub(crate) service_cidrs: Informer<networking::ServiceCIDR>,
}

/// What a slice says to a proxy.
pub(crate) struct Slice {
    /// When what it tells of began.
    trigger: Option<Timestamp>,
    is_ipv6: bool,
    /// Nothing is one that has no part in the rules.
    content: Option<EndpointSlice>,
}

impl Slice {
    /// What of an object matters; the rest need not be kept.
    pub(crate) fn of(object: discovery::EndpointSlice) -> Self {
        Self {
            trigger: convert::trigger_time(&object),
            is_ipv6: object.address_type == "IPv6",
            content: convert::endpoint_slice(&object),
        }
    }
}

/// Which of the first lists are complete. ServiceCIDRs are not waited for: an older server has none.
#[derive(Debug, Default)]
struct Listed {
    services: bool,
    slices: bool,
    node: bool,
}

/// The proxy's loop and what it owns.
pub(crate) struct Daemon<B> {
    pub(crate) settings: Arc<Settings>,
    pub(crate) watches: Watches,
    /// In its place but while a sync is in flight.
    pub(crate) syncer: Option<Syncer<B>>,
    pub(crate) monitor: Option<Monitor>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) cleaner: Cleaner,
    pub(crate) checks: HealthChecks,
    pub(crate) events: Events,
    pub(crate) tasks: TaskTracker,
    pub(crate) state: State,
}

/// What the loop remembers.
pub(crate) struct State {
    started: Timestamp,
    listed: Listed,
    /// One for each family.
    turns: Vec<Turn>,
    /// The trigger time that each slice had last.
    triggers: HashMap<ObjectKey, Timestamp>,
    node: Option<core::Node>,
    /// The ranges of each ServiceCIDR.
    service_cidrs: HashMap<ObjectKey, Vec<ipnet::IpNet>>,
    /// What the node's pod ranges were at the start, where they matter.
    pod_cidrs: Option<Vec<ipnet::IpNet>>,
    full_sync: Instant,
    /// When to look after what ends by itself.
    tend: Option<Instant>,
}

impl State {
    /// Nothing has been synced; the rules will be trusted for `period` after that.
    pub(crate) fn new(
        families: Vec<Family>,
        pod_cidrs: Option<Vec<ipnet::IpNet>>,
        period: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            started: Timestamp::now(),
            listed: Listed::default(),
            turns: families.into_iter().map(|family| Turn::new(family, now)).collect(),
            triggers: HashMap::new(),
            node: None,
            service_cidrs: HashMap::new(),
            pod_cidrs,
            full_sync: now + period,
            tend: None,
        }
    }

    /// When the next sync of any family is due.
    fn due(&self) -> Option<Instant> {
        let is_listed = self.listed.services && self.listed.slices && self.listed.node;
        self.turns.iter().filter(|_| is_listed).filter_map(Turn::due).min()
    }

    /// A sync of every family is due.
    fn ask(&mut self) {
        for turn in &mut self.turns {
            turn.waiting.asked = true;
        }
    }
}

/// When to look again after what ends by itself, and what failed.
type Tended<B> = (Option<std::time::Instant>, Vec<(Family, <B as Backend>::Error)>);

impl<B> Daemon<B>
where
    B: Backend + Send + 'static,
{
    /// Runs until `stop`, or until it cannot go on.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), ProxyError> {
        loop {
            let due = self.state.due();
            let wakes = [due, self.state.tend, Some(self.state.full_sync)];
            let wake = wakes.into_iter().flatten().min().unwrap_or(self.state.full_sync);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changes = self.watches.services.changes() => self.services(changes),
                changes = self.watches.slices.changes() => self.slices(changes),
                changes = self.watches.node.changes() => self.node(changes).await?,
                changes = self.watches.service_cidrs.changes() => self.service_cidrs(changes),
                touched = touched(&mut self.monitor) => self.touched(touched),
                () = sleep_until(wake) => {}
            }
            self.take_the_rest().await?;
            let now = Instant::now();
            if now >= self.state.full_sync {
                self.distrust();
                self.state.full_sync = now + self.period();
            }
            if self.state.due().is_some_and(|due| due <= now) {
                self.sync(now).await?;
            } else if self.state.tend.is_some_and(|at| at <= now) {
                self.tend().await?;
            }
        }
    }

    /// How long the rules are trusted.
    fn period(&self) -> Duration {
        period(self.monitor.as_ref(), &self.settings)
    }

    /// What else is there already goes into the same sync.
    async fn take_the_rest(&mut self) -> Result<(), ProxyError> {
        if let Some(changes) = self.watches.services.take() {
            self.services(changes);
        }
        if let Some(changes) = self.watches.slices.take() {
            self.slices(changes);
        }
        if let Some(changes) = self.watches.node.take() {
            self.node(changes).await?;
        }
        if let Some(changes) = self.watches.service_cidrs.take() {
            self.service_cidrs(changes);
        }
        Ok(())
    }

    fn feed(&mut self, event: &Event) {
        if let Some(syncer) = &mut self.syncer {
            syncer.feed(event);
        }
    }

    fn queued(&mut self, services: usize, slices: usize) {
        self.pages.health.queued();
        for Turn { family, waiting, .. } in &mut self.state.turns {
            waiting.services += services;
            waiting.slices += slices;
            self.pages.metrics.queued(*family, services, slices);
            self.pages.metrics.pending(*family, waiting.services, waiting.slices);
        }
    }

    fn services(&mut self, changes: Changes<Option<Service>>) {
        self.state.listed.services |= changes.is_listed;
        let count = changes.objects.len();
        for (key, change) in changes.objects {
            let service = match change {
                Change::Put(service) => *service,
                Change::Delete => None,
            };
            self.feed(&match service {
                Some(service) => Event::Service(service),
                None => Event::ServiceDeleted(name(key)),
            });
        }
        if count > 0 {
            self.queued(count, 0);
        }
    }

    fn slices(&mut self, changes: Changes<Slice>) {
        self.state.listed.slices |= changes.is_listed;
        let count = changes.objects.len();
        for (key, change) in changes.objects {
            let slice = match change {
                Change::Put(slice) => {
                    self.note_trigger(&key, &slice);
                    slice.content
                }
                Change::Delete => {
                    self.state.triggers.remove(&key);
                    None
                }
            };
            self.feed(&match slice {
                Some(slice) => Event::EndpointSlice(slice),
                None => Event::EndpointSliceDeleted(name(key)),
            });
        }
        if count > 0 {
            self.queued(0, count);
        }
    }

    /// Latencies are measured of changes that began while this proxy ran, each once.
    fn note_trigger(&mut self, key: &ObjectKey, slice: &Slice) {
        let Some(time) = slice.trigger.filter(|t| *t >= self.state.started) else {
            return;
        };
        if self.state.triggers.insert(key.clone(), time) == Some(time) {
            return;
        }
        let family = if slice.is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        for turn in self.state.turns.iter_mut().filter(|turn| turn.family == family) {
            turn.waiting.triggers.push(time);
        }
    }

    async fn node(&mut self, changes: Changes<core::Node>) -> Result<(), ProxyError> {
        self.state.listed.node |= changes.is_listed;
        for (_, change) in changes.objects {
            self.state.node = match change {
                Change::Put(object) => Some(*object),
                Change::Delete => None,
            };
        }
        let eligible = self.state.node.as_ref().is_some_and(convert::is_eligible);
        let eligibility = if eligible { Eligibility::Eligible } else { Eligibility::Leaving };
        self.pages.health.set_eligibility(eligibility);
        if let Some(node) = &self.state.node {
            if let Some(before) = &self.state.pod_cidrs
                && convert::pod_cidrs(node) != *before
            {
                return Err(ProxyError::PodCidrsChanged);
            }
            let event = Event::Node(convert::node(node));
            self.feed(&event);
        }
        self.state.ask();
        Ok(())
    }

    fn service_cidrs(&mut self, changes: Changes<networking::ServiceCIDR>) {
        for (key, change) in changes.objects {
            match change {
                Change::Put(object) => {
                    self.state.service_cidrs.insert(key, convert::service_cidrs(&object))
                }
                Change::Delete => self.state.service_cidrs.remove(&key),
            };
        }
        let ranges = self.state.service_cidrs.values().flatten().copied().collect();
        self.feed(&Event::ServiceCidrs(ranges));
        self.state.ask();
    }

    fn touched(&mut self, touched: Result<Touched, NftError>) {
        match touched {
            Ok(touched) => {
                tracing::warn!(?touched, "Somebody else changed our nftables rules; checking them");
                self.distrust();
                let settled = Instant::now() + SETTLE;
                self.state.turns.iter_mut().for_each(|turn| turn.put_off(settled));
            }
            Err(e) => {
                self.monitor = None;
                let period = self.period();
                tracing::error!(
                    ?period,
                    "cannot watch nf_tables, and look at the rules myself: {e}"
                );
                self.state.full_sync = Instant::now() + period;
            }
        }
    }

    fn distrust(&mut self) {
        if let Some(syncer) = &mut self.syncer {
            syncer.distrust();
        }
        self.state.ask();
        self.pages.health.queued();
    }

    /// Syncs every family whose turn has come.
    async fn sync(&mut self, now: Instant) -> Result<(), ProxyError> {
        self.node_port_addresses().await;
        let Some(mut syncer) = self.syncer.take() else { return Ok(()) };
        let began = Instant::now();
        let min_period = self.settings.min_sync_period;
        let is_due = |turn: &&mut Turn| turn.due().is_some_and(|due| due <= now);
        let due = self.state.turns.iter_mut().filter(is_due);
        let waiting: BTreeMap<Family, Waiting> =
            due.map(|turn| (turn.family, turn.begin(began, min_period))).collect();
        let families: Vec<_> = waiting.keys().copied().collect();
        let joined = tokio::task::spawn_blocking(move || {
            let reports = syncer.sync(&families);
            let tended = syncer.tend(std::time::Instant::now());
            (syncer, reports, tended)
        });
        let (syncer, reports, tended) =
            joined.await.map_err(|e: JoinError| ProxyError::Crashed(e))?;
        self.syncer = Some(syncer);
        self.tended(tended);
        let is_refused = |report: &&Report<B::Error>| report.result.is_err();
        let refused: BTreeSet<_> = reports.iter().filter(is_refused).map(|r| r.family).collect();
        for report in reports {
            self.report(report);
        }
        for (family, waiting) in waiting {
            if refused.contains(&family) {
                self.refused(family, waiting);
            } else {
                self.done(family, &waiting);
            }
        }
        Ok(())
    }

    /// Looks after what ends by itself.
    async fn tend(&mut self) -> Result<(), ProxyError> {
        let Some(mut syncer) = self.syncer.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || {
            let tended = syncer.tend(std::time::Instant::now());
            (syncer, tended)
        });
        let (syncer, tended) = joined.await.map_err(ProxyError::Crashed)?;
        self.syncer = Some(syncer);
        self.tended(tended);
        Ok(())
    }

    fn tended(&mut self, (next, failed): Tended<B>) {
        self.state.tend = next.map(Instant::from_std);
        for (family, e) in failed {
            tracing::warn!(%family, "cannot look after what terminates: {e}");
        }
    }

    fn turn(&mut self, family: Family) -> Option<&mut Turn> {
        self.state.turns.iter_mut().find(|turn| turn.family == family)
    }

    fn done(&mut self, family: Family, waiting: &Waiting) {
        let now = Timestamp::now();
        for began in &waiting.triggers {
            let latency = Duration::try_from(now.duration_since(*began)).unwrap_or_default();
            self.pages.metrics.programmed(family, latency);
        }
        self.pages.health.synced(family);
        self.pages.metrics.pending(family, 0, 0);
        let Some(turn) = self.turn(family) else { return };
        if turn.has_synced {
            turn.done();
            return;
        }
        tracing::info!(%family, "Rules are in place");
        turn.done();
        if family == Family::Ipv4 {
            let failed = sysctls::open_localhost(&self.settings, &self.pages.metrics);
            self.events.sysctls_failed(&failed);
        }
        self.remove_others(family);
    }

    /// The rules of other modes go once those of this one are there.
    fn remove_others(&self, family: Family) {
        let mode = self.settings.mode;
        self.tasks.spawn_blocking(move || {
            if let Err(e) = kernel::remove_others(Some(mode), &[family]) {
                tracing::warn!(%family, "cannot remove what other modes left: {e}");
            }
        });
    }

    fn refused(&mut self, family: Family, waiting: Waiting) {
        let longest = self.settings.sync_period;
        let Some(turn) = self.turn(family) else { return };
        let wait = turn.refused(waiting, Instant::now(), longest);
        tracing::error!(%family, retry_in = ?wait, "Sync failed; the rules before stay");
    }

    fn report(&mut self, report: Report<B::Error>) {
        let Report { family, kind, took, result, stale, checks, .. } = report;
        let (fronts, targets) = report.size;
        for count in report.rules {
            self.pages.metrics.iptables_rules(family, count);
        }
        for (policy, count) in report.without_local {
            self.pages.metrics.without_local(family, policy, count);
        }
        if let Some(checks) = checks {
            self.checks.set(family, &checks);
        }
        let is_full = kind == Kind::Full;
        if is_full {
            let next = Instant::now() + self.period().max(took * REST);
            self.state.full_sync = self.state.full_sync.max(next);
        }
        self.pages.metrics.synced(family, kind, took);
        match &result {
            Ok(_) => self.pages.metrics.carried_out(family),
            Err(_) => self.pages.metrics.refused(family, kind, self.settings.mode),
        }
        match result {
            Ok(Applied { commits, operations, drift }) => {
                tracing::debug!(
                    %family, is_full, commits, operations, fronts, targets, elapsed = ?took,
                    "SyncProxyRules complete"
                );
                let has_synced = self.turn(family).is_some_and(|turn| turn.has_synced);
                let was_repaired =
                    drift == Drift::Repaired || (is_full && has_synced && operations > 0);
                if was_repaired {
                    self.pages.metrics.repaired(family);
                    tracing::warn!(%family, operations, "Rules were not as left, and are put right");
                    self.events.repaired(family, operations);
                }
            }
            Err(e) => tracing::error!(%family, "cannot sync rules: {e}"),
        }
        if let Some(stale) = stale {
            self.cleaner.clean(family, stale);
        }
    }

    async fn node_port_addresses(&mut self) {
        let primary: BTreeSet<IpAddr> =
            self.state.node.as_ref().map(convert::primary_addresses).unwrap_or_default();
        match addresses::resolve(&self.settings.node_ports, &primary).await {
            Ok(addresses) => self.feed(&Event::NodePortAddresses(addresses)),
            Err(e) => tracing::error!("cannot tell where node ports answer: {e}"),
        }
    }
}

/// How long rules are trusted that are watched by this monitor, or by none.
pub(crate) fn period(monitor: Option<&Monitor>, settings: &Settings) -> Duration {
    // Nobody says what others do to virtual servers.
    let is_told_of_all = monitor.is_some() && settings.mode != Mode::Ipvs;
    if is_told_of_all { FULL_SYNC } else { settings.sync_period }
}

/// Word from the monitor, if there is one.
async fn touched(monitor: &mut Option<Monitor>) -> Result<Touched, NftError> {
    match monitor {
        Some(monitor) => monitor.touched().await,
        None => std::future::pending().await,
    }
}

fn name(key: ObjectKey) -> NamespacedName {
    NamespacedName::new(key.namespace, key.name)
}
