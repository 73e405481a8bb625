//! One kind as controllers use it: a shared cache, and writes whose answers enter that cache.
//!
//! Watches follow list-then-watch with backoff (kube's `watcher`); a failed write leaves the cache
//! alone, except that "not found" removes what is not there.

mod diff;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{
    Api, DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::Request;
use kube::core::response::StatusSummary;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::diff::merge_patch;
use crate::Result;
use crate::cache::Cache;
use crate::object::{Key, Meta, Object};

/// A kind's cache and writes.
pub(crate) struct Kind<K: Object> {
    pub(crate) cache: Cache<K>,
    client: kube::Client,
    synced: watch::Sender<bool>,
}

/// Whether a delete waits for the kind's usual grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// As the object says.
    Default,
    /// At once.
    None,
}

impl<K: Object> Kind<K> {
    pub(crate) fn new(client: &kube::Client) -> Arc<Self> {
        Self::with(client, Cache::new())
    }

    /// As [`Self::new`], the cache finding objects by `values`.
    pub(crate) fn indexed_by(client: &kube::Client, values: fn(&K) -> Vec<String>) -> Arc<Self> {
        Self::with(client, Cache::indexed_by(values))
    }

    fn with(client: &kube::Client, cache: Cache<K>) -> Arc<Self> {
        Arc::new(Self { cache, client: client.clone(), synced: watch::Sender::new(false) })
    }

