//! Explanations never disagree with the model, and answers are the model's verdicts, whatever the
//! objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use portolan_model::{
    Action, Arrival, Family, ForwardingTable, FrontKey, LocalDetector, Origin, Packet, Protocol,
    Scope, SourceClass, Topology, Transport, Verdict, walk,
};
use portolan_proxy::convert;
use portolan_trace::diff::diff;
use portolan_trace::explain::{Explanation, Hints, Query, explain};
use portolan_trace::objects::parse;
use portolan_trace::question::{From, Question, To};
use portolan_trace::trace::trace;
use portolan_trace::{Answer, VerdictName};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::random::{NODES, PLACES, SOURCES, objects, table, view};

fn agrees(hints: &Hints, topology: &Topology) -> bool {
    match topology {
        Topology::Anywhere => matches!(hints, Hints::None | Hints::NotAsked | Hints::Ignored(_)),
        Topology::SameZone(zone) => *hints == Hints::Zone(zone.clone()),
        Topology::SameNode(node) => *hints == Hints::Node(node.clone()),
    }
}

fn class(table: &ForwardingTable, packet: &Packet) -> SourceClass {
    let is_pod = match &table.settings.local_detector {
        LocalDetector::Cidrs(ranges) => ranges.iter().any(|range| range.contains(&packet.source)),
        _ => false,
    };
    match packet.arrival {
        _ if is_pod => SourceClass::Pod,
        Arrival::SentHere => SourceClass::Node,
        Arrival::Interface(_) => SourceClass::Outside,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_never_disagrees_with_the_models_sets(objects in objects()) {
        let view = view(&objects, "nftables", false, true);
        let slices: Vec<_> =
            objects.slices.values().map(|slice| convert::endpoint_slice(slice).unwrap()).collect();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = table(&objects, &view, family);
            for front in table.fronts.values() {
                let of = slices.iter().filter(|slice| slice.service == front.port.service.name);
                let explained = |scope| -> Explanation {
                    let query = Query {
                        port: &front.port.port,
                        protocol: front.port.protocol,
                        family,
                        scope,
                        node: NODES[0],
                        zone: view.zone(),
                    };
                    explain(query, of.clone())
                };
                let (cluster, local) = (explained(Scope::Cluster), explained(Scope::Local));
                for action in [front.inside, front.outside] {
                    match action {
                        Action::Reject => prop_assert_eq!(cluster.targets().len(), 0),
                        Action::Drop => {
                            prop_assert_eq!(local.targets().len(), 0);
                            prop_assert!(!cluster.targets().is_empty());
                        }
                        Action::Balance(id) => {
                            let set = &table.sets[&id];
                            let explained = if set.scope == Scope::Cluster { &cluster } else { &local };
                            let targets: BTreeSet<SocketAddr> =
                                set.targets.as_slice().iter().map(|target| target.address).collect();
                            prop_assert_eq!(explained.targets(), targets);
                            prop_assert!(agrees(&explained.hints, &set.topology), "{:?}", explained.hints);
                        }
                    }
                }
                // Nothing is passed over in silence.
                let endpoints: usize = of.clone().map(|slice| slice.endpoints.len()).sum();
                prop_assert!(cluster.accounts.len() >= endpoints);
            }
        }
    }

    #[test]
    fn an_answer_is_the_verdict_of_the_walk(
        objects in objects(),
        mode in proptest::sample::select(&["iptables", "nftables", "ipvs"][..]),
        (all, detects) in (any::<bool>(), any::<bool>()),
        questions in vec((0..SOURCES.len(), 0..PLACES.len(), 0..2_usize,
            proptest::sample::select(&[80_u16, 53, 81, 30080, 30081, 30092][..]), 0..3_usize), 12),
    ) {
        let view = view(&objects, mode, all, detects);
        for (from, to, family, port, protocol) in questions {
            let source: IpAddr = SOURCES[from][family].parse().unwrap();
            let destination: IpAddr = PLACES[to][family].parse().unwrap();
            let protocol = Protocol::ALL[protocol];
            let question = Question {
                from: From::Address(source),
                to: To::Address(SocketAddr::new(destination, port)),
                protocol: Some(protocol),
            };
            let answer = trace(&objects, &view, &question).unwrap();

            let is_node = source.to_string() == PLACES[4][family];
            let is_own = destination.is_loopback() || destination.to_string() == PLACES[4][family];
            let packet = Packet {
                source: if is_node && is_own { destination } else { source },
                destination,
                transport: Some(Transport { protocol, port }),
                arrival: if is_node { Arrival::SentHere } else { Arrival::Interface("".into()) },
            };
            let table = table(&objects, &view, Family::of(destination));
            let (verdict, _) = walk(&table, &view.profile, &packet);
            let json = answer.to_json();
            let (name, mut choices) = match verdict {
                Verdict::Forward(choices) => ("DNAT", choices),
                Verdict::Reject => ("REJECT", Vec::new()),
                Verdict::Drop => ("DROP", Vec::new()),
                Verdict::Pass => ("ACCEPT", Vec::new()),
            };
            choices.sort();
            let endpoints: Vec<_> = choices.iter().map(|c| c.target.to_string()).collect();
            prop_assert_eq!(&json["verdict"], name);
            prop_assert_eq!(&json["endpoints"], &json!(endpoints));
            let masqueraded = !choices.is_empty() && choices.iter().all(|c| c.masquerade.is_some());
            prop_assert_eq!(&json["masquerade"], masqueraded);
            // The endpoints that the reasons call in are those of the verdict.
            let reasons: Vec<String> = serde_json::from_value(json["reasons"].clone()).unwrap();
            if name == "DNAT" {
                let told: BTreeSet<&str> = reasons
                    .iter()
                    .filter_map(|reason| reason.strip_prefix("endpoint: "))
                    .filter_map(|reason| reason.split_once(" in: ").map(|(address, _)| address))
                    .collect();
                let chosen: BTreeSet<&str> = endpoints.iter().map(String::as_str).collect();
                prop_assert_eq!(told, chosen);
            }
            let counts = match class(&table, &packet) {
                SourceClass::Pod => "counts as a pod",
                SourceClass::Node => "sent by this node",
                SourceClass::Outside => "counts as outside",
            };
            prop_assert!(reasons[0].contains(counts), "{} {}", reasons[0], counts);
            let front = table.fronts.values().any(|front| front.origin == Origin::NodePort);
            prop_assert!(front || !reasons.iter().any(|reason| reason.contains(", node port ")));
        }
    }

    #[test]
    fn no_text_makes_reading_panic(text in "(\\PC|\n|kind: Service\n|metadata: |name: a\n|- |\\{|\\}){0,40}") {
        let _ = parse(&text);
    }
}

