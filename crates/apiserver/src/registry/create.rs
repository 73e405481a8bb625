//! Creating objects, after upstream's `rest.BeforeCreate` and `Store.Create`.

use jiff::Timestamp;
use portolan_api::kinds::Scope;
use portolan_api::{Cause, Kind, Reason, defaults, strategy, validate_create};
use portolan_store::Stored;
use serde_json::Value;

use super::{Change, Outcome, Ownership, Registry, Target, managed, meta, namespaces, subject};
use crate::convert;
use crate::query::DryRun;
use crate::random::random_below;
use crate::status::{Result, Status};

/// What generated names are completed with (`apimachinery/pkg/util/rand`: no vowels, no look-alikes).
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const LONGEST_GENERATED: usize = 63;
/// How often a taken generated name is replaced by another.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object from a decoded body.
    ///
    /// # Errors
    /// What upstream answers: 400, 403 (terminating namespace), 404 (no namespace), 409, 422.
    pub(crate) async fn create(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: Value,
        ownership: &Ownership,
        dry_run: DryRun,
    ) -> Result<Outcome> {
        let mut object = convert::to_stored(kind, body);
        let stored_kind = convert::stored_kind(kind);
        place(kind, namespace, &mut object)?;
        if !meta::text(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.check_namespace(kind, namespace, meta::name(&object))?;
        let generate = meta::name(&object).is_empty();
        let prefix = meta::text(&object, "generateName").to_owned();
        if generate && prefix.is_empty() {
            let cause = Cause {
                reason: Reason::Required,
                field: "metadata.name".into(),
                message: "Required value: name or generateName is required".into(),
            };
            return Err(Status::invalid(subject(kind), "", &[cause]));
        }
        self.admit(stored_kind, &mut object)?;
        defaults(stored_kind, &mut object);
        let managers = managed::of_new(stored_kind, ownership, &object);
        fill_in(&mut object);
        if let Some(managers) = managers {
            meta::metadata(&mut object).insert("managedFields".into(), managers);
        }
        strategy::prepare_for_create(stored_kind, &mut object);
        if kind.kind == "Namespace" {
            namespaces::prepare_for_create(&mut object);
        }
        let warnings = strategy::warnings(stored_kind, &object);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut candidate = object.clone();
            if generate {
                meta::metadata(&mut candidate).insert("name".into(), generated(&prefix).into());
            }
            match self.create_named(kind, namespace, candidate, dry_run).await {
                Err(status)
                    if generate && status.reason == "AlreadyExists" && attempts < NAME_ATTEMPTS => {
                }
                Err(status) => return Err(status),
                Ok(stored) => return Ok(Outcome { stored, change: Change::Created, warnings }),
            }
        }
    }

    async fn create_named(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        mut object: Value,
        dry_run: DryRun,
    ) -> Result<Stored> {
        let target = Target {
            kind,
            namespace: namespace.map(str::to_owned),
            name: meta::name(&object).to_owned(),
        };
        let stored_kind = convert::stored_kind(kind);
        strategy::complete(stored_kind, &mut object);
        self.admit_create(kind, namespace, &mut object).await?;
        let claim = self.services.begin(stored_kind, &mut object, None, dry_run)?;
        let causes = validate_create(stored_kind, &object);
        if !causes.is_empty() {
            return Err(Status::invalid(target.subject(), &target.name, &causes));
        }
        if dry_run == DryRun::All && self.store.get(&target.key()).is_some() {
            return Err(Status::already_exists(target.subject(), &target.name));
        }
        self.commit_claimed(&target, None, object, dry_run, claim).await
    }
}

/// Sets the namespace of the URL, which the body may repeat but not contradict.
pub(super) fn place(kind: &Kind, namespace: Option<&str>, object: &mut Value) -> Result<()> {
    let metadata = meta::metadata(object);
    match (kind.scope, namespace) {
        (Scope::Namespaced, Some(namespace)) => {
            match metadata.get("namespace").and_then(Value::as_str).unwrap_or("") {
                "" => {}
                same if same == namespace => {}
                _ => {
                    return Err(Status::bad_request(
                        "the namespace of the provided object does not match the namespace sent \
                         on the request",
                    ));
                }
            }
            metadata.insert("namespace".into(), namespace.into());
        }
        _ => {
            metadata.remove("namespace");
        }
    }
    Ok(())
}

/// `rest.FillObjectMetaSystemFields`.
fn fill_in(object: &mut Value) {
    meta::strip(object);
    let metadata = meta::metadata(object);
    metadata.remove("deletionTimestamp");
    metadata.remove("deletionGracePeriodSeconds");
    metadata.insert("creationTimestamp".into(), meta::time(Timestamp::now()));
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
}

fn generated(prefix: &str) -> String {
    let mut end = prefix.len().min(LONGEST_GENERATED - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix[..end].to_owned() + &name_suffix()
}

/// What makes a name the server chooses unlike others.
pub(crate) fn name_suffix() -> String {
    let letter = |_| {
        let at = random_below(SUFFIX_ALPHABET.len() as u64);
        let at = usize::try_from(at).expect("below the alphabet's length");
        char::from(SUFFIX_ALPHABET[at])
    };
    (0..SUFFIX_LENGTH).map(letter).collect()
}
