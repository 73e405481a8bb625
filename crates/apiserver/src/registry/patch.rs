//! Patching objects, after upstream's `endpoints/handlers/patch.go`.
//!
//! The patch is applied to the object in the form the client sees, resource version included, and the result goes the
//! way of an update. A lost race applies the patch again, unless the patch itself names a resource version.

use portolan_api::schema::{self, Strictness};
use portolan_api::{Cause, Kind, Reason};
use portolan_patch::PatchError;
use serde_json::Value;

use super::update::{Part, Proposed};
use super::{Ownership, Outcome, Registry, Target, meta};
use crate::convert;
use crate::encode::Versioned;
use crate::negotiate::PatchType;
use crate::query::DryRun;
use crate::status::{Result, Status, Subject};

/// A decoded patch.
pub(crate) struct PatchBody {
    pub(crate) patch_type: PatchType,
    pub(crate) patch: Value,
    pub(crate) strictness: Strictness,
}

impl Registry {
    /// Patches an object or a part of it.
    ///
    /// # Errors
    /// 400 (not a patch), 404, 409, 422 (does not apply, or gives an invalid object).
    pub(crate) async fn patch(
        &self,
        target: &Target,
        part: Part,
        body: &PatchBody,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        self.guaranteed_update(target, part, dry_run, |current| {
            let kind = target.kind;
            let before = Versioned::of(kind, current).into_value();
            let mut object = body.apply(kind, &before)?;
            let warnings = schema::check(kind, &mut object, &[], body.strictness)
                .map_err(|e| body.invalid(&e.0))?;
            for field in ["name", "namespace"] {
                let (sent, is) = (meta::text(&object, field), meta::text(&before, field));
                if sent != is {
                    return Err(Status::bad_request(format!(
                        "the {field} of the object ({sent}) does not match the {field} on the URL \
                         ({is})"
                    )));
                }
            }
            // Only a version that the patch itself names is a precondition.
            if meta::text(&object, "resourceVersion") == meta::text(&before, "resourceVersion") {
                meta::metadata(&mut object).remove("resourceVersion");
            }
            let object = convert::to_stored(kind, object);
            Ok(Proposed { object, warnings, ownership: ownership.clone() })
        })
        .await
    }
}

impl PatchBody {
    /// What upstream answers when the patched object does not decode: the patch is the invalid value.
    fn invalid(&self, why: &str) -> Status {
        // The message that a whole object would get begins with what it cannot be handled as.
        let why = why
            .split_once(" cannot be handled as a ")
            .and_then(|(_, rest)| rest.split_once(": "))
            .map_or(why, |(_, why)| why);
        let patch = Value::String(self.patch.to_string());
        let cause = Cause {
            reason: Reason::Invalid,
            message: format!("Invalid value: {patch}: {why}"),
            field: "patch".into(),
        };
        Status::invalid(Subject { group: "", resource: "", kind: "" }, "", &[cause])
    }

    pub(super) fn apply(&self, kind: &'static Kind, before: &Value) -> Result<Value> {
        let applied = match self.patch_type {
            PatchType::Json => portolan_patch::json_patch(before, &self.patch),
            PatchType::Merge => portolan_patch::merge_patch(before, &self.patch),
            PatchType::Strategic => {
                portolan_patch::strategic_merge(before, &self.patch, &schema::merge_schema(kind))
            }
        };
        applied.map_err(|e| Status::from(&e))
    }

    /// Applies the patch to an object whose lists (it has none worth merging) are atomic.
    pub(super) fn apply_plain(&self, before: &Value) -> Result<Value> {
        let applied = match self.patch_type {
            PatchType::Json => portolan_patch::json_patch(before, &self.patch),
            PatchType::Merge | PatchType::Strategic => {
                portolan_patch::merge_patch(before, &self.patch)
            }
        };
        applied.map_err(|e| Status::from(&e))
    }
}

impl From<&PatchError> for Status {
    fn from(error: &PatchError) -> Status {
        match error {
            PatchError::Unprocessable(_) => Status::unprocessable(),
            malformed => Status::bad_request(malformed.to_string()),
        }
    }
}
