//! Models and backends, a pair for each address family, and bringing the one to the other.
//!
//! ```text
//!   events ─▶ Model ──flush──▶ delta ──Backend::apply──▶ kernel
//!               │                                          │ refused
//!               └──── table ───Backend::start◀── Held::Unknown
//! ```
//!
//! Invariant: the kernel holds the table of the last successful sync, or more; after a failure, or
//! when somebody else changed the rules, the next sync looks at the kernel instead of trusting it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portolan_model::{
    Applied, Backend, Config, Delta, Event, Family, HealthCheck, Model, NodePort,
    NodePortAddresses, RuleCount,
};

use crate::stale::StaleUdp;
use crate::tally::{Policy, Tally};

/// After how long it is tried again to look after what ends by itself.
const TEND_AGAIN: Duration = Duration::from_secs(1);

/// Whether the kernel is known to hold the table as of the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Table,
    Unknown,
}

struct Member<B> {
    model: Model,
    backend: B,
    held: Held,
    tally: Tally,
}

/// How a family was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By comparing everything with the kernel.
    Full,
    /// By what changed.
    Partial,
}

/// What became of one family's sync.
#[derive(Debug)]
pub struct Report<E> {
    /// Which family.
    pub family: Family,
    /// How it was synced.
    pub kind: Kind,
    /// How long it took.
    pub took: Duration,
    /// What was done, or why it was not.
    pub result: Result<Applied, E>,
    /// UDP flows that may lead to endpoints of the past.
    pub stale: Option<StaleUdp>,
    /// What load balancers are to be told, and where, if it changed.
    pub checks: Option<Checks>,
    /// Fronts and targets in the table.
    pub size: (usize, usize),
    /// How many Service ports drop packets for want of an endpoint on this node, by policy.
    pub without_local: [(Policy, usize); 2],
    /// How many rules there are, where that is counted.
    pub rules: Vec<RuleCount>,
}

/// What load balancers are told by one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// By port.
    pub services: BTreeMap<NodePort, HealthCheck>,
    /// The node's addresses at which they ask.
    pub addresses: NodePortAddresses,
}

/// All families of one proxy.
pub struct Syncer<B> {
    members: Vec<Member<B>>,
}

impl<B: Backend> Syncer<B> {
    /// A syncer of these families, none of which has been synced.
    pub fn new(families: impl IntoIterator<Item = (Family, B)>, config: &Config) -> Self {
        let member = |(family, backend)| Member {
            model: Model::new(family, config.clone()),
            backend,
            held: Held::Unknown,
            tally: Tally::default(),
        };
        Self { members: families.into_iter().map(member).collect() }
    }

    /// Tells every model what happened.
    pub fn feed(&mut self, event: &Event) {
        for member in &mut self.members {
            member.model.apply(event.clone());
        }
    }

    /// Takes note that somebody else may have changed the rules.
    pub fn distrust(&mut self) {
        for member in &mut self.members {
            member.held = Held::Unknown;
        }
    }

    /// Brings the kernel to what the models of these families say, each by itself: what the kernel
    /// refuses of one changes nothing for another. Families that have nothing to do are left out.
    pub fn sync(&mut self, families: &[Family]) -> Vec<Report<B::Error>> {
        let members = self.members.iter_mut();
        let wanted = |member: &&mut Member<B>| families.contains(&member.model.table().family);
        members.filter(wanted).filter_map(Member::sync).collect()
    }

    /// Looks after what changes have left to end by itself: when to look again, and what failed, which is
    /// tried again then.
    pub fn tend(&mut self, now: Instant) -> (Option<Instant>, Vec<(Family, B::Error)>) {
        let (mut next, mut failed) = (None, Vec::new());
        for member in &mut self.members {
            let again = member.backend.tend(now).unwrap_or_else(|e| {
                failed.push((member.model.table().family, e));
                Some(now + TEND_AGAIN)
            });
            next = next.into_iter().chain(again).min();
        }
        (next, failed)
    }

