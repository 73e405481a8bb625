//! Services, endpoints, settings and packets by chance, for what must hold of every backend.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan_model::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::objects::{ip, port};

/// The node under test, in either family.
pub(crate) struct Place {
    pub(crate) family: Family,
    pod_range: &'static str,
    service_range: &'static str,
    pub(crate) node: &'static str,
    cluster_ips: [&'static str; 3],
    external_ips: [&'static str; 2],
    balanced: [&'static str; 2],
    ranges: [&'static str; 3],
    endpoints: [&'static str; 5],
    clients: [&'static str; 3],
}

pub(crate) const PLACES: [Place; 2] = [
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
pub(crate) struct Setup {
    masquerade_all: MasqueradeAll,
    detector: Detector,
    localhost: LocalhostNodePorts,
    pub(crate) ranges_hold: SourceRangesHold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detector {
    None,
    Cidr,
    Cidrs,
    Bridge,
    Prefix,
}

pub(crate) const USUAL: Setup = Setup {
    masquerade_all: MasqueradeAll::OffClusterOnly,
    detector: Detector::Cidr,
    localhost: LocalhostNodePorts::Off,
    ranges_hold: SourceRangesHold::AtLoadBalancerIps,
};

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
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
    pub(crate) fn model(&self, setup: &Setup) -> Model {
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
        model.apply(Event::Node(Node {
            zone: Some("zone-a".into()),
            addresses: [ip(self.node)].into(),
        }));
        model.apply(Event::NodePortAddresses(NodePortAddresses::Only([ip(self.node)].into())));
        model.apply(Event::ServiceCidrs(vec![self.service_range.parse().unwrap()]));
        model
    }

    /// Packets from everywhere to everything that there is, and to what there is not.
    pub(crate) fn packets(&self) -> Vec<Packet> {
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
pub(crate) enum Happening {
    Service {
        number: usize,
        ports: Vec<(Protocol, u16, Option<u16>)>,
        external_ips: BTreeSet<usize>,
        ingress: BTreeSet<usize>,
        ranges: BTreeSet<usize>,
        policies: [TrafficPolicy; 2],
        affinity: SessionAffinity,
        /// Of which a load balancer's addresses are.
        mode: IpMode,
    },
    Gone(usize),
    Endpoints {
        service: usize,
        slice: usize,
        endpoints: Vec<(usize, Conditions, usize, Hints)>,
    },
    /// The node's own address, none, or with nothing every address that is local.
    NodePortsAt(Option<bool>),
}

fn happening() -> impl Strategy<Value = Happening> {
    let protocol = select(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..]);
    let node_port = proptest::option::of(30000..30002u16);
    let policy = || select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..]);
    let service = (0..3usize, vec((protocol, 80..82u16, node_port), 1..3))
        .prop_flat_map(move |(number, ports)| {
            let indices = || btree_set(0..2usize, 0..2);
            let addresses = (indices(), indices(), btree_set(0..3usize, 0..3));
            let seconds = select(&[1, 10_800][..]).prop_map(Duration::from_secs);
            let affinity = proptest::option::of(seconds).prop_map(|timeout| match timeout {
                Some(timeout) => SessionAffinity::ClientIp { timeout },
                None => SessionAffinity::None,
            });
            let mode = select(&[IpMode::Vip, IpMode::Vip, IpMode::Proxy][..]);
            (Just((number, ports)), addresses, policy(), policy(), affinity, mode)
        })
        .prop_map(|((number, ports), addresses, external, internal, affinity, mode)| {
            Happening::Service {
                number,
                ports,
                external_ips: addresses.0,
                ingress: addresses.1,
                ranges: addresses.2,
                policies: [external, internal],
                affinity,
                mode,
            }
        });
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(ready, serving, terminating)| Conditions { ready, serving, terminating });
    let endpoint = (0..5usize, conditions, 0..2usize, hints());
    let endpoints = (0..3usize, 0..2usize, vec(endpoint, 0..5))
        .prop_map(|(service, slice, endpoints)| Happening::Endpoints { service, slice, endpoints });
    prop_oneof![
        4 => service,
        1 => (0..3usize).prop_map(Happening::Gone),
        6 => endpoints,
    ]
}

/// Most endpoints have hints for this node's zone, some for this node.
fn hints() -> impl Strategy<Value = Hints> {
    const ZONES: [&[&str]; 5] = [&["zone-a"], &["zone-a"], &["zone-a", "zone-b"], &["zone-b"], &[]];
    const NODES: [&[&str]; 4] = [&["node-0"], &["node-1"], &[], &[]];
    let (zones, nodes) = (select(&ZONES[..]), select(&NODES[..]));
    (zones, nodes).prop_map(|(zones, nodes)| Hints {
        zones: zones.iter().map(|zone| (*zone).into()).collect(),
        nodes: nodes.iter().map(|node| (*node).into()).collect(),
    })
}

/// What comes between two flushes. Settings change by themselves: while both they and Services do, a
/// packet may meet one of each.
///
/// `places` are those where node ports may answer, as in [`Happening::NodePortsAt`].
pub(crate) fn step(places: &'static [Option<bool>]) -> impl Strategy<Value = Vec<Happening>> {
    prop_oneof![
        8 => vec(happening(), 1..4),
        1 => select(places).prop_map(|at| vec![Happening::NodePortsAt(at)]),
    ]
}

impl Happening {
    pub(crate) fn event(&self, place: &Place) -> Event {
        let name = |number: &usize| NamespacedName::new("default", format!("service-{number}"));
        match self {
            Self::Service {
                number,
                ports,
                external_ips,
                ingress,
                ranges,
                policies,
                affinity,
                mode,
            } => Event::Service(Service {
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
                    .map(|i| LoadBalancerIngress { ip: ip(place.balanced[*i]), mode: *mode })
                    .collect(),
                health_check_node_port: None,
                load_balancer_source_ranges: ranges
                    .iter()
                    .map(|i| place.ranges[*i].parse().unwrap())
                    .collect(),
            }),
            Self::Gone(number) => Event::ServiceDeleted(name(number)),
            Self::Endpoints { service, slice, endpoints } => {
                let ports = Protocol::ALL.iter().flat_map(|protocol| {
                    [80, 81].map(|number| EndpointPort {
                        name: format!("{protocol}-{number}").into(),
                        protocol: *protocol,
                        port: port(8000 + number),
                    })
                });
                Event::EndpointSlice(EndpointSlice {
                    name: NamespacedName::new("default", format!("service-{service}-{slice}")),
                    service: name(service).name,
                    ports: ports.collect(),
                    endpoints: endpoints
                        .iter()
                        .map(|(address, conditions, node, hints)| Endpoint {
                            address: ip(place.endpoints[*address]),
                            conditions: *conditions,
                            node_name: Some(format!("node-{node}").into()),
                            hints: hints.clone(),
                        })
                        .collect(),
                })
            }
            Self::NodePortsAt(at) => Event::NodePortAddresses(match at {
                None => NodePortAddresses::AllLocal,
                Some(true) => NodePortAddresses::Only([ip(place.node)].into()),
                Some(false) => NodePortAddresses::default(),
            }),
        }
    }
}
