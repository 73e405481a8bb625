//! Deployments: ReplicaSets that replace one another.

mod bounds;
#[cfg(test)]
mod golden;
mod plan;
mod proportion;
mod revision;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

pub(crate) use self::bounds::{Round, scaled};
use self::plan::{Write, replicas};
use crate::claim::{claim, settle};
use crate::clock::Clock;
use crate::event::{EventType, Recorder};
use crate::kind::{Grace, is_already_exists, merge_patch};
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::pod;
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;
use crate::selector::Selector;
use crate::{Error, Result};

/// The Deployment controller.
pub(crate) struct Deployments {
    kinds: Arc<Kinds>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
}

impl Deployments {
    pub(crate) fn new(
        kinds: &Arc<Kinds>,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.deployments.cache.subscribe(move |change| {
            added.add(Key::of(&**change.latest()));
        });
        let (added, owners) = (Arc::clone(&queue), Arc::clone(&kinds.deployments));
        kinds.replica_sets.cache.subscribe(move |change| {
            for set in change.sides() {
                match set.controller() {
                    Some(owner) if owner.kind == "Deployment" => {
                        added.add(Key::new(set.namespace(), &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        for owner in owners.cache.in_namespace(set.namespace()) {
                            if selector(&owner)
                                .is_some_and(|s| s.matches(set.metadata.labels.as_ref()))
                            {
                                added.add(Key::of(&*owner));
                            }
                        }
                    }
                }
            }
        });
        // Recreate waits for the last old pod to end.
        let (added, sets) = (Arc::clone(&queue), Arc::clone(&kinds.replica_sets));
        kinds.pods.cache.subscribe(move |change| {
            let pod = change.latest();
            if change.new.is_none_or(|p| pod::is_finished(p))
                && let Some(set) = pod.controller().filter(|o| o.kind == "ReplicaSet")
                && let Some(set) = sets.cache.find(&Key::new(pod.namespace(), &set.name))
                && let Some(owner) = set.controller().filter(|o| o.kind == "Deployment")
            {
                added.add(Key::new(pod.namespace(), &owner.name));
            }
        });
        Arc::new(Self {
            kinds: Arc::clone(kinds),
            recorder: recorder.component("deployment-controller"),
            clock: Arc::clone(clock),
            queue,
        })
    }

    async fn write(&self, deployment: &Deployment, write: Write) -> Result<()> {
        let sets = &self.kinds.replica_sets;
        match write {
            Write::Create(set) => match sets.create(&set).await {
                Ok(_) => {
                    self.tell_scaled(deployment, &set, 0, replicas(&set));
                    Ok(())
                }
                Err(Error::Api(error)) if is_already_exists(&error) => {
                    self.collided(deployment, &set, error).await
                }
                Err(error) => {
                    let message = format!(
                        "Failed to create new replica set \"{}\": {}",
                        set.name(),
                        crate::reconcile::describe(&error)
                    );
                    self.recorder.about(
                        deployment,
                        EventType::Warning,
                        "ReplicaSetCreateError",
                        message,
                    );
                    Err(error)
                }
            },
            Write::Update { old, new } => {
                let value =
                    |set: &ReplicaSet| serde_json::to_value(set).map_err(kube::Error::SerdeError);
                let Some(mut patch) = merge_patch(&value(&old)?, &value(&new)?) else {
                    return Ok(());
                };
                // The numbers were reckoned from this version.
                patch["metadata"]["uid"] = json!(old.uid());
                patch["metadata"]["resourceVersion"] = json!(old.metadata.resource_version);
                sets.merge(&Key::of(&*old), old.uid(), &patch).await?;
                self.tell_scaled(deployment, &old, replicas(&old), replicas(&new));
                Ok(())
            }
            Write::Delete(set) => sets.delete(&Key::of(&*set), set.uid(), Grace::Default).await,
        }
    }

    /// The name of the new ReplicaSet is taken: by ourselves a moment ago, or by a template with
    /// the same hash, which asks for another name.
    async fn collided(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: kube::Error,
    ) -> Result<()> {
        let live = self.kinds.replica_sets.read(&Key::of(set)).await?;
        let template = deployment.spec.as_ref().map(|s| &s.template);
        if let Some(live) = live {
            let ours = live.controller().is_some_and(|o| o.uid == deployment.uid());
            if ours && template.is_some_and(|t| revision::same_template(&live, t)) {
                self.kinds.replica_sets.cache.written(live);
                return Ok(());
            }
            let mut status = deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            let old = deployment.status.as_ref();
            self.kinds.deployments.set_status(deployment, old, &status).await?;
        }
        Err(error.into())
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Greater => "up",
            std::cmp::Ordering::Less => "down",
            std::cmp::Ordering::Equal => return,
        };
        let message = format!("Scaled {direction} replica set {} from {from} to {to}", set.name());
        self.recorder.about(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }

    fn has_live_pods(&self, set: &ReplicaSet) -> bool {
        let pods = self.kinds.pods.cache.controlled_by(set.uid());
        pods.iter().any(|p| !pod::is_finished(p))
    }
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    let selector = Selector::parse(&deployment.spec.as_ref()?.selector);
    (!selector.is_empty()).then_some(selector)
}

impl Reconcile for Deployments {
    type Key = Key;
    const NAME: &'static str = "deployment";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let Some(deployment) = kinds.deployments.cache.find(key) else { return Ok(None) };
        let Some(selector) = selector(&deployment) else { return Ok(None) };
        let candidates = kinds.replica_sets.cache.in_namespace(deployment.namespace());
        let claim = claim(&*deployment, &selector, candidates);
        let sets = settle(&*deployment, &kinds.deployments, &kinds.replica_sets, claim).await?;

        let old_pods_live = |new: Option<&ReplicaSet>| {
            let present = new.map(Meta::uid);
            sets.iter().filter(|s| Some(s.uid()) != present).any(|s| self.has_live_pods(s))
        };
        let plan = plan::plan(&deployment, &sets, old_pods_live, self.clock.now());
        let ending = kinds.is_ending(&key.namespace);
        for write in plan.writes {
            if ending && matches!(write, Write::Create(_)) {
                continue;
            }
            self.write(&deployment, write).await?;
        }
        if let Some(revision) = plan.revision {
            let patch = json!({ "metadata": {
                "uid": deployment.uid(),
                "annotations": { revision::REVISION: revision },
            }});
            kinds.deployments.merge(key, deployment.uid(), &patch).await?;
        }
        let old = deployment.status.as_ref();
        kinds.deployments.set_status(&*deployment, old, &plan.status).await?;
        Ok(plan.next)
    }
}
