//! Whatever happens to Services, what is taken is what they hold, and each address has its object.
//!
//! The registry and the store are the real ones; only the requests are made up. Values are drawn from few, so that most
//! steps meet one another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use portolan_store::{Backend, Change, Image, Options, Revision};
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRunner};
use serde_json::json;

use super::pool::Holdings;
use super::*;
use crate::metrics::Metrics;
use crate::registry::{DeleteOptions, Ownership, Registry, Target};

const PORTS: RangeInclusive<u16> = 30000..=30019;
const NAMES: usize = 6;
/// Steps of one case.
const STEPS: u32 = 250;
/// After so many steps, and at the end, the pool is compared with one made anew from the objects.
const REBUILD: usize = 50;

/// Steps of all cases together; `PORTOLAN_OPERATIONS` asks for another number.
fn operations() -> u32 {
    let asked = std::env::var("PORTOLAN_OPERATIONS").ok();
    asked.map_or(100_000, |asked| asked.parse().unwrap())
}

/// What one step does to the Service of a number.
#[derive(Clone, Debug)]
enum Step {
    /// POST; fails at the commit when the name is taken.
    Create {
        name: usize,
        spec: Value,
        dry_run: bool,
    },
    /// PUT of a spec as a client writes it.
    Replace {
        name: usize,
        spec: Value,
        dry_run: bool,
    },
    /// PUT of what is stored, changed here and there.
    Change {
        name: usize,
        fields: Value,
        dry_run: bool,
    },
    /// Two writers at once: one loses the race and begins again.
    Race {
        name: usize,
        first: Value,
        second: Value,
    },
    Delete {
        name: usize,
        dry_run: bool,
    },
    /// With a finalizer a deletion marks, and its removal deletes.
    Hold {
        name: usize,
        held: bool,
    },
    /// Somebody takes an address for something else, or gives it back.
    Foreign {
        last: u8,
        taken: bool,
    },
}

fn ip() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(json!(["None"]))),
        2 => (0_u8..9).prop_map(|n| Some(json!([format!("10.0.0.{n}")]))),
        1 => (0_u8..9).prop_map(|n| Some(json!([format!("fd00::{n}")]))),
        1 => (0_u8..9, 0_u8..9)
            .prop_map(|(a, b)| Some(json!([format!("10.0.0.{a}"), format!("fd00::{b}")]))),
    ]
}

fn spec_of() -> impl Strategy<Value = Value> {
    let kind = prop_oneof!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let node_port = prop_oneof![3 => Just(0_u16), 1 => 29_999_u16..30_003];
    let port = (1_u16..4, node_port, any::<bool>());
    let ports = proptest::collection::vec(port, 1..3);
    let policy = prop_oneof![
        4 => Just(None),
        1 => Just(Some("SingleStack")),
        1 => Just(Some("PreferDualStack")),
        1 => Just(Some("RequireDualStack")),
    ];
    let families = prop_oneof![
        6 => Just(None),
        1 => Just(Some(json!(["IPv6"]))),
        1 => Just(Some(json!(["IPv6", "IPv4"]))),
    ];
    let local = prop_oneof![2 => Just(false), 1 => Just(true)];
    (kind, ports, ip(), policy, families, local, any::<bool>()).prop_map(
        |(kind, ports, ips, policy, families, local, allocate)| {
            let ports: Vec<Value> = ports
                .into_iter()
                .enumerate()
                .map(|(index, (port, node_port, tcp))| {
                    let protocol = if tcp { "TCP" } else { "UDP" };
                    let mut entry =
                        json!({"name": format!("p{index}"), "port": port, "protocol": protocol});
                    if node_port != 0 {
                        entry["nodePort"] = node_port.into();
                    }
                    entry
                })
                .collect();
            let mut spec = json!({"type": kind, "ports": ports});
            if kind == "ExternalName" {
                spec["externalName"] = "example.com".into();
            }
            if let Some(ips) = ips {
                spec["clusterIP"] = ips[0].clone();
                spec["clusterIPs"] = ips;
            }
            if let Some(policy) = policy {
                spec["ipFamilyPolicy"] = policy.into();
            }
            if let Some(families) = families {
                spec["ipFamilies"] = families;
            }
            if kind == "LoadBalancer" {
                spec["allocateLoadBalancerNodePorts"] = allocate.into();
                if local {
                    spec["externalTrafficPolicy"] = "Local".into();
                }
            }
            spec
        },
    )
}

