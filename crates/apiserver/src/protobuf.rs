//! Protobuf request bodies: what Go clients send for typed objects (`kubectl create deployment` does).
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` (upstream `apimachinery/pkg/runtime/serializer/protobuf`); its
//! content becomes the same JSON value that the client's JSON would have been, so everything behind is one path. Go
//! writes every field that is not a pointer, zero or not; JSON leaves zero out, so zero counts only for pointers.
//! The field numbers are a table, `protobuf/fields.txt`, read on first use. Answers are never protobuf: every such
//! client accepts JSON, too.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Deeper than any object; a bound on recursion.
const DEPTH: usize = 32;

/// Why a body is not what it claims to be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: message nests too deep")]
    Depth,
    #[error("no protobuf form is known for {0}")]
    Unknown(String),
    #[error("proto: invalid UTF-8")]
    Utf8,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Decodes a body into the value of the message `component` (`io.k8s.api.core.v1.Service`).
pub(crate) fn decode(body: &[u8], component: &str) -> Result<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(content)) => raw = content,
            _ => {}
        }
    }
    let name = component.strip_prefix("io.k8s.").unwrap_or(component);
    let message = TABLE.get(name).ok_or_else(|| ProtobufError::Unknown(component.to_owned()))?;
    let mut object = read_message(raw, message, DEPTH)?;
    for (field, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            object.insert(field.into(), text.into());
        }
    }
    Ok(Value::Object(object))
}

type Message = HashMap<u64, Field>;

struct Field {
    name: &'static str,
    shape: Shape,
    zero: Zero,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
    Inlined,
}

/// What a zero value means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Absent,
    Kept,
}

enum Kind {
    String,
    Integer,
    Bool,
    Bytes,
    Time,
    MicroTime,
    IntOrString,
    Quantity,
    RawJson,
    Message(&'static str),
}

static TABLE: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    include_str!("protobuf/fields.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or("");
            (name, words.filter_map(field).collect())
        })
        .collect()
});

fn field(word: &'static str) -> Option<(u64, Field)> {
    let mut parts = word.splitn(3, ':');
    let (number, name, kind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let (kind, zero) = match kind.strip_suffix('?') {
        Some(kind) => (kind, Zero::Kept),
        None => (kind, Zero::Absent),
    };
    let (shape, kind) = [("[]", Shape::List), ("{}", Shape::Map), ("^", Shape::Inlined)]
        .into_iter()
        .find_map(|(prefix, shape)| kind.strip_prefix(prefix).map(|kind| (shape, kind)))
        .unwrap_or((Shape::One, kind));
    let kind = match kind {
        "s" => Kind::String,
        "i" => Kind::Integer,
        "b" => Kind::Bool,
        "y" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "intorstring" => Kind::IntOrString,
        "quantity" => Kind::Quantity,
        "raw" => Kind::RawJson,
        message => Kind::Message(message),
    };
    Some((number, Field { name, shape, zero, kind }))
}

fn read_message(bytes: &[u8], message: &Message, depth: usize) -> Result<Map<String, Value>> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut object = Map::new();
    for item in Fields(bytes) {
        let (number, wire) = item?;
        let Some(field) = message.get(&number) else { continue };
        match field.shape {
            Shape::One => {
                if let Some(value) = read_value(&wire, field, depth)? {
                    object.insert(field.name.into(), value);
                }
            }
            Shape::Inlined => {
                if let Some(Value::Object(inner)) = read_value(&wire, field, depth)? {
                    object.extend(inner);
                }
            }
            Shape::List => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let value = read_value(&wire, field, depth)?;
                if let (Some(list), Some(value)) = (list.as_array_mut(), value) {
                    list.push(value);
                }
            }
            Shape::Map => {
                let entry = wire.bytes()?;
                let (mut key, mut value) = (String::new(), zero_of(&field.kind));
                for item in Fields(entry) {
                    match item? {
                        (1, Wire::Bytes(text)) => key = utf8(text)?,
                        (2, wire) => {
                            if let Some(read) = read_value(&wire, field, depth)? {
                                value = read;
                            }
                        }
                        _ => {}
                    }
                }
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(object)
}

fn zero_of(kind: &Kind) -> Value {
    match kind {
        Kind::Message(_) => Value::Object(Map::new()),
        Kind::Integer => 0.into(),
        Kind::Bool => false.into(),
        _ => "".into(),
    }
}

/// The JSON of one value; none when it is a zero that means absence.
fn read_value(wire: &Wire<'_>, field: &Field, depth: usize) -> Result<Option<Value>> {
    let value: Value = match &field.kind {
        Kind::String => utf8(wire.bytes()?)?.into(),
        Kind::Integer => wire.integer()?.into(),
        Kind::Bool => (wire.integer()? != 0).into(),
        Kind::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Kind::Time => return read_time(wire.bytes()?, "%Y-%m-%dT%H:%M:%SZ"),
        Kind::MicroTime => return read_time(wire.bytes()?, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        Kind::IntOrString => read_int_or_string(wire.bytes()?)?,
        Kind::Quantity => read_first(wire.bytes()?)?.into(),
        Kind::RawJson => {
            let text = read_first(wire.bytes()?)?;
            return Ok(serde_json::from_str(&text).ok());
        }
        Kind::Message(name) => {
            let message =
                TABLE.get(name).ok_or_else(|| ProtobufError::Unknown((*name).to_owned()))?;
            return read_message(wire.bytes()?, message, depth).map(Value::Object).map(Some);
        }
    };
    let is_zero = value == "" || value == 0 || value == false;
    let kept = field.shape != Shape::One || field.zero == Zero::Kept;
    Ok((kept || !is_zero).then_some(value))
}

/// The text in field 1: a Quantity, or JSON kept as bytes.
fn read_first(bytes: &[u8]) -> Result<String> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return utf8(text);
        }
    }
    Ok(String::new())
}

fn read_time(bytes: &[u8], format: &str) -> Result<Option<Value>> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, wire) => seconds = wire.integer()?,
            (2, wire) => nanos = wire.integer()?,
            _ => {}
        }
    }
    // Go's zero time is written as nothing at all.
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let time = Timestamp::new(seconds, nanos).ok().filter(|_| !bytes.is_empty());
    Ok(time.map(|t| t.strftime(format).to_string().into()))
}

fn read_int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, wire) => is_text = wire.integer()? == 1,
            (2, wire) => number = wire.integer()?,
            (3, wire) => text = utf8(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Utf8)
}

/// One value as it is on the wire.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Varint(_) => Err(ProtobufError::WireType(0)),
            Wire::Fixed => Err(ProtobufError::WireType(5)),
        }
    }

    fn integer(&self) -> Result<i64> {
        match self {
            Wire::Varint(value) => Ok(value.cast_signed()),
            Wire::Bytes(_) => Err(ProtobufError::WireType(2)),
            Wire::Fixed => Err(ProtobufError::WireType(5)),
        }
    }
}

/// The fields of a message, in the order they were written.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let item = self.read();
            if item.is_err() {
                self.0 = &[];
            }
            item
        })
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed)?,
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed)?,
            other => return Err(ProtobufError::WireType(u8::try_from(other).unwrap_or(7))),
        };
        Ok((tag >> 3, wire))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A field of a message, length-delimited.
    fn nested(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, length], content].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [nested(1, api_version.as_bytes()), nested(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), nested(1, &type_meta), nested(2, raw)].concat()
    }

    #[test]
    fn a_deployment_of_no_replicas_keeps_its_zero_and_drops_the_others() {
        let spec = [vec![0x08, 0x00], vec![0x28, 0x00]].concat();
        let metadata = [nested(1, b"web"), nested(2, b""), nested(8, b"")].concat();
        let raw = [nested(1, &metadata), nested(2, &spec)].concat();
        let body = envelope("apps/v1", "Deployment", &raw);
        assert_eq!(
            decode(&body, "io.k8s.api.apps.v1.Deployment").unwrap(),
            json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web"},
                "spec": {"replicas": 0},
            })
        );
    }

    #[test]
    fn maps_bytes_and_int_or_string_become_their_json() {
        let entry = [nested(1, b"k"), nested(2, b"\x01\x02")].concat();
        let secret = envelope("v1", "Secret", &nested(2, &entry));
        let decoded = decode(&secret, "io.k8s.api.core.v1.Secret").unwrap();
        assert_eq!(decoded["data"], json!({"k": "AQI="}));
        let target = [vec![0x08, 1], nested(3, b"http")].concat();
        let port = [vec![0x18, 80], nested(4, &target)].concat();
        let service = envelope("v1", "Service", &nested(2, &nested(1, &port)));
        let decoded = decode(&service, "io.k8s.api.core.v1.Service").unwrap();
        assert_eq!(decoded["spec"]["ports"], json!([{"port": 80, "targetPort": "http"}]));
    }

    #[test]
    fn every_message_that_the_table_names_is_in_the_table() {
        for (name, message) in TABLE.iter() {
            for field in message.values() {
                if let Kind::Message(inner) = field.kind {
                    assert!(TABLE.contains_key(inner), "{name}.{}: {inner}", field.name);
                }
            }
        }
        for kind in portolan_api::kinds::all() {
            let name = kind.schema.trim_start_matches("io.k8s.");
            assert!(TABLE.contains_key(name), "{name}");
        }
    }

    #[test]
    fn every_field_that_the_table_names_is_in_the_schema() {
        let mut components = HashMap::new();
        for kind in portolan_api::kinds::all() {
            for (name, schema) in portolan_api::schema::components(kind.group, kind.version) {
                components.insert(name.to_lowercase(), schema);
            }
        }
        // What Go embeds is a message of its own and no component.
        let inlined: Vec<&str> = TABLE
            .values()
            .flat_map(HashMap::values)
            .filter(|field| field.shape == Shape::Inlined)
            .filter_map(|field| match field.kind {
                Kind::Message(name) => Some(name),
                _ => None,
            })
            .collect();
        let mut unknown = Vec::new();
        for (name, message) in TABLE.iter() {
            let Some(schema) = components.get(&format!("io.k8s.{}", name.to_lowercase())) else {
                // The groups of reviews have no kinds in the table of kinds.
                let review = [
                    "api.authentication.",
                    "api.authorization.",
                    "apimachinery.pkg.apis.meta.v1.FieldSelectorRequirement",
                ];
                if !review.iter().any(|group| name.starts_with(group)) && !inlined.contains(name) {
                    unknown.push((*name).to_owned());
                }
                continue;
            };
            let fields = message.values().filter(|field| field.shape != Shape::Inlined);
            let missing = fields.filter(|f| !schema["properties"][f.name].is_object());
            unknown.extend(missing.map(|field| format!("{name}.{}", field.name)));
        }
        assert_eq!(unknown, Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let body = [MAGIC, &body[..]].concat();
            let _ = decode(&body, "io.k8s.api.core.v1.Pod");
        }
    }
}
