//! `metadata.managedFields`: who owns which field (upstream: `apimachinery/pkg/util/managedfields`).
//!
//! Every write goes through here once, after defaulting and before anything is allocated: what the server itself fills
//! in is nobody's. An update gives the writer what it changed and takes that from all others; an apply gives the
//! applier what its configuration says, and refuses what another owns unless it is forced.

mod entry;

use std::sync::LazyLock;

use jiff::Timestamp;
use portolan_api::kinds::Subresource;
use portolan_api::{Kind, schema};
use portolan_patch::apply::{self, ApplyError, Difference, FieldSet};
use serde_json::Value;

use self::entry::{Entry, Operation};
use super::meta;
use super::update::Part;
use crate::status::{Result, Status};

/// Update managers that an object may have before the oldest are put together.
const MAX_UPDATERS: usize = 10;
const OLD_UPDATERS: &str = "ancient-changes";
/// The manager that `kubectl apply --server-side` is, and the annotation of its client-side sister.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that are the server's and no manager's.
static NOBODYS: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});
static STATUS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
static SPEC: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[&["spec"]]));

/// Whoever writes.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// `fieldManager`, or the beginning of the `User-Agent`.
    pub(crate) manager: String,
    /// Empty for the object itself.
    pub(crate) subresource: &'static str,
}

/// How a write is tracked.
#[derive(Clone, Debug)]
pub(crate) enum Ownership {
    /// By comparing the object before and after.
    Update(Writer),
    /// An apply has done it already: the managers; none when nobody is left.
    Applied(Option<Value>),
    /// Not at all: the server's own writes.
    Server,
}

/// The `managedFields` of a new object.
pub(super) fn of_new(kind: &Kind, ownership: &Ownership, object: &Value) -> Option<Value> {
    let writer = match ownership {
        Ownership::Update(writer) => writer,
        Ownership::Applied(managed) => return managed.clone(),
        Ownership::Server => return None,
    };
    let nothing = Value::Object(serde_json::Map::new());
    // What Go would have in an empty object's place is nobody's, either.
    let found = difference(kind, None, &nothing, object);
    let mut entries = Vec::new();
    take(kind, &mut entries, writer, &found);
    entry::render(entries)
}

/// Takes `managedFields` out of a body; what is there is still the client's.
pub(super) fn take_sent(object: &mut Value) -> Option<Value> {
    meta::metadata(object).remove("managedFields")
}

/// Sets the `managedFields` of an object that replaces another.
pub(super) fn track(
    kind: &Kind,
    part: Part,
    ownership: &Ownership,
    old: &Value,
    new: &mut Value,
    sent: Option<Value>,
) {
    let live = old["metadata"].get("managedFields");
    let managed = match ownership {
        Ownership::Server => live.cloned(),
        Ownership::Applied(managed) => managed.clone(),
        Ownership::Update(writer) => updated(kind, part, writer, old, new, sent.as_ref()),
    };
    if let Some(managed) = managed {
        meta::metadata(new).insert("managedFields".into(), managed);
    }
}

fn updated(
    kind: &Kind,
    part: Part,
    writer: &Writer,
    old: &Value,
    new: &Value,
    sent: Option<&Value>,
) -> Option<Value> {
    let live = old["metadata"].get("managedFields");
    let found = difference(kind, part, old, new);
    // Only a write of the object itself may say who manages it.
    let sent = sent.filter(|_| part.is_none() && writer.subresource.is_empty());
    if found.is_empty() && sent.is_none() {
        return live.cloned();
    }
    let before = live.and_then(entry::parse).unwrap_or_default();
    let mut entries = match sent {
        Some(sent) if is_reset(sent) => Vec::new(),
        // Clients that know nothing of managers do not delete them.
        Some(sent) => {
            entry::parse(sent).filter(|e| !e.is_empty()).unwrap_or_else(|| before.clone())
        }
        None => before.clone(),
    };
    take(kind, &mut entries, writer, &found);
    cap(kind, &mut entries);
    if found.is_empty() && entry::same_but_times(&entries, &before) {
        return live.cloned();
    }
    entry::render(entries)
}

