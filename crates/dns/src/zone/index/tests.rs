use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::input::Protocol;
use super::*;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn port() -> Port {
    Port { name: "http".into(), protocol: Protocol::Tcp, port: 80 }
}

fn service(kind: Kind) -> Service {
    Service { kind, ports: vec![port()] }
}

fn slice(service: &str, ips: &[u8]) -> EndpointSlice {
    let endpoint = |last: &u8| Endpoint {
        addresses: vec![ip(*last)],
        hostname: last.is_multiple_of(3).then(|| format!("host-{last}").into()),
        pod: Some(format!("pod-{last}").into()),
    };
    EndpointSlice {
        service: service.into(),
        ports: vec![port()],
        endpoints: ips.iter().map(endpoint).collect(),
    }
}

/// Everything that can be looked up, as text.
fn dump(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for name in ["a", "b", "c"] {
        for namespace in ["x", "y"] {
            if let Some(entry) = snapshot.service(namespace.as_bytes(), name.as_bytes()) {
                lines.push(format!("{} {:?} {:?}", entry.key, entry.service, entry.slices));
            }
        }
    }
    for last in 0..=255 {
        let mut at: Vec<_> =
            snapshot.services_at(ip(last)).map(|entry| entry.key.to_string()).collect();
        at.sort();
        if !at.is_empty() {
            lines.push(format!("{last} {at:?}"));
        }
        for namespace in ["x", "y"] {
            if snapshot.has_pod(namespace.as_bytes(), ip(last)) {
                lines.push(format!("pod {last} {namespace}"));
            }
        }
    }
    for namespace in ["x", "y"] {
        lines.push(format!("{namespace} {}", snapshot.has_namespace(namespace.as_bytes())));
    }
    lines
}

fn events() -> impl Strategy<Value = Event> {
    let key = ("[xy]", "[abc]").prop_map(|(namespace, name)| Key::new(namespace, name));
    let ips = proptest::collection::vec(0_u8..12, 0..4);
    let kind = prop_oneof![
        proptest::collection::vec(0_u8..12, 0..3)
            .prop_map(|ips| Kind::ClusterIp(ips.into_iter().map(ip).collect())),
        Just(Kind::Headless),
    ];
    prop_oneof![
        (key.clone(), proptest::option::of(kind))
            .prop_map(|(key, kind)| Event::Service(key, kind.map(service))),
        (key.clone(), proptest::option::of(("[abc]", ips.clone()))).prop_map(|(key, of)| {
            Event::EndpointSlice(key, of.map(|(service, ips)| slice(&service, &ips)))
        }),
        (key, proptest::option::of(ips)).prop_map(|(key, ips)| {
            Event::Pod(key, ips.map(|ips| ips.into_iter().map(ip).collect()))
        }),
        "[xy]".prop_map(|name| Event::Namespace(name.into())),
        "[xy]".prop_map(|name| Event::NamespaceGone(name.into())),
    ]
}

/// What an event is about.
fn subject(event: &Event) -> (u8, Key) {
    match event {
        Event::Service(key, _) => (0, key.clone()),
        Event::EndpointSlice(key, _) => (1, key.clone()),
        Event::Pod(key, _) => (2, key.clone()),
        Event::Namespace(name) | Event::NamespaceGone(name) => (3, Key::new("", name.clone())),
    }
}

proptest! {
    #[test]
    fn any_way_to_the_same_objects_gives_the_same_names(
        events in proptest::collection::vec(events(), 0..120)
    ) {
        let mut index = Index::new(Options::default());
        let mut last = BTreeMap::new();
        for event in events {
            last.insert(subject(&event), event.clone());
            index.apply(event, 1);
        }
        let mut fresh = Index::new(Options::default());
        for event in last.into_values().rev() {
            fresh.apply(event, 1);
        }
        prop_assert_eq!(dump(&index.snapshot()), dump(&fresh.snapshot()));
    }
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut index = Index::new(Options::default());
    let key = Key::new("x", "a");
    index.apply(Event::EndpointSlice(Key::new("x", "a-1"), Some(slice("a", &[1, 2]))), 1);
    index.apply(Event::Service(key.clone(), Some(service(Kind::Headless))), 1);
    let before = index.snapshot();
    let text = dump(&before);
    index.apply(Event::EndpointSlice(Key::new("x", "a-1"), None), 2);
    index.apply(Event::Service(key, None), 2);
    assert_eq!(dump(&before), text);
    assert!(index.snapshot().service(b"x", b"a").is_none());
    assert_eq!(index.snapshot().services_at(ip(1)).count(), 0);
    assert_eq!((before.serial(), index.snapshot().serial()), (1, 2));
}

#[test]
fn endpoints_are_called_as_the_option_says() {
    for (endpoint_pod_names, name) in [(false, "10-0-0-1"), (true, "pod-1")] {
        let mut index = Index::new(Options { endpoint_pod_names });
        index.apply(Event::EndpointSlice(Key::new("x", "s"), Some(slice("a", &[1]))), 1);
        let snapshot = index.snapshot();
        let entry = snapshot.service(b"x", b"a").unwrap();
        let mut label = String::new();
        let (endpoint, _) = entry.slices().next().unwrap().endpoints().next().unwrap();
        endpoint.write(&mut label);
        assert_eq!(label, name);
    }
}
