//! Deleting objects, after upstream's `rest.BeforeDelete`, `Store.Delete` and `Store.DeleteCollection`.
//!
//! ```text
//!            DELETE ──▶ preconditions ──▶ pod with grace left? ──yes──▶ marked: deletionTimestamp, grace period
//!                                              │no                         │ shorter grace: timestamp moves forward
//!                                              ▼                           ▼ grace 0 (the node agent, --force)
//!                                         finalizers? ──yes──▶ marked ──last finalizer removed──▶ gone
//!                                              │no
//!                                              ▼
//!                                             gone
//! ```

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use portolan_api::Kind;
use portolan_api::schema::{self, Strictness};
use portolan_store::Stored;
use serde_json::{Value, json};

use super::{Registry, Target, is_race, meta, namespaces};
use crate::body;
use crate::query::{self, DryRun, ListOptions, Query};
use crate::status::{Result, Status};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const COMPONENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const ATTEMPTS: usize = 16;
const DEFAULT_POD_GRACE: i64 = 30;

/// What happens to the objects that this one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: DryRun,
}

/// What a delete did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Stored),
    /// The object stays until its grace is over or its finalizers are gone.
    Pending(Stored),
}

impl DeleteOptions {
    /// Options inside another object (an Eviction), already checked.
    pub(crate) fn from_value(value: &Value) -> DeleteOptions {
        let precondition = |field: &str| value["preconditions"][field].as_str().map(str::to_owned);
        DeleteOptions {
            grace_period: value["gracePeriodSeconds"].as_i64(),
            propagation: match value["propagationPolicy"].as_str() {
                Some("Background") => Some(Propagation::Background),
                Some("Foreground") => Some(Propagation::Foreground),
                Some("Orphan") => Some(Propagation::Orphan),
                _ => None,
            },
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: match value["dryRun"].as_array() {
                Some(list) if !list.is_empty() => DryRun::All,
                _ => DryRun::Off,
            },
        }
    }

    /// Reads the options from the body, or from the query when there is no body.
    ///
    /// # Errors
    /// 400 for a malformed body, 422 for values that are not allowed.
    pub(crate) fn parse(bytes: &[u8], headers: &HeaderMap, query: &Query) -> Result<DeleteOptions> {
        let mut causes = Vec::new();
        let from_body = !bytes.is_empty();
        let mut value = json!({});
        if from_body {
            value = body::decode(COMPONENT, headers, bytes)?.value;
            schema::check_component(COMPONENT, &mut value, &[], Strictness::Ignore)
                .map_err(|e| Status::bad_request(e.0))?;
        }
        let from_query = |name: &str| query.first(name).filter(|_| !from_body);
        let grace_period = match from_query("gracePeriodSeconds") {
            Some(text) => Some(text.parse().map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            })?),
            None => value["gracePeriodSeconds"].as_i64(),
        };
        let policy =
            value["propagationPolicy"].as_str().or_else(|| from_query("propagationPolicy"));
        let orphan = value["orphanDependents"]
            .as_bool()
            .or_else(|| from_query("orphanDependents").map(|_| query.flag("orphanDependents")));
        let propagation = match (policy, orphan) {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), _) => {
                causes.push(portolan_api::Cause {
                    reason: portolan_api::Reason::NotSupported,
                    field: "propagationPolicy".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Background\", \
                         \"Foreground\", \"Orphan\""
                    ),
                });
                None
            }
        };
        let dry_run = query::dry_run(query, &mut causes);
        query::refuse("DeleteOptions", causes)?;
        let mut options = DeleteOptions::from_value(&value);
        options.grace_period = grace_period;
        options.propagation = propagation;
        if dry_run == DryRun::All {
            options.dry_run = dry_run;
        }
        Ok(options)
    }
}

