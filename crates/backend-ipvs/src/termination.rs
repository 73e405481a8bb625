//! Real servers that are no endpoints any more and still have connections.
//!
//! ```text
//! endpoint ──leaves──▶ weight 0 ──no connection, or deadline──▶ removed
//!     ◀──comes back──────┘
//! ```
//! With weight 0 a real server gets no new connection, also not from clients that stay with it
//! (`expire_quiescent_template`). Which ones are there is known from the kernel, so that nothing is
//! forgotten over a restart and no resync gives one its weight back (kubernetes/kubernetes#57841, #90188).
//!
//! Upstream rule: `pkg/proxy/ipvs/graceful_termination.go`, whose list lives in memory only.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portolan_netlink::ipvs::{Destination, ListedDestination, Op, RealServer, VirtualServer};

/// How often connections are counted.
pub(crate) const EVERY: Duration = Duration::from_secs(15);

/// Real servers at weight 0, with when they are removed in any case; none as long as nobody has told
/// the time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terminating(BTreeMap<VirtualServer, BTreeMap<RealServer, Option<Instant>>>);

impl Terminating {
    /// The virtual servers that have some.
    pub(crate) fn servers(&self) -> Vec<VirtualServer> {
        self.0.keys().copied().collect()
    }

    /// Those of a virtual server.
    pub(crate) fn of(&self, at: &VirtualServer) -> impl Iterator<Item = RealServer> + '_ {
        self.0.get(at).into_iter().flat_map(|servers| servers.keys().copied())
    }

    /// These, with the deadlines that are known of them.
    pub(crate) fn only(&mut self, found: impl IntoIterator<Item = (VirtualServer, RealServer)>) {
        let mut known = std::mem::take(&mut self.0);
        for (at, to) in found {
            let deadline = known.get_mut(&at).and_then(|servers| servers.remove(&to)).flatten();
            self.0.entry(at).or_default().insert(to, deadline);
        }
    }

    /// Takes note of an operation that was carried out.
    pub(crate) fn follow(&mut self, op: &Op) {
        match op {
            Op::SetDestination(at, to, Destination { weight: 0, .. }) => {
                self.0.entry(*at).or_default().entry(*to).or_insert(None);
            }
            Op::SetDestination(at, to, _)
            | Op::AddDestination(at, to, _)
            | Op::DeleteDestination(at, to) => {
                let left = self.0.get_mut(at).map(|servers| {
                    servers.remove(to);
                    servers.is_empty()
                });
                if left == Some(true) {
                    self.0.remove(at);
                }
            }
            Op::DeleteService(at) => drop(self.0.remove(at)),
            Op::AddService(..) | Op::SetService(..) => {}
        }
    }

    /// What is to be done to a virtual server whose real servers are listed like that. Those that
    /// are not listed any more are forgotten; those to which somebody gave a weight lose it.
    pub(crate) fn tend(
        &mut self,
        at: &VirtualServer,
        listed: &[ListedDestination],
        now: Instant,
        patience: Duration,
    ) -> Vec<Op> {
        let mut ops = Vec::new();
        let Some(servers) = self.0.get_mut(at) else { return ops };
        servers.retain(|to, deadline| {
            let Some(found) = listed.iter().find(|found| found.server == *to) else {
                return false;
            };
            let deadline = *deadline.get_or_insert_with(|| now + patience);
            let count = found.connections;
            let is_idle = count.active == 0 && count.inactive == 0;
            if is_idle || deadline <= now {
                ops.push(Op::DeleteDestination(*at, *to));
            } else if found.destination.weight > 0 {
                let destination = Destination { weight: 0, ..found.destination };
                ops.push(Op::SetDestination(*at, *to, destination));
            }
            true
        });
        if servers.is_empty() {
            self.0.remove(at);
        }
        ops
    }

    /// When to look again; nothing when there is nothing to wait for.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.0.values().flat_map(BTreeMap::values).copied().flatten();
        let again = (!self.0.is_empty()).then_some(now + EVERY);
        deadlines.chain(again).min()
    }
}

#[cfg(test)]
mod tests {
    use portolan_netlink::ipvs::{Connections, Protocol};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(900);

    fn at() -> VirtualServer {
        VirtualServer { address: [10, 96, 0, 1].into(), port: 80, protocol: Protocol::Tcp }
    }

    fn real(number: u8) -> RealServer {
        RealServer { address: [10, 244, 0, number].into(), port: 8080 }
    }

    fn listed(number: u8, weight: u32, active: u32, inactive: u32) -> ListedDestination {
        let connections = Connections { active, inactive, persistent: 7 };
        let destination = Destination::masquerade(weight);
        ListedDestination { server: real(number), destination, connections }
    }

    fn leaving(numbers: &[u8]) -> Terminating {
        let mut terminating = Terminating::default();
        for number in numbers {
            let how = Destination::masquerade(0);
            terminating.follow(&Op::SetDestination(at(), real(*number), how));
        }
        terminating
    }

    #[test]
    fn one_without_connections_goes_and_persistent_clients_do_not_hold_it() {
        let (mut terminating, now) = (leaving(&[1, 2, 3]), Instant::now());
        let listed = [listed(1, 0, 0, 0), listed(2, 0, 1, 0), listed(3, 0, 0, 1)];
        let ops = terminating.tend(&at(), &listed, now, PATIENCE);
        assert_eq!(ops, [Op::DeleteDestination(at(), real(1))]);
        ops.iter().for_each(|op| terminating.follow(op));
        assert_eq!(terminating.of(&at()).collect::<Vec<_>>(), [real(2), real(3)]);
        assert_eq!(terminating.next(now), Some(now + EVERY));
    }

    #[test]
    fn the_deadline_counts_from_the_first_look_and_is_kept_to_the_moment() {
        let (mut terminating, now) = (leaving(&[1]), Instant::now());
        let busy = [listed(1, 0, 5, 0)];
        assert!(terminating.tend(&at(), &busy, now, PATIENCE).is_empty());
        let shortly = now + PATIENCE - Duration::from_secs(1);
        assert!(terminating.tend(&at(), &busy, shortly, PATIENCE).is_empty());
        assert_eq!(terminating.next(shortly), Some(now + PATIENCE));
        // What a restart of the backend's own finds again keeps its deadline.
        terminating.only([(at(), real(1))]);
        let ops = terminating.tend(&at(), &busy, now + PATIENCE, PATIENCE);
        assert_eq!(ops, [Op::DeleteDestination(at(), real(1))]);
    }

    #[test]
    fn one_that_comes_back_or_is_gone_is_forgotten_and_a_stray_weight_is_taken_back() {
        let (mut terminating, now) = (leaving(&[1, 2, 3]), Instant::now());
        terminating.follow(&Op::SetDestination(at(), real(1), Destination::masquerade(1)));
        let ops = terminating.tend(&at(), &[listed(3, 1, 2, 0)], now, PATIENCE);
        assert_eq!(ops, [Op::SetDestination(at(), real(3), Destination::masquerade(0))]);
        assert_eq!(terminating.of(&at()).collect::<Vec<_>>(), [real(3)]);
        terminating.follow(&Op::DeleteService(at()));
        assert_eq!(terminating.next(now), None);
    }
}
