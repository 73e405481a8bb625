//! The rules, walked packet by packet, agree with the model's walk; and plans do what they say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_backend_nftables::{Options, Planner};
use portolan_model::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::{Fate, Machine, Memory};
use crate::random::{PLACES, USUAL, setup, step};

/// Where node ports may answer.
pub(crate) const AT: &[Option<bool>] = &[Some(true), Some(false)];

fn expected(table: &ForwardingTable, packet: &Packet) -> BTreeSet<Fate> {
    expected_in(&ModeProfile::NFTABLES, table, packet)
}

pub(crate) fn expected_in(
    profile: &ModeProfile,
    table: &ForwardingTable,
    packet: &Packet,
) -> BTreeSet<Fate> {
    match walk(table, profile, packet).0 {
        Verdict::Forward(choices) => choices
            .into_iter()
            .map(|choice| Fate::Sent {
                to: choice.target,
                masqueraded: choice.masquerade.is_some(),
            })
            .collect(),
        Verdict::Reject => [Fate::Rejected].into(),
        Verdict::Drop => [Fate::Dropped].into(),
        Verdict::Pass => [Fate::Passed].into(),
    }
}

/// Whether a packet goes to a set whose clients keep their endpoint.
fn keeps_its_endpoint(table: &ForwardingTable, packet: &Packet) -> bool {
    let (_, reasons) = walk(table, &ModeProfile::NFTABLES, packet);
    reasons.iter().any(|reason| match reason {
        Reason::Set { id, .. } => table.sets[id].affinity != SessionAffinity::None,
        _ => false,
    })
}

