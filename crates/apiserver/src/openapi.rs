//! OpenAPI v3: an index of documents with hashes, and one document per group and version. Version 2 for older clients is
//! made from the same schemas.
//!
//! kubectl validates, explains and patches by these: it looks paths up by their `x-kubernetes-group-version-kind` and
//! follows references into the components. Documents are rendered on first use and kept as bytes.

mod v2;

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderMap, HeaderValue, LOCATION, VARY};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use portolan_api::kinds::{self, Scope};
use portolan_api::{Kind, schema};
use serde_json::{Map, Value, json};

use crate::encode::to_json;
use crate::query::Query;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{discovery, negotiate, respond};

/// Rendered documents.
#[derive(Default)]
pub(crate) struct Documents {
    rendered: Mutex<HashMap<(&'static str, &'static str), Document>>,
    version_2: OnceLock<v2::Version2>,
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    /// Its hash in quotes.
    etag: HeaderValue,
}

impl Document {
    fn new(bytes: Vec<u8>) -> Document {
        Document { etag: discovery::etag(&bytes), bytes: bytes.into() }
    }

    /// The hash without its quotes.
    fn hash(&self) -> &str {
        self.etag.to_str().unwrap_or_default().trim_matches('"')
    }

    fn respond(&self, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
        let mut response = if discovery::is_current(headers, &self.etag) {
            discovery::not_modified()
        } else {
            respond::document(content_type, self.bytes.clone())
        };
        response.headers_mut().insert(ETAG, self.etag.clone());
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        response
    }
}

const JSON: &str = "application/json";
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

pub(crate) fn respond(
    inner: &Inner,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let documents = &inner.documents;
    if path == "/openapi/v2" {
        return v2::respond(documents.version_2.get_or_init(v2::Version2::render), headers);
    }
    let Some(rest) = path.strip_prefix("/openapi/v3") else { return Err(Status::unknown_path()) };
    if !negotiate::ranges(headers).iter().any(|r| takes_json(r.essence)) {
        return Err(Status::not_acceptable(JSON));
    }
    if rest.is_empty() {
        return Ok(Document::new(to_json(&documents.index())).respond(JSON, headers));
    }
    let found = discovery::group_versions()
        .into_iter()
        .find(|(group, version)| rest.strip_prefix('/') == Some(&document_path(group, version)));
    let Some((group, version)) = found else { return Err(Status::unknown_path()) };
    let document = documents.document(group, version);
    let Some(hash) = query.first("hash") else { return Ok(document.respond(JSON, headers)) };
    if hash != document.hash() {
        return moved(&document_url(group, version, document.hash()));
    }
    let mut response = document.respond(JSON, headers);
    // The URL names the document by its hash, so clients may keep it.
    let kept = HeaderValue::from_static("public, immutable");
    response.headers_mut().insert(CACHE_CONTROL, kept);
    let expires = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&(Timestamp::now() + YEAR))
        .map_err(Status::internal)?;
    let expires = HeaderValue::from_str(&expires).map_err(Status::internal)?;
    response.headers_mut().insert(EXPIRES, expires);
    Ok(response)
}

fn takes_json(essence: &str) -> bool {
    matches!(essence, "*/*" | "application/*" | JSON)
}

fn moved(to: &str) -> Result<Response<Body>> {
    let mut response = Response::new(respond::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(to).map_err(Status::internal)?;
    response.headers_mut().insert(LOCATION, to);
    Ok(response)
}

fn document_url(group: &str, version: &str, hash: &str) -> String {
    format!("/openapi/v3/{}?hash={hash}", document_path(group, version))
}

fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

impl Documents {
    fn document(&self, group: &'static str, version: &'static str) -> Document {
        if let Some(document) = self.rendered.lock().get(&(group, version)) {
            return document.clone();
        }
        let document = Document::new(to_json(&render(group, version)));
        self.rendered.lock().insert((group, version), document.clone());
        document
    }

    fn index(&self) -> Value {
        let mut paths = Map::new();
        for (group, version) in discovery::group_versions() {
            let document = self.document(group, version);
            let url = document_url(group, version, document.hash());
            paths.insert(document_path(group, version), json!({"serverRelativeURL": url}));
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
