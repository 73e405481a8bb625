//! Properties of the model under arbitrary events.
//!
//! Names, addresses and ports are few, so that Services share cluster IPs, external IPs and node
//! ports, slices move between Services, and endpoints are in two slices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

fn name(prefix: &'static str) -> impl Strategy<Value = Arc<str>> {
    (0..4u8).prop_map(move |number| format!("{prefix}-{number}").into())
}

fn namespaced(prefix: &'static str) -> impl Strategy<Value = NamespacedName> {
    name(prefix).prop_map(|name| NamespacedName::new("default", name))
}

fn ip(prefix: [u8; 3]) -> impl Strategy<Value = IpAddr> {
    (1..5u8).prop_map(move |last| IpAddr::from([prefix[0], prefix[1], prefix[2], last]))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&Protocol::ALL[..])
}

fn port_name() -> impl Strategy<Value = Arc<str>> {
    select(&["", "http", "dns"][..]).prop_map(Arc::from)
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..])
}

fn port(range: std::ops::Range<u16>) -> impl Strategy<Value = NonZeroU16> {
    range.prop_map(|number| NonZeroU16::new(number).expect("ranges begin above nought"))
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let node_port = proptest::option::of(port(30000..30003).prop_map(NodePort));
    (port_name(), protocol(), port(80..82), node_port).prop_map(
        |(name, protocol, port, node_port)| ServicePort { name, protocol, port, node_port },
    )
}

fn affinity() -> impl Strategy<Value = SessionAffinity> {
    let timeout = Duration::from_secs(10_800);
    select(vec![SessionAffinity::None, SessionAffinity::ClientIp { timeout }])
}

fn service() -> impl Strategy<Value = Service> {
    let ingress = (ip([192, 0, 3]), select(&[IpMode::Vip, IpMode::Proxy][..]))
        .prop_map(|(ip, mode)| LoadBalancerIngress { ip, mode });
    let range = select(&["10.0.0.0/8", "172.30.0.0/24", "0.0.0.0/0", "fd00::/8"][..])
        .prop_map(|range| range.parse().expect("a literal"));
    (
        (namespaced("service"), ip([10, 96, 0]), vec(service_port(), 1..3)),
        (affinity(), policy(), policy()),
        (
            vec(ip([192, 0, 2]), 0..2),
            vec(ingress, 0..2),
            vec(range, 0..2),
            proptest::option::of(
                (32_000..32_003u16).prop_map(|port| NodePort::new(port).expect("not nought")),
            ),
        ),
    )
        .prop_map(|((name, cluster_ip, ports), (affinity, external, internal), rest)| {
            Service {
                name,
                cluster_ips: vec![cluster_ip],
                ports,
                session_affinity: affinity,
                external_traffic_policy: external,
                internal_traffic_policy: internal,
                external_ips: rest.0,
                load_balancer_ingress: rest.1,
                load_balancer_source_ranges: rest.2,
                health_check_node_port: rest.3,
            }
        })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(ready, serving, terminating)| Conditions { ready, serving, terminating });
    let hints = (btree_set(name("zone"), 0..2), btree_set(name("node"), 0..2))
        .prop_map(|(zones, nodes)| Hints { zones, nodes });
    (ip([10, 244, 0]), conditions, proptest::option::of(name("node")), hints).prop_map(
        |(address, conditions, node_name, hints)| Endpoint {
            address,
            conditions,
            node_name,
            hints,
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (port_name(), protocol(), port(8080..8082))
        .prop_map(|(name, protocol, port)| EndpointPort { name, protocol, port });
    (namespaced("slice"), name("service"), vec(port, 1..3), vec(endpoint(), 0..5)).prop_map(
        |(name, service, ports, endpoints)| EndpointSlice { name, service, ports, endpoints },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let addresses = btree_set(prop_oneof![ip([10, 244, 0]), ip([172, 30, 0])], 0..2);
    (proptest::option::of(name("zone")), addresses)
        .prop_map(|(zone, addresses)| Node { zone, addresses })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => service().prop_map(Event::Service),
        2 => namespaced("service").prop_map(Event::ServiceDeleted),
        8 => slice().prop_map(Event::EndpointSlice),
        2 => namespaced("slice").prop_map(Event::EndpointSliceDeleted),
        1 => node().prop_map(Event::Node),
        1 => btree_set(ip([172, 30, 0]), 0..2)
            .prop_map(|addresses| Event::NodePortAddresses(NodePortAddresses::Only(addresses))),
    ]
}

fn model() -> Model {
    Model::new(
        Family::Ipv4,
        Config {
            node_name: "node-0".into(),
            masquerade_all: MasqueradeAll::OffClusterOnly,
            local_detector: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().expect("a literal")]),
            ..Config::default()
        },
    )
}

