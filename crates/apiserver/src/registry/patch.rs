//! Patching objects, after upstream's `endpoints/handlers/patch.go`.
//!
//! The patch is applied to the object in the form the client sees, resource version included, and the result goes the
//! way of an update. A lost race applies the patch again, unless the patch itself names a resource version.

use portolan_api::schema::{self, Decoded, Strictness};
use portolan_api::{Cause, Kind, Reason};
use portolan_patch::PatchError;
use serde_json::Value;

use super::update::{Part, Proposed};
use super::{Outcome, Ownership, Registry, Target, meta};
use crate::convert;
use crate::encode::Versioned;
use crate::negotiate::PatchType;
use crate::query::DryRun;
use crate::status::{Result, Status, Subject};

/// A decoded patch.
pub(crate) struct PatchBody {
    pub(crate) patch_type: PatchType,
    pub(crate) patch: Value,
    /// What strict decoding finds in the patch itself.
    pub(crate) findings: Vec<String>,
    pub(crate) strictness: Strictness,
}

/// Duplicate fields of a patch, and for a JSON patch unknown fields of its operations.
pub(crate) fn findings(patch_type: PatchType, decoded: &Decoded) -> Vec<String> {
    let duplicates = decoded.duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    if patch_type != PatchType::Json {
        return duplicates.collect();
    }
    let known = |name: &str| matches!(name, "op" | "path" | "from" | "value");
    let operations = decoded.value.as_array().into_iter().flatten().enumerate();
    let unknown = operations.flat_map(|(index, operation)| {
        let fields = operation.as_object().into_iter().flatten();
        fields.filter(|(name, _)| !known(name)).map(move |(name, _)| {
            let path = format!("[{index}].{name}");
            format!("unknown field {path:?}")
        })
    });
    unknown.chain(duplicates).map(|finding| format!("json patch {finding}")).collect()
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
            let warnings = body.check(kind.schema, &mut object, || body.apply(kind, &before))?;
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
    /// Checks the patched object against its type; answers warnings, about the patch and about the object. A refusal shows
    /// the object as it was `patched`.
    pub(super) fn check(
        &self,
        component: &str,
        object: &mut Value,
        patched: impl Fn() -> Result<Value>,
    ) -> Result<Vec<String>> {
        let lenient = match self.strictness {
            Strictness::Ignore => Strictness::Ignore,
            // What is found is added to what was found in the patch, and refused with it.
            Strictness::Warn | Strictness::Strict => Strictness::Warn,
        };
        let refuse = |why: &str| match patched() {
            Ok(object) => self.invalid(&object, why),
            Err(status) => status,
        };
        let found =
            schema::check_component(component, object, &[], lenient).map_err(|e| refuse(&e.0))?;
        if self.strictness == Strictness::Ignore {
            return Ok(Vec::new());
        }
        let all: Vec<String> = self.findings.iter().cloned().chain(found).collect();
        if self.strictness == Strictness::Strict && !all.is_empty() {
            let why = format!("strict decoding error: {}", all.join(", "));
            return Err(refuse(&why));
        }
        Ok(all)
    }

    /// What upstream answers when the patched object does not decode: the object is the invalid value, or for a strategic
    /// merge the patch.
    fn invalid(&self, patched: &Value, why: &str) -> Status {
        // The message that a whole object would get begins with what it cannot be handled as.
        let why = why
            .split_once(" cannot be handled as a ")
            .and_then(|(_, rest)| rest.split_once(": "))
            .map_or(why, |(_, why)| why);
        let patch = match self.patch_type {
            PatchType::Strategic => go_value(&self.patch),
            _ => patched.to_string(),
        };
        let patch = Value::String(patch);
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

/// A value as Go prints it with `%+v`.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields =
                fields.into_iter().map(|(name, value)| format!("{name}:{}", go_value(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

impl From<&PatchError> for Status {
    fn from(error: &PatchError) -> Status {
        match error {
            PatchError::TooLarge(why) => Status::too_large(why),
            PatchError::Unprocessable(_) => Status::unprocessable(),
            malformed => Status::bad_request(malformed.to_string()),
        }
    }
}
