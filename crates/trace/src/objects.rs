//! The objects that decide, by kind and name: from files, or from a server.
//!
//! A file holds several documents or a `List`, in YAML or JSON. Kinds that decide nothing are left
//! out and named. One object that comes twice counts as it came last.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::NamespacedName;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::TraceError;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The objects that decide where packets go, and the pods that ask.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// Services.
    pub services: BTreeMap<NamespacedName, core::Service>,
    /// EndpointSlices.
    pub slices: BTreeMap<NamespacedName, discovery::EndpointSlice>,
    /// Nodes.
    pub nodes: BTreeMap<String, core::Node>,
    /// Pods.
    pub pods: BTreeMap<NamespacedName, core::Pod>,
    /// ServiceCIDRs.
    pub service_cidrs: BTreeMap<String, networking::ServiceCIDR>,
}

/// One object.
#[derive(Debug, Clone)]
pub enum Object {
    /// A Service.
    Service(Box<core::Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<discovery::EndpointSlice>),
    /// A Node.
    Node(Box<core::Node>),
    /// A Pod.
    Pod(Box<core::Pod>),
    /// A ServiceCIDR.
    ServiceCidr(Box<networking::ServiceCIDR>),
    /// Another kind, which decides nothing here.
    Other(String),
}

/// Which object: `KIND/NAMESPACE/NAME`, or `KIND/NAME` for kinds without namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A Node.
    Node(String),
    /// A Pod.
    Pod(NamespacedName),
    /// A ServiceCIDR.
    ServiceCidr(String),
}

impl FromStr for Key {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let parts: Vec<&str> = text.split('/').collect();
        let kind = parts[0].to_ascii_lowercase();
        match (kind.as_str(), parts.as_slice()) {
            (_, parts) if parts.iter().any(|part| part.is_empty()) => {}
            ("service" | "services" | "svc", [_, namespace, name]) => {
                return Ok(Self::Service(NamespacedName::new(*namespace, *name)));
            }
            ("endpointslice" | "endpointslices", [_, namespace, name]) => {
                return Ok(Self::EndpointSlice(NamespacedName::new(*namespace, *name)));
            }
            ("pod" | "pods" | "po", [_, namespace, name]) => {
                return Ok(Self::Pod(NamespacedName::new(*namespace, *name)));
            }
            ("node" | "nodes" | "no", [_, name]) => return Ok(Self::Node((*name).into())),
            ("servicecidr" | "servicecidrs", [_, name]) => {
                return Ok(Self::ServiceCidr((*name).into()));
            }
            _ => {}
        }
        let forms = "write service/NS/NAME, endpointslice/NS/NAME, node/NAME or servicecidr/NAME";
        Err(TraceError::argument("--delete", text, forms))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}

/// Reads the objects of a file.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Vec<Object>, String> {
    let documents: Vec<Value> = if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter();
        stream.collect::<Result<_, _>>().map_err(|e| e.to_string())?
    } else {
        // A cluster's objects are many: as many as the text is long, but no more by way of aliases.
        let most = text.len().max(1_000_000);
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: most,
                max_events: most,
                max_documents: most,
                max_total_scalar_bytes: most,
            },
        };
        serde_saphyr::from_multiple_with_options(text, options).map_err(|e| e.to_string())?
    };
    let mut objects = Vec::new();
    for document in documents {
        read(document, &mut objects)?;
    }
    Ok(objects)
}

fn read(document: Value, objects: &mut Vec<Object>) -> Result<(), String> {
    if document.is_null() {
        return Ok(());
    }
    let field = |name: &str| document.get(name).and_then(Value::as_str);
    let kind = field("kind").ok_or("an object without a kind")?.to_owned();
    let group = field("apiVersion").and_then(|version| version.split_once('/')).map(|(g, _)| g);
    let object = match (group, kind.as_str()) {
        (_, list) if list.ends_with("List") => {
            let items = match document.get("items") {
                Some(Value::Array(items)) => items.clone(),
                _ => Vec::new(),
            };
            // The items of a typed list say nothing of their kind.
            let of = list.trim_end_matches("List");
            for mut item in items {
                if let Some(fields) = item.as_object_mut().filter(|_| !of.is_empty()) {
                    fields.entry("kind").or_insert_with(|| of.into());
                    let version = document.get("apiVersion").cloned().unwrap_or_default();
                    fields.entry("apiVersion").or_insert(version);
                }
                if item.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) {
                    return Err("a list within a list".into());
                }
                read(item, objects)?;
            }
            return Ok(());
        }
        (None, "Service") => Object::Service(typed(document, &kind)?),
        (None, "Node") => Object::Node(typed(document, &kind)?),
        (None, "Pod") => Object::Pod(typed(document, &kind)?),
        (Some("discovery.k8s.io"), "EndpointSlice") => {
            Object::EndpointSlice(typed(document, &kind)?)
        }
        (Some("networking.k8s.io"), "ServiceCIDR") => Object::ServiceCidr(typed(document, &kind)?),
        _ => Object::Other(format!("{kind} {}", name_of(&document))),
    };
    objects.push(object);
    Ok(())
}

