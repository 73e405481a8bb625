//! One manager of an object, and the list of them as objects carry it.

use portolan_patch::apply::FieldSet;
use serde_json::{Value, json};

use super::{Writer, now};

/// Managers that a client may send: each costs work at every later write.
const MAX_ENTRIES: usize = 1_000;

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// A ManagedFieldsEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) set: FieldSet,
}

impl Entry {
    pub(super) fn new(
        writer: &Writer,
        operation: Operation,
        api_version: String,
        set: FieldSet,
    ) -> Entry {
        Entry {
            manager: writer.manager.clone(),
            operation,
            api_version,
            subresource: writer.subresource.to_owned(),
            time: Some(now()),
            set,
        }
    }

    /// An applier is itself in whatever version it applies.
    pub(super) fn is_same_manager(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name it: `"x" with subresource "status" using v1`.
    pub(super) fn described(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn render(&self) -> Value {
        let mut entry = json!({
            "operation": self.operation.as_str(),
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_value(),
        });
        if !self.manager.is_empty() {
            entry["manager"] = self.manager.as_str().into();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        if let Some(time) = &self.time {
            entry["time"] = time.as_str().into();
        }
        entry
    }

    fn parse(entry: &Value) -> Option<Entry> {
        let text = |field: &str| entry[field].as_str().unwrap_or("").to_owned();
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = match &entry["fieldsV1"] {
            Value::Null => FieldSet::EMPTY,
            fields => FieldSet::parse(fields).ok()?,
        };
        Some(Entry {
            manager: text("manager"),
            operation: match entry["operation"].as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: entry["time"].as_str().map(str::to_owned),
            set,
        })
    }
}

/// Reads a list of managers; none when any of them is malformed, or when they are too many.
pub(super) fn parse(managed: &Value) -> Option<Vec<Entry>> {
    let list = managed.as_array().filter(|list| list.len() <= MAX_ENTRIES)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for entry in list.iter().map(Entry::parse) {
        let entry = entry?;
        // A manager that is listed twice has the fields of both.
        match entries.iter_mut().find(|other| other.is_same_manager(&entry)) {
            Some(other) => other.set = other.set.union(&entry.set),
            None => entries.push(entry),
        }
    }
    Some(entries)
}

/// The list: appliers first, then by time. None when there are none.
pub(super) fn render(mut entries: Vec<Entry>) -> Option<Value> {
    if entries.is_empty() {
        return None;
    }
    entries.sort_by(|a, b| {
        let order = |e: &Entry| {
            (
                e.operation,
                e.time.clone(),
                e.manager.clone(),
                e.api_version.clone(),
                e.subresource.clone(),
            )
        };
        order(a).cmp(&order(b))
    });
    Some(entries.iter().map(Entry::render).collect())
}

/// Whether two lists differ in nothing but times.
pub(super) fn same_but_times(a: &[Entry], b: &[Entry]) -> bool {
    a.len() == b.len()
        && a.iter().all(|entry| {
            b.iter().any(|other| {
                entry.is_same_manager(other)
                    && entry.api_version == other.api_version
                    && entry.set == other.set
            })
        })
}
