//! How often what kube-proxy honours comes up in the random tables and packets that the properties use: a
//! property says nothing about what is never drawn.

use std::collections::BTreeMap;

use portolan_model::*;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::random::{Happening, PLACES, setup, step};

/// How often each row must come up.
const ENOUGH: usize = 100;

/// The modes whose packets are counted apart.
const PROFILES: [(&str, ModeProfile); 2] =
    [("nftables", ModeProfile::NFTABLES), ("iptables", ModeProfile::IPTABLES)];

/// What does not happen in mode iptables: there, such packets go their way.
const NOT_IN_IPTABLES: [&str; 2] = ["REJECT: undefined port", "DROP: unallocated cluster IP"];

/// How often each row came up: in objects and tables, or in the packets of a mode.
#[derive(Default)]
struct Census(BTreeMap<(&'static str, &'static str), usize>);

impl Census {
    fn note(&mut self, row: &'static str, holds: bool) {
        self.note_in("objects", row, holds);
    }

    fn note_in(&mut self, place: &'static str, row: &'static str, holds: bool) {
        *self.0.entry((place, row)).or_default() += usize::from(holds);
    }

    /// The fields of Services and slices.
    fn objects(&mut self, happening: &Happening) {
        match happening {
            Happening::Service {
                ports,
                external_ips,
                ingress,
                ranges,
                policies,
                affinity,
                mode,
                ..
            } => {
                for protocol in Protocol::ALL {
                    let row = match protocol {
                        Protocol::Tcp => "ports: TCP",
                        Protocol::Udp => "ports: UDP",
                        Protocol::Sctp => "ports: SCTP",
                    };
                    self.note(row, ports.iter().any(|(of, ..)| *of == protocol));
                }
                self.note("ports: several", ports.len() > 1);
                self.note("nodePort", ports.iter().any(|(_, _, port)| port.is_some()));
                self.note("nodePort 0", ports.iter().any(|(_, _, port)| port.is_none()));
                self.note("externalIPs", !external_ips.is_empty());
                self.note("ipMode VIP", !ingress.is_empty() && *mode == IpMode::Vip);
                self.note("ipMode Proxy", !ingress.is_empty() && *mode == IpMode::Proxy);
                self.note("loadBalancerSourceRanges", !ranges.is_empty() && !ingress.is_empty());
                let [external, internal] = *policies;
                self.note("externalTrafficPolicy Cluster", external == TrafficPolicy::Cluster);
                self.note("externalTrafficPolicy Local", external == TrafficPolicy::Local);
                self.note("internalTrafficPolicy Cluster", internal == TrafficPolicy::Cluster);
                self.note("internalTrafficPolicy Local", internal == TrafficPolicy::Local);
                self.note("sessionAffinity", *affinity != SessionAffinity::None);
            }
            Happening::Gone(_) => self.note("Service deleted", true),
            Happening::Endpoints { slice, endpoints, .. } => {
                self.note("several slices", *slice > 0);
                self.note("no endpoints", endpoints.is_empty());
                for (_, Conditions { ready, serving, terminating }, node, hints) in endpoints {
                    self.note("ready", *ready);
                    self.note("not ready", !ready && !serving);
                    self.note("serving and terminating", !ready && *serving && *terminating);
                    self.note("nodeName: here", *node == 0);
                    self.note("nodeName: elsewhere", *node != 0);
                    self.note("hints.forZones", !hints.zones.is_empty());
                    self.note("hints.forNodes", !hints.nodes.is_empty());
                    self.note("hint missing", hints.zones.is_empty());
                }
            }
            Happening::NodePortsAt(at) => {
                self.note("nodePortAddresses: the node's", *at == Some(true));
                self.note("nodePortAddresses: none", *at == Some(false));
            }
        }
    }

