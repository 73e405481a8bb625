//! Namespace deletion.
//!
//! ```text
//!   deletionTimestamp ─▶ delete pods ─▶ gone? ─▶ delete every other kind ─▶ gone? ─▶ finalize
//! ```
//! Pods first, for what they run must not outlive the policies around them (KEP-5080). The last
//! object to go wakes this controller; a slow look now and then is only the safety net.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use kube::api::{DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::core::Resource;
use kube::core::{ObjectList, PartialObjectMeta, Request};
use serde_json::Value;

use self::plan::{Findings, conditions};
use crate::Result;
use crate::clock::Clock;
use crate::discovery::{ApiKind, served};
use crate::kind::status_code;
use crate::kinds::Kinds;
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::{Reconcile, describe};

/// The finalizer that stands for this controller.
const FINALIZER: &str = "kubernetes";
/// When to look again though nothing was heard.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The namespace controller.
pub(crate) struct Namespaces {
    kinds: Arc<Kinds>,
    clock: Arc<dyn Clock>,
    queue: Arc<WorkQueue<Key>>,
}

impl Namespaces {
    pub(crate) fn new(kinds: &Arc<Kinds>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.namespaces.cache.subscribe(move |change| {
            if change.new.is_some_and(|n| n.is_terminating()) {
                added.add(Key::of(&**change.latest()));
            }
        });
        // The last pod gone lets the rest follow.
        let (added, namespaces) = (Arc::clone(&queue), Arc::clone(&kinds.namespaces));
        kinds.pods.cache.subscribe(move |change| {
            let key = Key::cluster(change.latest().namespace());
            if change.new.is_none()
                && namespaces.cache.find(&key).is_some_and(|n| n.is_terminating())
            {
                added.add(key);
            }
        });
        Arc::new(Self { kinds: Arc::clone(kinds), clock: Arc::clone(clock), queue })
    }

    async fn clear(&self, namespace: &str) -> Result<Findings> {
        let (kinds, undiscovered) = served(&self.kinds.client).await?;
        let mut findings = Findings { undiscovered, ..Findings::default() };
        let contents = |k: &&Arc<ApiKind>| k.namespaced && k.can("list") && k.can("delete");
        let (pods, others): (Vec<_>, Vec<_>) =
            kinds.iter().filter(contents).partition(|k| k.identity() == ("", "pods"));
        for kind in pods {
            self.clear_kind(namespace, kind, &mut findings).await;
        }
        if findings.remaining.is_empty() {
            for kind in others {
                self.clear_kind(namespace, kind, &mut findings).await;
            }
        }
        Ok(findings)
    }

    async fn clear_kind(&self, namespace: &str, kind: &ApiKind, findings: &mut Findings) {
        if let Err(error) = self.try_clear_kind(namespace, kind, findings).await {
            let told = format!("{}: {}", kind.resource.plural, describe(&error));
            findings.failures.push(told);
        }
    }

    async fn try_clear_kind(
        &self,
        namespace: &str,
        kind: &ApiKind,
        findings: &mut Findings,
    ) -> Result<()> {
        let all = Key::new(namespace, "");
        if self.list(kind, &all).await?.items.is_empty() {
            return Ok(());
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let request = kind
            .request(&all)
            .delete_collection(&params, &ListParams::default())
            .map_err(kube::Error::BuildRequest)?;
        self.kinds.client.request::<Value>(request).await?;
        let left = self.list(kind, &all).await?.items;
        if left.is_empty() {
            return Ok(());
        }
        let (group, plural) = kind.identity();
        findings.remaining.insert(format!("{plural}.{group}"), left.len());
        for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
            *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn list(&self, kind: &ApiKind, all: &Key) -> Result<ObjectList<PartialObjectMeta>> {
        let request = kind
            .request(all)
            .list_metadata(&ListParams::default())
            .map_err(kube::Error::BuildRequest)?;
        Ok(self.kinds.client.request(request).await?)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<()> {
        let mut done = namespace.clone();
        if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        // Our status patch may have moved the version on; the uid is guard enough.
        done.metadata.resource_version = None;
        let body = serde_json::to_vec(&done).map_err(kube::Error::SerdeError)?;
        let request = Request::new(Namespace::url_path(&(), None))
            .replace_subresource("finalize", namespace.name(), &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        match self.kinds.client.request::<Value>(request).await {
            Err(error) if status_code(&error) != Some(404) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Reconcile for Namespaces {
    type Key = Key;
    const NAME: &'static str = "namespace";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let namespaces = &self.kinds.namespaces;
        let found = namespaces.cache.find(key).filter(|n| n.is_terminating());
        let Some(namespace) = found else { return Ok(None) };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref());
        if !finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER)) {
            return Ok(None);
        }
        let findings = self.clear(&key.name).await?;
        if findings.is_clean() {
            self.finalize(&namespace).await?;
            return Ok(None);
        }
        let status = namespace.status.clone().unwrap_or_default();
        let old = status.conditions.clone().unwrap_or_default();
        let conditions = conditions(&old, &findings, self.clock.now());
        let new = NamespaceStatus { conditions: Some(conditions), ..status };
        namespaces.set_status(&*namespace, namespace.status.as_ref(), &new).await?;
        Ok(Some(LOOK_AGAIN))
    }
}
