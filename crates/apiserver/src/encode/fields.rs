//! Writes the stored text of a fieldsV1 as the object that it is, without building it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::{self, Serialize, SerializeMap, Serializer};

/// The text of objects within objects.
pub(super) struct Fields<'a>(pub(super) &'a str);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serde_json::Deserializer::from_str(self.0);
        Level(RefCell::new(Some(&mut text))).serialize(serializer)
    }
}

/// What is read next is written once.
struct Level<D>(RefCell<Option<D>>);

impl<'de, D: Deserializer<'de>> Serialize for Level<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let source = self.0.borrow_mut().take();
        let source = source.ok_or_else(|| ser::Error::custom("the fields are written already"))?;
        source.deserialize_map(Copy(serializer)).map_err(ser::Error::custom)
    }
}

struct Copy<S>(S);

impl<'de, S: Serializer> Visitor<'de> for Copy<S> {
    type Value = S::Ok;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<S::Ok, A::Error> {
        let mut map = self.0.serialize_map(None).map_err(de::Error::custom)?;
        while let Some(key) = entries.next_key::<Cow<'_, str>>()? {
            map.serialize_key(&key).map_err(de::Error::custom)?;
            entries.next_value_seed(Below(&mut map))?;
        }
        map.end().map_err(de::Error::custom)
    }
}

struct Below<'a, M>(&'a mut M);

impl<'de, M: SerializeMap> DeserializeSeed<'de> for Below<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        self.0.serialize_value(&Level(RefCell::new(Some(source)))).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_they_are() {
        for text in ["{}", r#"{"f:a":{".":{},"k:{\"port\":80}":{}},"f:b":{}}"#] {
            assert_eq!(serde_json::to_string(&Fields(text)).unwrap(), text);
        }
        for bad in ["", "{\"a\":1}", "[]"] {
            assert!(serde_json::to_string(&Fields(bad)).is_err(), "{bad}");
        }
    }
}
