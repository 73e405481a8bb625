//! Plans: from one content of the kernel to another.
//!
//! ```text
//! close    new fronts, those that go and those whose guards change: new connections are dropped,
//!          and their senders send again; those that nobody may use any more get their refusal
//! guard    who may come, addresses and hairpins; rules
//! servers  virtual servers, real ones that come, then those that leave
//! address  on kube-ipvs0
//! mark     who is masqueraded: not before the packets end here, or they would go on to elsewhere so
//! open     fronts that are ready
//! gone     the same backwards: mark, address, virtual server, and last what guarded it
//! ```
//! A packet may see elements of two generations while a transaction is committed, so what closes a front,
//! what changes its guards and what opens it are several transactions.

use std::collections::BTreeSet;

use portolan_netlink::ipvs::{Destination, Op as Ipvs, VirtualServer};
use portolan_netlink::{address, nft};

use crate::content::{Content, Door, Refusal, Server, terminates_gracefully};
use crate::layout::{Elements, Layout};
use crate::plan::{Changes, Entry, Plan, Step};

/// What brings the kernel from one content to another. `schema` makes the table if it is not there, and
/// `rules` writes rules that are different.
pub(crate) fn between(
    layout: &Layout,
    before: &Content,
    after: &Content,
    schema: Changes,
    rules: Vec<nft::Op>,
) -> Plan {
    let mut plan = Plan::default();
    plan.push(Step::Nft(schema));
    let Doors { close, mut guard, mark, open, unmark, gone: without_doors } =
        doors(layout, before, after);
    // Ports of an address that is nobody's any more are not refused.
    let mut gone = Changes::default();
    let mut hold =
        |set: &dyn Fn(std::net::IpAddr) -> _, before: &BTreeSet<_>, after: &BTreeSet<_>| {
            for address in after.difference(before) {
                guard.push(Entry { add: vec![set(*address)], ..Entry::default() });
            }
            for address in before.difference(after) {
                let mut entry = Entry::default();
                entry.replace(vec![set(*address)], Vec::new());
                gone.push(entry);
            }
        };
    hold(&|ip| layout.address(ip), &before.addresses, &after.addresses);
    hold(&|ip| layout.hairpin(ip), &before.hairpins, &after.hairpins);
    without_doors.entries.into_iter().for_each(|entry| gone.push(entry));
    guard.finish = rules;
    plan.push(Step::Nft(close));
    plan.push(Step::Nft(guard));
    let (changed, removed) = servers(before, after);
    plan.push(Step::Servers(changed));
    let come = after.link.difference(&before.link).copied().map(address::Op::Add);
    plan.push(Step::Addresses(come.collect()));
    plan.push(Step::Nft(mark));
    plan.push(Step::Nft(open));
    plan.push(Step::Nft(unmark));
    let left = before.link.difference(&after.link).copied().map(address::Op::Remove);
    plan.push(Step::Addresses(left.collect()));
    plan.push(Step::Servers(removed));
    plan.push(Step::Nft(gone));
    plan
}

#[derive(Default)]
struct Doors {
    close: Changes,
    guard: Changes,
    mark: Changes,
    open: Changes,
    unmark: Changes,
    gone: Changes,
}

fn doors(layout: &Layout, before: &Content, after: &Content) -> Doors {
    let mut doors = Doors::default();
    let servers: BTreeSet<_> = before.doors.keys().chain(after.doors.keys()).collect();
    for server in servers {
        doors.take(layout, server, before.doors.get(server), after.doors.get(server));
    }
    doors
}

impl Doors {
    fn take(
        &mut self,
        layout: &Layout,
        server: &VirtualServer,
        before: Option<&Door>,
        after: Option<&Door>,
    ) {
        let none = Door::default();
        let (was, will) = (before.unwrap_or(&none), after.unwrap_or(&none));
        if was == will {
            return;
        }
        let is_same_way = before.is_some() && after.is_some() && was.has_same_guards(will);
        // Meanwhile, or from now on. Who is refused, and who is not even told so, is known once the
        // guards are there.
        let closed = match (after, will.refusal.or(was.refusal)) {
            (_, Some(refusal)) if is_same_way => refusal,
            (None, Some(refusal)) => refusal,
            _ => Refusal::Drop,
        };
        let refusal = |refusal: Option<Refusal>| -> Elements {
            refusal.map(|refusal| layout.refusal(server, refusal)).unwrap_or_default()
        };
        let change = |before: Elements, after: Elements| {
            let mut entry = Entry::default();
            entry.replace(before, after);
            entry
        };
        self.close.push(change(refusal(was.refusal), refusal(Some(closed))));
        let guards = |door: &Door| layout.guards(server, door);
        let known = |door: &Door| layout.known(server, door);
        if after.is_none() {
            self.unmark.push(change(known(was), Vec::new()));
            let all = [guards(was), refusal(Some(closed))].concat();
            return self.gone.push(change(all, Vec::new()));
        }
        if !is_same_way {
            self.guard.push(change(guards(was), guards(will)));
            self.mark.push(change(known(was), known(will)));
        }
        self.open.push(change(refusal(Some(closed)), refusal(will.refusal)));
    }
}

/// What changes of virtual and real servers, and which virtual ones go.
fn servers(before: &Content, after: &Content) -> (Vec<Ipvs>, Vec<Ipvs>) {
    let mut changed = Vec::new();
    for (at, will) in &after.servers {
        match before.servers.get(at) {
            None => {
                changed.push(Ipvs::AddService(*at, will.service));
                let targets = will.targets.iter();
                changed.extend(targets.map(|(to, how)| Ipvs::AddDestination(*at, *to, *how)));
            }
            Some(was) => server(&mut changed, at, was, will),
        }
    }
    let gone = before.servers.keys().filter(|at| !after.servers.contains_key(at));
    (changed, gone.copied().map(Ipvs::DeleteService).collect())
}

/// Real servers that come are there before others leave. One that leaves takes no new connection from
/// then on, and one that has left already is left alone.
fn server(ops: &mut Vec<Ipvs>, at: &VirtualServer, was: &Server, will: &Server) {
    if was.service != will.service {
        ops.push(Ipvs::SetService(*at, will.service));
    }
    for (to, how) in &will.targets {
        match was.targets.get(to) {
            None => ops.push(Ipvs::AddDestination(*at, *to, *how)),
            Some(present) if present != how => ops.push(Ipvs::SetDestination(*at, *to, *how)),
            Some(_) => {}
        }
    }
    for (to, how) in was.targets.iter().filter(|(to, _)| !will.targets.contains_key(to)) {
        if !terminates_gracefully(at) {
            ops.push(Ipvs::DeleteDestination(*at, *to));
        } else if how.weight > 0 {
            ops.push(Ipvs::SetDestination(*at, *to, Destination { weight: 0, ..*how }));
        }
    }
}
