//! The rules, walked packet by packet, agree with the model's walk; and plans do what they say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_backend_nftables::{Options, Planner};
use portolan_model::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::machine::{Fate, Machine, Memory};
use crate::objects::{ip, port};

/// The node under test, in either family.
struct Place {
    family: Family,
    pod_range: &'static str,
    service_range: &'static str,
    node: &'static str,
    cluster_ips: [&'static str; 3],
    external_ips: [&'static str; 2],
    balanced: [&'static str; 2],
    ranges: [&'static str; 3],
    endpoints: [&'static str; 5],
    clients: [&'static str; 3],
}

const PLACES: [Place; 2] = [
    Place {
        family: Family::Ipv4,
        pod_range: "10.244.0.0/16",
        service_range: "10.96.0.0/12",
        node: "172.30.0.11",
        cluster_ips: ["10.96.0.10", "10.96.0.11", "10.96.0.12"],
        external_ips: ["192.0.2.1", "192.0.2.2"],
        balanced: ["192.0.2.2", "192.0.2.3"],
        ranges: ["172.30.0.0/24", "198.51.100.7/32", "198.51.100.0/22"],
        endpoints: ["10.244.0.1", "10.244.0.2", "10.244.1.1", "10.244.1.2", "172.30.0.11"],
        clients: ["10.244.0.9", "172.30.0.254", "198.51.100.7"],
    },
    Place {
        family: Family::Ipv6,
        pod_range: "fd02::/64",
        service_range: "fd01::/108",
        node: "fd00::11",
        cluster_ips: ["fd01::10", "fd01::11", "fd01::12"],
        external_ips: ["2001:db8::1", "2001:db8::2"],
        balanced: ["2001:db8::2", "2001:db8::3"],
        ranges: ["fd00::/64", "2001:db8::7/128", "2001:db8::/44"],
        endpoints: ["fd02::1", "fd02::2", "fd02::1:1", "fd02::1:2", "fd00::11"],
        clients: ["fd02::9", "fd00::254", "2001:db8::7"],
    },
];

/// How a node's proxy is set up.
#[derive(Debug, Clone)]
struct Setup {
    masquerade_all: MasqueradeAll,
    detector: Detector,
    localhost: LocalhostNodePorts,
    ranges_hold: SourceRangesHold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detector {
    None,
    Cidr,
    Cidrs,
    Bridge,
    Prefix,
}

const USUAL: Setup = Setup {
    masquerade_all: MasqueradeAll::OffClusterOnly,
    detector: Detector::Cidr,
    localhost: LocalhostNodePorts::Off,
    ranges_hold: SourceRangesHold::AtLoadBalancerIps,
};

fn setup() -> impl Strategy<Value = Setup> {
    use Detector::{Bridge, Cidr, Cidrs, None, Prefix};
    let detector = select(&[None, Cidr, Cidrs, Bridge, Prefix][..]);
    (detector, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(detector, all, localhost, ranges)| Setup {
            masquerade_all: match all {
                true => MasqueradeAll::Always,
                false => MasqueradeAll::OffClusterOnly,
            },
            detector,
            localhost: match localhost {
                true => LocalhostNodePorts::On,
                false => LocalhostNodePorts::Off,
            },
            ranges_hold: match ranges {
                true => SourceRangesHold::AtNodePortsToo,
                false => SourceRangesHold::AtLoadBalancerIps,
            },
        },
    )
}

impl Place {
    fn model(&self, setup: &Setup) -> Model {
        let pods = || self.pod_range.parse().unwrap();
        let config = Config {
            node_name: "node-0".into(),
            masquerade_all: setup.masquerade_all,
            local_detector: match setup.detector {
                Detector::None => LocalDetector::None,
                Detector::Cidr => LocalDetector::Cidrs(vec![pods()]),
                Detector::Cidrs => {
                    LocalDetector::Cidrs(vec![pods(), self.ranges[1].parse().unwrap()])
                }
                Detector::Bridge => LocalDetector::Bridge("cbr0".into()),
                Detector::Prefix => LocalDetector::InterfacePrefix("veth".into()),
            },
            localhost_node_ports: setup.localhost,
            source_ranges_hold: setup.ranges_hold,
        };
        let mut model = Model::new(self.family, config);
        model.apply(Event::Node(Node { zone: None, addresses: [ip(self.node)].into() }));
        model.apply(Event::NodePortAddresses(NodePortAddresses::Only([ip(self.node)].into())));
        model.apply(Event::ServiceCidrs(vec![self.service_range.parse().unwrap()]));
        model
    }

    /// Packets from everywhere to everything that there is, and to what there is not.
    fn packets(&self) -> Vec<Packet> {
        let sources = self.endpoints.iter().chain(&self.clients).chain(&self.balanced);
        let unallocated = match self.family {
            Family::Ipv4 => "10.96.0.99",
            Family::Ipv6 => "fd01::99",
        };
        let destinations: Vec<_> = self
            .cluster_ips
            .iter()
            .chain(&self.external_ips)
            .chain(&self.balanced)
            .chain(&self.clients)
            .chain([&self.node, &unallocated])
            .map(|address| ip(address))
            .collect();
        let tcp = |port| Some(Transport { protocol: Protocol::Tcp, port });
        let udp = |port| Some(Transport { protocol: Protocol::Udp, port });
        let sctp = |port| Some(Transport { protocol: Protocol::Sctp, port });
        let transports = [
            tcp(80),
            tcp(81),
            tcp(9),
            udp(80),
            sctp(80),
            tcp(30000),
            tcp(30001),
            udp(30000),
            sctp(30001),
            None,
        ];
        let mut packets = Vec::new();
        for source in sources.map(|address| ip(address)) {
            let pods: ipnet::IpNet = self.pod_range.parse().unwrap();
            let arrival = match source {
                source if source == ip(self.node) => Arrival::SentHere,
                source if pods.contains(&source) => Arrival::Interface("veth17".into()),
                source if source == ip(self.clients[2]) => Arrival::Interface("cbr0".into()),
                _ => Arrival::Interface("eth0".into()),
            };
            for destination in &destinations {
                for transport in transports {
                    let (destination, arrival) = (*destination, arrival.clone());
                    packets.push(Packet { source, destination, transport, arrival });
                }
            }
        }
        // A process of this node that asks at the loopback address.
        let loopback = match self.family {
            Family::Ipv4 => ip("127.0.0.1"),
            Family::Ipv6 => ip("::1"),
        };
        for transport in transports {
            packets.push(Packet {
                source: loopback,
                destination: loopback,
                transport,
                arrival: Arrival::SentHere,
            });
        }
        packets
    }
}

/// An event of few possible objects, by index into a [`Place`].
#[derive(Debug, Clone)]
enum Happening {
    Service {
        number: usize,
        ports: Vec<(Protocol, u16, Option<u16>)>,
        external_ips: BTreeSet<usize>,
        ingress: BTreeSet<usize>,
        ranges: BTreeSet<usize>,
        policies: [TrafficPolicy; 2],
        affinity: SessionAffinity,
    },
    Gone(usize),
    Endpoints {
        service: usize,
        endpoints: Vec<(usize, Conditions, usize)>,
    },
    NodePortsAt(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let protocol = select(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..]);
    let node_port = proptest::option::of(30000..30002u16);
    let policy = || select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..]);
    let service = (0..3usize, vec((protocol, 80..82u16, node_port), 1..3))
        .prop_flat_map(move |(number, ports)| {
            let indices = || btree_set(0..2usize, 0..2);
            let addresses = (indices(), indices(), btree_set(0..3usize, 0..3));
            let seconds = select(&[1, 10_800][..]).prop_map(std::time::Duration::from_secs);
            let affinity = proptest::option::of(seconds).prop_map(|timeout| match timeout {
                Some(timeout) => SessionAffinity::ClientIp { timeout },
                None => SessionAffinity::None,
            });
            (Just((number, ports)), addresses, policy(), policy(), affinity)
        })
        .prop_map(|((number, ports), addresses, external, internal, affinity)| {
            Happening::Service {
                number,
                ports,
                external_ips: addresses.0,
                ingress: addresses.1,
                ranges: addresses.2,
                policies: [external, internal],
                affinity,
            }
        });
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(ready, serving, terminating)| Conditions { ready, serving, terminating });
    let endpoints = (0..3usize, vec((0..5usize, conditions, 0..2usize), 0..5))
        .prop_map(|(service, endpoints)| Happening::Endpoints { service, endpoints });
    prop_oneof![
        4 => service,
        1 => (0..3usize).prop_map(Happening::Gone),
        6 => endpoints,
    ]
}

/// What comes between two flushes. Settings change by themselves: while both they and Services do, a
/// packet may meet one of each.
fn step() -> impl Strategy<Value = Vec<Happening>> {
    prop_oneof![
        8 => vec(happening(), 1..4),
        1 => any::<bool>().prop_map(|at| vec![Happening::NodePortsAt(at)]),
    ]
}

impl Happening {
    fn event(&self, place: &Place) -> Event {
        let name = |number: &usize| NamespacedName::new("default", format!("service-{number}"));
        match self {
            Self::Service { number, ports, external_ips, ingress, ranges, policies, affinity } => {
                Event::Service(Service {
                    name: name(number),
                    cluster_ips: vec![ip(place.cluster_ips[*number])],
                    ports: ports
                        .iter()
                        .map(|(protocol, number, node_port)| ServicePort {
                            name: format!("{protocol}-{number}").into(),
                            protocol: *protocol,
                            port: port(*number),
                            node_port: node_port.and_then(NodePort::new),
                        })
                        .collect(),
                    session_affinity: *affinity,
                    external_traffic_policy: policies[0],
                    internal_traffic_policy: policies[1],
                    external_ips: external_ips.iter().map(|i| ip(place.external_ips[*i])).collect(),
                    load_balancer_ingress: ingress
                        .iter()
                        .map(|i| LoadBalancerIngress {
                            ip: ip(place.balanced[*i]),
                            mode: IpMode::Vip,
                        })
                        .collect(),
                    health_check_node_port: None,
                    load_balancer_source_ranges: ranges
                        .iter()
                        .map(|i| place.ranges[*i].parse().unwrap())
                        .collect(),
                })
            }
            Self::Gone(number) => Event::ServiceDeleted(name(number)),
            Self::Endpoints { service, endpoints } => {
                let ports = Protocol::ALL.iter().flat_map(|protocol| {
                    [80, 81].map(|number| EndpointPort {
                        name: format!("{protocol}-{number}").into(),
                        protocol: *protocol,
                        port: port(8000 + number),
                    })
                });
                Event::EndpointSlice(EndpointSlice {
                    name: NamespacedName::new("default", format!("service-{service}-1")),
                    service: name(service).name,
                    ports: ports.collect(),
                    endpoints: endpoints
                        .iter()
                        .map(|(address, conditions, node)| Endpoint {
                            address: ip(place.endpoints[*address]),
                            conditions: *conditions,
                            node_name: Some(format!("node-{node}").into()),
                            hints: Hints::default(),
                        })
                        .collect(),
                })
            }
            Self::NodePortsAt(at) => {
                let addresses = at.then(|| ip(place.node)).into_iter().collect();
                Event::NodePortAddresses(NodePortAddresses::Only(addresses))
            }
        }
    }
}

fn expected(table: &ForwardingTable, packet: &Packet) -> BTreeSet<Fate> {
    match walk(table, &ModeProfile::NFTABLES, packet).0 {
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
        steps in vec(step(), 1..8),
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
        steps in vec(step(), 2..5),
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
