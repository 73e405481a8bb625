//! A simulated rollout under every order of readiness, and the single steps.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus,
    RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::bounds::Bounds;
use super::plan::{Plan, Write, available, plan, replicas};
use super::revision;
use crate::object::Meta;
use crate::testing::{at, labels, meta, template};

fn deployment(count: i32, surge: IntOrString, unavailable: IntOrString) -> Deployment {
    Deployment {
        metadata: meta("ns", "web"),
        spec: Some(DeploymentSpec {
            replicas: Some(count),
            selector: LabelSelector {
                match_labels: Some(labels(&[("app", "web")])),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(surge),
                    max_unavailable: Some(unavailable),
                }),
            }),
            template: template("v1"),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn plain(count: i32) -> Deployment {
    deployment(count, IntOrString::Int(1), IntOrString::Int(0))
}

/// A cluster of one Deployment: ReplicaSets and how many of each one's pods are ready.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    clock: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), clock: 100 }
    }

    fn plan(&self) -> Plan {
        plan(&self.deployment, &self.sets, |_| false, at(self.clock))
    }

    /// One reconciliation, all its writes carried out. Returns whether anything was written.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let moved = !plan.writes.is_empty();
        for write in plan.writes {
            match write {
                Write::Create(mut set) => {
                    self.clock += 1;
                    set.metadata.uid = Some(format!("uid-{}", set.name()));
                    set.metadata.creation_timestamp = Some(Time(at(self.clock)));
                    self.sets.push(Arc::new(*set));
                }
                Write::Update { old, new } => {
                    let place = self.sets.iter_mut().find(|s| s.uid() == old.uid()).unwrap();
                    *place = Arc::new(*new);
                }
                Write::Delete(gone) => self.sets.retain(|s| s.uid() != gone.uid()),
            }
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision);
        }
        self.deployment.status = Some(plan.status);
        self.settle(&[]);
        moved
    }

    /// ReplicaSets follow: pods are made and deleted (unavailable ones first), and of each set so
    /// many more become ready.
    fn settle(&mut self, ready: &[i32]) {
        for (i, set) in self.sets.iter_mut().enumerate() {
            let size = replicas(set);
            let more = ready.get(i).copied().unwrap_or(0);
            let live = (available(set) + more).clamp(0, size);
            Arc::make_mut(set).status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(live),
                available_replicas: Some(live),
                ..ReplicaSetStatus::default()
            });
        }
    }

    /// Until nothing more is written, everything ready at once.
    fn finish(&mut self) {
        for _ in 0..200 {
            self.settle(&[i32::MAX / 4; 8]);
            if !self.step() {
                return;
            }
        }
        panic!("the rollout does not end");
    }

    fn roll_to(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template = template(image);
        *self.deployment.metadata.generation.get_or_insert(0) += 1;
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|s| replicas(s)).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let status = self.deployment.status.clone().unwrap();
        let found = status.conditions.unwrap().into_iter().find(|c| c.type_ == kind).unwrap();
        (found.status, found.reason.unwrap())
    }
}

#[test]
fn a_new_deployment_makes_one_replica_set_named_by_its_hash() {
    let world = World::new(plain(3));
    let plan = world.plan();
    let [Write::Create(set)] = plan.writes.as_slice() else { panic!("{:?}", plan.writes) };
    let hash = set.label("pod-template-hash").unwrap();
    assert_eq!(set.name(), format!("web-{hash}"));
    assert_eq!(replicas(set), 3);
    assert_eq!(set.annotation(revision::REVISION), Some("1"));
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let spec = set.spec.as_ref().unwrap();
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
}

