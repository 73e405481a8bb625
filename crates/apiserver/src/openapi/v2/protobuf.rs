//! The document of version 2 as the protobuf message `openapi.v2.Document`.
//!
//! Messages are written from the JSON by tables of fields: name → number and form. What a table does not name is left
//! out, except extensions (`x-…`), which every schema and operation carries as YAML text; JSON is YAML.

use serde_json::Value;

/// How a field of the JSON is written.
enum Form {
    Text(u64),
    Flag(u64),
    /// A list of texts.
    Texts(u64),
    Message(u64, &'static Message),
    /// A list of messages.
    Messages(u64, &'static Message),
    /// One message in another of which it is field 1, as `ItemsItem`.
    Wrapped(u64, &'static Message),
    /// A text as the only element of a message's field 1, as `TypeItem`.
    WrappedText(u64),
    /// An object as a message whose field is a list of pairs: (field, field of the list in it, what the values are).
    Map(u64, u64, &'static Message),
    /// A parameter of an operation or path.
    Parameters(u64),
}

/// The fields of a message, and the number of its extensions.
struct Message {
    fields: &'static [(&'static str, Form)],
    extensions: Option<u64>,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", Form::Text(1)),
        ("info", Form::Message(2, &INFO)),
        ("paths", Form::Map(8, 2, &PATH_ITEM)),
        ("definitions", Form::Map(9, 1, &SCHEMA)),
    ],
    extensions: None,
};

static INFO: Message =
    Message { fields: &[("title", Form::Text(1)), ("version", Form::Text(2))], extensions: None };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", Form::Message(2, &OPERATION)),
        ("put", Form::Message(3, &OPERATION)),
        ("post", Form::Message(4, &OPERATION)),
        ("delete", Form::Message(5, &OPERATION)),
        ("patch", Form::Message(8, &OPERATION)),
        ("parameters", Form::Parameters(9)),
    ],
    extensions: None,
};

static OPERATION: Message = Message {
    fields: &[
        ("operationId", Form::Text(5)),
        ("produces", Form::Texts(6)),
        ("parameters", Form::Parameters(8)),
        ("responses", Form::Map(9, 1, &RESPONSE_VALUE)),
    ],
    extensions: Some(13),
};

/// `ResponseValue` and `Response` have the same fields here, one inside the other.
static RESPONSE_VALUE: Message =
    Message { fields: &[("", Form::Message(1, &RESPONSE))], extensions: None };

static RESPONSE: Message = Message {
    fields: &[("description", Form::Text(1)), ("schema", Form::Wrapped(2, &SCHEMA))],
    extensions: None,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("name", Form::Text(2)),
        ("in", Form::Text(3)),
        ("required", Form::Flag(4)),
        ("schema", Form::Message(5, &SCHEMA)),
    ],
    extensions: None,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("in", Form::Text(2)),
        ("name", Form::Text(4)),
        ("type", Form::Text(6)),
        ("uniqueItems", Form::Flag(20)),
    ],
    extensions: None,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", Form::Flag(1)),
        ("in", Form::Text(2)),
        ("name", Form::Text(4)),
        ("type", Form::Text(5)),
    ],
    extensions: None,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", Form::Text(1)),
        ("format", Form::Text(2)),
        ("title", Form::Text(3)),
        ("description", Form::Text(4)),
        ("required", Form::Texts(19)),
        ("additionalProperties", Form::Wrapped(21, &SCHEMA)),
        ("type", Form::WrappedText(22)),
        ("items", Form::Wrapped(23, &SCHEMA)),
        ("allOf", Form::Messages(24, &SCHEMA)),
        ("properties", Form::Map(25, 1, &SCHEMA)),
    ],
    extensions: Some(31),
};

/// The document as bytes.
pub(super) fn document(json: &Value) -> Vec<u8> {
    message(&DOCUMENT, json)
}

