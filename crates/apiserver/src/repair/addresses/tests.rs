use std::collections::BTreeMap;

use portolan_store::Revision;
use serde_json::json;

use super::*;
use crate::services::address_object;

#[derive(Default)]
struct Objects {
    services: BTreeMap<(String, String), Stored>,
    addresses: BTreeMap<IpAddr, Stored>,
}

impl World for Objects {
    fn address(&self, ip: IpAddr) -> Option<Stored> {
        self.addresses.get(&ip).cloned()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Stored> {
        self.services.get(&(namespace.into(), name.into())).cloned()
    }

    fn covers(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)
    }
}

impl Objects {
    fn add_service(&mut self, name: &str, ips: &[&str]) -> Value {
        let service = json!({
            "metadata": {"namespace": "ns", "name": name},
            "spec": {"type": "ClusterIP", "clusterIPs": ips},
        });
        self.services.insert(("ns".into(), name.into()), stored(service.clone()));
        service
    }

    fn add_address(&mut self, ip: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut address = address_object(ip.parse().unwrap(), "ns", "a");
        address["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        change(&mut address);
        self.addresses.insert(ip.parse().unwrap(), stored(address.clone()));
        address
    }
}

fn stored(value: Value) -> Stored {
    let revision = Revision(1);
    Stored { key: "k".into(), create_revision: revision, revision, value: value.into() }
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// Reason, deletion, creation of each fix.
fn summary(fixes: &[Fix]) -> Vec<(&str, Option<IpAddr>, Option<IpAddr>)> {
    let reason = |fix: &Fix| fix.event.as_ref().map_or("", |(reason, _)| reason);
    fixes.iter().map(|fix| (reason(fix), fix.delete, fix.create)).collect()
}

#[test]
fn a_service_and_its_address_need_nothing() {
    let mut world = Objects::default();
    let service = world.add_service("a", &["10.0.0.1"]);
    let address = world.add_address("10.0.0.1", |_| {});
    assert_eq!(check_service(&world, &service), []);
    assert_eq!(check_address(&world, &address, now()), None);
    let headless = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"]}});
    assert_eq!(check_service(&world, &headless), []);
    let external = json!({"spec": {"type": "ExternalName", "clusterIPs": ["10.0.0.9"]}});
    assert_eq!(check_service(&world, &external), []);
}

#[test]
fn a_missing_address_is_made() {
    let mut world = Objects::default();
    let service = world.add_service("a", &["10.0.0.1"]);
    let fixes = check_service(&world, &service);
    assert_eq!(summary(&fixes), [("ClusterIPNotAllocated", None, ip("10.0.0.1"))]);
    let message = "Cluster IP [IPv4]: 10.0.0.1 is not allocated; repairing";
    assert_eq!(fixes[0].event.as_ref().unwrap().1, message);
}

#[test]
fn addresses_that_cannot_be_are_told() {
    let mut world = Objects::default();
    let service = world.add_service("a", &["nonsense", "192.168.0.1"]);
    let fixes = check_service(&world, &service);
    assert_eq!(
        summary(&fixes),
        [("ClusterIPNotValid", None, None), ("ClusterIPOutOfRange", None, None)]
    );
}

#[test]
fn an_address_of_something_else_is_made_anew() {
    let mut world = Objects::default();
    let service = world.add_service("a", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    world.add_address("10.0.0.1", |address| {
        address["spec"]["parentRef"]["resource"] = "gateways".into();
    });
    world.add_address("10.0.0.2", |address| {
        address["spec"]["parentRef"]["name"] = "gone".into();
    });
    world.add_address("10.0.0.3", |address| {
        address["metadata"]["labels"] = json!({});
    });
    assert_eq!(
        summary(&check_service(&world, &service)),
        [
            ("ClusterIPNotAllocated", ip("10.0.0.1"), ip("10.0.0.1")),
            ("ClusterIPNotAllocated", ip("10.0.0.2"), ip("10.0.0.2")),
            ("", ip("10.0.0.3"), ip("10.0.0.3")),
        ]
    );
}

#[test]
fn of_two_services_with_one_address_only_the_second_is_told() {
    let mut world = Objects::default();
    let first = world.add_service("a", &["10.0.0.1"]);
    let second = world.add_service("b", &["10.0.0.1"]);
    world.add_address("10.0.0.1", |_| {});
    assert_eq!(check_service(&world, &first), []);
    let fixes = check_service(&world, &second);
    assert_eq!(summary(&fixes), [("ClusterIPAlreadyAllocated", None, None)]);
}

#[test]
fn a_leaked_address_goes_after_its_grace() {
    let mut world = Objects::default();
    let address = world.add_address("10.0.0.1", |_| {});
    let fix = check_address(&world, &address, now()).unwrap();
    assert_eq!(summary(&[fix]), [("IPAddressNotAllocated", ip("10.0.0.1"), None)]);
    let soon = "2026-01-01T00:00:59Z".parse().unwrap();
    assert_eq!(check_address(&world, &address, soon), None);
}

#[test]
fn addresses_of_others_are_left_alone_and_ours_must_be_right() {
    let mut world = Objects::default();
    world.add_service("a", &["10.0.0.1"]);
    let foreign = world.add_address("10.0.0.2", |address| {
        address["metadata"]["labels"] = json!({});
    });
    assert_eq!(check_address(&world, &foreign, now()), None);
    let wrong = world.add_address("10.0.0.2", |_| {});
    let fix = check_address(&world, &wrong, now()).unwrap();
    assert_eq!(summary(&[fix]), [("IPAddressWrongReference", ip("10.0.0.2"), None)]);
    let changed = world.add_address("10.0.0.1", |address| {
        address["spec"]["parentRef"] = json!({"resource": "pods", "name": "p"});
    });
    let fix = check_address(&world, &changed, now()).unwrap();
    assert_eq!(summary(&[fix]), [("IPAddressNotAllocated", ip("10.0.0.1"), None)]);
}