/// `[]` and `[{}]` ask for a fresh start.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// What a write of this part changes that somebody can own.
fn difference(kind: &Kind, part: Part, old: &Value, new: &Value) -> Difference {
    let found = apply::compare(schema::owned_type(kind), old, new);
    Difference {
        taken: ownable(kind, part, &found.taken),
        removed: ownable(kind, part, &found.removed),
    }
}

fn ownable(kind: &Kind, part: Part, set: &FieldSet) -> FieldSet {
    let set = set.difference(&NOBODYS);
    match part {
        Some(Subresource::Status) => set.without(&SPEC),
        _ if kind.subresources.contains(&Subresource::Status) => set.without(&STATUS),
        _ => set,
    }
}

/// The writer gets what it has changed, and nobody else keeps it.
fn take(kind: &Kind, entries: &mut Vec<Entry>, writer: &Writer, found: &Difference) {
    let mut mine = Entry::new(writer, Operation::Update, kind.api_version(), found.taken.clone());
    let gone = found.taken.union(&found.removed);
    if !gone.is_empty() {
        for entry in entries.iter_mut() {
            if mine.is_same_manager(entry) {
                entry.set = entry.set.difference(&found.removed);
            } else {
                entry.set = entry.set.difference(&gone);
            }
        }
    }
    entries.retain(|entry| !entry.set.is_empty());
    if found.taken.is_empty() {
        return;
    }
    match entries.iter_mut().find(|entry| mine.is_same_manager(entry)) {
        Some(entry) => {
            entry.set = entry.set.union(&found.taken);
            entry.time = mine.time.take();
        }
        None => entries.push(mine),
    }
}

/// Puts the oldest updaters together, so that an object's managers stay few (upstream: capmanagers.go).
fn cap(kind: &Kind, entries: &mut Vec<Entry>) {
    let is_update = |entry: &Entry| entry.operation == Operation::Update;
    let mut updaters = entries.iter().filter(|entry| is_update(entry)).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    entries.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let writer = Writer { manager: OLD_UPDATERS.into(), subresource: "" };
    let mut old = Entry::new(&writer, Operation::Update, kind.api_version(), FieldSet::EMPTY);
    let is_old = |entry: &Entry| is_update(entry) && entry.api_version == kind.api_version();
    // The first merges without making room.
    updaters += 1;
    while updaters > MAX_UPDATERS
        && let Some(index) = entries.iter().position(is_old)
    {
        let entry = entries.remove(index);
        old.set = old.set.union(&entry.set);
        old.time = entry.time;
        updaters -= 1;
    }
    entries.push(old);
}

/// What an apply makes of the live object, or of none.
pub(super) struct Applied {
    pub(super) object: Value,
    pub(super) managed: Option<Value>,
}

