//! Ordinals and their order, under random readiness.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetOrdinals, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;

use super::plan::{Plan, plan};
use crate::object::Meta;
use crate::pod::is_ready;
use crate::testing::{at, labels, meta, ready, template, unready};

fn set(replicas: i32, policy: &str) -> StatefulSet {
    StatefulSet {
        metadata: meta("ns", "db"),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: Some(labels(&[("app", "web")])),
                match_expressions: None,
            },
            service_name: Some("db-svc".into()),
            template: template("v1"),
            pod_management_policy: Some(policy.into()),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn partition(set: &mut StatefulSet, partition: i32) {
    set.spec.as_mut().unwrap().update_strategy = Some(StatefulSetUpdateStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateStatefulSetStrategy {
            partition: Some(partition),
            max_unavailable: None,
        }),
    });
}

struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Pod>,
    serial: usize,
}

impl World {
    fn new(set: StatefulSet) -> Self {
        Self { set, pods: BTreeMap::new(), serial: 0 }
    }

    fn look(&self) -> Plan {
        let pods: Vec<_> = self.pods.values().cloned().map(Arc::new).collect();
        plan(&self.set, &pods, at(100))
    }

    /// One step; returns the names made and deleted.
    fn step(&mut self) -> (Vec<String>, Vec<String>) {
        let plan = self.look();
        let deleted: Vec<_> = plan.delete.iter().map(|p| p.name().to_owned()).collect();
        for name in &deleted {
            self.pods.remove(name);
        }
        let mut created = Vec::new();
        for mut pod in plan.create {
            self.serial += 1;
            let name = pod.name().to_owned();
            pod.metadata.uid = Some(format!("{name}-{}", self.serial));
            assert!(self.pods.insert(name.clone(), unready(pod)).is_none(), "{name} made twice");
            created.push(name);
        }
        self.set.status = Some(plan.status);
        (created, deleted)
    }

    fn ready(&mut self, name: &str) {
        let pod = self.pods.remove(name).unwrap();
        self.pods.insert(name.into(), ready(pod, 1));
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let names: Vec<_> = self.pods.keys().cloned().collect();
            names.iter().for_each(|n| self.ready(n));
            if self.step() == (vec![], vec![]) {
                return;
            }
        }
        panic!("the set does not come to rest");
    }

    fn names(&self) -> Vec<&str> {
        self.pods.keys().map(String::as_str).collect()
    }
}

#[test]
fn pods_come_one_by_one_each_after_the_one_before_is_ready() {
    let mut world = World::new(set(3, "OrderedReady"));
    assert_eq!(world.step().0, ["db-0"]);
    assert_eq!(world.step().0, Vec::<String>::new());
    world.ready("db-0");
    assert_eq!(world.step().0, ["db-1"]);
}

#[test]
fn parallel_makes_all_at_once() {
    assert_eq!(World::new(set(3, "Parallel")).step().0, ["db-0", "db-1", "db-2"]);
}

#[test]
fn a_pod_has_its_stable_name_index_and_subdomain() {
    let pod = &World::new(set(1, "Parallel")).look().create[0];
    assert_eq!(pod.label("statefulset.kubernetes.io/pod-name"), Some("db-0"));
    assert_eq!(pod.label("apps.kubernetes.io/pod-index"), Some("0"));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("db-0"), Some("db-svc"))
    );
    assert!(pod.label("controller-revision-hash").unwrap().starts_with("db-"));
}

#[test]
fn the_highest_ordinals_go_first() {
    let mut world = World::new(set(4, "OrderedReady"));
    world.settle();
    world.set.spec.as_mut().unwrap().replicas = Some(2);
    assert_eq!(world.step().1, ["db-3"]);
    assert_eq!(world.step().1, ["db-2"]);
    assert_eq!(world.step().1, Vec::<String>::new());
}

#[test]
fn ordinals_may_start_elsewhere() {
    let mut shifted = set(2, "Parallel");
    shifted.spec.as_mut().unwrap().ordinals = Some(StatefulSetOrdinals { start: Some(5) });
    assert_eq!(World::new(shifted).step().0, ["db-5", "db-6"]);
}

#[test]
fn a_rollout_stops_at_the_partition() {
    let mut world = World::new(set(4, "OrderedReady"));
    world.settle();
    world.set.spec.as_mut().unwrap().template = template("v2");
    partition(&mut world.set, 2);
    assert_eq!(world.step().1, ["db-3"]);
    world.settle();
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.updated_replicas, Some(2));
    assert_ne!(status.current_revision, status.update_revision);
    partition(&mut world.set, 0);
    world.settle();
    world.step();
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.updated_replicas, Some(4));
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn on_delete_leaves_outdated_pods_until_someone_deletes_them() {
    let mut world = World::new(set(2, "OrderedReady"));
    world.settle();
    world.set.spec.as_mut().unwrap().template = template("v2");
    world.set.spec.as_mut().unwrap().update_strategy =
        Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None });
    assert_eq!(world.step(), (vec![], vec![]));
}

#[test]
fn a_finished_pod_is_deleted_and_made_anew() {
    let mut world = World::new(set(1, "OrderedReady"));
    world.settle();
    world.pods.get_mut("db-0").unwrap().status.as_mut().unwrap().phase = Some("Failed".into());
    assert_eq!(world.step(), (vec![], vec!["db-0".into()]));
    assert_eq!(world.step().0, ["db-0"]);
}

#[test]
fn a_broken_rollout_is_mended_by_the_next_template() {
    let mut world = World::new(set(2, "OrderedReady"));
    world.settle();
    world.set.spec.as_mut().unwrap().template = template("broken");
    world.step();
    world.step();
    assert!(!is_ready(&world.pods["db-1"]));
    // The one that never gets ready is replaced before anything else is touched. (OrderedReady
    // waits for it: upstream asks for a manual delete here, and so do we.)
    world.set.spec.as_mut().unwrap().template = template("v3");
    assert_eq!(world.step(), (vec![], vec![]));
    world.pods.remove("db-1");
    world.settle();
    assert_eq!(world.names(), ["db-0", "db-1"]);
}

proptest! {
    /// Under OrderedReady no pod is made while one before it is not ready, and an update takes
    /// down one pod at a time; in the end all are there and current.
    #[test]
    fn order_holds_under_any_readiness(
        count in 1..6i32,
        luck in prop::collection::vec(any::<[bool; 6]>(), 0..40),
        roll in 0..20usize,
    ) {
        let mut world = World::new(set(count, "OrderedReady"));
        for (i, luck) in luck.into_iter().enumerate() {
            if i == roll {
                world.set.spec.as_mut().unwrap().template = template("v2");
            }
            let before = world.pods.clone();
            let (created, deleted) = world.step();
            prop_assert!(created.len() + deleted.len() <= 1);
            for name in created {
                let ordinal: i32 = name[3..].parse().unwrap();
                for lower in 0..ordinal {
                    let name = format!("db-{lower}");
                    prop_assert!(is_ready(&before[&name]));
                }
            }
            if !deleted.is_empty() {
                prop_assert!(before.values().all(is_ready));
            }
            let names: Vec<_> = world.pods.keys().cloned().collect();
            for (name, lucky) in names.iter().zip(luck) {
                if lucky {
                    world.ready(name);
                }
            }
        }
        world.settle();
        world.step();
        let status = world.set.status.clone().unwrap();
        prop_assert_eq!(status.replicas, count);
        prop_assert_eq!(status.updated_replicas, Some(count));
    }
}
