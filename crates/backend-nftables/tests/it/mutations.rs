//! Faults put into what the kernel is handed, and into what the walk goes by, are noticed: the property
//! of their agreement would not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use portolan_backend_nftables::{Options, Planner};
use portolan_model::*;
use portolan_netlink::nft::{Data, ElementData, Verdict as To};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::agreement::{AT, expected_in};
use crate::machine::Machine;
use crate::random::{PLACES, Place, Setup, setup, step};

/// A fault in the rules.
#[derive(Debug)]
enum Fault {
    /// The rules of chains whose name begins so, and whose text has this in it, are missing.
    NoRule(&'static str, &'static str),
    /// A set or map has lost its first element.
    NoElement(&'static str),
    /// The data of a map's first element has another byte here.
    Byte(&'static str, usize),
    /// All elements of a verdict map drop.
    AllDrop(&'static str),
}

use Fault::{AllDrop, Byte, NoElement, NoRule};

const FAULTS: [Fault; 33] = [
    NoRule("check-outside", "@guarded jump"),
    NoRule("check-outside", "@guarded-node-ports"),
    NoRule("check-pod", "@guarded jump"),
    NoRule("check-node", "@guarded-node-ports"),
    NoRule("admit", "drop"),
    NoRule("admit-at-node", "drop"),
    NoRule("admit", "@admitted return"),
    NoRule("admit-at-node", "@admitted-node-ports return"),
    NoRule("check-outside", "vmap @refusals"),
    NoRule("check-node", "vmap @refusals"),
    NoRule("check-pod", "goto refuse"),
    NoRule("check-pod", "drop"),
    NoRule("check-pod", "!= 0xffffffff accept"),
    NoRule("from-node", "mark set"),
    NoRule("from-outside", "mark set"),
    NoRule("from-outside-at-node", "mark set"),
    NoRule("from-outside", "vmap @services-outside-by-size"),
    NoRule("from-pod-at-node", "vmap @node-ports-by-size"),
    NoRule("from-node", "goto from-node-at-node"),
    NoRule("filter-prerouting", "goto check-pod"),
    NoRule("nat-prerouting", "goto from-pod"),
    NoRule("nat-output", "goto from-node"),
    NoRule("nat-postrouting", "@hairpins"),
    NoRule("nat-postrouting", "meta mark"),
    NoRule("services-2", "numgen"),
    NoElement("services"),
    NoElement("node-ports"),
    NoElement("endpoints"),
    NoElement("hairpins"),
    NoElement("cluster-ips"),
    Byte("services", 0),
    Byte("endpoints", 3),
    AllDrop("refusals"),
];

impl Fault {
    /// The rules with the fault; nothing when there is no place for it.
    fn of(&self, machine: &Machine) -> Option<Machine> {
        let mut machine = machine.clone();
        let mut is_there = false;
        match self {
            NoRule(begin, part) => {
                for (name, (_, rules)) in &mut machine.chains {
                    if name.as_str().starts_with(begin) {
                        let before = rules.len();
                        rules.retain(|rule| !rule.to_string().contains(part));
                        is_there |= rules.len() != before;
                    }
                }
            }
            NoElement(of) => {
                is_there = elements(&mut machine, of).pop_first().is_some();
            }
            Byte(of, at) => {
                if let Some(mut first) = elements(&mut machine, of).first_entry()
                    && let ElementData::Value(data) = first.get()
                {
                    let mut bytes = data.as_bytes().to_vec();
                    bytes[*at] ^= 7;
                    first.insert(ElementData::Value(Data::new(&bytes)));
                    is_there = true;
                }
            }
            AllDrop(of) => {
                for data in elements(&mut machine, of).values_mut() {
                    *data = ElementData::Verdict(To::Drop);
                    is_there = true;
                }
            }
        }
        is_there.then_some(machine)
    }
}

fn elements<'a>(machine: &'a mut Machine, of: &str) -> &'a mut BTreeMap<Data, ElementData> {
    let found = machine.sets.iter_mut().find(|(name, _)| name.as_str() == of);
    &mut found.expect("every table has it").1.1
}

/// Something else that the walk goes by.
type Instead = fn(&mut ForwardingTable, &mut ModeProfile);

/// What a walk would say that passed something over, or took one thing for another.
const WALKS: [(&str, Instead); 16] = [
    ("no source ranges", |table, _| fronts(table, |front| front.source_ranges = None)),
    ("no masquerade of pods", |table, _| {
        fronts(table, |front| front.masquerade.pod = Masquerade::No);
    }),
    ("no masquerade of the node", |table, _| {
        fronts(table, |front| front.masquerade.node = Masquerade::No);
    }),
    ("no masquerade of others", |table, _| {
        fronts(table, |front| front.masquerade.outside = Masquerade::No);
    }),
    ("inside for outside", |table, _| fronts(table, |front| front.outside = front.inside)),
    ("outside for inside", |table, _| fronts(table, |front| front.inside = front.outside)),
    ("refused for dropped", |table, _| {
        fronts(table, |front| {
            for action in [&mut front.inside, &mut front.outside] {
                if *action == Action::Drop {
                    *action = Action::Reject;
                }
            }
        });
    }),
    ("a target less", |table, _| {
        for set in table.sets.values_mut() {
            let rest = set.targets.as_slice().iter().skip(1).copied();
            let targets = Slots::new(rest.collect::<Vec<_>>());
            if !targets.is_empty() {
                *set = Arc::new(EndpointSet { targets, ..(**set).clone() });
            }
        }
    }),
    ("no hairpins", |table, _| table.hairpins.clear()),
    ("no cluster IPs", |table, _| table.cluster_ips.clear()),
    ("no service ranges", |table, _| table.settings.service_cidrs.clear()),
    ("no detector", |table, _| table.settings.local_detector = LocalDetector::None),
    ("node ports nowhere", |table, _| {
        table.settings.node_port_addresses = NodePortAddresses::default();
    }),
    ("node ports at localhost", |table, _| {
        table.settings.localhost_node_ports = match table.settings.localhost_node_ports {
            LocalhostNodePorts::On => LocalhostNodePorts::Off,
            LocalhostNodePorts::Off => LocalhostNodePorts::On,
        };
    }),
    ("undefined ports pass", |_, profile| profile.undefined_port = UndefinedPort::Pass),
    ("unallocated addresses pass", |_, profile| {
        profile.unallocated_cluster_ip = UnallocatedClusterIp::Pass;
    }),
];

fn fronts(table: &mut ForwardingTable, change: impl Fn(&mut Front)) {
    table.fronts.values_mut().for_each(change);
}

fn agree(
    machine: &Machine,
    table: &ForwardingTable,
    profile: &ModeProfile,
    packets: &[Packet],
) -> bool {
    let same = |packet| machine.fates(packet) == expected_in(profile, table, packet);
    // What no packet may ever meet, as a mark that stays, the model of the kernel does not bear.
    catch_unwind(AssertUnwindSafe(|| packets.iter().all(same))).unwrap_or(false)
}

/// A table after some random changes, with the rules made for it.
fn sample(runner: &mut TestRunner, place: &Place) -> (ForwardingTable, Machine) {
    let setup: Setup = setup().new_tree(runner).expect("nothing is filtered out").current();
    let steps = vec(step(AT), 4..12).new_tree(runner).expect("nothing is filtered out").current();
    let mut model = place.model(&setup);
    for happening in steps.into_iter().flatten() {
        model.apply(happening.event(place));
    }
    model.flush();
    let mut machine = Machine::default();
    let plan = Planner::new(model.table().family, Options::default()).full(model.table());
    for batch in plan.pack(usize::MAX) {
        machine.commit(&batch).expect("the kernel takes it");
    }
    (model.table().clone(), machine)
}

#[test]
fn faults_of_rules_and_of_the_walk_are_noticed() {
    let mut runner = TestRunner::deterministic();
    let mut rules: BTreeSet<usize> = (0..FAULTS.len()).collect();
    let mut walks: BTreeSet<usize> = (0..WALKS.len()).collect();
    for case in 0..600 {
        let place = &PLACES[case % 2];
        let packets = place.packets();
        let (table, machine) = sample(&mut runner, place);
        let profile = ModeProfile::NFTABLES;
        assert!(agree(&machine, &table, &profile, &packets));
        rules.retain(|index| match FAULTS[*index].of(&machine) {
            Some(faulty) => agree(&faulty, &table, &profile, &packets),
            None => true,
        });
        walks.retain(|index| {
            let (mut table, mut profile) = (table.clone(), profile);
            WALKS[*index].1(&mut table, &mut profile);
            agree(&machine, &table, &profile, &packets)
        });
        if rules.is_empty() && walks.is_empty() {
            println!("all faults noticed within {} cases", case + 1);
            return;
        }
    }
    let rules: Vec<_> = rules.into_iter().map(|index| &FAULTS[index]).collect();
    let walks: Vec<_> = walks.into_iter().map(|index| WALKS[index].0).collect();
    panic!("unnoticed: {rules:?} {walks:?}");
}
