//! Request bodies: bounded, decoded, checked against the kind's schema.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portolan_api::Kind;
use portolan_api::schema::{self, Decoded, Strictness};
use serde_json::Value;

use crate::negotiate::{self, BodyType};
use crate::protobuf::{self, ProtobufError};
use crate::server::Body;
use crate::status::{Result, Status};

/// Upstream's `--max-request-bytes`: etcd's limit on requests, times two.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;

/// Reads a whole body.
///
/// # Errors
/// 413 beyond the limit, 400 when the client goes away in the middle.
pub(crate) async fn read(body: Body) -> Result<Bytes> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Status::too_large(format_args!("limit is {LIMIT}")))
        }
        Err(error) => Err(Status::bad_request(format!("error reading the body: {error}"))),
    }
}

/// Decodes an object of `kind`; answers warnings about its fields.
///
/// # Errors
/// 400 (syntax, other kind or version, wrong types, unknown fields when strict), 415.
pub(crate) fn object(
    kind: &'static Kind,
    headers: &HeaderMap,
    bytes: &[u8],
    strictness: Strictness,
) -> Result<(Value, Vec<String>)> {
    let decoded = decode(kind.schema, headers, bytes)?;
    let mut value = decoded.value;
    check_type(&mut value, &kind.api_version(), kind.kind)?;
    let warnings = schema::check(kind, &mut value, &decoded.duplicates, strictness)
        .map_err(|e| Status::bad_request(e.0))?;
    Ok((value, warnings))
}

/// Decodes an object that is not in the table of kinds, e.g. a Scale.
///
/// # Errors
/// As [`object`].
pub(crate) fn component(
    component: &str,
    api_version: &str,
    kind: &str,
    headers: &HeaderMap,
    bytes: &[u8],
    strictness: Strictness,
) -> Result<(Value, Vec<String>)> {
    let decoded = decode(component, headers, bytes)?;
    let mut value = decoded.value;
    check_type(&mut value, api_version, kind)?;
    let warnings = schema::check_component(component, &mut value, &decoded.duplicates, strictness)
        .map_err(|e| Status::bad_request(e.0))?;
    Ok((value, warnings))
}

/// Decodes a body of the given component, whatever it is in.
///
/// # Errors
/// 400 for malformed bodies, 415.
pub(crate) fn decode(component: &str, headers: &HeaderMap, bytes: &[u8]) -> Result<Decoded> {
    match negotiate::body(headers)? {
        BodyType::Text(content_type) => {
            schema::decode(bytes, content_type).map_err(|e| Status::bad_request(e.0))
        }
        BodyType::Protobuf => protobuf::decode(bytes, component)
            .map(|value| Decoded { value, duplicates: Vec::new() })
            .map_err(|error| match error {
                // The client may send the same as JSON.
                ProtobufError::Unknown(_) => Status::unsupported_media_type(negotiate::TEXT_TYPES),
                error => Status::bad_request(error.to_string()),
            }),
    }
}

/// A body may leave its type out; it may not name another.
fn check_type(value: &mut Value, api_version: &str, kind: &str) -> Result<()> {
    let Some(object) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get \
             version/kind; json parse error: the body is not an object"
        )));
    };
    let sent = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let (sent_version, sent_kind) = (sent("apiVersion"), sent("kind"));
    if !sent_kind.is_empty() && sent_kind != kind {
        let version = if sent_version.is_empty() { api_version } else { &sent_version };
        return Err(Status::bad_request(format!(
            "{sent_kind} in version {version:?} cannot be handled as a {kind}: the kind in the \
             data ({sent_kind}) does not match the expected kind ({kind})"
        )));
    }
    if !sent_version.is_empty() && sent_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({sent_version}) does not match the expected API version \
             ({api_version})"
        )));
    }
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn protobuf_of_a_type_that_is_not_known_is_an_unsupported_media_type() {
        let value = HeaderValue::from_static(protobuf::MEDIA_TYPE);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
        let body = b"k8s\0\x0a\x00\x12\x00";
        let status = decode("io.k8s.api.example.v1.Unheard", &headers, body).unwrap_err();
        assert_eq!((status.code.as_u16(), status.reason), (415, "UnsupportedMediaType"));
        assert!(status.message.ends_with("application/json, application/yaml"), "{status:?}");
        assert!(decode("io.k8s.api.batch.v1.Job", &headers, body).is_ok());
        let status = decode("io.k8s.api.batch.v1.Job", &headers, b"{}").unwrap_err();
        assert_eq!(status.code, 400);
    }
}
