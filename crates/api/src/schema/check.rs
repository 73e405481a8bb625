//! The walk that compares a value with its type, in the place of Go's typed decoding: the errors
//! are those of encoding/json as Kubernetes forwards them, the first one found ends the walk.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::quantity;
use super::types::{Struct, Type, Types};

/// Paths of unknown fields, which have been removed.
pub(super) fn check(component: &str, object: &mut Value) -> Result<Vec<String>, String> {
    let types = Types::get();
    let root = types.component(component).ok_or_else(|| format!("no such type: {component}"))?;
    let mut walk =
        Walk { types, owner: None, fields: Vec::new(), path: String::new(), unknown: vec![] };
    walk.value(root, object)?;
    Ok(walk.unknown)
}

struct Walk {
    types: &'static Types,
    /// The struct whose field is being looked at.
    owner: Option<&'static Struct>,
    /// Names of the fields on the way, as Go prints them: without indices and map keys.
    fields: Vec<String>,
    /// The same with them, as strict decoding prints it.
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn value(&mut self, type_: &'static Type, value: &mut Value) -> Result<(), String> {
        match (type_, &mut *value) {
            (Type::Any, _)
            | (Type::String, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Number, Value::Number(_))
            | (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = match type_ {
                    Type::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    _ => number.as_i64().is_some(),
                };
                if fits { Ok(()) } else { self.mismatch(&format!("number {number}"), type_) }
            }
            (Type::IntOrString, Value::Number(number)) => {
                match number.as_i64().map(i32::try_from) {
                    Some(Ok(_)) => Ok(()),
                    _ => Err(untyped(&format!("number {number}"), "int32")),
                }
            }
            (Type::IntOrString, other) => Err(untyped(json_name(other), "int32")),
            (Type::Quantity, other) => quantity_value(other),
            (Type::Time, Value::String(text)) => time(text, "%Y-%m-%dT%H:%M:%SZ"),
            (Type::MicroTime, Value::String(text)) => time(text, "%Y-%m-%dT%H:%M:%S.%6fZ"),
            (Type::Time | Type::MicroTime, other) => Err(untyped(json_name(other), "string")),
            (Type::Bytes, Value::String(text)) => bytes(text),
            (Type::List(item), Value::Array(items)) => self.items(item, items),
            (Type::Map(item), Value::Object(entries)) => {
                for (key, value) in entries.iter_mut() {
                    if value.is_null() {
                        *value = zero(item);
                    }
                    self.below(format_args!(".{key}"), |walk| walk.value(item, value))?;
                }
                Ok(())
            }
            (Type::Struct(index), Value::Object(_)) => {
                self.structure(self.types.structure(*index), value)
            }
            (_, other) => self.mismatch(json_name(other), type_),
        }
    }

    fn items(&mut self, type_: &'static Type, items: &mut [Value]) -> Result<(), String> {
        for (index, item) in items.iter_mut().enumerate() {
            if item.is_null() {
                *item = zero(type_);
            }
            self.below(format_args!("[{index}]"), |walk| walk.value(type_, item))?;
        }
        Ok(())
    }

    fn structure(&mut self, structure: &'static Struct, value: &mut Value) -> Result<(), String> {
        let Value::Object(fields) = value else { return Ok(()) };
        let unknown = &mut self.unknown;
        let path = &self.path;
        fields.retain(|name, value| {
            let known = structure.field(name).is_some();
            if !known {
                unknown.push(join(path, name));
            }
            known && !value.is_null()
        });
        let outer = self.owner.replace(structure);
        for (name, value) in fields.iter_mut() {
            let Some(type_) = structure.field(name) else { continue };
            self.fields.push(name.clone());
            self.below(format_args!(".{name}"), |walk| walk.value(type_, value))?;
            self.fields.pop();
        }
        self.owner = outer;
        Ok(())
    }

