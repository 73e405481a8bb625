//! The compact tree of types. A struct is an index, so recursion costs nothing; names of fields are
//! kept once.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use portolan_patch::apply::Shape;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::overlay;

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

impl Type {
    /// How a value is owned where no field says more.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Type::Struct(_) => Shape::Struct,
            Type::Map(_) => Shape::Map,
            _ => Shape::Leaf,
        }
    }
}

#[derive(Debug)]
pub(super) struct Struct {
    /// Component, e.g. `io.k8s.api.core.v1.ServicePort`.
    pub(super) name: Box<str>,
    /// Whether values are owned whole.
    pub(super) is_atomic: bool,
    /// Sorted by name.
    fields: Box<[(Box<str>, Type)]>,
    /// How each of them is owned.
    ownership: Box<[Ownership]>,
}

/// How a field is owned, as far as its type does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ownership {
    pub(super) shape: Shape,
    /// See [`portolan_patch::apply::Field::always`].
    pub(super) always: bool,
}

impl Struct {
    pub(super) fn field(&self, name: &str) -> Option<&Type> {
        self.owned_field(name).map(|(type_, _)| type_)
    }

    pub(super) fn owned_field(&self, name: &str) -> Option<(&Type, Ownership)> {
        let found = self.fields.binary_search_by(|(field, _)| (**field).cmp(name));
        found.ok().map(|index| (&self.fields[index].1, self.ownership[index]))
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
            let ownership =
                fields.iter().map(|(field, type_)| ownership(name, field, type_)).collect();
            structs.push(Struct {
                name: name.as_str().into(),
                is_atomic: overlay::is_atomic_struct(name),
                fields: fields.into(),
                ownership,
            });
        }
        Self { structs, by_name }
    }
}

fn ownership(component: &str, field: &str, type_: &Type) -> Ownership {
    let shape = match type_ {
        Type::List(_) => match overlay::list_keys(component, field) {
            Some([]) => Shape::Set,
            Some(keys) => Shape::Keyed(keys),
            None => Shape::Leaf,
        },
        Type::Map(_) if overlay::is_atomic_map(component, field) => Shape::Leaf,
        other => other.shape(),
    };
    Ownership { shape, always: overlay::is_always_there(component, field) }
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
            register::<core::LimitRange>,
            register::<core::Namespace>,
            register::<core::Node>,
            register::<core::PersistentVolume>,
            register::<core::PersistentVolumeClaim>,
            register::<core::Pod>,
            register::<core::PodTemplate>,
            register::<core::ReplicationController>,
            register::<core::ResourceQuota>,
            register::<core::Secret>,
            register::<core::Service>,
            register::<core::ServiceAccount>,
            register::<autoscaling::Scale>,
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
    (("autoscaling", "v1"), &[register::<autoscaling::HorizontalPodAutoscaler>]),
    (("autoscaling", "v2"), &[register::<autoscaling_v2::HorizontalPodAutoscaler>]),
    (("batch", "v1"), &[register::<batch::CronJob>, register::<batch::Job>]),
    (("certificates.k8s.io", "v1"), &[register::<certificates::CertificateSigningRequest>]),
    (("coordination.k8s.io", "v1"), &[register::<coordination::Lease>]),
    (("discovery.k8s.io", "v1"), &[register::<discovery::EndpointSlice>]),
    (("events.k8s.io", "v1"), &[register::<events::Event>]),
    (
        ("networking.k8s.io", "v1"),
        &[
            register::<networking::IPAddress>,
            register::<networking::Ingress>,
            register::<networking::IngressClass>,
            register::<networking::NetworkPolicy>,
            register::<networking::ServiceCIDR>,
        ],
    ),
    (("node.k8s.io", "v1"), &[register::<node::RuntimeClass>]),
    (("policy", "v1"), &[register::<policy::PodDisruptionBudget>]),
    (
        ("rbac.authorization.k8s.io", "v1"),
        &[
            register::<rbac::ClusterRole>,
            register::<rbac::ClusterRoleBinding>,
            register::<rbac::Role>,
            register::<rbac::RoleBinding>,
        ],
    ),
    (("scheduling.k8s.io", "v1"), &[register::<scheduling::PriorityClass>]),
    (
        ("storage.k8s.io", "v1"),
        &[
            register::<storage::CSIDriver>,
            register::<storage::CSINode>,
            register::<storage::StorageClass>,
            register::<storage::VolumeAttachment>,
        ],
    ),
];