    /// Keeps the cache like the API server's objects until `shutdown`.
    pub(crate) async fn follow(
        self: Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        shutdown: CancellationToken,
    ) {
        let stream = watcher(api, config).backoff(retry());
        let mut stream = std::pin::pin!(stream.take_until(shutdown.cancelled_owned()));
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => self.cache.list_begins(),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    self.cache.seen(object);
                }
                Ok(watcher::Event::InitDone) => {
                    self.cache.list_ends();
                    self.synced.send_replace(true);
                }
                Ok(watcher::Event::Delete(object)) => self.cache.deleted(&object),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch failed; trying again");
                }
            }
        }
    }

    /// Waits for the first complete list.
    pub(crate) async fn synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn path(namespace: &str) -> Request {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        Request::new(K::url_path(&(), namespace))
    }

    /// Reads an object past the cache.
    pub(crate) async fn read(&self, key: &Key) -> Result<Option<K>> {
        let request = Self::path(&key.namespace)
            .get(&key.name, &GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.client.request::<K>(request).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if status_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn create(&self, object: &K) -> Result<K> {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Self::path(object.namespace())
            .create(&PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        let created: K = self.client.request(request).await?;
        self.cache.written(created.clone());
        Ok(created)
    }

    /// Replaces an object, provided that its resource version is still the one given.
    pub(crate) async fn replace(&self, object: &K) -> Result<()> {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Self::path(object.namespace())
            .replace(object.name(), &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        let answer = self.client.request(request).await;
        self.take(&Key::of(object), object.uid(), answer)
    }

    /// Applies a JSON merge patch.
    pub(crate) async fn merge(&self, key: &Key, uid: &str, patch: &Value) -> Result<()> {
        self.patch(&self.client, key, uid, None, &Patch::Merge(patch)).await
    }

    /// Applies a strategic merge patch, to a subresource if named.
    pub(crate) async fn strategic(
        &self,
        key: &Key,
        uid: &str,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<()> {
        self.strategic_as(&self.client, key, uid, subresource, patch).await
    }

    /// As [`Self::strategic`], by another identity than the cache's own.
    pub(crate) async fn strategic_as(
        &self,
        client: &kube::Client,
        key: &Key,
        uid: &str,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<()> {
        self.patch(client, key, uid, subresource, &Patch::Strategic(patch)).await
    }

    /// Makes the status what it should be; writes nothing when it is so already.
    pub(crate) async fn set_status<S: Serialize>(
        &self,
        object: &K,
        old: Option<&S>,
        new: &S,
    ) -> Result<()> {
        let old = serde_json::to_value(old).map_err(kube::Error::SerdeError)?;
        let new = serde_json::to_value(new).map_err(kube::Error::SerdeError)?;
        let Some(patch) = merge_patch(&old, &new) else { return Ok(()) };
        let patch = json!({ "metadata": { "uid": object.uid() }, "status": patch });
        let (key, uid) = (Key::of(object), object.uid());
        self.patch(&self.client, &key, uid, Some("status"), &Patch::Merge(&patch)).await
    }

    async fn patch(
        &self,
        client: &kube::Client,
        key: &Key,
        uid: &str,
        subresource: Option<&str>,
        patch: &Patch<&Value>,
    ) -> Result<()> {
        let path = Self::path(&key.namespace);
        let params = PatchParams::default();
        let request = match subresource {
            Some(subresource) => path.patch_subresource(subresource, &key.name, &params, patch),
            None => path.patch(&key.name, &params, patch),
        }
        .map_err(kube::Error::BuildRequest)?;
        let answer = client.request(request).await;
        self.take(key, uid, answer)
    }

    /// Deletes the object of this uid; success also when it is gone already.
    pub(crate) async fn delete(&self, key: &Key, uid: &str, grace: Grace) -> Result<()> {
        self.delete_with(key, uid, grace, None).await
    }

    /// As [`Self::delete`], with a propagation policy.
    pub(crate) async fn delete_with(
        &self,
        key: &Key,
        uid: &str,
        grace: Grace,
        propagation_policy: Option<PropagationPolicy>,
    ) -> Result<()> {
        let params = DeleteParams {
            grace_period_seconds: match grace {
                Grace::Default => None,
                Grace::None => Some(0),
            },
            propagation_policy,
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let request = Self::path(&key.namespace)
            .delete(&key.name, &params)
            .map_err(kube::Error::BuildRequest)?;
        match self.client.request_status::<Value>(request).await {
            Ok(_) => {
                // Whether it is gone or terminating, the watch will tell; until then it counts
                // as terminating.
                if let Some(known) = self.cache.find(key).filter(|o| o.uid() == uid)
                    && !known.is_terminating()
                {
                    let mut object = (*known).clone();
                    object.meta_mut().deletion_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                            k8s_openapi::jiff::Timestamp::now(),
                        ));
                    self.cache.marked_terminating(object);
                }
                Ok(())
            }
            Err(error) if matches!(status_code(&error), Some(404)) => {
                self.cache.absent(key, uid);
                Ok(())
            }
            Err(error) if is_conflict(&error) => {
                // The uid is another object's: ours is gone.
                match self.read(key).await? {
                    Some(object) if object.uid() == uid => Err(error.into()),
                    _ => {
                        self.cache.absent(key, uid);
                        Ok(())
                    }
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self, key: &Key, uid: &str, answer: kube::Result<K>) -> Result<()> {
        match answer {
            Ok(object) => {
                self.cache.written(object);
                Ok(())
            }
            Err(error) => {
                if status_code(&error) == Some(404) {
                    self.cache.absent(key, uid);
                }
                Err(error.into())
            }
        }
    }
}

/// How often a broken watch is tried again.
pub(crate) fn retry() -> impl kube::runtime::utils::Backoff {
    struct Steps(Duration);
    impl Iterator for Steps {
        type Item = Duration;
        fn next(&mut self) -> Option<Duration> {
            let now = self.0;
            self.0 = (self.0 * 2).min(Duration::from_secs(10));
            Some(now)
        }
    }
    impl kube::runtime::utils::Backoff for Steps {
        fn reset(&mut self) {
            self.0 = Duration::from_millis(50);
        }
    }
    Steps(Duration::from_millis(50))
}

/// The HTTP status code of the API server's refusal.
pub(crate) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) if status.status == Some(StatusSummary::Failure) => {
            Some(status.code)
        }
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether the API server refused because something else changed the object first.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    status_code(error) == Some(409) && !is_already_exists(error)
}

/// Whether the API server refused because the name is taken.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}
