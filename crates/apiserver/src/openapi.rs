//! OpenAPI v3: an index of documents with hashes, and one document per group and version.
//!
//! kubectl validates, explains and patches by these: it looks paths up by their `x-kubernetes-group-version-kind` and
//! follows references into the components. Documents are rendered on first use and kept as bytes.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use portolan_api::kinds::{self, Scope};
use portolan_api::{Kind, schema};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::encode::to_json;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{discovery, negotiate, respond};

/// Rendered documents by group and version.
#[derive(Default)]
pub(crate) struct Documents {
    rendered: Mutex<HashMap<(&'static str, &'static str), Document>>,
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
}

pub(crate) fn respond(inner: &Inner, path: &str, headers: &HeaderMap) -> Result<Response<Body>> {
    if path == "/openapi/v2" {
        return Ok(version_2(headers));
    }
    let Some(rest) = path.strip_prefix("/openapi/v3") else { return Err(Status::unknown_path()) };
    if rest.is_empty() {
        return Ok(respond::document("application/json", to_json(&inner.documents.index())));
    }
    let found = discovery::group_versions()
        .into_iter()
        .find(|(group, version)| rest.strip_prefix('/') == Some(&document_path(group, version)));
    let Some((group, version)) = found else { return Err(Status::unknown_path()) };
    let document = inner.documents.document(group, version);
    let etag = format!("\"{}\"", document.hash);
    if headers.get(IF_NONE_MATCH).is_some_and(|h| h.as_bytes() == etag.as_bytes()) {
        let mut response = respond::document("application/json", Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let mut response = respond::document("application/json", document.bytes);
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    // The index names documents by their hash, so clients may keep them.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    Ok(response)
}

/// A version 2 document without paths.
///
/// kubectl asks for it when version 3 does not know a kind, and only goes on to say that there is no such kind when it
/// gets one.
fn version_2(headers: &HeaderMap) -> Response<Body> {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    // `openapi.v2.Document`: swagger = 1, info = 2 (title = 1, version = 2).
    const DOCUMENT: &[u8] = b"\x0a\x032.0\x12\x13\x0a\x08Portolan\x12\x07v1.36.0";
    let protobuf = |r: &negotiate::MediaRange<'_>| r.essence.contains("proto-openapi.spec.v2");
    if negotiate::ranges(headers).iter().any(protobuf) {
        return respond::document(PROTOBUF, DOCUMENT);
    }
    let info = json!({"title": "Portolan", "version": "v1.36.0"});
    let document = json!({"swagger": "2.0", "info": info, "paths": {}});
    respond::document("application/json", to_json(&document))
}

fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

impl Documents {
    fn document(&self, group: &'static str, version: &'static str) -> Document {
        if let Some(document) = self.rendered.lock().get(&(group, version)) {
            return document.clone();
        }
        let bytes = Bytes::from(to_json(&render(group, version)));
        let hash = Sha256::digest(&bytes).iter().map(|b| format!("{b:02X}")).collect();
        let document = Document { bytes, hash };
        self.rendered.lock().insert((group, version), document.clone());
        document
    }

    fn index(&self) -> Value {
        let mut paths = Map::new();
        for (group, version) in discovery::group_versions() {
            let path = document_path(group, version);
            let hash = self.document(group, version).hash;
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        json!({"paths": paths})
    }
}

fn render(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for kind in kinds::all().iter().filter(|k| k.group == group && k.version == version) {
        add_paths(&mut paths, kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Portolan", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schema::components(group, version)},
    })
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind) {
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let collection = match kind.scope {
        Scope::Namespaced => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        Scope::Cluster => format!("{root}/{}", kind.plural),
    };
    let list = format!("{}List", kind.schema);
    let shown = |verbs: &[(&'static str, &'static str, &'static str)]| {
        let served = verbs.iter().filter(|(_, verb, _)| kind.verbs.contains(verb));
        served
            .map(|(method, verb, action)| {
                let answer = if *verb == "list" { &list } else { kind.schema };
                ((*method).to_owned(), operation(kind, method, action, answer))
            })
            .collect::<Map<String, Value>>()
    };
    let mut on_collection = shown(&[
        ("get", "list", "list"),
        ("post", "create", "post"),
        ("delete", "deletecollection", "deletecollection"),
    ]);
    let mut on_object = shown(&[
        ("get", "get", "get"),
        ("put", "update", "put"),
        ("patch", "patch", "patch"),
        ("delete", "delete", "delete"),
    ]);
    let mut parameters = vec![path_parameter("name")];
    if kind.scope == Scope::Namespaced {
        on_collection.insert("parameters".into(), json!([path_parameter("namespace")]));
        parameters.push(path_parameter("namespace"));
    }
    on_object.insert("parameters".into(), parameters.into());
    paths.insert(format!("{collection}/{{name}}"), on_object.into());
    paths.insert(collection, on_collection.into());
    if kind.scope == Scope::Namespaced {
        let everywhere = shown(&[("get", "list", "list")]);
        paths.insert(format!("{root}/{}", kind.plural), everywhere.into());
    }
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn operation(kind: &Kind, method: &str, action: &str, answer: &str) -> Value {
    let reference = |schema: &str| json!({"$ref": format!("#/components/schemas/{schema}")});
    let mut operation = json!({
        "operationId": format!("{action}{}{}", kind.group.replace('.', "_"), kind.kind),
        "responses": {"200": {"description": "OK", "content": {
            "application/json": {"schema": reference(answer)},
        }}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": kind.group,
            "version": kind.version,
            "kind": kind.kind,
        },
    });
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    if matches!(method, "post" | "put" | "patch") {
        // kubectl asks for these to learn whether the server validates fields and can run dry.
        operation["parameters"] =
            json!([query("dryRun"), query("fieldManager"), query("fieldValidation")]);
    }
    match method {
        "post" | "put" => {
            operation["requestBody"] = json!({"required": true, "content": {
                "application/json": {"schema": reference(kind.schema)},
            }});
        }
        "patch" => {
            let any = json!({"schema": {"type": "object"}});
            operation["requestBody"] = json!({"required": true, "content": {
                "application/json-patch+json": any,
                "application/merge-patch+json": any,
                "application/strategic-merge-patch+json": any,
                "application/apply-patch+yaml": any,
            }});
        }
        _ => {}
    }
    operation
}
