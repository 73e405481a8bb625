//! The compact tree of types. A struct is an index, so recursion costs nothing; names of fields are
//! kept once.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, policy::v1 as policy,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Where references point to, in our documents as in upstream's.
pub(super) const REFERENCE: &str = "#/components/schemas/";

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    /// Anything, kept as it is (FieldsV1, RawExtension).
    Any,
    String,
    /// base64 text.
    Bytes,
    Time,
    MicroTime,
    Bool,
    Int32,
    Int64,
    Number,
    IntOrString,
    Quantity,
    List(Box<Type>),
    Map(Box<Type>),
    Struct(usize),
}

#[derive(Debug)]
pub(super) struct Struct {
    /// Component, e.g. `io.k8s.api.core.v1.ServicePort`.
    pub(super) name: Box<str>,
    /// Sorted by name.
    fields: Box<[(Box<str>, Type)]>,
}

impl Struct {
    pub(super) fn field(&self, name: &str) -> Option<&Type> {
        let found = self.fields.binary_search_by(|(field, _)| (**field).cmp(name));
        found.ok().map(|index| &self.fields[index].1)
    }

    /// `ServicePort`.
    pub(super) fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.ServicePort`.
    pub(super) fn go_qualified_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.').map(|(at, _)| at + 1).skip(1);
        dots.next().map_or(&*self.name, |start| &self.name[start..])
    }
}

#[derive(Debug)]
pub(super) struct Types {
    structs: Vec<Struct>,
    by_name: HashMap<Box<str>, Type>,
}

impl Types {
    /// The types of everything served.
    pub(super) fn get() -> &'static Self {
        static TYPES: OnceLock<Types> = OnceLock::new();
        TYPES.get_or_init(|| {
            let mut generator = generator();
            for register in ROOTS.iter().flat_map(|(_, registers)| *registers) {
                register(&mut generator);
            }
            Self::from_definitions(&generator.take_definitions(false))
        })
    }

    pub(super) fn component(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name)
    }

    pub(super) fn structure(&self, index: usize) -> &Struct {
        &self.structs[index]
    }

    fn from_definitions(definitions: &Map<String, Value>) -> Self {
        // Names first, so that fields can refer to any of them.
        let mut by_name = HashMap::new();
        let mut count = 0;
        for (name, schema) in definitions {
            let type_ = if schema.get("properties").is_some() {
                count += 1;
                Type::Struct(count - 1)
            } else {
                named_type(name, schema)
            };
            by_name.insert(name.as_str().into(), type_);
        }
        let mut structs = Vec::with_capacity(count);
        for (name, schema) in definitions {
            let Some(Value::Object(properties)) = schema.get("properties") else { continue };
            let mut fields: Vec<(Box<str>, Type)> = properties
                .iter()
                .map(|(field, schema)| (field.as_str().into(), type_of(schema, &by_name)))
                .collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            structs.push(Struct { name: name.as_str().into(), fields: fields.into() });
        }
        Self { structs, by_name }
    }
}

/// Types that have a name but no fields.
fn named_type(name: &str, schema: &Value) -> Type {
    match name.rsplit('.').next() {
        Some("IntOrString") => Type::IntOrString,
        Some("Quantity") => Type::Quantity,
        Some("Time") => Type::Time,
        Some("MicroTime") => Type::MicroTime,
        _ => type_of(schema, &HashMap::new()),
    }
}

fn type_of(schema: &Value, by_name: &HashMap<Box<str>, Type>) -> Type {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix(REFERENCE).unwrap_or(reference);
        return by_name.get(name).cloned().unwrap_or(Type::Any);
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("byte")) => Type::Bytes,
        (Some("string"), Some("date-time")) => Type::Time,
        (Some("string"), _) => Type::String,
        (Some("boolean"), _) => Type::Bool,
        (Some("integer"), Some("int32")) => Type::Int32,
        (Some("integer"), _) => Type::Int64,
        (Some("number"), _) => Type::Number,
        (Some("array"), _) => Type::List(Box::new(type_of(&schema["items"], by_name))),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            Type::Map(Box::new(type_of(&schema["additionalProperties"], by_name)))
        }
        _ => Type::Any,
    }
}

pub(super) fn generator() -> SchemaGenerator {
    SchemaSettings::openapi3().into_generator()
}

pub(super) type Register = fn(&mut SchemaGenerator);

fn register<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) {
    let _ = generator.subschema_for::<T>();
}

/// Types by the group and version whose OpenAPI document shows them; whatever they refer to comes
/// along. The empty version holds what every group has.
pub(super) static ROOTS: &[((&str, &str), &[Register])] = &[
    (
        ("", ""),
        &[
            register::<meta::DeleteOptions>,
            register::<meta::ListMeta>,
            register::<meta::ObjectMeta>,
            register::<meta::Status>,
            register::<meta::WatchEvent<k8s_openapi::apimachinery::pkg::runtime::RawExtension>>,
            register::<meta::Patch>,
        ],
    ),
    (
        ("", "v1"),
        &[
            register::<core::Binding>,
            register::<core::ConfigMap>,
            register::<core::Endpoints>,
            register::<core::Event>,
            register::<core::Namespace>,
            register::<core::Node>,
            register::<core::Pod>,
            register::<core::Secret>,
            register::<core::Service>,
            register::<core::ServiceAccount>,
            register::<policy::Eviction>,
            register::<authentication::TokenRequest>,
        ],
    ),
    (
        ("apps", "v1"),
        &[
            register::<apps::ControllerRevision>,
            register::<apps::DaemonSet>,
            register::<apps::Deployment>,
            register::<apps::ReplicaSet>,
            register::<apps::StatefulSet>,
            register::<autoscaling::Scale>,
        ],
    ),
    (
        ("authentication.k8s.io", "v1"),
        &[register::<authentication::SelfSubjectReview>, register::<authentication::TokenReview>],
    ),
    (
        ("authorization.k8s.io", "v1"),
        &[
            register::<authorization::LocalSubjectAccessReview>,
            register::<authorization::SelfSubjectAccessReview>,
            register::<authorization::SelfSubjectRulesReview>,
            register::<authorization::SubjectAccessReview>,
        ],
    ),
    (("coordination.k8s.io", "v1"), &[register::<coordination::Lease>]),
    (("discovery.k8s.io", "v1"), &[register::<discovery::EndpointSlice>]),
    (("events.k8s.io", "v1"), &[register::<events::Event>]),
];