#[test]
fn a_finished_rollout_is_available_and_progressed() {
    let mut world = World::new(plain(3));
    world.finish();
    assert_eq!(world.condition("Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn going_back_reuses_the_old_replica_set_under_a_new_revision() {
    let mut world = World::new(plain(2));
    world.finish();
    world.roll_to("v2");
    world.finish();
    assert_eq!(world.sizes(), [0, 2]);
    world.roll_to("v1");
    world.finish();
    assert_eq!(world.sizes(), [2, 0]);
    assert_eq!(world.sets[0].annotation(revision::REVISION), Some("3"));
    let history = world.sets[0].annotation("deployment.kubernetes.io/revision-history");
    assert_eq!(history, Some("1"));
    assert_eq!(world.deployment.annotation(revision::REVISION), Some("3"));
}

#[test]
fn old_replica_sets_beyond_the_history_limit_go() {
    let mut deployment = plain(1);
    deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let mut world = World::new(deployment);
    for image in ["v1", "v2", "v3", "v4"] {
        world.roll_to(image);
        world.finish();
    }
    assert_eq!(world.sets.len(), 2);
    assert_eq!(revision::revision(&world.sets[0]), 3);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(plain(2));
    world.finish();
    world.roll_to("v2");
    let spec = world.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.replicas) = (Some(true), Some(5));
    world.finish();
    assert_eq!(world.sizes(), [5]);
    assert_eq!(world.condition("Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
}

#[test]
fn scaling_amid_a_rollout_keeps_the_proportions() {
    let mut world = World::new(deployment(10, IntOrString::Int(3), IntOrString::Int(2)));
    world.finish();
    world.roll_to("v2");
    // The new ReplicaSet never gets ready: upstream's documented example, 8 old and 5 new.
    for _ in 0..6 {
        world.step();
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.step();
    assert_eq!(world.sizes(), [11, 7]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(plain(2));
    world.finish();
    world.roll_to("v2");
    let strategy = world.deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    *strategy = DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None };
    world.step();
    assert_eq!(world.sizes(), [0]);
    let waiting = plan(&world.deployment, &world.sets, |_| true, at(200));
    assert_eq!(waiting.writes, []);
    world.step();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn no_movement_within_the_deadline_is_a_failure() {
    let mut world = World::new(plain(2));
    world.step();
    world.step();
    let waiting = world.plan();
    assert!(waiting.next.is_some_and(|n| n.as_secs() <= 601));
    world.clock += 700;
    world.step();
    assert_eq!(world.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    world.settle(&[1]);
    world.step();
    assert_eq!(world.condition("Progressing").0, "True");
}

#[test]
fn a_status_that_has_not_changed_stays_the_same_value() {
    let mut world = World::new(plain(2));
    world.finish();
    let before = world.deployment.status.clone();
    world.clock += 50;
    world.step();
    assert_eq!(world.deployment.status, before);
}

fn bound() -> impl Strategy<Value = IntOrString> {
    prop_oneof![
        (0..4i32).prop_map(IntOrString::Int),
        (0..=100i32).prop_map(|p| IntOrString::String(format!("{p}%"))),
    ]
}

proptest! {
    /// However readiness comes, pods never exceed replicas + surge, available pods never fall
    /// below replicas − unavailable by our doing, and the rollout ends.
    #[test]
    fn a_rollout_stays_within_its_bounds(
        count in 1..12i32,
        surge in bound(),
        unavailable in bound(),
        readiness in prop::collection::vec(prop::collection::vec(0..3i32, 3), 0..60),
        second in 0..30usize,
    ) {
        let mut world = World::new(deployment(count, surge, unavailable));
        world.finish();
        let bounds = Bounds::of(&world.deployment);
        world.roll_to("v2");
        for (i, ready) in readiness.iter().enumerate() {
            if i == second {
                world.roll_to("v3");
            }
            world.step();
            let total: i32 = world.sizes().iter().sum();
            prop_assert!(total <= bounds.most(), "{total} > {bounds:?}");
            let live: i32 = world.sets.iter().map(|s| available(s)).sum();
            prop_assert!(live >= bounds.fewest_available(), "{live} < {bounds:?}");
            world.settle(ready);
        }
        world.finish();
        prop_assert_eq!(world.sets.iter().map(|s| replicas(s)).filter(|r| *r > 0).collect::<Vec<_>>(), vec![count]);
        prop_assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
    }
}
