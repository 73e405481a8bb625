//! Namespaces as containers: what may be created in them, and how they end.
//!
//! Upstream: admission plugin NamespaceLifecycle and `pkg/registry/core/namespace`. A namespace carries the finalizer
//! `kubernetes` in `spec.finalizers`; deleting it sets `Terminating`, the namespace controller empties it and removes
//! the finalizer through `finalize`, and only then the object goes.

use portolan_api::Kind;
use portolan_api::kinds::Scope;
use serde_json::{Value, json};

use super::{Registry, meta, subject};
use crate::status::{Result, Status};

/// Namespaces that the server itself makes at start.
pub(crate) const SYSTEM: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

impl Registry {
    /// Refuses objects in namespaces that are gone or going.
    pub(super) fn check_namespace(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<()> {
        let (Scope::Namespaced, Some(namespace)) = (kind.scope, namespace) else { return Ok(()) };
        let namespaces = namespace_kind();
        let Some(found) = self.store.get(&namespaces.key(None, namespace)) else {
            return Err(Status::not_found(subject(namespaces), namespace));
        };
        if found.value["status"]["phase"] != "Terminating" && !meta::is_deleting(&found.value) {
            return Ok(());
        }
        let mut status = Status::forbidden(
            subject(kind),
            name,
            &format!(
                "unable to create new content in namespace {namespace} because it is being \
                 terminated"
            ),
        );
        if let Some(details) = &mut status.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        Err(status)
    }
}

pub(crate) fn namespace_kind() -> &'static Kind {
    portolan_api::kinds::by_kind("v1", "Namespace").expect("the table of kinds has Namespace")
}

pub(super) fn prepare_for_create(namespace: &mut Value) {
    if !namespace["spec"].is_object() {
        namespace["spec"] = json!({});
    }
    let mut finalizers = namespace["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    namespace["spec"]["finalizers"] = finalizers.into();
    namespace["status"] = json!({"phase": "Active"});
}

pub(super) fn check_deletable(name: &str) -> Result<()> {
    if IMMORTAL.contains(&name) {
        return Err(Status::forbidden(
            subject(namespace_kind()),
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

/// Whether no finalizers of the namespace's own kind are left.
pub(super) fn is_finalized(namespace: &Value) -> bool {
    namespace["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}