/// What is left of events when each object's last one alone counts, in the order of their names.
fn last_of_each(events: &[Event]) -> Vec<Event> {
    let mut last = BTreeMap::new();
    for event in events {
        let key = match event {
            Event::Service(service) => (0, service.name.to_string()),
            Event::ServiceDeleted(name) => (0, name.to_string()),
            Event::EndpointSlice(slice) => (1, slice.name.to_string()),
            Event::EndpointSliceDeleted(name) => (1, name.to_string()),
            Event::Node(_) => (2, String::new()),
            Event::NodePortAddresses(_) => (3, String::new()),
            Event::ServiceCidrs(_) => (4, String::new()),
        };
        last.insert(key, event.clone());
    }
    let is_there =
        |event: &Event| !matches!(event, Event::ServiceDeleted(_) | Event::EndpointSliceDeleted(_));
    last.into_values().filter(is_there).collect()
}

proptest! {
    #[test]
    fn any_order_of_events_gives_the_table_of_a_full_rebuild(
        events in vec(event(), 0..40),
        flushes in vec(any::<bool>(), 40),
        order in any::<u64>(),
    ) {
        let mut model = model();
        for (event, flush) in events.iter().zip(flushes) {
            model.apply(event.clone());
            if flush {
                model.flush();
            }
        }
        model.flush();
        let mut rest = last_of_each(&events);
        let mut rebuilt = self::model();
        // Some other order, decided by `order`.
        let mut seed = order;
        while !rest.is_empty() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = usize::try_from(seed >> 33).expect("31 bits fit") % rest.len();
            rebuilt.apply(rest.swap_remove(index));
        }
        rebuilt.flush();
        prop_assert_eq!(model.table(), rebuilt.table());
    }

    #[test]
    fn a_delta_makes_the_old_table_the_new_one(steps in vec(vec(event(), 1..6), 1..10)) {
        let mut model = model();
        for events in steps {
            let mut table = model.table().clone();
            for event in events {
                model.apply(event);
            }
            let delta = model.flush();
            for change in delta.fronts.values() {
                prop_assert_ne!(&change.before, &change.after);
            }
            for (key, change) in &delta.fronts {
                prop_assert_eq!(table.fronts.get(key), change.before.as_ref());
            }
            for (id, change) in &delta.sets {
                prop_assert_eq!(table.sets.get(id), change.before.as_ref());
            }
            table.apply(&delta);
            prop_assert_eq!(&table, model.table());
            prop_assert!(model.flush().is_empty());
        }
    }

    #[test]
    fn what_fronts_name_is_there(events in vec(event(), 0..40)) {
        let mut model = model();
        for event in events {
            model.apply(event);
        }
        model.flush();
        let table = model.table();
        for front in table.fronts.values() {
            for action in [front.inside, front.outside] {
                if let Action::Balance(set) = action {
                    prop_assert_eq!(&table.sets[&set].port, &front.port);
                }
            }
        }
        for (id, set) in &table.sets {
            prop_assert!(!set.targets.is_empty());
            prop_assert!(id.0 >= SetId::RESERVED);
        }
        for hairpin in &table.hairpins {
            prop_assert!(!table.settings.node_addresses.contains(hairpin));
        }
    }

    #[test]
    fn one_endpoint_less_changes_one_slot_or_two(targets in btree_set(0..50u8, 1..20), gone: usize) {
        let target = |last: &u8| Target {
            address: std::net::SocketAddr::from(([10, 244, 0, *last], 8080)),
            location: Location::Elsewhere,
        };
        let all: std::collections::BTreeSet<_> = targets.iter().map(target).collect();
        let slots = Slots::default().with(&all);
        let mut fewer = all.clone();
        let victim = *all.iter().nth(gone % all.len()).expect("within the set");
        fewer.remove(&victim);
        let after = slots.with(&fewer);
        let moved = after.as_slice().iter().zip(slots.as_slice()).filter(|(a, b)| a != b).count();
        prop_assert!(moved <= 1);
        prop_assert_eq!(after.sorted(), fewer);
        let back = after.with(&all);
        let moved = back.as_slice().iter().zip(after.as_slice()).filter(|(a, b)| a != b).count();
        prop_assert_eq!(moved, 0);
    }
}
