//! Content negotiation: which encoding and which transformation a client wants, and what its body is in.
//!
//! Follows `apiserver/pkg/endpoints/handlers/negotiation`: entries of `Accept` by quality and order; `as`, `v` and `g`
//! parameters ask for a Table or for PartialObjectMetadata. Protobuf is read but not written, so a client that lists
//! JSON behind it gets JSON, and one that does not gets 406.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use portolan_api::schema::ContentType;

use crate::protobuf;
use crate::query::MAX_FIELD_MANAGER;
use crate::status::{Result, Status};

const SERVED_TYPES: &str = "application/json, application/yaml";
/// What every body can be in.
pub(crate) const TEXT_TYPES: &str = SERVED_TYPES;
const BODY_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, \
                           application/strategic-merge-patch+json, application/apply-patch+yaml";

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What the answer is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    None,
    Table,
    PartialMetadata,
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) encoding: Encoding,
    pub(crate) transform: Transform,
}

/// One entry of an `Accept` header.
pub(crate) struct MediaRange<'a> {
    pub(crate) essence: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    pub(crate) fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// The entries of `Accept`, best first; no header means anything.
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let essence = parts.next().filter(|e| !e.is_empty())?;
            let params = parts.filter_map(|p| p.split_once('=')).collect();
            Some(MediaRange { essence, params })
        })
        .collect();
    if ranges.is_empty() {
        ranges.push(MediaRange { essence: "*/*", params: Vec::new() });
    }
    let quality =
        |r: &MediaRange<'_>| r.param("q").and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
    ranges.sort_by(|a, b| quality(b).total_cmp(&quality(a)));
    ranges
}

fn encoding(essence: &str) -> Option<Encoding> {
    match essence {
        "*/*" | "application/*" | "application/json" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        _ => None,
    }
}

/// Negotiates an object, a list or a watch.
///
/// # Errors
/// 406 when nothing that the client accepts is served.
pub(crate) fn object(headers: &HeaderMap) -> Result<Accepted> {
    for range in ranges(headers) {
        let Some(encoding) = encoding(range.essence) else { continue };
        let transform = match (range.param("as"), range.param("g"), range.param("v")) {
            (None, ..) => Transform::None,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Transform::Table,
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Transform::PartialMetadata,
            _ => continue,
        };
        return Ok(Accepted { encoding, transform });
    }
    Err(Status::not_acceptable(SERVED_TYPES))
}

/// The encoding alone, for Statuses and documents: JSON when in doubt.
pub(crate) fn plain(headers: &HeaderMap) -> Encoding {
    ranges(headers).iter().find_map(|r| encoding(r.essence)).unwrap_or(Encoding::Json)
}

/// What the body of a create, update or delete is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyType {
    Text(ContentType),
    Protobuf,
}

/// Reads `Content-Type`.
///
/// # Errors
/// 415 for anything but JSON, YAML and protobuf.
pub(crate) fn body(headers: &HeaderMap) -> Result<BodyType> {
    match content_type(headers) {
        "" | "application/json" | "*/*" => Ok(BodyType::Text(ContentType::Json)),
        "application/yaml" => Ok(BodyType::Text(ContentType::Yaml)),
        protobuf::MEDIA_TYPE => Ok(BodyType::Protobuf),
        _ => Err(Status::unsupported_media_type(BODY_TYPES)),
    }
}

/// The kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// Which kind of patch a body is.
///
/// # Errors
/// 415 for anything else.
pub(crate) fn patch(headers: &HeaderMap) -> Result<PatchType> {
    match content_type(headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        _ => Err(Status::unsupported_media_type(PATCH_TYPES)),
    }
}

/// Whether a patch is a configuration to apply on the server.
pub(crate) fn is_apply(headers: &HeaderMap) -> bool {
    content_type(headers) == "application/apply-patch+yaml"
}

/// What the client calls itself: its `User-Agent` up to the first slash, bounded (upstream: prefixFromUserAgent).
pub(crate) fn client(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    // A header's text is printable ASCII.
    agent.split('/').next().unwrap_or("").chars().take(MAX_FIELD_MANAGER).collect()
}

fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, http::HeaderValue::from_static(value))])
    }

    #[test]
    fn kubectl_get_is_answered_with_a_table() {
        let headers = accepting(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=\
             meta.k8s.io,application/json",
        );
        assert_eq!(object(&headers).unwrap().transform, Transform::Table);
    }

    #[test]
    fn protobuf_alone_is_not_acceptable_and_with_json_is_json() {
        assert_eq!(
            object(&accepting("application/vnd.kubernetes.protobuf")).unwrap_err().code,
            406
        );
        let headers = accepting("application/vnd.kubernetes.protobuf,application/json");
        assert_eq!(object(&headers).unwrap().encoding, Encoding::Json);
    }

    #[test]
    fn quality_orders_the_entries() {
        let headers = accepting("application/json;q=0.5, application/yaml");
        assert_eq!(object(&headers).unwrap().encoding, Encoding::Yaml);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_negotiated_or_refused(
            text in proptest::prop_oneof![
                "(application/(json|yaml|[*])|[*]/[*]|text/html|;as=Table|;g=meta[.]k8s[.]io|;v=v1|;q=[0-9a-zN.-]{0,4}|,| ){0,9}",
                "[ -~]{0,60}",
            ],
        ) {
            let value = http::HeaderValue::from_str(&text).unwrap();
            let headers = HeaderMap::from_iter([(ACCEPT, value.clone()), (CONTENT_TYPE, value)]);
            plain(&headers);
            if let Err(status) = object(&headers) {
                proptest::prop_assert_eq!(status.code, 406);
            }
            if let Err(status) = body(&headers) {
                proptest::prop_assert_eq!(status.code, 415);
            }
            if let Err(status) = patch(&headers) {
                proptest::prop_assert_eq!(status.code, 415);
            }
        }
    }
}