    /// What is special about a table.
    fn table(&mut self, table: &ForwardingTable) {
        for set in table.sets.values() {
            self.note("same zone", matches!(set.topology, Topology::SameZone(_)));
            self.note("same node", matches!(set.topology, Topology::SameNode(_)));
            self.note("used while terminating", set.selection == Selection::ServingTerminating);
        }
        let own = |front: &Front| {
            let ranges = front.source_ranges.as_ref();
            ranges.is_some_and(|ranges| ranges.own_address == OwnAddress::Allowed)
        };
        let at_node_port = |(key, front): (&FrontKey, &Front)| {
            matches!(key, FrontKey::NodePort { .. }) && front.source_ranges.is_some()
        };
        self.note("the node's address within source ranges", table.fronts.values().any(own));
        self.note("source ranges at node ports", table.fronts.iter().any(at_node_port));
        let settings = &table.settings;
        self.note("localhost node ports", settings.localhost_node_ports == LocalhostNodePorts::On);
        let row = match &settings.local_detector {
            LocalDetector::None => "detectLocal: none",
            LocalDetector::Cidrs(ranges) if ranges.len() > 1 => "detectLocal: CIDRs",
            LocalDetector::Cidrs(_) => "detectLocal: CIDR",
            LocalDetector::Bridge(_) => "detectLocal: bridge",
            LocalDetector::InterfacePrefix(_) => "detectLocal: interface prefix",
        };
        self.note(row, true);
    }

    /// What becomes of a packet, and why.
    fn packet(
        &mut self,
        (mode, profile): (&'static str, ModeProfile),
        table: &ForwardingTable,
        packet: &Packet,
    ) {
        let (verdict, reasons) = walk(table, &profile, packet);
        let pod_or_node = !reasons.contains(&Reason::From(SourceClass::Outside));
        let front = reasons.iter().find_map(|reason| match reason {
            Reason::Front { key, origin, .. } => Some((table.fronts.get(key)?, *origin)),
            _ => None,
        });
        let is_short_cut = front.is_some_and(|(front, origin)| {
            origin != Origin::ClusterIp && pod_or_node && front.inside != front.outside
        });
        self.note_in(mode, "short-circuit of policy Local", is_short_cut);
        self.note_in(mode, "not admitted", reasons.contains(&Reason::NotAdmitted));
        self.note_in(mode, "REJECT: no endpoints", reasons.contains(&Reason::NoEndpoints));
        let undefined = verdict == Verdict::Reject && front.is_none();
        self.note_in(mode, "REJECT: undefined port", undefined);
        let unallocated = verdict == Verdict::Drop && front.is_none();
        self.note_in(mode, "DROP: unallocated cluster IP", unallocated);
        let local =
            verdict == Verdict::Drop && front.is_some() && !reasons.contains(&Reason::NotAdmitted);
        self.note_in(mode, "DROP: no local endpoints", local);
        self.note_in(mode, "PASS", verdict == Verdict::Pass);
        if let Verdict::Forward(choices) = verdict {
            for choice in choices {
                let row = match choice.masquerade {
                    None => "not masqueraded",
                    Some(MasqueradeReason::MasqueradeAll) => "masquerade: masqueradeAll",
                    Some(MasqueradeReason::OffCluster) => "masquerade: off the cluster",
                    Some(MasqueradeReason::ClusterPolicy) => "masquerade: policy Cluster",
                    Some(MasqueradeReason::OwnAddress) => "masquerade: own address",
                    Some(MasqueradeReason::Hairpin) => "masquerade: hairpin",
                };
                self.note_in(mode, row, true);
            }
        }
    }
}

#[test]
fn every_row_of_what_kube_proxy_honours_is_drawn_often() {
    let mut runner = TestRunner::deterministic();
    let mut census = Census::default();
    for case in 0..900 {
        let place = &PLACES[case % 2];
        let packets = place.packets();
        let setup = setup().new_tree(&mut runner).expect("nothing is filtered out").current();
        let steps = vec(step(crate::agreement::AT), 1..8);
        let steps = steps.new_tree(&mut runner).expect("nothing is filtered out").current();
        let mut model = place.model(&setup);
        for happenings in steps {
            for happening in happenings {
                census.objects(&happening);
                model.apply(happening.event(place));
            }
            model.flush();
            census.table(model.table());
            let some = packets.iter().skip(case % 11).step_by(11);
            for packet in some {
                for profile in PROFILES {
                    census.packet(profile, model.table(), packet);
                }
            }
        }
    }
    for ((place, row), count) in &census.0 {
        println!("{count:>8}  {place}: {row}");
    }
    for row in NOT_IN_IPTABLES {
        assert_eq!(census.0.remove(&("iptables", row)), Some(0), "{row}");
    }
    let rare: Vec<_> = census.0.iter().filter(|(_, count)| **count < ENOUGH).collect();
    assert!(rare.is_empty(), "too rarely: {rare:?}");
    assert!(census.0.len() >= 60, "only {} rows", census.0.len());
}