/// Applies a checked configuration, in the name of the writer.
///
/// # Errors
/// 409 with the conflicts, 500 (as upstream) for lists that break their keys.
pub(super) fn apply(
    kind: &Kind,
    part: Part,
    writer: &Writer,
    live: Option<&Value>,
    mut config: Value,
    force: bool,
) -> Result<Applied> {
    let schema = schema::owned_type(kind);
    let applied = config.clone();
    if let Value::Object(fields) = &mut config {
        match part {
            Some(Subresource::Status) => drop(fields.remove("spec")),
            _ if kind.subresources.contains(&Subresource::Status) => {
                fields.remove("status");
            }
            _ => {}
        }
    }
    let set = apply::field_set(schema, &config).map_err(|e| untyped(kind, &config, &e))?;
    let mut mine =
        Entry::new(writer, Operation::Apply, kind.api_version(), ownable(kind, part, &set));
    let Some(live) = live else {
        let managed = entry::render((!mine.set.is_empty()).then_some(mine).into_iter().collect());
        return Ok(Applied { object: config, managed });
    };
    let stored = live["metadata"].get("managedFields");
    let before = stored.and_then(entry::parse).unwrap_or_default();
    let (last, mut others): (Vec<Entry>, Vec<Entry>) =
        before.iter().cloned().partition(|entry| mine.is_same_manager(entry));
    let mut object = apply::merge(schema, live, &config);
    meta::metadata(&mut object).remove("managedFields");
    if let Some(last) = last.first() {
        let mine = mine.set.union(&NOBODYS);
        let owned = others.iter().fold(mine, |all, entry| all.union(&entry.set));
        apply::prune(schema, &mut object, &last.set, &owned);
    }
    let found = difference(kind, part, live, &object);
    if !force {
        let allowed = migrating(writer, live).map(|config| still_applied(kind, &config, live));
        let allowed = allowed.unwrap_or_default();
        conflicts(&others, &found.taken, &allowed)?;
    }
    let gone = found.taken.union(&found.removed);
    for entry in &mut others {
        entry.set = entry.set.difference(&gone);
    }
    if found.is_empty()
        && let Some(last) = last.first().filter(|last| last.set == mine.set)
    {
        mine.time.clone_from(&last.time);
    }
    others.push(mine);
    others.retain(|entry| !entry.set.is_empty());
    if let Some(before) = migrating(writer, live) {
        let now = last_applied(applied);
        // Written anew only when it says something else, or an apply that changes nothing would write.
        if serde_json::from_str::<Value>(&now).ok().as_ref() != Some(&before) {
            object["metadata"]["annotations"][LAST_APPLIED] = now.into();
        }
    }
    Ok(Applied { object, managed: entry::render(others) })
}

/// What client-side apply has left on an object that kubectl now applies on the server.
fn migrating(writer: &Writer, live: &Value) -> Option<Value> {
    let text = live["metadata"]["annotations"].get(LAST_APPLIED)?.as_str()?;
    (writer.manager == KUBECTL).then(|| serde_json::from_str(text).ok()).flatten()
}

/// The fields of a configuration from the client's side that nobody has changed since: its own to take over.
fn still_applied(kind: &Kind, config: &Value, live: &Value) -> FieldSet {
    let schema = schema::owned_type(kind);
    if config["apiVersion"] != kind.api_version() {
        return FieldSet::EMPTY;
    }
    let set = apply::field_set(schema, config).unwrap_or_default();
    let changed = apply::compare(schema, config, live);
    set.difference(&changed.taken).difference(&changed.removed)
}

fn last_applied(mut config: Value) -> String {
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    format!("{config}\n")
}

fn conflicts(others: &[Entry], taken: &FieldSet, allowed: &FieldSet) -> Result<()> {
    let conflicts: Vec<(String, Vec<String>)> = others
        .iter()
        .map(|other| {
            let set = other.set.intersection(taken).difference(allowed);
            (other.described(), set.paths())
        })
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if conflicts.is_empty() { Ok(()) } else { Err(Status::apply_conflict(conflicts)) }
}

/// The current time as `managedFields` has it.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What upstream answers when a configuration does not fit its type.
fn untyped(kind: &Kind, config: &Value, error: &ApplyError) -> Status {
    not_typed(kind, config, &error.to_string())
}

/// `failed to create typed patch object (ns/name; v1, Kind=Service): …`
pub(super) fn not_typed(kind: &Kind, config: &Value, why: &str) -> Status {
    let (namespace, name) = (meta::text(config, "namespace"), meta::name(config));
    Status::untyped(format!(
        "failed to create typed patch object ({namespace}/{name}; {}, Kind={}): {why}",
        kind.api_version(),
        kind.kind
    ))
}

#[cfg(test)]
mod tests;
