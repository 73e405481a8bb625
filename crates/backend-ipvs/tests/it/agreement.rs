//! Virtual servers and rules, walked packet by packet, agree with the model's walk; and plans do what
//! they say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_backend_ipvs::{Options, Planner};
use portolan_model::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::{Fate, Machine};
use crate::objects::ip;
use crate::random::{PLACES, Place, USUAL, setup, step};

/// Where node ports may answer.
const AT: &[Option<bool>] = &[None, Some(true), Some(false)];

fn expected(table: &ForwardingTable, packet: &Packet) -> BTreeSet<Fate> {
    match walk(table, &ModeProfile::IPVS, packet).0 {
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

/// Mode ipvs has no node ports at loopback addresses.
fn of_mode(table: &ForwardingTable) -> ForwardingTable {
    let mut table = table.clone();
    table.settings.localhost_node_ports = LocalhostNodePorts::Off;
    table
}

/// Packets from everywhere; and those of this node's processes, which the kernel sends from the
/// Service's address itself.
fn packets(place: &Place) -> Vec<Packet> {
    let mut packets = place.packets();
    let own = packets.iter().filter(|packet| packet.arrival == Arrival::SentHere);
    let own: Vec<_> =
        own.map(|packet| Packet { source: packet.destination, ..packet.clone() }).collect();
    packets.extend(own);
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn servers_and_rules_agree_with_the_walk_after_any_changes(
        v6: bool,
        setup in setup(),
        steps in vec(step(AT), 1..8),
    ) {
        let place = &PLACES[usize::from(v6)];
        let (packets, node) = (packets(place), ip(place.node));
        let mut model = place.model(&setup);
        let mut planner = Planner::new(place.family, Options::default());
        model.flush();
        planner.holds(model.table());
        let mut machine = Machine::default();
        let first = planner.full(model.table());
        machine.carry_out(&first, |_| Ok(())).map_err(TestCaseError::fail)?;
        for happenings in steps {
            let before = of_mode(model.table());
            for happening in happenings {
                model.apply(happening.event(place));
            }
            let delta = model.flush();
            let plan = planner.delta(model.table(), &delta);
            let after = of_mode(model.table());
            let mut number = 0;
            let half_way = |machine: &Machine| {
                number += 1;
                for packet in packets.iter().skip(number % 7).step_by(7) {
                    let mut allowed = expected(&before, packet);
                    allowed.extend(expected(&after, packet));
                    allowed.insert(Fate::Dropped);
                    let fates = machine.fates(packet, node);
                    // An endpoint may begin to reach itself, or cease to, a moment before the front changes.
                    let is_as = |fate: &Fate, other: &Fate| match (fate, other) {
                        (Fate::Sent { to, .. }, Fate::Sent { to: end, .. })
                            if to.ip() == packet.source =>
                        {
                            to == end
                        }
                        (fate, other) => fate == other,
                    };
                    let is_odd = |fate: &&Fate| !allowed.iter().any(|other| is_as(fate, other));
                    if let Some(odd) = fates.iter().find(is_odd) {
                        return Err(format!("{odd:?} half way, of {allowed:?}: {packet:?}\n{plan}"));
                    }
                }
                Ok(())
            };
            // While settings change, some packets see the old ones and some the new.
            let done = match delta.settings {
                Some(_) => machine.carry_out(&plan, |_| Ok(())),
                None => machine.carry_out(&plan, half_way),
            };
            done.map_err(TestCaseError::fail)?;
            planner.followed(&delta, &plan);
            for packet in &packets {
                let expected = expected(&after, packet);
                prop_assert_eq!(machine.fates(packet, node), expected, "{:?}\n{}", packet, plan);
            }
        }
        let mut fresh = Machine::default();
        let full = Planner::new(place.family, Options::default()).full(model.table());
        fresh.carry_out(&full, |_| Ok(())).map_err(TestCaseError::fail)?;
        for packet in &packets {
            prop_assert_eq!(fresh.fates(packet, node), machine.fates(packet, node));
        }
        // But for what terminates, nothing is left over.
        for (_, targets) in machine.servers.values_mut() {
            targets.retain(|_, weight| *weight > 0);
        }
        prop_assert_eq!(fresh, machine);
    }
}

#[test]
fn the_number_of_rules_does_not_depend_on_services() {
    let place = &PLACES[0];
    let rules = |services: u16| {
        let mut model = place.model(&USUAL);
        for number in 0..services {
            let [high, low] = number.to_be_bytes();
            let address = IpAddr::from([10, 97, high, low]).to_string();
            let name = format!("service-{number}");
            model.apply(Event::Service(crate::objects::service(&name, &address, None)));
            model.apply(crate::objects::slice(&name, &[("10.244.0.1", "node-0")]));
        }
        model.flush();
        let mut machine = Machine::default();
        let full = Planner::new(place.family, Options::default()).full(model.table());
        machine.carry_out(&full, |_| Ok(())).unwrap();
        assert_eq!(machine.link.len(), services.into());
        assert_eq!(machine.servers.len(), usize::from(services) * 2);
        machine.rule_count()
    };
    assert_eq!(rules(1), rules(300));
}
