//! The rules, walked packet by packet, agree with the model's walk; and plans do what they say.

use std::collections::BTreeSet;

use portolan_backend_iptables::{Accounting, Options, Planner};
use portolan_model::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::{Fate, Machine};
use crate::objects::ip;
use crate::random::{Happening, PLACES, Place, USUAL, setup, step};

/// The larger set of rules: some packets are counted, which changes nothing for them.
pub(crate) const COUNTED: Options = Options {
    masquerade_mark: 1 << 14,
    invalid_packets: InvalidPackets::Drop,
    accounting: Accounting::On,
};

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

/// Of what reads alike before and after, the old rules go: who may use a front is let through before
/// the others are stopped.
#[test]
fn who_may_use_a_front_still_may_when_it_gets_another_name() {
    let place = &PLACES[0];
    let mut setup = USUAL;
    setup.ranges_hold = SourceRangesHold::AtNodePortsToo;
    let mut model = place.model(&setup);
    let named = |number| Happening::Service {
        number: 0,
        ports: vec![(Protocol::Udp, number, Some(30000))],
        external_ips: BTreeSet::new(),
        ingress: BTreeSet::new(),
        ranges: [1, 2].into(),
        policies: [TrafficPolicy::Cluster; 2],
        affinity: SessionAffinity::None,
        mode: IpMode::Vip,
    };
    model.apply(named(80).event(place));
    model.flush();
    let planner = Planner::new(COUNTED);
    let mut machine = Machine::default();
    machine.restore(&planner.full(model.table()).to_string()).unwrap();
    model.apply(named(81).event(place));
    let delta = model.flush();
    machine.restore(&planner.delta(model.table(), &delta).to_string()).unwrap();
    for packet in place.packets() {
        assert_eq!(fates(&machine, place, &packet), expected(model.table(), &packet), "{packet:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn rules_agree_with_the_walk_after_any_changes(
        v6: bool,
        setup in setup(),
        steps in vec(step(AT), 1..8),
    ) {
        let place = &PLACES[usize::from(v6)];
        let packets = place.packets();
        let mut model = place.model(&setup);
        let mut planner = Planner::new(COUNTED);
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
            let fresh = Planner::new(COUNTED).delta(model.table(), &delta);
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
