//! gzip of answers, as upstream does it: objects, lists and documents of more than 128 KiB, for clients that ask for it
//! (`apiserver/pkg/endpoints/handlers/responsewriters/writers.go`). Watches and logs stay as they are.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY,
};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};

use crate::server::{Body, BodyError};

/// Smaller answers are not worth it.
const THRESHOLD: u64 = 128 << 10;
/// Compressed bytes that are sent together.
const PIECE: usize = 32 << 10;
/// Bytes that are compressed between two looks at the output.
const STEP: usize = 64 << 10;

/// An extension of responses that may be compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compressible;

/// Whether the client takes gzip: the word alone, without a quality, as upstream reads it.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|token| token.trim() == "gzip")
}

/// Compresses the body of a response that is marked for it and worth it.
pub(crate) fn gzip(mut response: Response<Body>) -> Response<Body> {
    let marked = response.extensions_mut().remove::<Compressible>().is_some();
    // What is sent in pieces has no known size, and is sent in pieces because it is long.
    let long = response.body().size_hint().exact().is_none_or(|size| size > THRESHOLD);
    if !marked || !long || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, compressed(body))
}

struct Compressing {
    body: Body,
    /// What of the body is not compressed yet.
    rest: Bytes,
    encoder: GzEncoder<Vec<u8>>,
}

fn compressed(body: Body) -> Body {
    let encoder = GzEncoder::new(Vec::with_capacity(PIECE), Compression::fast());
    let state = Some(Compressing { body, rest: Bytes::new(), encoder });
    let frames = stream::unfold(state, |state| async move {
        let mut state = state?;
        match state.next_piece().await {
            Ok(Some(piece)) => Some((Ok(Frame::data(piece)), Some(state))),
            Ok(None) => match state.encoder.finish() {
                Ok(end) => Some((Ok(Frame::data(end.into())), None)),
                Err(error) => Some((Err(BodyError::new(error)), None)),
            },
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Compressing {
    /// Compressed bytes; none at the end of the body, when what is left is the encoder's.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        use std::io::Write as _;
        loop {
            if self.encoder.get_ref().len() >= PIECE {
                return Ok(Some(std::mem::take(self.encoder.get_mut()).into()));
            }
            if self.rest.is_empty() {
                match self.body.frame().await {
                    None => return Ok(None),
                    Some(frame) => self.rest = frame?.into_data().unwrap_or_default(),
                }
                continue;
            }
            let step = self.rest.split_to(STEP.min(self.rest.len()));
            self.encoder.write_all(&step).map_err(BodyError::new)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::respond;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_must_be_named_plainly() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("deflate,gzip ,br", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("x-gzip", false),
        ] {
            assert_eq!(accepts_gzip(&accepting(value)), accepted, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn long_documents_are_compressed_and_short_ones_are_not() {
        let text: Vec<u8> =
            (0..300_000_u32).map(|i| b'a' + (i / 7 % 23).to_le_bytes()[0]).collect();
        let response = gzip(respond::document("application/json", text.clone()));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[VARY], "Accept-Encoding");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 2, "{}", bytes.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, text);
        let short = gzip(respond::document("application/json", text[..128 << 10].to_vec()));
        assert!(!short.headers().contains_key(CONTENT_ENCODING));
    }

    #[tokio::test]
    async fn what_is_not_marked_stays_as_it_is() {
        let text = "x".repeat(1 << 20);
        let response = gzip(respond::text(StatusCode::OK, text.clone()));
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    }
}