    fn below<T>(&mut self, step: std::fmt::Arguments<'_>, inner: impl FnOnce(&mut Self) -> T) -> T {
        use std::fmt::Write;
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(step);
        if length == 0 && self.path.starts_with('.') {
            self.path.remove(0);
        }
        let result = inner(self);
        self.path.truncate(length);
        result
    }

    fn mismatch(&self, found: &str, type_: &Type) -> Result<(), String> {
        let wanted = self.go_type(type_);
        let Some(owner) = self.owner else { return Err(untyped(found, &wanted)) };
        Err(format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            owner.go_name(),
            self.fields.join("."),
        ))
    }

    fn go_type(&self, type_: &Type) -> String {
        match type_ {
            Type::Any => "interface {}".into(),
            Type::String | Type::Time | Type::MicroTime => match (self.owner, self.fields.last()) {
                (Some(owner), Some(field)) => named_string(owner.go_name(), field).into(),
                _ => "string".into(),
            },
            Type::Bytes => "[]uint8".into(),
            Type::Bool => "bool".into(),
            Type::Int32 => "int32".into(),
            Type::Int64 => "int64".into(),
            Type::Number => "float64".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::Quantity => "resource.Quantity".into(),
            Type::List(item) => format!("[]{}", self.go_type(item)),
            Type::Map(item) => format!("map[string]{}", self.go_type(item)),
            Type::Struct(index) => self.types.structure(*index).go_qualified_name().to_owned(),
        }
    }
}

/// Strings that have a name of their own in Go, of the fields that people write by hand.
fn named_string(owner: &str, field: &str) -> &'static str {
    match (owner, field) {
        ("ServiceSpec", "type") => "v1.ServiceType",
        ("ServiceSpec", "sessionAffinity") => "v1.ServiceAffinity",
        ("ServiceSpec", "externalTrafficPolicy") => "v1.ServiceExternalTrafficPolicy",
        ("ServiceSpec", "internalTrafficPolicy") => "v1.ServiceInternalTrafficPolicy",
        ("ServiceSpec", "ipFamilyPolicy") => "v1.IPFamilyPolicy",
        ("ServiceSpec", "ipFamilies") => "v1.IPFamily",
        ("ServicePort" | "ContainerPort" | "EndpointPort", "protocol") => "v1.Protocol",
        ("Container", "imagePullPolicy") => "v1.PullPolicy",
        ("PodSpec", "restartPolicy") => "v1.RestartPolicy",
        ("PodSpec", "dnsPolicy") => "v1.DNSPolicy",
        ("ObjectMeta" | "OwnerReference", "uid") => "types.UID",
        ("Secret", "type") => "v1.SecretType",
        ("DeploymentStrategy", "type") => "v1.DeploymentStrategyType",
        _ => "string",
    }
}

/// Go's text where a type decodes itself, apart from any struct.
fn untyped(found: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}

fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn quantity_value(value: &mut Value) -> Result<(), String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    *value = Value::String(quantity::canonical(&text)?);
    Ok(())
}

/// In UTC and with the precision of the type, as Go prints it.
fn time(text: &mut String, format: &str) -> Result<(), String> {
    let time = text.parse::<jiff::Timestamp>().map_err(|_| {
        let layout = "2006-01-02T15:04:05Z07:00";
        format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
    })?;
    *text = time.strftime(format).to_string();
    Ok(())
}

fn bytes(text: &str) -> Result<(), String> {
    STANDARD.decode(text).map(drop).map_err(|error| {
        use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
        let at = match error {
            InvalidByte(at, _) | InvalidLastSymbol(at, _) => at,
            InvalidLength(_) | InvalidPadding => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// What Go decodes a null to within a list or map.
fn zero(type_: &Type) -> Value {
    match type_ {
        Type::Any => Value::Null,
        Type::String | Type::Bytes => "".into(),
        Type::Time | Type::MicroTime => Value::Null,
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Number | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Map(_) | Type::Struct(_) => Value::Object(serde_json::Map::new()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