fn name_of(document: &Value) -> String {
    let field = |name: &str| document.pointer(name).and_then(Value::as_str);
    let name = field("/metadata/name").unwrap_or("without a name");
    match field("/metadata/namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn typed<T: DeserializeOwned>(document: Value, kind: &str) -> Result<Box<T>, String> {
    let name = name_of(&document);
    if document.pointer("/metadata/name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(format!("a {kind} without a name"));
    }
    serde_json::from_value(document).map(Box::new).map_err(|e| format!("{kind} {name}: {e}"))
}

impl Objects {
    /// Puts an object in the place of the one of its name. What decides nothing is given back.
    pub fn put(&mut self, object: Object) -> Option<String> {
        match object {
            Object::Service(mut service) => {
                let name = namespaced(&mut service.metadata);
                self.services.insert(name, *service);
            }
            Object::EndpointSlice(mut slice) => {
                let name = namespaced(&mut slice.metadata);
                self.slices.insert(name, *slice);
            }
            Object::Pod(mut pod) => {
                let name = namespaced(&mut pod.metadata);
                self.pods.insert(name, *pod);
            }
            Object::Node(node) => {
                self.nodes.insert(node.metadata.name.clone().unwrap_or_default(), *node);
            }
            Object::ServiceCidr(cidr) => {
                let name = cidr.metadata.name.clone().unwrap_or_default();
                self.service_cidrs.insert(name, *cidr);
            }
            Object::Other(what) => return Some(what),
        }
        None
    }

    /// Takes an object away; whether it was there.
    pub fn delete(&mut self, key: &Key) -> bool {
        match key {
            Key::Service(name) => self.services.remove(name).is_some(),
            Key::EndpointSlice(name) => self.slices.remove(name).is_some(),
            Key::Node(name) => self.nodes.remove(name).is_some(),
            Key::Pod(name) => self.pods.remove(name).is_some(),
            Key::ServiceCidr(name) => self.service_cidrs.remove(name).is_some(),
        }
    }

    /// The ranges of all ServiceCIDRs.
    #[must_use]
    pub fn ranges(&self) -> Vec<IpNet> {
        let specs = self.service_cidrs.values().filter_map(|cidr| cidr.spec.as_ref());
        specs.flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|c| c.parse().ok()).collect()
    }
}

fn namespaced(metadata: &mut ObjectMeta) -> NamespacedName {
    let namespace = metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.into());
    NamespacedName::new(namespace.as_str(), metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> (Objects, Vec<String>) {
        let mut objects = Objects::default();
        let parsed = parse(text).unwrap();
        let others = parsed.into_iter().filter_map(|object| objects.put(object)).collect();
        (objects, others)
    }

    #[test]
    fn documents_lists_and_json_are_read_alike() {
        let yaml = "kind: Service\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: d, namespace: x}\n";
        let (one, others) = objects(yaml);
        assert_eq!(one.services.keys().next().unwrap().to_string(), "default/a");
        assert_eq!(others, ["Deployment x/d"]);
        let list = r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"}}]}"#;
        let typed =
            r#"{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}]}"#;
        assert_eq!(objects(list).0, one);
        assert_eq!(objects(typed).0, one);
    }

    #[test]
    fn what_is_wrong_is_said_of_which_object() {
        let wrong =
            "kind: Service\napiVersion: v1\nmetadata: {name: a, namespace: b}\nspec: {ports: 3}\n";
        assert!(parse(wrong).unwrap_err().starts_with("Service b/a: "));
        assert_eq!(parse("kind: Node\napiVersion: v1\n").unwrap_err(), "a Node without a name");
        assert!(parse("a: b\n").is_err());
        assert!(parse("{").is_err());
    }

    #[test]
    fn a_large_cluster_is_read_and_a_bomb_is_not() {
        let one =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {a: b, c: d, e: f}}\n---\n";
        assert_eq!(parse(&one.repeat(19_000)).unwrap().len(), 19_000);
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (this, last) in ('b'..='j').zip('a'..) {
            let aliases = vec![format!("*{last}"); 10].join(",");
            bomb += &format!("{this}: &{this} [{aliases}]\n");
        }
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn keys_name_kind_and_object() {
        assert_eq!("svc/a/b".parse::<Key>().unwrap(), Key::Service(NamespacedName::new("a", "b")));
        assert_eq!("Node/n".parse::<Key>().unwrap(), Key::Node("n".into()));
        for wrong in ["svc/a", "node/a/b", "svc//b", "", "deployment/a/b"] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }
}
