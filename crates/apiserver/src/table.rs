//! Tables: what `kubectl get` shows, printed by the server (upstream `registry/rest/table.go`, `meta.k8s.io/v1 Table`).

use jiff::Timestamp;
use portolan_api::{Kind, printers};
use portolan_store::Stored;
use serde_json::{Value, json};

use crate::encode::Versioned;
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

/// A table of objects; `metadata` is that of the list.
pub(crate) fn table<'a>(
    kind: &'static Kind,
    rows: impl Iterator<Item = &'a Stored>,
    include: IncludeObject,
    headers: Headers,
    metadata: Value,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = match headers {
        Headers::Left => Vec::new(),
        Headers::Shown => printers::columns(kind)
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
            .collect(),
    };
    let rows: Vec<Value> = rows
        .map(|stored| {
            let object = Versioned::of(kind, stored);
            let mut row = json!({"cells": printers::row(kind, &stored.value, now)});
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => row["object"] = object.into_partial(),
                IncludeObject::Object => row["object"] = object.into_value(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
