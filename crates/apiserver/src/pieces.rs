//! Lists as bytes, piece by piece.
//!
//! A list of 100,000 objects is hundreds of megabytes as JSON. It is written into pieces of a bounded size, each made when
//! the connection has taken the one before, from objects that the list shares with the store: no lock is held meanwhile,
//! and the memory that a list costs is its pointers and a few pieces.

use bytes::Bytes;
use jiff::Timestamp;
use portolan_api::Kind;
use portolan_store::Stored;
use serde::Serialize;
use serde_json::{Value, json};

use crate::encode::{Partial, Versioned, to_json};
use crate::negotiate::Transform;
use crate::registry::ListPage;
use crate::table::{Headers, IncludeObject, Row, columns};

/// A piece is finished once it is this long; one object may make it longer.
const PIECE: usize = 128 << 10;

/// What becomes of each object.
#[derive(Clone, Copy)]
struct Form {
    kind: &'static Kind,
    transform: Transform,
    include: IncludeObject,
    now: Timestamp,
}

impl Form {
    fn write(&self, object: &Stored, to: &mut Vec<u8>) {
        match self.transform {
            Transform::None => Versioned::of(self.kind, object).append(to),
            Transform::PartialMetadata => write_json(&Partial::of(object), to),
            Transform::Table => {
                write_json(&Row::new(self.kind, object, self.include, self.now), to);
            }
        }
    }

    /// Everything before the first object.
    fn head(&self, metadata: &Value) -> Vec<u8> {
        let (mut envelope, field) = match self.transform {
            Transform::None => {
                let (kind, version) = (self.kind.list_kind, self.kind.api_version());
                (json!({"kind": kind, "apiVersion": version}), "items")
            }
            Transform::PartialMetadata => {
                let kind = "PartialObjectMetadataList";
                (json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}), "items")
            }
            Transform::Table => {
                let columns = columns(self.kind, Headers::Shown);
                let table = json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "columnDefinitions": columns,
                });
                (table, "rows")
            }
        };
        envelope["metadata"] = metadata.clone();
        let mut head = to_json(&envelope);
        // Open the object again for its last field.
        head.pop();
        head.extend_from_slice(format!(",\"{field}\":[").as_bytes());
        head
    }
}

fn write_json(value: &impl Serialize, to: &mut Vec<u8>) {
    serde_json::to_writer(to, value).expect("objects have string keys and finite numbers");
}

/// The pieces of one list.
pub(crate) struct Pieces {
    form: Form,
    /// What is written of the next piece already.
    begun: Vec<u8>,
    items: std::vec::IntoIter<Stored>,
    first: bool,
    done: bool,
}

impl Pieces {
    pub(crate) fn new(
        kind: &'static Kind,
        transform: Transform,
        include: IncludeObject,
        page: ListPage,
    ) -> Pieces {
        let form = Form { kind, transform, include, now: Timestamp::now() };
        let begun = form.head(&page.metadata());
        Pieces { form, begun, items: page.items.into_iter(), first: true, done: false }
    }

    /// Whether everything has been handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut piece = std::mem::take(&mut self.begun);
        if self.items.len() > 1 {
            piece.reserve(PIECE + PIECE / 16);
        }
        for object in self.items.by_ref() {
            if !self.first {
                piece.push(b',');
            }
            self.first = false;
            self.form.write(&object, &mut piece);
            if piece.len() >= PIECE {
                return Some(piece.into());
            }
        }
        piece.extend_from_slice(b"]}");
        self.done = true;
        Some(piece.into())
    }
}

#[cfg(test)]
mod tests {

    use portolan_store::{Object, Revision};

    use super::*;

    fn page(count: usize) -> ListPage {
        let items = (0..count).map(|i| Stored {
            key: format!("/core/services/default/{i}").into(),
            create_revision: Revision(1),
            revision: Revision(i as u64 + 1),
            value: Object::from(json!({
                "kind": "Service",
                "apiVersion": "v1",
                "metadata": {"name": format!("s-{i}"), "labels": {"text": "x".repeat(1000)}},
                "spec": {"ports": [{"port": 80}]},
            })),
        });
        ListPage::whole(items.collect(), 7)
    }

    fn pieces(transform: Transform, include: IncludeObject, count: usize) -> Vec<Bytes> {
        let kind = portolan_api::kinds::by_kind("v1", "Service").unwrap();
        Pieces::new(kind, transform, include, page(count)).collect()
    }

    #[test]
    fn the_pieces_of_a_list_are_the_list_and_each_is_bounded() {
        for (transform, kind, field) in [
            (Transform::None, "ServiceList", "items"),
            (Transform::PartialMetadata, "PartialObjectMetadataList", "items"),
            (Transform::Table, "Table", "rows"),
        ] {
            for count in [0, 1, 2, 1000] {
                let pieces = pieces(transform, IncludeObject::Metadata, count);
                assert!(pieces.iter().all(|p| p.len() <= PIECE + 4096), "{kind} {count}");
                assert!(count < 1000 || pieces.len() > 5, "{}", pieces.len());
                let list: Value = serde_json::from_slice(&pieces.concat()).unwrap();
                assert_eq!(
                    (&list["kind"], &list["metadata"]["resourceVersion"]),
                    (&json!(kind), &json!("7"))
                );
                let items = list[field].as_array().unwrap();
                assert_eq!(items.len(), count);
                for (i, item) in items.iter().enumerate() {
                    let object = if field == "rows" { &item["object"] } else { item };
                    assert_eq!(object["metadata"]["name"], format!("s-{i}"));
                    assert_eq!(object["metadata"]["resourceVersion"], (i + 1).to_string());
                }
            }
        }
    }

    #[test]
    fn rows_carry_of_the_object_what_was_asked_for() {
        for (include, shown) in [
            (IncludeObject::None, None),
            (IncludeObject::Metadata, Some("PartialObjectMetadata")),
            (IncludeObject::Object, Some("Service")),
        ] {
            let table = pieces(Transform::Table, include, 1).concat();
            let table: Value = serde_json::from_slice(&table).unwrap();
            let row = &table["rows"][0];
            assert_eq!(row["cells"][0], "s-0");
            assert_eq!(row["object"]["kind"].as_str(), shown);
            assert!(!table["columnDefinitions"].as_array().unwrap().is_empty());
        }
    }
}