proptest! {
    // Every case asks several hundred questions.
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_flow_is_listed_exactly_when_an_answer_changes(
        (before, after) in (objects(), objects()),
        mode in proptest::sample::select(&["iptables", "nftables", "ipvs"][..]),
        all in any::<bool>(),
    ) {
        let views = [&before, &after].map(|objects| view(objects, mode, all, true));
        let flows = diff((&views[0], &before), (&views[1], &after));
        let tables = [Family::Ipv4, Family::Ipv6].map(|family| {
            [table(&before, &views[0], family), table(&after, &views[1], family)]
        });
        prop_assert!(diff((&views[0], &before), (&views[0], &before)).is_empty());
        // One source of each class, none of them an endpoint.
        let sources = [(SourceClass::Pod, 2), (SourceClass::Outside, 3), (SourceClass::Node, 4)];
        for (place, family) in (0..PLACES.len()).flat_map(|place| [(place, 0), (place, 1)]) {
            let ip: IpAddr = PLACES[place][family].parse().unwrap();
            for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp), (30080, Protocol::Tcp), (30092, Protocol::Tcp)] {
                let key = FrontKey::Address { ip, port, protocol };
                let is_front = tables[family].iter().any(|table| table.fronts.contains_key(&key));
                let others = portolan_trace::diff::To::OtherPorts(ip);
                let to = match flows.iter().any(|flow| flow.to == others) {
                    // A port that no Service defines, neither before nor after.
                    true if !is_front => others,
                    _ => portolan_trace::diff::To::Port { ip, port, protocol },
                };
                for (class, source) in sources {
                    if ip.is_loopback() && class != SourceClass::Node {
                        continue;
                    }
                    let question = Question {
                        from: From::Address(SOURCES[source][family].parse().unwrap()),
                        to: To::Address(SocketAddr::new(ip, port)),
                        protocol: Some(protocol),
                    };
                    let old = trace(&before, &views[0], &question).unwrap();
                    let new = trace(&after, &views[1], &question).unwrap();
                    let told = |answer: &Answer| {
                        (answer.verdict, answer.endpoints.clone(), answer.is_masqueraded())
                    };
                    let flow = flows.iter().find(|flow| flow.to == to && flow.sources.contains(&class));
                    let Some(flow) = flow else {
                        prop_assert_eq!(told(&old), told(&new), "{} is not listed", to);
                        continue;
                    };
                    for (outcome, answer) in [(&flow.before, &old), (&flow.after, &new)] {
                        let source: IpAddr = SOURCES[source][family].parse().unwrap();
                        let admits = |ranges: &BTreeSet<ipnet::IpNet>| ranges.iter().any(|r| r.contains(&source));
                        if outcome.admitted.as_ref().is_some_and(|ranges| !admits(ranges)) {
                            prop_assert_eq!(answer.verdict, VerdictName::Drop);
                            continue;
                        }
                        let endpoints: Vec<_> = outcome.endpoints.iter().copied().collect();
                        prop_assert_eq!((outcome.verdict, endpoints, outcome.masquerade), told(answer));
                    }
                }
            }
        }
    }
}