    /// Removes all rules.
    ///
    /// # Errors
    /// The first fault; the other families are still cleaned.
    pub fn cleanup(&mut self) -> Result<(), B::Error> {
        let results: Vec<_> = self.members.iter_mut().map(|m| m.backend.cleanup()).collect();
        results.into_iter().collect()
    }
}

impl<B: Backend> Member<B> {
    fn sync(&mut self) -> Option<Report<B::Error>> {
        let began = Instant::now();
        let delta = self.model.flush();
        self.tally.follow(&delta);
        let (kind, result) = match self.held {
            Held::Table if delta.is_empty() => return None,
            Held::Table => (Kind::Partial, self.backend.apply(self.model.table(), &delta)),
            Held::Unknown => (Kind::Full, self.backend.start(self.model.table())),
        };
        self.held = if result.is_ok() { Held::Table } else { Held::Unknown };
        let took = began.elapsed();
        let table = self.model.table();
        Some(Report {
            family: table.family,
            kind,
            took,
            checks: self.checks(kind, &delta),
            stale: result.is_ok().then(|| self.stale(kind, &delta)).flatten(),
            result,
            size: (table.fronts.len(), self.tally.targets()),
            without_local: Policy::ALL.map(|policy| (policy, self.tally.without_local(policy))),
            rules: self.backend.rules(),
        })
    }

    /// They do not wait for the kernel: that nothing more is to come must be told even if its rules
    /// are refused.
    fn checks(&self, kind: Kind, delta: &Delta) -> Option<Checks> {
        let table = self.model.table();
        let is_changed = !delta.health_checks.is_empty() || delta.settings.is_some();
        (is_changed || kind == Kind::Full).then(|| Checks {
            services: table.health_checks.clone(),
            addresses: table.settings.node_port_addresses.clone(),
        })
    }