fn message(message: &Message, json: &Value) -> Vec<u8> {
    let mut to = Vec::new();
    for (name, form) in message.fields {
        // The nameless field is the object itself.
        let value = if name.is_empty() { Some(json) } else { json.get(name) };
        if let Some(value) = value {
            write(form, value, &mut to);
        }
    }
    let extensions = json.as_object().into_iter().flatten().filter(|(n, _)| n.starts_with("x-"));
    if let Some(number) = message.extensions {
        for (name, value) in extensions {
            // NamedAny: name = 1, value = 2, an Any whose text is field 2.
            let any = field(2, value.to_string().as_bytes());
            let named = [field(1, name.as_bytes()), field(2, &any)].concat();
            to.extend(field(number, &named));
        }
    }
    to
}

fn write(form: &Form, value: &Value, to: &mut Vec<u8>) {
    let texts = || value.as_array().into_iter().flatten().filter_map(Value::as_str);
    match form {
        Form::Text(number) => {
            if let Some(text) = value.as_str() {
                to.extend(field(*number, text.as_bytes()));
            }
        }
        Form::Flag(number) => {
            if value == true {
                varint(number << 3, to);
                varint(1, to);
            }
        }
        Form::Texts(number) => texts().for_each(|t| to.extend(field(*number, t.as_bytes()))),
        Form::Message(number, inner) => to.extend(field(*number, &message(inner, value))),
        Form::Messages(number, inner) => {
            for item in value.as_array().into_iter().flatten() {
                to.extend(field(*number, &message(inner, item)));
            }
        }
        Form::Wrapped(number, inner) => {
            if value.is_object() {
                to.extend(field(*number, &field(1, &message(inner, value))));
            }
        }
        Form::WrappedText(number) => {
            let one = value.as_str();
            for text in one.into_iter().chain(texts()) {
                to.extend(field(*number, &field(1, text.as_bytes())));
            }
        }
        Form::Map(number, list, inner) => {
            let mut pairs = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let pair = [field(1, name.as_bytes()), field(2, &message(inner, value))].concat();
                pairs.extend(field(*list, &pair));
            }
            to.extend(field(*number, &pairs));
        }
        Form::Parameters(number) => {
            for parameter in value.as_array().into_iter().flatten() {
                // Parameter: body = 1, other = 2, of which query = 3 and path = 4.
                let inner = match parameter["in"].as_str() {
                    Some("body") => field(1, &message(&BODY_PARAMETER, parameter)),
                    Some("query") => field(2, &field(3, &message(&QUERY_PARAMETER, parameter))),
                    _ => field(2, &field(4, &message(&PATH_PARAMETER, parameter))),
                };
                to.extend(field(*number, &field(1, &inner)));
            }
        }
    }
}

/// A field of bytes: key, length, content.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut to = Vec::with_capacity(content.len() + 8);
    varint(number << 3 | 2, &mut to);
    varint(content.len() as u64, &mut to);
    to.extend_from_slice(content);
    to
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_the_message_that_protoc_would_write() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "T", "version": "v1"},
            "definitions": {"a.B": {
                "type": "object",
                "required": ["x"],
                "properties": {"x": {"$ref": "#/definitions/C"}},
                "x-e": 1,
            }},
        });
        let reference = b"\x0a\x0f#/definitions/C";
        let x = [b"\x0a\x01x\x12\x11", &reference[..]].concat();
        let properties = [b"\x0a\x16", &x[..]].concat();
        let schema = [
            b"\x9a\x01\x01x".as_slice(),
            b"\xb2\x01\x08\x0a\x06object",
            b"\xca\x01\x18",
            &properties,
            b"\xfa\x01\x0a\x0a\x03x-e\x12\x03\x12\x011",
        ]
        .concat();
        let length = u8::try_from(schema.len()).unwrap();
        let named = [b"\x0a\x03a.B\x12".as_slice(), &[length], &schema].concat();
        let definitions = [&[0x0a, length + 7][..], &named].concat();
        let expected = [
            b"\x0a\x032.0\x12\x07\x0a\x01T\x12\x02v1".as_slice(),
            &[0x4a, length + 9],
            &definitions,
        ]
        .concat();
        assert_eq!(super::document(&document), expected);
    }

    #[test]
    fn lengths_beyond_a_byte_are_varints() {
        assert_eq!(field(1, &[b'x'; 300])[..3], [0x0a, 0xac, 0x02]);
        let mut to = Vec::new();
        varint(u64::MAX, &mut to);
        assert_eq!(to, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }
}
