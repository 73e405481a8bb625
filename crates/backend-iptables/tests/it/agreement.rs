//! The rules, walked packet by packet, agree with the model's walk; and plans do what they say.

use std::collections::BTreeSet;

use portolan_backend_iptables::{Options, Planner};
use portolan_model::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::{Fate, Machine};
use crate::objects::ip;
use crate::random::{PLACES, Place, setup, step};

/// Where node ports may answer.
pub(crate) const AT: &[Option<bool>] = &[None, Some(true), Some(false)];

pub(crate) fn expected(table: &ForwardingTable, packet: &Packet) -> BTreeSet<Fate> {
    match walk(table, &ModeProfile::IPTABLES, packet).0 {
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

pub(crate) fn fates(machine: &Machine, place: &Place, packet: &Packet) -> BTreeSet<Fate> {
    machine.fates(packet, &[ip(place.node)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rules_agree_with_the_walk_after_any_changes(
        v6: bool,
        setup in setup(),
        steps in vec(step(AT), 1..8),
    ) {
        let place = &PLACES[usize::from(v6)];
        let packets = place.packets();
        let mut model = place.model(&setup);
        let mut planner = Planner::new(Options::default());
        model.flush();
        planner.holds(model.table());
        let mut machine = Machine::default();
        machine.restore(&planner.full(model.table()).to_string()).map_err(TestCaseError::fail)?;
        for happenings in steps {
            for happening in happenings {
                model.apply(happening.event(place));
            }
            let delta = model.flush();
            let plan = planner.delta(model.table(), &delta);
            // What it remembers of the table is what a look at all of it would find.
            let fresh = Planner::new(Options::default()).delta(model.table(), &delta);
            prop_assert_eq!(plan.to_string(), fresh.to_string());
            planner.followed(&delta);
            machine.restore(&plan.to_string()).map_err(TestCaseError::fail)?;
            for packet in &packets {
                let expected = expected(model.table(), packet);
                prop_assert_eq!(fates(&machine, place, packet), expected, "{:?}", packet);
            }
        }
        let mut fresh = Machine::default();
        fresh.restore(&planner.full(model.table()).to_string()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(fresh.chains(), machine.chains());
        for packet in &packets {
            prop_assert_eq!(fates(&fresh, place, packet), fates(&machine, place, packet));
        }
    }
}
