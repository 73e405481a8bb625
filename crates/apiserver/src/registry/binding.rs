//! Binding a pod to a node (upstream `pkg/registry/core/pod/storage BindingREST`).

use jiff::Timestamp;
use portolan_api::kinds::Subresource;
use portolan_api::{Cause, Reason};
use serde_json::{Value, json};

use super::update::Proposed;
use super::{Outcome, Ownership, Registry, Target, meta};
use crate::query::DryRun;
use crate::status::{Result, Status, Subject};

impl Registry {
    /// Sets the node of a pod that has none and is not being deleted.
    ///
    /// # Errors
    /// 404, 409 (bound already, being deleted, another uid), 422.
    pub(crate) async fn bind(
        &self,
        target: &Target,
        binding: &Value,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        let node = binding["target"]["name"].as_str().unwrap_or("");
        let subject = Subject { group: "", resource: "bindings", kind: "Binding" };
        let kind = binding["target"]["kind"].as_str().unwrap_or("");
        let mut causes = Vec::new();
        if !matches!(kind, "" | "Node") {
            causes.push(Cause {
                reason: Reason::NotSupported,
                field: "target.kind".into(),
                message: format!("Unsupported value: {kind:?}: supported values: \"Node\""),
            });
        }
        if node.is_empty() {
            causes.push(Cause {
                reason: Reason::Required,
                field: "target.name".into(),
                message: "Required value".into(),
            });
        }
        if !causes.is_empty() {
            return Err(Status::invalid(subject, &target.name, &causes));
        }
        self.guaranteed_update(target, Some(Subresource::Binding), dry_run, |current| {
            let refuse = |why: String| {
                let subject = Subject { group: "", resource: "pods/binding", kind: "Binding" };
                Err(Status::conflict(subject, &target.name, &why))
            };
            let pod = &*current.value;
            if meta::is_deleting(pod) {
                let name = &target.name;
                return refuse(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                ));
            }
            let taken = pod["spec"]["nodeName"].as_str().unwrap_or("");
            if !taken.is_empty() {
                let name = &target.name;
                return refuse(format!("pod {name} is already assigned to node {taken:?}"));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.into();
            let uid = meta::uid(binding);
            if !uid.is_empty() {
                meta::metadata(&mut pod).insert("uid".into(), uid.into());
            }
            for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten()
            {
                pod["metadata"]["annotations"][key] = value.clone();
            }
            set_scheduled(&mut pod);
            Ok(Proposed { object: pod, warnings: Vec::new(), ownership: Ownership::Server })
        })
        .await
    }
}

fn set_scheduled(pod: &mut Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> =
        conditions.into_iter().filter(|c| c["type"] != "PodScheduled").collect();
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::time(Timestamp::now()),
    }));
    pod["status"]["conditions"] = conditions.into();
}
