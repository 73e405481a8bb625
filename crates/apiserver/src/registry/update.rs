//! Replacing objects, after upstream's `rest.BeforeUpdate` and `Store.Update`.
//!
//! Every update goes through [`Registry::guaranteed_update`]: read, make the new object from the current one, commit
//! against the revision that was read, and begin again when somebody was faster, unless the caller named a revision.

use jiff::Timestamp;
use portolan_api::kinds::Subresource;
use portolan_api::{Cause, Reason, defaults, strategy, validate_update};
use portolan_store::Stored;
use serde_json::Value;

use super::{
    Change, Outcome, Ownership, Registry, Target, certificates, is_race, managed, meta, namespaces,
};
use crate::convert;
use crate::query::{DryRun, resource_version};
use crate::services::Claim;
use crate::status::{Result, Status};

/// How often a lost race is run again before it is the client's problem.
const ATTEMPTS: usize = 16;

/// Which part of the object a write is for; `None` is the object itself.
pub(crate) type Part = Option<Subresource>;

/// What an update makes of the current object.
pub(super) struct Proposed {
    /// The new object, checked and in the stored form, metadata as the client sent it.
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
    /// Who owns what is new in it.
    pub(super) ownership: Ownership,
}

impl Registry {
    /// Replaces an object (PUT) by a decoded body. Kinds that upstream creates on update are created.
    ///
    /// # Errors
    /// 400, 404, 409 (stale version, other uid), 422.
    pub(crate) async fn update(
        &self,
        target: &Target,
        part: Part,
        body: Value,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        check_name(target, &body)?;
        let object = convert::to_stored(target.kind, body);
        if self.store.get(&target.key()).is_none() && part.is_none() && creates_on_update(target) {
            self.check_creation(target)?;
            return self.create_on_update(target, object, ownership, dry_run).await;
        }
        let needs_version = matches!(target.kind.kind, "Lease" | "PodDisruptionBudget");
        if needs_version && meta::text(&object, "resourceVersion").is_empty() {
            let cause = Cause {
                reason: Reason::Invalid,
                field: "metadata.resourceVersion".into(),
                message: "Invalid value: 0: must be specified for an update".into(),
            };
            return Err(Status::invalid(target.subject(), &target.name, &[cause]));
        }
        self.guaranteed_update(target, part, dry_run, |_| {
            let (object, ownership) = (object.clone(), ownership.clone());
            Ok(Proposed { object, warnings: Vec::new(), ownership })
        })
        .await
    }

    async fn create_on_update(
        &self,
        target: &Target,
        mut object: Value,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        let uid = meta::uid(&object);
        if !uid.is_empty() {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            return Err(Status::conflict(target.subject(), &target.name, &why));
        }
        meta::metadata(&mut object).remove("resourceVersion");
        let kind = convert::stored_kind(target.kind);
        self.create(kind, target.namespace.as_deref(), object, ownership, dry_run).await
    }

    /// Applies `change` to the current object until it is stored or refused.
    pub(super) async fn guaranteed_update(
        &self,
        target: &Target,
        part: Part,
        dry_run: DryRun,
        change: impl Fn(&Stored) -> Result<Proposed>,
    ) -> Result<Outcome> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = self.get(target, None)?;
            let mut proposed = change(&current)?;
            let sent = resource_version(Some(meta::text(&proposed.object, "resourceVersion")))?;
            let named_version = sent.filter(|v| *v != 0);
            if named_version.is_some_and(|v| v != current.revision.0) {
                return Err(Status::modified(target.subject(), &target.name));
            }
            let claim = self.prepare_update(target, part, &mut proposed, &current, dry_run)?;
            let mut warnings = proposed.warnings;
            if part.is_none() {
                let kind = convert::stored_kind(target.kind);
                warnings.extend(strategy::warnings(kind, &proposed.object));
            }
            match self.store_update(target, &current, proposed.object, dry_run, claim).await {
                Ok(stored) => return Ok(Outcome { stored, change: Change::Updated, warnings }),
                Err(status)
                    if is_race(&status) && named_version.is_none() && attempts < ATTEMPTS => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// Makes the proposed object storable: defaults, kept fields, rules, addresses.
    fn prepare_update(
        &self,
        target: &Target,
        part: Part,
        proposed: &mut Proposed,
        current: &Stored,
        dry_run: DryRun,
    ) -> Result<Claim> {
        let (old, kind) = (&*current.value, convert::stored_kind(target.kind));
        let Proposed { object: new, ownership, .. } = proposed;
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != meta::uid(old) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(old)
            );
            return Err(Status::conflict(target.subject(), &target.name, &why));
        }
        let sent = managed::take_sent(new);
        meta::strip(new);
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
        ] {
            meta::keep(new, old, field);
        }
        defaults(kind, new);
        managed::track(kind, part, ownership, old, new, sent);
        strategy::prepare_for_update(kind, part, new, old);
        self.admit_update(target, part, new, old)?;
        certificates::date_conditions(kind, part, new, old, Timestamp::now());
        let claim = match part {
            None => self.services.begin(kind, new, Some(old), dry_run)?,
            Some(_) => self.services.watch(kind, &target.name),
        };
        let causes = validate_update(kind, part, new, old);
        if !causes.is_empty() {
            return Err(Status::invalid(target.subject(), &target.name, &causes));
        }
        Ok(claim)
    }

    async fn store_update(
        &self,
        target: &Target,
        current: &Stored,
        new: Value,
        dry_run: DryRun,
        claim: Claim,
    ) -> Result<Stored> {
        if is_gone(target, &new) {
            // The last finalizer went: the write is the deletion. The answer is the object as it was written.
            if dry_run == DryRun::Off {
                let deleted = self.commit_removal(target, current).await?;
                return Ok(Stored { value: new.into(), ..deleted });
            }
        } else if new == *current.value {
            return Ok(current.clone());
        }
        self.commit_claimed(target, Some(current), new, dry_run, claim).await
    }
}

/// Marked for deletion, nothing holds it any more, no grace is left.
fn is_gone(target: &Target, object: &Value) -> bool {
    meta::is_deleting(object)
        && meta::finalizers(object).is_empty()
        && meta::grace_period(object).is_none_or(|g| g == 0)
        && (target.kind.kind != "Namespace" || namespaces::is_finalized(object))
}

/// `AllowCreateOnUpdate` of upstream's strategies.
fn creates_on_update(target: &Target) -> bool {
    target.kind.group == "rbac.authorization.k8s.io"
        || matches!(
            target.kind.kind,
            "Endpoints" | "Event" | "Lease" | "LimitRange" | "PriorityClass" | "Service"
        )
}

pub(super) fn check_name(target: &Target, body: &Value) -> Result<()> {
    let (name, url) = (meta::name(body), target.name.as_str());
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({url} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != url {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        )));
    }
    let namespace = meta::text(body, "namespace");
    let url = target.namespace.as_deref().unwrap_or("");
    if !namespace.is_empty() && !url.is_empty() && namespace != url {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request \
             ({url})"
        )));
    }
    Ok(())
}
