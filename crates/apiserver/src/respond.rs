//! Responses: objects, lists, tables, Statuses and streams in the negotiated form.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use portolan_api::Kind;
use portolan_store::Stored;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::compress::Compressible;
use crate::encode::{Partial, Versioned, to_json};
use crate::limits::Turn;
use crate::negotiate::{Accepted, Encoding, Transform};
use crate::pieces::Pieces;
use crate::registry::ListPage;
use crate::server::{Body, BodyError};
use crate::status::{Result, Status};
use crate::table::{Headers, IncludeObject, Table};

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
    let mut response = response(StatusCode::OK, content_type, full(bytes));
    response.extensions_mut().insert(Compressible);
    response
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
    let mut response = match accepted.transform {
        Transform::None => value(encoding, code, &Versioned::of(kind, stored)),
        Transform::PartialMetadata => value(encoding, code, &Partial::of(stored)),
        Transform::Table => {
            value(encoding, code, &Table::of(kind, stored, include, Headers::Shown))
        }
    };
    response.extensions_mut().insert(Compressible);
    response
}

/// A list of objects: whole when it is small, else piece by piece as the client takes it, which ends its turn.
pub(crate) fn list(
    accepted: Accepted,
    include: IncludeObject,
    kind: &'static Kind,
    page: ListPage,
    turn: Option<Turn>,
) -> Response<Body> {
    let mut pieces = Pieces::new(kind, accepted.transform, include, page);
    let mut response = match accepted.encoding {
        Encoding::Yaml => {
            let json: Vec<u8> = pieces.flatten().collect();
            let list: Value = serde_json::from_slice(&json).unwrap_or_default();
            value(Encoding::Yaml, StatusCode::OK, &list)
        }
        Encoding::Json => {
            let first = pieces.next().unwrap_or_default();
            let body = if pieces.is_done() { full(first) } else { in_pieces(first, pieces, turn) };
            response(StatusCode::OK, "application/json", body)
        }
    };
    response.extensions_mut().insert(Compressible);
    response
}

/// Pieces that are ready and not taken: with these a slow client costs no more memory than a fast one.
const AHEAD: usize = 1;
/// A client that takes no piece for so long gets no more.
const STALLED: Duration = Duration::from_secs(60);

/// A body whose next pieces are encoded while the last ones are on their way.
fn in_pieces(first: Bytes, pieces: Pieces, turn: Option<Turn>) -> Body {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _turn = turn;
        for piece in std::iter::once(first).chain(pieces) {
            // Else the client is gone, or does not read.
            let Ok(Ok(())) = timeout(STALLED, sender.send(Some(piece))).await else { return };
        }
        // The end is said, so that a list that was given up is never taken for a whole one.
        let _ = timeout(STALLED, sender.send(None)).await;
    });
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(piece)) => Some((Ok(Frame::data(piece)), Some(receiver))),
            Some(None) => None,
            None => {
                let stalled = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Some((Err(BodyError::new(stalled)), None))
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A watch.
pub(crate) fn watch(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync();
    response(StatusCode::OK, "application/json", body)
}

/// What all warnings of a response may hold together, and one of them when that is too little (upstream's
/// `filters/warning.go`).
const WARNING_CHARACTERS: usize = 4096;
const CUT_WARNING: usize = 256;

/// Adds `Warning: 299` headers, which kubectl and client libraries show to people. Each text comes once; much of it is
/// cut.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen = HashSet::new();
    let texts: Vec<&str> =
        warnings.iter().map(String::as_str).filter(|t| !t.is_empty() && seen.insert(*t)).collect();
    let total: usize = texts.iter().map(|t| t.chars().count()).sum();
    let longest = if total > WARNING_CHARACTERS { CUT_WARNING } else { usize::MAX };
    let mut written = 0;
    for text in texts {
        if written >= WARNING_CHARACTERS {
            return;
        }
        let text: String = text.chars().take(longest).collect();
        written += text.chars().count();
        let plain = text.replace(char::is_control, " ");
        let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Turns a handler's outcome into a response.
pub(crate) fn finish(encoding: Encoding, outcome: Result<Response<Body>>) -> Response<Body> {
    outcome.unwrap_or_else(|s| status(encoding, &s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(texts: &[String]) -> Vec<String> {
        let mut response = Response::new(full(""));
        warn(&mut response, texts);
        let values = response.headers().get_all(WARNING).iter();
        values.map(|v| String::from_utf8(v.as_bytes().to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_warning_comes_once_quoted_and_on_one_line() {
        let texts = ["say \"a\\b\"", "", "two\nlines", "two\nlines", "größe"].map(str::to_owned);
        assert_eq!(
            warned(&texts),
            [r#"299 - "say \"a\\b\"""#, r#"299 - "two lines""#, r#"299 - "größe""#]
        );
    }

    #[test]
    fn many_warnings_are_cut_and_bounded() {
        let texts: Vec<String> = (0..100).map(|i| format!("{i:03}{}", "x".repeat(997))).collect();
        let shown = warned(&texts);
        assert_eq!(shown.len(), WARNING_CHARACTERS / CUT_WARNING);
        assert!(shown.iter().all(|w| w.len() == CUT_WARNING + 8), "{shown:?}");
    }
}
