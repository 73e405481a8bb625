//! Slices for every order of changes, and the rules one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::endpoint::ZONE;
use super::memory::Memory;
use super::pack::held;
use super::plan::{HEADLESS, Input, Plan, TRIGGER_TIME, plan};
use super::selector;
use super::upstream::{self, Before};
use crate::object::Meta;
use crate::testing::{at, labels, meta, node, on_node, pod, ready, terminating, unready, with_ip};

fn service() -> Service {
    Service {
        metadata: meta("ns", "web"),
        spec: Some(ServiceSpec {
            selector: Some(labels(&[("app", "web")])),
            cluster_ip: Some("10.96.0.7".into()),
            ip_families: Some(vec!["IPv4".into()]),
            ports: Some(vec![ServicePort {
                port: 80,
                target_port: Some(IntOrString::Int(8080)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn endpoint_pod(n: usize) -> Pod {
    let name = format!("p{n:04}");
    on_node(
        ready(with_ip(pod("ns", &name), &format!("10.244.{}.{}", n / 250, n % 250 + 1)), 5),
        "n1",
    )
}

fn zoned(name: &str) -> Option<Arc<Node>> {
    let mut node = node(name);
    node.metadata.labels = Some(labels(&[(ZONE, "zone-a")]));
    (name == "n1").then(|| Arc::new(node))
}

/// The slices in an API server, and what the controller remembers.
#[derive(Default)]
struct World {
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    /// By name, so that an unchanged pod is the same pointer, as in the cache.
    pods: BTreeMap<String, Arc<Pod>>,
    memory: Memory,
    serial: usize,
}

impl World {
    fn look(&mut self, service: &Service, pods: &[Pod], max: usize) -> Plan {
        let mut known = std::mem::take(&mut self.pods);
        for pod in pods {
            let same = known.remove(pod.name()).filter(|k| **k == *pod);
            let pod = same.unwrap_or_else(|| Arc::new(pod.clone()));
            self.pods.insert(pod.name().to_owned(), pod);
        }
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let slices: Vec<_> = self.slices.values().cloned().collect();
        let input = || Input {
            service,
            pods: &pods,
            slices: &slices,
            node: zoned,
            nodes: 0,
            shares: None,
            trigger: Some(at(77)),
            max,
        };
        let quick = plan(&mut self.memory, input());
        let whole = plan(&mut Memory::default(), input());
        assert_eq!(quick, whole, "what is remembered must not show in the plan");
        quick
    }

    fn sync(&mut self, service: &Service, pods: &[Pod], max: usize) -> (usize, usize, usize) {
        let plan = self.look(service, pods, max);
        let counts = (plan.create.len(), plan.update.len(), plan.delete.len());
        for slice in plan.delete {
            self.slices.remove(slice.name());
        }
        for slice in plan.update {
            let name = slice.name().to_owned();
            let kind = slice.address_type.clone();
            let old = self.slices.insert(name, Arc::new(slice)).unwrap();
            assert_eq!(old.address_type, kind, "address type is immutable");
        }
        for mut slice in plan.create {
            self.serial += 1;
            let prefix = slice.metadata.generate_name.take().unwrap();
            let name = format!("{prefix}{:05}", self.serial);
            slice.metadata.name = Some(name.clone());
            self.slices.insert(name, Arc::new(slice));
        }
        counts
    }

    fn only(&self) -> &EndpointSlice {
        assert_eq!(self.slices.len(), 1);
        self.slices.values().next().unwrap()
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slices.values().flat_map(|s| held(s))
    }
}

#[test]
fn a_service_without_pods_has_one_empty_slice_and_keeps_it() {
    let mut world = World::default();
    assert_eq!(world.sync(&service(), &[], 100), (1, 0, 0));
    assert!(held(world.only()).is_empty());
    assert_eq!(world.sync(&service(), &[], 100), (0, 0, 0));
}

#[test]
fn the_first_endpoint_takes_over_the_empty_slice() {
    let mut world = World::default();
    world.sync(&service(), &[], 100);
    assert_eq!(world.sync(&service(), &[endpoint_pod(1)], 100), (0, 1, 0));
    let slice = world.only();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(world.sync(&service(), &[], 100), (0, 1, 0));
    assert!(held(world.only()).is_empty());
}

#[test]
fn an_endpoint_says_who_where_and_since_when() {
    let mut world = World::default();
    let mut pod = endpoint_pod(1);
    let spec = pod.spec.as_mut().unwrap();
    (spec.hostname, spec.subdomain) = (Some("host".into()), Some("web".into()));
    world.sync(&service(), &[pod], 100);
    let slice = world.only();
    assert_eq!(slice.label("kubernetes.io/service-name"), Some("web"));
    assert_eq!(
        slice.label("endpointslice.kubernetes.io/managed-by"),
        Some("endpointslice-controller.k8s.io")
    );
    assert_eq!(slice.annotation(TRIGGER_TIME), Some("1970-01-01T00:01:17Z"));
    assert_eq!(slice.controller().unwrap().name, "web");
    let endpoint = &held(slice)[0];
    assert_eq!(endpoint.addresses, ["10.244.0.2"]);
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.zone.as_deref(), Some("zone-a"));
    assert_eq!(endpoint.hostname.as_deref(), Some("host"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().name.as_deref(), Some("p0001"));
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let states = |publish: bool| {
        let mut service = service();
        service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
        let pods = [
            endpoint_pod(1),
            unready(endpoint_pod(2)),
            terminating(endpoint_pod(3)),
            terminating(unready(endpoint_pod(4))),
        ];
        let mut world = World::default();
        world.sync(&service, &pods, 100);
        let conditions = world.endpoints().map(|e| e.conditions.clone().unwrap());
        conditions
            .map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        states(false),
        [(true, true, false), (false, false, false), (false, true, true), (false, false, true)]
    );
    assert_eq!(
        states(true),
        [(true, true, false), (true, false, false), (true, true, true), (true, false, true)]
    );
}

#[test]
fn finished_pods_and_pods_without_address_are_no_endpoints() {
    let mut failed = endpoint_pod(1);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let mut world = World::default();
    world.sync(&service(), &[failed, ready(pod("ns", "bare"), 1)], 100);
    assert_eq!(world.endpoints().count(), 0);
}

#[test]
fn a_pod_of_an_unknown_node_waits_unless_unready_addresses_are_published() {
    let lost = on_node(endpoint_pod(1), "n9");
    let mut service = service();
    let plan = World::default().look(&service, std::slice::from_ref(&lost), 100);
    assert_eq!(plan.missing_node.as_deref(), Some("n9"));
    assert!(held(&plan.create[0]).is_empty());
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let plan = World::default().look(&service, &[lost], 100);
    assert_eq!((plan.missing_node, held(&plan.create[0]).len()), (None, 1));
}

#[test]
fn pods_that_name_the_port_differently_are_in_different_slices() {
    let named = |n: usize, number: i32| {
        let mut pod = endpoint_pod(n);
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            name: Some("http".into()),
            container_port: number,
            ..ContainerPort::default()
        }]);
        pod
    };
    let mut service = service();
    let ports = service.spec.as_mut().unwrap().ports.as_mut().unwrap();
    ports[0].target_port = Some(IntOrString::String("http".into()));
    let mut world = World::default();
    // The third has no such port: it is an endpoint without ports.
    world.sync(&service, &[named(1, 80), named(2, 81), endpoint_pod(3)], 100);
    let mut ports: Vec<_> = world
        .slices
        .values()
        .map(|s| s.ports.as_ref().unwrap().first().and_then(|p| p.port))
        .collect();
    ports.sort();
    assert_eq!(ports, [None, Some(80), Some(81)]);
}

#[test]
fn a_headless_service_labels_its_slices() {
    let mut headless = service();
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    let mut world = World::default();
    world.sync(&headless, &[endpoint_pod(1)], 100);
    assert_eq!(world.only().label(HEADLESS), Some(""));
    let mut plain = service();
    plain.metadata.resource_version = Some("2".into());
    assert_eq!(world.sync(&plain, &[endpoint_pod(1)], 100), (0, 1, 0));
    assert_eq!(world.only().label(HEADLESS), None);
}

#[test]
fn a_changed_service_label_reaches_every_slice() {
    let pods: Vec<_> = (0..150).map(endpoint_pod).collect();
    let mut world = World::default();
    assert_eq!(world.sync(&service(), &pods, 100), (2, 0, 0));
    let mut relabelled = service();
    relabelled.metadata.resource_version = Some("2".into());
    relabelled.metadata.labels = Some(labels(&[("team", "shop")]));
    assert_eq!(world.sync(&relabelled, &pods, 100), (0, 2, 0));
}

#[test]
fn traffic_distribution_hints_at_the_own_zone_and_node() {
    let mut near = service();
    near.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".into());
    let mut world = World::default();
    world.sync(&near, &[endpoint_pod(1), unready(endpoint_pod(2))], 100);
    let hints: Vec<_> = world.endpoints().map(|e| e.hints.clone()).collect();
    let first = hints[0].clone().unwrap();
    assert_eq!(first.for_zones.unwrap()[0].name, "zone-a");
    assert_eq!(first.for_nodes.unwrap()[0].name, "n1");
    assert_eq!(hints[1], None);
}

#[test]
fn two_hundred_and_fifty_pods_make_three_slices() {
    let pods: Vec<_> = (0..250).map(endpoint_pod).collect();
    let mut world = World::default();
    assert_eq!(world.sync(&service(), &pods, 100), (3, 0, 0));
    let mut sizes: Vec<_> = world.slices.values().map(|s| held(s).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
}

#[test]
fn new_endpoints_go_into_slices_that_are_written_anyway() {
    let pods: Vec<_> = (0..200).map(endpoint_pod).collect();
    let mut world = World::default();
    world.sync(&service(), &pods, 100);
    // One gone from the first slice, one new: a single write.
    let next: Vec<_> = (1..201).map(endpoint_pod).collect();
    assert_eq!(world.sync(&service(), &next, 100), (0, 1, 0));
}

#[test]
fn a_remainder_goes_into_the_untouched_slice_it_fits_best() {
    let pods: Vec<_> = (0..10).map(endpoint_pod).collect();
    let mut world = World::default();
    world.sync(&service(), &pods, 4); // 4 4 2
    let next: Vec<_> = (0..11).map(endpoint_pod).collect();
    assert_eq!(world.sync(&service(), &next, 4), (0, 1, 0));
    // Two more do not fit into the one free place: a new slice, and nothing else is touched.
    let next: Vec<_> = (0..13).map(endpoint_pod).collect();
    assert_eq!(world.sync(&service(), &next, 4), (1, 0, 0));
}

#[test]
fn a_service_that_names_no_pods_of_ours_has_no_selector() {
    assert!(selector(&service()).is_some());
    let mut bare = service();
    bare.spec.as_mut().unwrap().selector = None;
    assert!(selector(&bare).is_none());
    let mut elsewhere = service();
    elsewhere.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    assert!(selector(&elsewhere).is_none());
}

#[test]
fn a_family_that_the_service_drops_loses_its_slices() {
    let mut dual = service();
    dual.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    let mut world = World::default();
    // The pod has no IPv6 address: an empty slice says so.
    assert_eq!(world.sync(&dual, &[endpoint_pod(1)], 100), (2, 0, 0));
    let mut single = service();
    single.metadata.resource_version = Some("2".into());
    assert_eq!(world.sync(&single, &[endpoint_pod(1)], 100), (0, 0, 1));
    assert_eq!(world.only().address_type, "IPv4");
}

#[test]
fn slices_changed_or_deleted_by_somebody_are_put_right() {
    let pods: Vec<_> = (0..250).map(endpoint_pod).collect();
    let mut world = World::default();
    world.sync(&service(), &pods, 100);
    assert_eq!(world.sync(&service(), &pods, 100), (0, 0, 0));
    let names: Vec<_> = world.slices.keys().cloned().collect();
    world.slices.remove(&names[0]);
    let mut emptied = (*world.slices[&names[1]]).clone();
    emptied.endpoints.as_mut().unwrap().truncate(3);
    world.slices.insert(names[1].clone(), Arc::new(emptied));
    world.sync(&service(), &pods, 100);
    assert_eq!(world.endpoints().count(), 250);
    assert_eq!(world.sync(&service(), &pods, 100), (0, 0, 0));
}

#[derive(Clone, Debug)]
enum State {
    Absent,
    Ready,
    Unready,
    Terminating,
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        2 => Just(State::Absent),
        3 => Just(State::Ready),
        1 => Just(State::Unready),
        1 => Just(State::Terminating),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happened before, the slices hold exactly the wanted endpoints, none too many, and
    /// each step takes just the writes that upstream's reconciler makes.
    #[test]
    fn any_order_of_changes_gives_exactly_the_wanted_endpoints(
        steps in prop::collection::vec(prop::collection::vec((0..40usize, state()), 0..25), 1..8),
        max in 1..9usize,
    ) {
        let mut world = World::default();
        let mut pods: BTreeMap<usize, Pod> = BTreeMap::new();
        for step in steps {
            let before = pods.clone();
            for (n, state) in step {
                match state {
                    State::Absent => { pods.remove(&n); }
                    State::Ready => { pods.insert(n, endpoint_pod(n)); }
                    State::Unready => { pods.insert(n, unready(endpoint_pod(n))); }
                    State::Terminating => { pods.insert(n, terminating(endpoint_pod(n))); }
                }
            }
            let old: Vec<_> = world.slices.values().cloned().collect();
            let list: Vec<_> = pods.values().cloned().collect();
            let (created, updated, deleted) = world.sync(&service(), &list, max);

            let mut present: Vec<_> = world.endpoints().cloned().collect();
            present.sort_by(|a, b| a.target_ref.as_ref().unwrap().name.cmp(&b.target_ref.as_ref().unwrap().name));
            let mut whole = World::default();
            whole.sync(&service(), &list, usize::MAX);
            prop_assert_eq!(present, whole.endpoints().cloned().collect::<Vec<_>>());
            prop_assert!(world.slices.values().all(|s| held(s).len() <= max));
            prop_assert!(pods.is_empty() || world.slices.values().all(|s| !held(s).is_empty()));

            let slices: Vec<_> = old.iter().map(|s| {
                let number = |e: &Endpoint| -> usize {
                    let name = e.target_ref.as_ref().unwrap().name.as_deref().unwrap();
                    name[1..].parse().unwrap()
                };
                let held: Vec<_> = held(s).iter().map(number).collect();
                let staying: Vec<_> = held.iter().filter(|n| pods.contains_key(n)).collect();
                let changing = staying.iter().filter(|n| before.get(n) != pods.get(n)).count();
                let right_ports = s.ports.as_ref().is_some_and(|p| !p.is_empty());
                Before { right_ports, held: held.len(), staying: staying.len(), changing }
            }).collect();
            prop_assert_eq!(
                (created, updated, deleted),
                upstream::writes(&slices, pods.len(), max),
                "{:?} of at most {}", slices, max
            );
            prop_assert_eq!(world.sync(&service(), &list, max), (0, 0, 0), "a second look writes nothing");
        }
    }
}
