//! Parsing of bodies. Duplicate keys are remembered, of which serde_json's own `Value` says nothing:
//! the last one wins, as in Go.

use std::cell::RefCell;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::DecodeError;

/// Encoding of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// A parsed body.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The value; of duplicate keys the last one won.
    pub value: Value,
    /// Paths of duplicate keys, e.g. `spec.ports[0].port`.
    pub duplicates: Vec<String>,
}

/// Parses a body.
///
/// # Errors
/// Malformed text.
pub fn decode(body: &[u8], content_type: ContentType) -> Result<Decoded, DecodeError> {
    let trace = Trace::default();
    let seed = Seed(&trace);
    let value = match content_type {
        ContentType::Json => json(body, seed).map_err(|error| {
            DecodeError(format!("couldn't get version/kind; json parse error: {error}"))
        })?,
        ContentType::Yaml => yaml(body, seed)
            .map_err(|error| DecodeError(format!("error converting YAML to JSON: {error}")))?,
    };
    Ok(Decoded { value, duplicates: trace.duplicates.into_inner() })
}

fn json(body: &[u8], seed: Seed<'_>) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn yaml(body: &[u8], seed: Seed<'_>) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        legacy_octal_numbers: true,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        seed.deserialize(deserializer)
    })
    .map_err(|error| error.to_string())
}

/// Where the parser is, and what it has found.
#[derive(Default)]
struct Trace {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
}

impl Trace {
    /// Runs `inner` one level down.
    fn within<T>(&self, step: std::fmt::Arguments<'_>, inner: impl FnOnce() -> T) -> T {
        use std::fmt::Write;
        let length = self.path.borrow().len();
        // Writing to a String cannot fail.
        let _ = self.path.borrow_mut().write_fmt(step);
        let result = inner();
        self.path.borrow_mut().truncate(length);
        result
    }

    fn field<T>(&self, name: &str, inner: impl FnOnce() -> T) -> T {
        let dot = if self.path.borrow().is_empty() { "" } else { "." };
        self.within(format_args!("{dot}{name}"), inner)
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Trace);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let index = list.len();
            let item =
                self.0.within(format_args!("[{index}]"), || items.next_element_seed(self))?;
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let value = self.0.field(&key, || {
                if map.contains_key(&key) {
                    let path = self.0.path.borrow().clone();
                    self.0.duplicates.borrow_mut().push(path);
                }
                entries.next_value_seed(self)
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key; YAML's may be numbers and booleans, whose text is taken.
struct Key(String);

impl<'de> de::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}