/// Fields to set; null removes.
fn fields() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop_oneof!["ClusterIP", "NodePort", "LoadBalancer"].prop_map(|kind| json!({"type": kind})),
        Just(json!({"type": "ExternalName", "externalName": "example.com"})),
        prop_oneof!["SingleStack", "PreferDualStack", "RequireDualStack"]
            .prop_map(|policy| json!({"ipFamilyPolicy": policy})),
        prop_oneof!["Local", "Cluster"].prop_map(|policy| json!({"externalTrafficPolicy": policy})),
        any::<bool>().prop_map(|allocate| json!({"allocateLoadBalancerNodePorts": allocate})),
        Just(json!({"clusterIP": null, "clusterIPs": null})),
        Just(
            json!({"ports": [{"name": "p0", "port": 1}, {"name": "p1", "port": 1, "protocol": "UDP"}]})
        ),
        Just(json!({"ports": null})),
        (29_999_u16..30_003)
            .prop_map(|p| json!({"ports": [{"name": "p0", "port": 2, "nodePort": p}]})),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES;
    let dry = || prop_oneof![4 => Just(false), 1 => Just(true)];
    let step = prop_oneof![
        4 => (name(), spec_of(), dry())
            .prop_map(|(name, spec, dry_run)| Step::Create { name, spec, dry_run }),
        2 => (name(), spec_of(), dry())
            .prop_map(|(name, spec, dry_run)| Step::Replace { name, spec, dry_run }),
        4 => (name(), fields(), dry())
            .prop_map(|(name, fields, dry_run)| Step::Change { name, fields, dry_run }),
        1 => (name(), fields(), fields())
            .prop_map(|(name, first, second)| Step::Race { name, first, second }),
        2 => (name(), dry()).prop_map(|(name, dry_run)| Step::Delete { name, dry_run }),
        1 => (name(), any::<bool>()).prop_map(|(name, held)| Step::Hold { name, held }),
        1 => (0_u8..9, any::<bool>()).prop_map(|(last, taken)| Step::Foreign { last, taken }),
    ];
    let steps = usize::try_from(STEPS).unwrap();
    proptest::collection::vec(step, steps..=steps)
}

struct World {
    registry: Registry,
    /// The objects by key as they were last looked at, so that a step parses only what it has changed.
    seen: RefCell<HashMap<Arc<str>, Stored>>,
}

/// Nothing is read back from it: what this test is about is in memory, and a file would be most of its time.
#[derive(Debug)]
struct NoDisk;

impl Backend for NoDisk {
    fn load(&mut self) -> std::result::Result<Image, StoreError> {
        Ok(Image { revision: Revision(0), records: Vec::new() })
    }

