//! Responses: objects, lists, tables, Statuses and streams in the negotiated form.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::Timestamp;
use portolan_api::Kind;
use portolan_store::Stored;
use serde::Serialize;
use serde_json::{Value, json};

use crate::convert;
use crate::encode::{Versioned, to_json};
use crate::negotiate::{Accepted, Encoding, Transform};
use crate::registry::ListPage;
use crate::server::Body;
use crate::status::{Result, Status};
use crate::table::{Headers, IncludeObject, table};

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Text for people and probes.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    response(code, "text/plain; charset=utf-8", full(text.into()))
}

/// A document that is encoded already.
pub(crate) fn document(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    response(StatusCode::OK, content_type, full(bytes))
}

pub(crate) fn value(
    encoding: Encoding,
    code: StatusCode,
    value: &impl Serialize,
) -> Response<Body> {
    match encoding {
        Encoding::Json => response(code, "application/json", full(to_json(value))),
        // By way of a tree: what is text already is JSON.
        Encoding::Yaml => match serde_json::to_value(value)
            .map_err(|error| error.to_string())
            .and_then(|tree| serde_saphyr::to_string(&tree).map_err(|error| error.to_string()))
        {
            Ok(yaml) => response(code, "application/yaml", full(yaml)),
            Err(error) => status(Encoding::Json, &Status::internal(error)),
        },
    }
}

pub(crate) fn status(encoding: Encoding, status: &Status) -> Response<Body> {
    let mut response = value(encoding, status.code, &status.to_value());
    let retry = status.details.as_ref().and_then(|d| d["retryAfterSeconds"].as_u64());
    if let Some(seconds) = retry {
        response.headers_mut().insert("Retry-After", HeaderValue::from(seconds));
    }
    response
}

/// One object.
pub(crate) fn object(
    accepted: Accepted,
    include: IncludeObject,
    kind: &'static Kind,
    stored: &Stored,
    code: StatusCode,
) -> Response<Body> {
    let encoding = accepted.encoding;
    match accepted.transform {
        Transform::None => value(encoding, code, &Versioned::of(kind, stored)),
        Transform::PartialMetadata => {
            value(encoding, code, &Versioned::of(kind, stored).into_partial())
        }
        Transform::Table => {
            let metadata = json!({"resourceVersion": stored.revision.to_string()});
            let kind = convert::stored_kind(kind);
            let rows = std::iter::once(stored);
            let now = Timestamp::now();
            value(encoding, code, &table(kind, rows, include, Headers::Shown, metadata, now))
        }
    }
}

/// A list of objects.
pub(crate) fn list(
    accepted: Accepted,
    include: IncludeObject,
    kind: &'static Kind,
    page: &ListPage,
) -> Response<Body> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a, T> {
        kind: &'a str,
        api_version: String,
        metadata: Value,
        items: Vec<T>,
    }
    let (encoding, code, metadata) = (accepted.encoding, StatusCode::OK, page.metadata());
    let items = page.items.iter().map(|s| Versioned::of(kind, s));
    match accepted.transform {
        Transform::None => {
            let (list_kind, api_version) = (kind.list_kind, kind.api_version());
            let items = items.collect();
            value(encoding, code, &List { kind: list_kind, api_version, metadata, items })
        }
        Transform::PartialMetadata => {
            let api_version = "meta.k8s.io/v1".to_owned();
            let items: Vec<Value> = items.map(Versioned::into_partial).collect();
            let kind = "PartialObjectMetadataList";
            value(encoding, code, &List { kind, api_version, metadata, items })
        }
        Transform::Table => {
            let kind = convert::stored_kind(kind);
            let rows = page.items.iter();
            let now = Timestamp::now();
            value(encoding, code, &table(kind, rows, include, Headers::Shown, metadata, now))
        }
    }
}

/// A watch.
pub(crate) fn stream(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync();
    response(StatusCode::OK, "application/json", body)
}

/// Adds `Warning: 299` headers, which kubectl and client libraries show to people.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Turns a handler's outcome into a response.
pub(crate) fn finish(encoding: Encoding, outcome: Result<Response<Body>>) -> Response<Body> {
    outcome.unwrap_or_else(|s| status(encoding, &s))
}