impl Registry {
    /// Deletes an object or marks it for deletion.
    ///
    /// # Errors
    /// 403 (a namespace that must stay), 404, 409 (preconditions).
    pub(crate) async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        if target.kind.kind == "Namespace" {
            namespaces::check_deletable(&target.name)?;
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = self.get(target, None)?;
            check_preconditions(target, &current, options)?;
            self.admit_delete(target, &current.value)?;
            match self.delete_current(target, &current, options).await {
                Err(status)
                    if is_race(&status)
                        && options.resource_version.is_none()
                        && attempts < ATTEMPTS => {}
                done => return done,
            }
        }
    }

    async fn delete_current(
        &self,
        target: &Target,
        current: &Stored,
        options: &DeleteOptions,
    ) -> Result<Deleted> {
        let mut object = (*current.value).clone();
        let grace = match target.kind.kind {
            "Pod" => pod_grace(&object, options),
            _ => Grace::Period(0),
        };
        set_finalizers(&mut object, options.propagation);
        let held = !meta::finalizers(&object).is_empty()
            || (target.kind.kind == "Namespace" && !namespaces::is_finalized(&object));
        match grace {
            Grace::Unchanged => {}
            Grace::Period(0) if !held => {
                if options.dry_run == DryRun::Off {
                    return self.commit_removal(target, current).await.map(Deleted::Gone);
                }
                return Ok(Deleted::Gone(current.clone()));
            }
            Grace::Period(seconds) => mark(target.kind, &mut object, seconds),
        }
        if object == *current.value {
            return Ok(Deleted::Pending(current.clone()));
        }
        let claim = self.services.watch(target.kind, &target.name);
        let marked =
            self.commit_claimed(target, Some(current), object, options.dry_run, claim).await?;
        Ok(Deleted::Pending(marked))
    }

    /// Deletes everything that the list options select; answers what was selected.
    ///
    /// # Errors
    /// The first delete that failed for another reason than that the object was gone already.
    pub(crate) async fn delete_collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<super::ListPage> {
        let page = self.list(kind, namespace, list)?;
        for item in &page.items {
            let namespace = meta::text(&item.value, "namespace");
            let target = Target {
                kind,
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                name: meta::name(&item.value).to_owned(),
            };
            match self.delete(&target, options).await {
                Err(status) if status.reason != "NotFound" => return Err(status),
                _ => {}
            }
        }
        Ok(page)
    }
}

fn check_preconditions(target: &Target, current: &Stored, options: &DeleteOptions) -> Result<()> {
    let fail = |what: &str, wanted: &str, is: &str| {
        let why = format!(
            "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"
        );
        Err(Status::conflict(target.subject(), &target.name, &why))
    };
    let (uid, revision) = (meta::uid(&current.value), current.revision.to_string());
    match (&options.uid, &options.resource_version) {
        (Some(wanted), _) if wanted != uid => fail("UID", wanted, uid),
        (_, Some(wanted)) if *wanted != revision => fail("ResourceVersion", wanted, &revision),
        _ => Ok(()),
    }
}

/// What a delete means for an object's time of grace.
enum Grace {
    /// It is going already and not any sooner.
    Unchanged,
    /// It may take so many seconds from when it was first deleted.
    Period(i64),
}

/// `podStrategy.CheckGracefulDelete` and the shortening rule of `rest.BeforeDelete`.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> Grace {
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_POD_GRACE);
    if meta::is_deleting(pod) {
        let left = meta::grace_period(pod).unwrap_or(0);
        return match options.grace_period.map(|asked| if asked < 0 { 1 } else { asked }) {
            Some(asked) if asked < left || asked == 0 => Grace::Period(asked),
            None if left == 0 => Grace::Period(0),
            _ => Grace::Unchanged,
        };
    }
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    match options.grace_period.unwrap_or(own) {
        _ if unscheduled || over => Grace::Period(0),
        // A negative period is the pod author's way to say as soon as possible, but gracefully.
        negative if negative < 0 => Grace::Period(1),
        seconds => Grace::Period(seconds),
    }
}

/// Sets the marks of deletion, or moves them forward.
fn mark(kind: &Kind, object: &mut Value, grace: i64) {
    let now = Timestamp::now();
    let first: Timestamp = match meta::text(object, "deletionTimestamp").parse::<Timestamp>() {
        Ok(end) => {
            let before = meta::grace_period(object).unwrap_or(0);
            end.checked_sub(SignedDuration::from_secs(before)).unwrap_or(now)
        }
        Err(_) => now,
    };
    let fresh = !meta::is_deleting(object);
    let end = first.checked_add(SignedDuration::from_secs(grace)).unwrap_or(first);
    let metadata = meta::metadata(object);
    metadata.insert("deletionTimestamp".into(), meta::time(end));
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if fresh && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if kind.kind == "Namespace" {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// The garbage collector's finalizers follow the propagation policy; none asked for keeps what is there.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<String> = meta::finalizers(object)
        .into_iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    let metadata = meta::metadata(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}
