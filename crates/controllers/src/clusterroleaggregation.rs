//! Fills the rules of ClusterRoles that have an `aggregationRule` from the roles that it selects.
//!
//! A changed role may matter to any aggregated one, so each change looks at all of those (upstream
//! `pkg/controller/clusterroleaggregation`). An aggregated role may itself be selected by another;
//! the write of the one brings the other up.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::kind::Kind;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

/// Whom the rules belong to, so that people may apply the rest of the role.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// The controller.
pub(crate) struct ClusterRoleAggregation {
    client: kube::Client,
    roles: Arc<Kind<ClusterRole>>,
    queue: Arc<WorkQueue<Key>>,
}

impl ClusterRoleAggregation {
    pub(crate) fn new(client: &kube::Client) -> Arc<Self> {
        let (roles, queue) = (Kind::<ClusterRole>::new(client), Arc::new(WorkQueue::new()));
        let (changed, added) = (Arc::downgrade(&roles), Arc::clone(&queue));
        roles.cache.subscribe(move |change| {
            if let Some(role) = change.new.filter(|role| role.aggregation_rule.is_some()) {
                added.add(Key::of(&**role));
            }
            let Some(roles) = changed.upgrade() else { return };
            for role in roles.cache.all().iter().filter(|r| r.aggregation_rule.is_some()) {
                added.add(Key::of(&**role));
            }
        });
        Arc::new(Self { client: client.clone(), roles, queue })
    }

    /// Starts the watch.
    pub(crate) fn follow(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let (roles, api) = (Arc::clone(&self.roles), Api::all(self.client.clone()));
        tasks.spawn(roles.follow(api, watcher::Config::default(), shutdown.clone()));
    }

    /// Waits for the first list.
    pub(crate) async fn synced(&self) {
        self.roles.synced().await;
    }
}

impl Reconcile for ClusterRoleAggregation {
    type Key = Key;
    const NAME: &'static str = "clusterrole-aggregation";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(role) = self.roles.cache.find(key) else { return Ok(None) };
        let Some(rules) = plan::changed_rules(&role, &self.roles.cache.all()) else {
            return Ok(None);
        };
        let patch = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": key.name, "uid": role.uid()},
            "rules": rules,
        });
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        let written = roles.patch(&key.name, &params, &Patch::Apply(patch)).await?;
        self.roles.cache.written(written);
        Ok(None)
    }
}
