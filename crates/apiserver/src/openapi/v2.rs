//! OpenAPI version 2, one document for everything: what kubectl before 1.27 validates and explains by, and what newer ones
//! ask for where version 3 does not know a kind.
//!
//! The definitions are those of version 3, in the older words. kubectl takes the document as protobuf only
//! (`openapi.v2.Document` of gnostic's OpenAPIv2.proto), others as JSON. Both are rendered on first use and kept as bytes.

mod protobuf;

use http::Response;
use http::header::HeaderMap;
use portolan_api::kinds::{self, Scope};
use portolan_api::{Kind, schema};
use serde_json::{Map, Value, json};

use super::{Document, takes_json};
use crate::encode::to_json;
use crate::server::Body;
use crate::status::{Result, Status};
use crate::{discovery, negotiate};

/// What clients ask for, and what the answer is called since `@` is not allowed in media types.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document in both encodings.
pub(super) struct Version2 {
    json: Document,
    protobuf: Document,
}

impl Version2 {
    pub(super) fn render() -> Version2 {
        let document = document();
        Version2 {
            json: Document::new(to_json(&document)),
            protobuf: Document::new(protobuf::document(&document)),
        }
    }
}

pub(super) fn respond(documents: &Version2, headers: &HeaderMap) -> Result<Response<Body>> {
    for range in negotiate::ranges(headers) {
        match range.essence {
            PROTOBUF_ASKED | PROTOBUF => return Ok(documents.protobuf.respond(PROTOBUF, headers)),
            other if takes_json(other) => {
                return Ok(documents.json.respond("application/json", headers));
            }
            _ => {}
        }
    }
    Err(Status::not_acceptable(&format!("application/json, {PROTOBUF_ASKED}, {PROTOBUF}")))
}

fn document() -> Value {
    let mut definitions = Map::new();
    for (group, version) in discovery::group_versions() {
        for (name, mut schema) in schema::components(group, version) {
            older(&name, &mut schema);
            definitions.insert(name, schema);
        }
    }
    let mut paths = Map::new();
    kinds::all().iter().for_each(|kind| add_paths(&mut paths, kind));
    json!({
        "swagger": "2.0",
        "info": {"title": "Portolan", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
    })
}

/// Rewrites a schema of version 3 in the words of version 2.
fn older(name: &str, schema: &mut Value) {
    match name.rsplit('.').next() {
        Some("IntOrString") => {
            schema["type"] = "string".into();
            schema["format"] = "int-or-string".into();
        }
        Some("Quantity") => schema["type"] = "string".into(),
        _ => {}
    }
    rewrite(schema);
}

fn rewrite(value: &mut Value) {
    match value {
        Value::Object(schema) => {
            for word in ["nullable", "oneOf", "anyOf", "default"] {
                // These are words only where a schema is, not where a field has the name.
                if schema
                    .get(word)
                    .is_some_and(|v| v.is_array() || v.is_boolean() || word == "default")
                    && !is_properties(schema)
                {
                    schema.remove(word);
                }
            }
            // A reference with a description beside it is wrapped in version 3 and is not in version 2.
            if let Some(Value::Array(all)) = schema.get("allOf")
                && let [only] = all.as_slice()
                && only.get("$ref").is_some()
                && let Some(Value::Array(all)) = schema.remove("allOf")
                && let Some(Value::Object(only)) = all.into_iter().next()
            {
                schema.extend(only);
            }
            if let Some(Value::String(reference)) = schema.get_mut("$ref") {
                *reference = reference.replacen("#/components/schemas/", "#/definitions/", 1);
            }
            schema.values_mut().for_each(rewrite);
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite),
        _ => {}
    }
}

/// Whether this is a table of fields, and not a schema: its values are schemas all.
fn is_properties(object: &Map<String, Value>) -> bool {
    object.values().all(Value::is_object)
}

/// Paths with what kubectl looks for: whether the server can run dry and validates fields.
fn add_paths(paths: &mut Map<String, Value>, kind: &Kind) {
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let (collection, mut parameters) = match kind.scope {
        Scope::Namespaced => (
            format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            vec![path_parameter("namespace")],
        ),
        Scope::Cluster => (format!("{root}/{}", kind.plural), Vec::new()),
    };
    let list = kind.schema.replace(kind.kind, kind.list_kind);
    let list = operations(
        kind,
        &[("get", "list", &list), ("post", "create", kind.schema)],
        parameters.clone(),
    );
    paths.insert(collection.clone(), list);
    parameters.push(path_parameter("name"));
    let one = operations(
        kind,
        &[
            ("get", "get", kind.schema),
            ("put", "update", kind.schema),
            ("patch", "patch", kind.schema),
            ("delete", "delete", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
        ],
        parameters,
    );
    paths.insert(format!("{collection}/{{name}}"), one);
}

fn operations(kind: &Kind, methods: &[(&str, &str, &str)], parameters: Vec<Value>) -> Value {
    let mut item = Map::new();
    for (method, verb, answer) in methods.iter().filter(|(_, verb, _)| kind.verbs.contains(verb)) {
        item.insert((*method).to_owned(), operation(kind, method, verb, answer));
    }
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    item.into()
}

fn operation(kind: &Kind, method: &str, verb: &str, answer: &str) -> Value {
    let reference = |schema: &str| json!({"$ref": format!("#/definitions/{schema}")});
    let query =
        |name: &str| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true});
    let mut parameters = Vec::new();
    if matches!(method, "post" | "put" | "patch") {
        let body = match method {
            "patch" => json!({"type": "object"}),
            _ => reference(kind.schema),
        };
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
        // kubectl takes what Namespaces can for what any kind can, and for one that it does not find it then looks among
        // the CustomResourceDefinitions, which are not served: it would complain of those and not of the kind.
        if kind.kind != "Namespace" {
            parameters.extend(["dryRun", "fieldManager", "fieldValidation"].map(query));
        }
    }
    json!({
        "operationId": format!("{verb}{}{}", kind.group.replace('.', "_"), kind.kind),
        "produces": ["application/json", "application/yaml"],
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "schema": reference(answer)}},
        "x-kubernetes-action": if verb == "create" { "post" } else { verb },
        "x-kubernetes-group-version-kind": {
            "group": kind.group,
            "version": kind.version,
            "kind": kind.kind,
        },
    })
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "type": "string"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_definition() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 500, "{}", found.len());
        for reference in found {
            let name =
                reference.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{reference}"));
            assert!(document["definitions"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn a_definition_keeps_its_fields_descriptions_and_merge_keys() {
        let document = document();
        let spec = &document["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"];
        assert_eq!(spec["ports"]["x-kubernetes-patch-merge-key"], "port");
        assert_eq!(spec["ports"]["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.ServicePort");
        let affinity = &spec["sessionAffinityConfig"];
        assert_eq!(affinity["$ref"], "#/definitions/io.k8s.api.core.v1.SessionAffinityConfig");
        assert!(affinity["description"].is_string());
        let port = &document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
        let kind = &document["definitions"]["io.k8s.api.core.v1.Service"];
        assert_eq!(kind["x-kubernetes-group-version-kind"][0]["kind"], "Service");
        let text = document["definitions"].to_string();
        assert!(!text.contains("\"allOf\":") && !text.contains("\"nullable\":"));
    }

    #[test]
    fn patch_operations_say_what_kubectl_looks_for() {
        let document = document();
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Service");
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert_eq!(names, ["body", "dryRun", "fieldManager", "fieldValidation"]);
    }
}