    fn stale(&self, kind: Kind, delta: &Delta) -> Option<StaleUdp> {
        match kind {
            Kind::Full => StaleUdp::all(self.model.table()),
            Kind::Partial => StaleUdp::of(&self.model, delta),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use portolan_model::{ForwardingTable, LocalDetector, MasqueradeAll};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused;

    #[derive(Default)]
    struct Script {
        calls: Vec<&'static str>,
        refuse: bool,
        /// When to look again after what ends by itself.
        again: Option<Instant>,
    }

    struct Recorded(Rc<RefCell<Script>>);

    impl Recorded {
        fn note(&self, call: &'static str) -> Result<Applied, Refused> {
            let mut script = self.0.borrow_mut();
            script.calls.push(call);
            if script.refuse { Err(Refused) } else { Ok(Applied::default()) }
        }
    }

    impl Backend for Recorded {
        type Plan = &'static str;
        type Error = Refused;

        fn plan_full(&self, _: &ForwardingTable) -> Self::Plan {
            "full"
        }

        fn plan_delta(&self, _: &ForwardingTable, _: &Delta) -> Self::Plan {
            "delta"
        }

        fn start(&mut self, _: &ForwardingTable) -> Result<Applied, Refused> {
            self.note("start")
        }

        fn apply(&mut self, _: &ForwardingTable, _: &Delta) -> Result<Applied, Refused> {
            self.note("apply")
        }

        fn tend(&mut self, _: Instant) -> Result<Option<Instant>, Refused> {
            let Script { refuse, again, .. } = *self.0.borrow();
            if refuse { Err(Refused) } else { Ok(again) }
        }

        fn cleanup(&mut self) -> Result<(), Refused> {
            self.note("cleanup").map(|_| ())
        }
    }

    fn config() -> Config {
        Config {
            node_name: "node-1".into(),
            masquerade_all: MasqueradeAll::OffClusterOnly,
            local_detector: LocalDetector::None,
            ..Config::default()
        }
    }

    fn syncer() -> (Syncer<Recorded>, Rc<RefCell<Script>>) {
        let script = Rc::new(RefCell::new(Script::default()));
        (Syncer::new([(Family::Ipv4, Recorded(Rc::clone(&script)))], &config()), script)
    }

    fn sync(syncer: &mut Syncer<Recorded>) -> Vec<Report<Refused>> {
        syncer.sync(&[Family::Ipv4])
    }

    fn addresses(ip: &str) -> Event {
        let only = [ip.parse().unwrap()].into();
        Event::NodePortAddresses(portolan_model::NodePortAddresses::Only(only))
    }

    #[test]
    fn the_first_sync_looks_at_the_kernel_and_later_ones_apply_changes() {
        let (mut syncer, script) = syncer();
        assert_eq!(sync(&mut syncer)[0].kind, Kind::Full);
        assert!(sync(&mut syncer).is_empty());
        syncer.feed(&addresses("10.0.0.1"));
        assert_eq!(sync(&mut syncer)[0].kind, Kind::Partial);
        assert!(sync(&mut syncer).is_empty());
        assert_eq!(script.borrow().calls, ["start", "apply"]);
    }

    #[test]
    fn after_a_refusal_the_kernel_is_looked_at_again() {
        let (mut syncer, script) = syncer();
        sync(&mut syncer);
        script.borrow_mut().refuse = true;
        syncer.feed(&addresses("10.0.0.1"));
        assert!(sync(&mut syncer)[0].result.is_err());
        assert!(sync(&mut syncer)[0].result.is_err());
        script.borrow_mut().refuse = false;
        assert!(sync(&mut syncer)[0].result.is_ok());
        assert!(sync(&mut syncer).is_empty());
        assert_eq!(script.borrow().calls, ["start", "apply", "start", "start"]);
    }

    #[test]
    fn a_family_that_is_refused_holds_the_other_one_up_in_nothing() {
        let scripts = [0; 2].map(|_| Rc::new(RefCell::new(Script::default())));
        let both = [Family::Ipv4, Family::Ipv6];
        let backends = both.into_iter().zip(scripts.iter().map(|s| Recorded(Rc::clone(s))));
        let mut syncer = Syncer::new(backends, &config());
        let [four, six] = &scripts;
        six.borrow_mut().refuse = true;
        let outcomes = |reports: Vec<Report<Refused>>| {
            reports.into_iter().map(|r| (r.family, r.result.is_ok())).collect::<Vec<_>>()
        };
        let expected = [(Family::Ipv4, true), (Family::Ipv6, false)];
        assert_eq!(outcomes(syncer.sync(&both)), expected);
        let both_addresses = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        let only = portolan_model::NodePortAddresses::Only(both_addresses);
        syncer.feed(&Event::NodePortAddresses(only));
        // While the refused family waits for its turn, the other one goes on.
        assert_eq!(outcomes(syncer.sync(&[Family::Ipv4])), [(Family::Ipv4, true)]);
        six.borrow_mut().refuse = false;
        assert_eq!(outcomes(syncer.sync(&both)), [(Family::Ipv6, true)]);
        assert_eq!(four.borrow().calls, ["start", "apply"]);
        assert_eq!(six.borrow().calls, ["start", "start"]);
    }

    #[test]
    fn what_ends_by_itself_is_looked_after_when_the_first_of_all_is_due() {
        let scripts = [0; 2].map(|_| Rc::new(RefCell::new(Script::default())));
        let both = [Family::Ipv4, Family::Ipv6];
        let backends = both.into_iter().zip(scripts.iter().map(|s| Recorded(Rc::clone(s))));
        let mut syncer = Syncer::new(backends, &config());
        let now = Instant::now();
        let seconds = |n| Some(now + Duration::from_secs(n));
        assert_eq!(syncer.tend(now).0, None);
        let [four, six] = &scripts;
        four.borrow_mut().again = seconds(9);
        assert_eq!(syncer.tend(now).0, seconds(9));
        six.borrow_mut().again = seconds(5);
        assert_eq!(syncer.tend(now).0, seconds(5));
        six.borrow_mut().refuse = true;
        let (next, failed) = syncer.tend(now);
        assert_eq!(next, Some(now + TEND_AGAIN));
        assert!(matches!(failed.as_slice(), [(Family::Ipv6, Refused)]));
    }

    #[test]
    fn distrust_makes_the_next_sync_a_full_one() {
        let (mut syncer, _) = syncer();
        sync(&mut syncer);
        syncer.distrust();
        assert_eq!(sync(&mut syncer)[0].kind, Kind::Full);
    }
}
