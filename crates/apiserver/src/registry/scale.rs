//! The `scale` subresource: `autoscaling/v1 Scale` as a view of workloads (upstream `pkg/registry/apps/*/storage`).

use std::fmt::Write as _;

use portolan_api::{Cause, Reason};
use portolan_store::Stored;
use serde_json::{Value, json};

use super::update::Proposed;
use super::{Outcome, Ownership, PatchBody, Registry, Target, meta};
use crate::query::{DryRun, resource_version};
use crate::status::{Result, Status, Subject};

pub(crate) const COMPONENT: &str = "io.k8s.api.autoscaling.v1.Scale";
const SUBJECT: Subject<'_> = Subject { group: "autoscaling", resource: "scales", kind: "Scale" };

/// The Scale of a workload.
pub(crate) fn scale_of(stored: &Stored) -> Value {
    let object = &*stored.value;
    let mut metadata = json!({"resourceVersion": stored.revision.to_string()});
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        metadata[field] = object["metadata"][field].clone();
    }
    // A ReplicationController selects by plain labels.
    let selector = match object["kind"].as_str() {
        Some("ReplicationController") => json!({"matchLabels": object["spec"]["selector"]}),
        _ => object["spec"]["selector"].clone(),
    };
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector_text(&selector),
        },
    })
}

impl Registry {
    /// Sets the replicas from a decoded Scale.
    ///
    /// # Errors
    /// 400, 404, 409, 422.
    pub(crate) async fn update_scale(
        &self,
        target: &Target,
        scale: Value,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        self.guaranteed_update(target, None, dry_run, |current| {
            propose(target, current, &scale, ownership)
        })
        .await
    }

    /// Patches the Scale of a workload.
    ///
    /// # Errors
    /// As [`Registry::update_scale`].
    pub(crate) async fn patch_scale(
        &self,
        target: &Target,
        patch: &PatchBody,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        self.guaranteed_update(target, None, dry_run, |current| {
            let before = scale_of(current);
            let mut scale = patch.apply_plain(&before)?;
            let warnings = patch.check(COMPONENT, &mut scale, || patch.apply_plain(&before))?;
            if scale["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"] {
                meta::metadata(&mut scale).remove("resourceVersion");
            }
            let proposed = propose(target, current, &scale, ownership)?;
            Ok(Proposed { warnings, ..proposed })
        })
        .await
    }
}

fn propose(
    target: &Target,
    current: &Stored,
    scale: &Value,
    ownership: &Ownership,
) -> Result<Proposed> {
    check_replicas(target, scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let mut object = (*current.value).clone();
    object["spec"]["replicas"] = replicas.into();
    let sent = meta::text(scale, "resourceVersion");
    if resource_version(Some(sent))?.is_some() {
        meta::metadata(&mut object).insert("resourceVersion".into(), sent.into());
    }
    Ok(Proposed { object, warnings: Vec::new(), ownership: ownership.clone() })
}

/// Refuses a Scale that no workload can have.
pub(super) fn check_replicas(target: &Target, scale: &Value) -> Result<()> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: Reason::Invalid,
            field: "spec.replicas".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        };
        return Err(Status::invalid(SUBJECT, &target.name, &[cause]));
    }
    Ok(())
}

/// A label selector in the text form that `labelSelector` parameters take.
fn selector_text(selector: &Value) -> String {
    let mut terms = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or("")));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or("");
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        let mut term = String::new();
        let written = match expression["operator"].as_str() {
            Some("In") => write!(term, "{key} in ({values})"),
            Some("NotIn") => write!(term, "{key} notin ({values})"),
            Some("DoesNotExist") => write!(term, "!{key}"),
            _ => write!(term, "{key}"),
        };
        written.expect("writing to a String cannot fail");
        terms.push(term);
    }
    terms.join(",")
}
