//! Telling the API server the pod's status: the latest only, one request at a time, until it is
//! taken.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{SandboxState, Worker};
use crate::pod::status::{self, Facts};
use crate::runtime::PodKey;

/// The longest wait after a request that failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes one pod's status.
pub(crate) struct Reporter {
    client: kube::Client,
    key: PodKey,
    uid: String,
    status: watch::Sender<PodStatus>,
    task: JoinHandle<()>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reporter {
    /// Starts with what the API server has.
    pub(crate) fn start(
        client: kube::Client,
        key: &PodKey,
        uid: &str,
        known: PodStatus,
    ) -> Reporter {
        let (status, receiver) = watch::channel(known);
        let task = tokio::spawn(run(client.clone(), key.clone(), uid.to_owned(), receiver));
        Reporter { client, key: key.clone(), uid: uid.to_owned(), status, task }
    }

    fn report(&self, status: &PodStatus) {
        self.status.send_if_modified(|known| {
            known != status && {
                status.clone_into(known);
                true
            }
        });
    }

    /// The final status, and the Pod's deletion. Nothing is reported after it.
    pub(crate) fn last_report(
        &self,
        status: PodStatus,
    ) -> impl Future<Output = Result<(), kube::Error>> + use<> {
        self.task.abort();
        let client = self.client.clone();
        let (key, uid) = (self.key.clone(), self.uid.clone());
        async move {
            patch(&client, &key, &uid, &status).await?;
            let api: Api<Pod> = Api::namespaced(client, &key.namespace);
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            api.delete(&key.name, &params).await.map(|_| ())
        }
    }
}

async fn run(
    client: kube::Client,
    key: PodKey,
    uid: String,
    mut receiver: watch::Receiver<PodStatus>,
) {
    while receiver.changed().await.is_ok() {
        let mut wait = Duration::from_millis(50);
        loop {
            let status = receiver.borrow_and_update().clone();
            match patch(&client, &key, &uid, &status).await {
                Ok(()) => break,
                // Gone, or another Pod of the same name: nobody to tell.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => break,
                Err(error) => {
                    tracing::warn!(pod = %key.name, "cannot report the pod's status: {error}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(PATIENCE);
                }
            }
        }
    }
}

/// A merge patch replaces the lists whole; the uid makes it fail for another Pod.
async fn patch(
    client: &kube::Client,
    key: &PodKey,
    uid: &str,
    status: &PodStatus,
) -> Result<(), kube::Error> {
    let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    // A merge patch clears only what it names.
    for field in ["message", "reason"] {
        if let Some(map) = value.as_object_mut() {
            map.entry(field).or_insert(serde_json::Value::Null);
        }
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        for one in value.get_mut(list).and_then(|list| list.as_array_mut()).into_iter().flatten() {
            if let Some(one) = one.as_object_mut() {
                one.entry("lastState").or_insert_with(|| serde_json::json!({}));
            }
        }
    }
    let body = serde_json::json!({ "metadata": { "uid": uid }, "status": value });
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body)).await.map(|_| ())
}

impl Worker {
    /// Computes the status and hands it to the reporter if it is another.
    pub(super) fn report(&mut self) {
        if self.deletion != super::Deletion::None {
            return;
        }
        let status = self.compute_status();
        self.reporter.report(&status);
        self.status = status;
    }

    pub(super) fn compute_status(&self) -> PodStatus {
        // Conditions of others come from the API, our own from what was computed last.
        let mut previous = self.status.clone();
        let theirs = self.pod.status.as_ref().and_then(|status| status.conditions.clone());
        status::take_foreign(&mut previous, theirs.unwrap_or_default());
        let facts = Facts {
            records: &self.records,
            ips: self.ips.as_ref(),
            host_ips: &self.node.options.node_ips,
            has_sandbox: matches!(self.sandbox, SandboxState::Ready(_)),
            start_time: self.start_time,
            is_stopped: self.is_stopped,
            failure: self.failure.as_ref(),
            now: Timestamp::now(),
        };
        status::status(&self.pod, &facts, &previous)
    }
}
