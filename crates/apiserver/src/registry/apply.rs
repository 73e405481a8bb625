//! Server-side apply of objects and their parts, after upstream's `applyPatcher` in `endpoints/handlers/patch.go`.

use portolan_api::Kind;
use portolan_api::schema::{self, Strictness};
use serde_json::{Value, json};

use super::managed::{self, Ownership, Writer};
use super::update::{Part, Proposed, check_name};
use super::{Outcome, Registry, Target, meta, scale};
use crate::convert;
use crate::query::DryRun;
use crate::status::{Result, Status};

/// A decoded configuration.
pub(crate) struct ApplyBody {
    pub(crate) config: Value,
    /// Paths of duplicate keys.
    pub(crate) duplicates: Vec<String>,
    pub(crate) strictness: Strictness,
    pub(crate) force: bool,
}

impl Registry {
    /// Applies a configuration; an object that is not there is created.
    ///
    /// # Errors
    /// 400 (another type, managers of its own), 404 (a part of nothing), 409 (conflicts), 422, 500 (as upstream: a
    /// configuration that does not fit its type).
    pub(crate) async fn apply(
        &self,
        target: &Target,
        part: Part,
        body: &ApplyBody,
        writer: &Writer,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        let kind = target.kind;
        let (mut config, warnings) =
            body.checked(kind, &kind.api_version(), kind.kind, kind.schema)?;
        if meta::name(&config).is_empty() {
            // Never a generated one: the URL says what is applied to.
            meta::metadata(&mut config).insert("name".into(), target.name.as_str().into());
        }
        check_name(target, &config)?;
        let config = convert::to_stored(kind, config);
        let stored_kind = convert::stored_kind(kind);
        if part.is_none() && self.store.get(&target.key()).is_none() {
            self.check_creation(target)?;
            let applied =
                managed::apply(stored_kind, part, writer, None, config.clone(), body.force)?;
            let ownership = Ownership::Applied(applied.managed);
            let namespace = target.namespace.as_deref();
            match self.create(kind, namespace, applied.object, &ownership, dry_run).await {
                // Somebody was faster: it is there to be applied to now.
                Err(status) if status.reason == "AlreadyExists" => {}
                Err(status) => return Err(status),
                Ok(mut outcome) => {
                    outcome.warnings.splice(0..0, warnings);
                    return Ok(outcome);
                }
            }
        }
        self.guaranteed_update(target, part, dry_run, |current| {
            let live = Some(&*current.value);
            let applied =
                managed::apply(stored_kind, part, writer, live, config.clone(), body.force)?;
            let (object, ownership) = (applied.object, Ownership::Applied(applied.managed));
            Ok(Proposed { object, warnings: warnings.clone(), ownership })
        })
        .await
    }

    /// Applies a Scale: the workload's replicas, in the name of the writer.
    ///
    /// # Errors
    /// As [`Registry::apply`].
    pub(crate) async fn apply_scale(
        &self,
        target: &Target,
        body: &ApplyBody,
        writer: &Writer,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        let (scale, warnings) =
            body.checked(target.kind, "autoscaling/v1", "Scale", scale::COMPONENT)?;
        if !meta::name(&scale).is_empty() {
            check_name(target, &scale)?;
        }
        scale::check_replicas(target, &scale)?;
        let mut config = json!({
            "apiVersion": target.kind.api_version(),
            "kind": target.kind.kind,
        });
        if let Some(replicas) = scale["spec"].get("replicas") {
            config["spec"] = json!({"replicas": replicas});
        }
        self.guaranteed_update(target, None, dry_run, |current| {
            let live = Some(&*current.value);
            let applied =
                managed::apply(target.kind, None, writer, live, config.clone(), body.force)?;
            let (object, ownership) = (applied.object, Ownership::Applied(applied.managed));
            Ok(Proposed { object, warnings: warnings.clone(), ownership })
        })
        .await
    }
}

impl ApplyBody {
    /// The configuration, when it is one of this type.
    fn checked(
        &self,
        kind: &'static Kind,
        api_version: &str,
        name: &str,
        component: &str,
    ) -> Result<(Value, Vec<String>)> {
        let mut config = self.config.clone();
        let text = |field: &str| config[field].as_str().unwrap_or("").to_owned();
        let (sent_version, sent_kind) = (text("apiVersion"), text("kind"));
        if sent_version != api_version || sent_kind != name {
            let (group, version) = sent_version.rsplit_once('/').unwrap_or(("", &sent_version));
            return Err(Status::bad_request(format!(
                "invalid object type: {group}/{version}, Kind={sent_kind}"
            )));
        }
        if config["metadata"].get("managedFields").is_some_and(|managed| !managed.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let duplicates = match self.strictness {
            Strictness::Strict if !self.duplicates.is_empty() => {
                return Err(Status::bad_request(format!(
                    "error strict decoding YAML: duplicate field {:?}",
                    self.duplicates[0]
                )));
            }
            Strictness::Warn => self.duplicates.as_slice(),
            _ => &[],
        };
        let findings =
            schema::check_component(component, &mut config, duplicates, Strictness::Warn)
                .map_err(|e| Status::bad_request(e.0))?;
        // Fields that are not in the schema cannot be owned, so strictness does not matter.
        let (unknown, warnings): (Vec<String>, Vec<String>) =
            findings.into_iter().partition(|finding| finding.starts_with("unknown field "));
        let undeclared: Vec<String> = unknown
            .iter()
            .filter_map(|finding| finding.strip_prefix("unknown field \"")?.strip_suffix('"'))
            .map(|path| format!(".{path}: field not declared in schema"))
            .collect();
        match undeclared.as_slice() {
            [] => Ok((config, warnings)),
            [one] => Err(managed::not_typed(kind, &config, one)),
            many => {
                let why = format!("errors:\n  {}", many.join("\n  "));
                Err(managed::not_typed(kind, &config, &why))
            }
        }
    }
}
