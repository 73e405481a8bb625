//! Tables: what `kubectl get` shows, printed by the server (upstream `registry/rest/table.go`, `meta.k8s.io/v1 Table`).

use jiff::Timestamp;
use portolan_api::{Kind, printers};
use portolan_store::Stored;
use serde::Serialize;
use serde_json::{Value, json};

use crate::convert;
use crate::encode::{Partial, Versioned};
use crate::status::{Result, Status};

/// What of the object goes into each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub(crate) fn parse(text: Option<&str>) -> Result<IncludeObject> {
        match text {
            None | Some("Metadata") => Ok(IncludeObject::Metadata),
            Some("None") => Ok(IncludeObject::None),
            Some("Object") => Ok(IncludeObject::Object),
            Some(other) => {
                Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }
}

/// Whether a table carries its column definitions; in a watch only the first does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    Shown,
    Left,
}

/// A table; its rows borrow the objects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table<'a> {
    kind: &'static str,
    api_version: &'static str,
    /// That of the list.
    metadata: Value,
    column_definitions: Vec<Value>,
    rows: Vec<Row<'a>>,
}

impl<'a> Table<'a> {
    /// A table of one object.
    pub(crate) fn of(
        kind: &'static Kind,
        object: &'a Stored,
        include: IncludeObject,
        headers: Headers,
    ) -> Table<'a> {
        let metadata = json!({"resourceVersion": object.revision.to_string()});
        Table {
            kind: "Table",
            api_version: "meta.k8s.io/v1",
            metadata,
            column_definitions: columns(kind, headers),
            rows: vec![Row::new(kind, object, include, Timestamp::now())],
        }
    }
}

/// The column definitions of a kind.
pub(crate) fn columns(kind: &'static Kind, headers: Headers) -> Vec<Value> {
    if headers == Headers::Left {
        return Vec::new();
    }
    printers::columns(convert::stored_kind(kind))
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.type_,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        })
        .collect()
}

/// One object's row.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    cells: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<RowObject<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RowObject<'a> {
    Partial(Partial<'a>),
    Whole(Versioned<'a>),
}

impl<'a> Row<'a> {
    pub(crate) fn new(
        kind: &'static Kind,
        object: &'a Stored,
        include: IncludeObject,
        now: Timestamp,
    ) -> Row<'a> {
        Row {
            cells: printers::row(convert::stored_kind(kind), &object.value, now),
            object: match include {
                IncludeObject::None => None,
                IncludeObject::Metadata => Some(RowObject::Partial(Partial::of(object))),
                IncludeObject::Object => Some(RowObject::Whole(Versioned::of(kind, object))),
            },
        }
    }
}