    fn write(&mut self, _: Revision, _: &[Change<'_>]) -> std::result::Result<(), StoreError> {
        Ok(())
    }

    fn recover(&mut self) -> std::result::Result<Revision, StoreError> {
        unreachable!("no write fails")
    }
}

fn allocator(store: &Store) -> ServiceAllocator {
    let ranges = ["10.0.0.0/29".parse().unwrap(), "fd00::/125".parse().unwrap()];
    ServiceAllocator::new(store.clone(), &ranges, PORTS, Metrics::new().allocation())
}

fn target(kind: &'static Kind, name: &str) -> Target {
    let namespace = (kind.kind == "Service").then(|| "default".to_owned());
    Target { kind, namespace, name: name.to_owned() }
}

fn service(name: usize, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{name}")}, "spec": spec})
}

fn dry(dry_run: bool) -> DryRun {
    if dry_run { DryRun::All } else { DryRun::Off }
}

impl World {
    async fn new() -> World {
        let store = Store::open_on(Box::new(NoDisk), Options::default()).unwrap();
        let registry = Registry::new(store.clone(), allocator(&store));
        let namespace = json!({"metadata": {"name": "default"}});
        let kind = kinds::by_kind("v1", "Namespace").unwrap();
        registry.create(kind, None, namespace, &Ownership::Server, DryRun::Off).await.unwrap();
        let cidr =
            json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["10.0.0.0/29", "fd00::/125"]}});
        registry
            .create(service_cidr_kind(), None, cidr, &Ownership::Server, DryRun::Off)
            .await
            .unwrap();
        World { registry, seen: RefCell::default() }
    }

    fn stored(&self, name: usize) -> Option<Value> {
        let key = service_kind().key(Some("default"), &format!("s{name}"));
        Some((*self.registry.store.get(&key)?.value).clone())
    }

    async fn put(&self, name: usize, object: Value, dry_run: bool) {
        let target = target(service_kind(), &format!("s{name}"));
        let _ = self.registry.update(&target, None, object, &Ownership::Server, dry(dry_run)).await;
    }

    fn changed(&self, name: usize, fields: &Value) -> Option<Value> {
        let mut object = self.stored(name)?;
        for (field, value) in fields.as_object().unwrap() {
            match value {
                Value::Null => drop(object["spec"].as_object_mut().unwrap().remove(field)),
                value => object["spec"][field] = value.clone(),
            }
        }
        Some(object)
    }

    /// Runs a step as requests do. Most of what is asked is refused by one rule or other, which is the point.
    async fn step(&self, step: &Step) {
        match step {
            Step::Create { name, spec, dry_run } => {
                let body = service(*name, spec);
                let kind = service_kind();
                let _ = self
                    .registry
                    .create(kind, Some("default"), body, &Ownership::Server, dry(*dry_run))
                    .await;
            }
            Step::Replace { name, spec, dry_run } => {
                if self.stored(*name).is_some() {
                    self.put(*name, service(*name, spec), *dry_run).await;
                }
            }
            Step::Change { name, fields, dry_run } => {
                if let Some(object) = self.changed(*name, fields) {
                    self.put(*name, object, *dry_run).await;
                }
            }
            Step::Race { name, first, second } => {
                if let (Some(first), Some(second)) =
                    (self.changed(*name, first), self.changed(*name, second))
                {
                    tokio::join!(self.put(*name, first, false), self.put(*name, second, false));
                }
            }
            Step::Delete { name, dry_run } => {
                let mut options = DeleteOptions::from_value(&Value::Null);
                options.dry_run = dry(*dry_run);
                let target = target(service_kind(), &format!("s{name}"));
                let _ = self.registry.delete(&target, &options).await;
            }
            Step::Hold { name, held } => {
                if let Some(mut object) = self.stored(*name) {
                    let finalizers = if *held { json!(["example.com/hold"]) } else { json!([]) };
                    object["metadata"]["finalizers"] = finalizers;
                    self.put(*name, object, false).await;
                }
            }
            Step::Foreign { last, taken } => {
                let name = format!("10.0.0.{last}");
                let kind = ip_address_kind();
                if *taken {
                    let parent =
                        json!({"group": "example.com", "resource": "gateways", "name": "g"});
                    let body = json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
                    let _ = self
                        .registry
                        .create(kind, None, body, &Ownership::Server, DryRun::Off)
                        .await;
                } else if self.foreign().contains(&name) {
                    let options = DeleteOptions::from_value(&Value::Null);
                    self.registry.delete(&target(kind, &name), &options).await.unwrap();
                }
            }
        }
    }

    fn list(&self, kind: &Kind) -> Vec<Stored> {
        let prefix = kind.prefix(None);
        let items = self.registry.store.list(&prefix, ListOptions::default()).unwrap().items;
        let mut seen = self.seen.borrow_mut();
        let known = items.into_iter().map(|item| match seen.get(&item.key) {
            Some(known) if known.revision == item.revision => known.clone(),
            _ => {
                seen.insert(item.key.clone(), item.clone());
                item
            }
        });
        known.collect()
    }

    fn foreign(&self) -> BTreeSet<String> {
        let addresses = self.list(ip_address_kind());
        let foreign = addresses.iter().filter(|address| parent_of(&address.value).is_none());
        foreign.map(|address| meta::name(&address.value).to_owned()).collect()
    }

    /// Objects against objects, and the pool against both.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut expected = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for service in self.list(service_kind()) {
            let name = meta::name(&service.value).to_owned();
            let Holdings { ips, ports: own } = holdings(&service.value);
            for ip in ips {
                prop_assert!(expected.insert((ip.to_string(), name.clone())), "{ip} twice");
            }
            for port in own {
                prop_assert!(ports.insert(port), "{} twice: {}", port, *service.value);
            }
        }
        let addresses = self.list(ip_address_kind());
        let objects: BTreeSet<(String, String)> = addresses
            .iter()
            .filter_map(|address| {
                let (_, parent) = parent_of(&address.value)?;
                Some((meta::name(&address.value).to_owned(), parent.to_owned()))
            })
            .collect();
        prop_assert_eq!(&objects, &expected, "IPAddress objects and cluster IPs");
        let pool = self.registry.services.pool.lock();
        let taken: BTreeSet<String> = pool.addresses.taken().map(|ip| ip.to_string()).collect();
        let mut all = self.foreign();
        all.extend(expected.into_iter().map(|(ip, _)| ip));
        prop_assert_eq!(&taken, &all, "taken addresses and objects");
        prop_assert_eq!(pool.ports.taken().collect::<BTreeSet<_>>(), ports, "node ports");
        let counted = pool.addresses.nets().filter_map(|net| pool.addresses.occupancy(net));
        let counted: u64 = counted.map(|occupancy| occupancy.allocated).sum();
        let homes = taken.iter().filter(|ip| pool.addresses.covers(ip.parse().unwrap()));
        prop_assert_eq!(counted, homes.count() as u64, "addresses as counted");
        Ok(())
    }

    /// The pool against one made anew from the objects.
    fn check_rebuilt(&self) -> Result<(), TestCaseError> {
        let rebuilt = allocator(&self.registry.store);
        rebuilt.rebuild().unwrap();
        let (pool, rebuilt) = (self.registry.services.pool.lock(), rebuilt.pool.lock());
        prop_assert!(pool.addresses.taken().eq(rebuilt.addresses.taken()));
        prop_assert!(pool.ports.taken().eq(rebuilt.ports.taken()));
        for net in pool.addresses.nets() {
            prop_assert_eq!(pool.addresses.occupancy(net), rebuilt.addresses.occupancy(net));
        }
        Ok(())
    }
}

#[test]
fn nothing_leaks_and_nothing_is_given_twice() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cases = operations() / STEPS;
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        // The default is a cipher, which without optimisation would be a quarter of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let changes = Cell::new(0_u32);
    let outcome = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let world = World::new().await;
            for (done, step) in (1..).zip(&steps) {
                let before = world.registry.store.revision();
                world.step(step).await;
                changes.set(changes.get() + u32::from(world.registry.store.revision() > before));
                let mut outcome = world.check();
                if done % REBUILD == 0 {
                    outcome = outcome.and_then(|()| world.check_rebuilt());
                }
                outcome.map_err(|error| TestCaseError::fail(format!("{step:?}: {error}")))?;
            }
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Steps that are all refused would prove nothing.
    assert!(changes.get() > cases * STEPS / 8, "only {} steps changed anything", changes.get());
}