/// Bytes so few that every step is a transaction of its own.
const ONE_STEP: usize = 1;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rules_agree_with_the_walk_after_any_changes(
        v6: bool,
        setup in setup(),
        steps in vec(step(AT), 1..8),
    ) {
        let place = &PLACES[usize::from(v6)];
        let packets = place.packets();
        let mut model = place.model(&setup);
        let mut planner = Planner::new(place.family, Options::default());
        model.flush();
        let mut machine = Machine::default();
        let first = planner.full(model.table());
        for batch in first.pack(ONE_STEP) {
            machine.commit(&batch).map_err(TestCaseError::fail)?;
        }
        planner.carried_out(&first);
        // What clients have once got, over all changes.
        let mut memory = Memory::new();
        for happenings in steps {
            let before = model.table().clone();
            for happening in happenings {
                model.apply(happening.event(place));
            }
            let delta = model.flush();
            let plan = planner.delta(model.table(), &delta);
            for (index, batch) in plan.pack(ONE_STEP).iter().enumerate() {
                machine.commit(batch).map_err(TestCaseError::fail)?;
                for packet in packets.iter().skip(index % 7).step_by(7) {
                    let fates = machine.fates(packet);
                    let allowed = [&before, model.table()].map(|table| expected(table, packet));
                    // Half way through a change a packet may vanish, but it is neither refused nor
                    // let through unless it was or will be.
                    for odd in [Fate::Rejected, Fate::Passed] {
                        let is_odd = fates.contains(&odd)
                            && allowed.iter().all(|fates| !fates.contains(&odd));
                        prop_assert!(!is_odd, "{odd:?} half way: {packet:?}");
                    }
                }
            }
            planner.carried_out(&plan);
            for packet in &packets {
                let expected = expected(model.table(), packet);
                prop_assert_eq!(&machine.fates(packet), &expected, "{:?}", packet);
                // Whatever it remembers, a client gets one of those, and the same one again.
                let (fate, _) = machine.fate(packet, 1, &mut memory);
                prop_assert!(expected.contains(&fate), "{:?} of {:?}: {:?}", fate, expected, packet);
                if keeps_its_endpoint(model.table(), packet) {
                    let again = [0, 1, 2, 3].map(|pick| machine.fate(packet, pick, &mut memory).0);
                    prop_assert_eq!(again, [fate; 4], "{:?}", packet);
                }
            }
        }
        let mut fresh = Machine::default();
        let full = Planner::new(place.family, Options::default()).full(model.table());
        for batch in full.pack(usize::MAX) {
            fresh.commit(&batch).map_err(TestCaseError::fail)?;
        }
        for packet in &packets {
            prop_assert_eq!(fresh.fates(packet), machine.fates(packet));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A packet sees rules of one generation and elements of two while a change is committed. It may
    /// vanish then, but it goes nowhere, is refused by nobody and is let through by no one but who would
    /// have done so before or will afterwards.
    #[test]
    fn a_packet_between_two_generations_gets_what_one_of_them_gives_or_nothing(
        v6: bool,
        small: bool,
        setup in setup(),
        steps in vec(step(AT), 2..5),
    ) {
        let place = &PLACES[usize::from(v6)];
        let packets = place.packets();
        let mut model = place.model(&setup);
        let mut planner = Planner::new(place.family, Options::default());
        let mut machine = Machine::default();
        let mut steps = steps.into_iter();
        steps.next().into_iter().flatten().for_each(|happening| model.apply(happening.event(place)));
        let first = planner.full(flushed_table(&mut model));
        for (index, batch) in first.pack(if small { ONE_STEP } else { usize::MAX }).iter().enumerate() {
            let mut next = machine.clone();
            next.commit(batch).map_err(TestCaseError::fail)?;
            for packet in packets.iter().skip(index % 31).step_by(31) {
                let mut allowed = expected(model.table(), packet);
                allowed.extend([Fate::Passed, Fate::Dropped]);
                let torn = machine.torn_fates(&next, packet);
                let odd = torn.iter().find(|fate| !allowed.contains(fate));
                prop_assert!(odd.is_none(), "{odd:?} at first: {packet:?}\n{batch}");
            }
            machine = next;
        }
        planner.carried_out(&first);
        for happenings in steps {
            let before = model.table().clone();
            for happening in happenings {
                model.apply(happening.event(place));
            }
            let delta = model.flush();
            let plan = planner.delta(model.table(), &delta);
            // Endpoints may change before the fronts that lead to them.
            let mut between = before.clone();
            between.sets.extend(model.table().sets.clone());
            let tables = [&before, &between, model.table()];
            let max_bytes = if small { ONE_STEP } else { usize::MAX };
            for (index, batch) in plan.pack(max_bytes).iter().enumerate() {
                let mut next = machine.clone();
                next.commit(batch).map_err(TestCaseError::fail)?;
                for packet in packets.iter().skip(index % 5).step_by(5) {
                    let allowed: BTreeSet<Fate> =
                        tables.iter().flat_map(|table| expected(table, packet)).collect();
                    for fate in machine.torn_fates(&next, packet) {
                        // An endpoint that goes may reach itself once more without the node's address.
                        let is_as = |other: &Fate| match (fate, other) {
                            (Fate::Sent { to, .. }, Fate::Sent { to: end, .. })
                                if to.ip() == packet.source =>
                            {
                                to == *end
                            }
                            (fate, other) => fate == *other,
                        };
                        let is_allowed = fate == Fate::Dropped || allowed.iter().any(is_as);
                        prop_assert!(is_allowed, "{fate:?}, none of {allowed:?}: {packet:?}\n{batch}");
                    }
                }
                machine = next;
            }
            planner.carried_out(&plan);
        }
    }
}

fn flushed_table(model: &mut Model) -> &ForwardingTable {
    model.flush();
    model.table()
}

#[test]
fn the_number_of_rules_depends_on_the_sizes_of_sets_alone() {
    let place = &PLACES[0];
    let rules = |services: u16, sizes: &[usize]| {
        let mut model = place.model(&USUAL);
        for number in 0..services {
            let [high, low] = number.to_be_bytes();
            let mut service = crate::objects::service(
                &format!("service-{number}"),
                &IpAddr::from([10, 97, high, low]).to_string(),
                Some(30000 + number),
            );
            service.ports.truncate(1);
            model.apply(Event::Service(service));
            let addresses: Vec<_> = (0..sizes[usize::from(number) % sizes.len()])
                .map(|endpoint| format!("10.244.{endpoint}.{low}"))
                .collect();
            let endpoints: Vec<_> =
                addresses.iter().map(|address| (address.as_str(), "node-0")).collect();
            model.apply(crate::objects::slice(&format!("service-{number}"), &endpoints));
        }
        model.flush();
        let mut machine = Machine::default();
        for batch in
            Planner::new(place.family, Options::default()).full(model.table()).pack(1 << 20)
        {
            machine.commit(&batch).unwrap();
        }
        machine.rule_count()
    };
    let few = rules(4, &[1, 2, 5, 7]);
    assert_eq!(rules(400, &[1, 2, 5, 7]), few);
    let one_more_size = rules(400, &[1, 2, 5, 7, 8]);
    assert!(one_more_size - few <= 12, "{few} and then {one_more_size}");
}
