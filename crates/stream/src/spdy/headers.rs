//! Name/value header blocks, deflated with SPDY/3's dictionary over the connection's life.
//!
//! One deflate stream runs through all frames of a direction, so every block must pass through
//! here in order, even that of a stream that is refused. Each block ends with a sync flush.
//! (SPDY/3 draft, section 2.6.10.)

use std::sync::OnceLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// A frame's headers: lower-case names, each once; several values are joined by NUL on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header; the name is lowered, as the wire demands.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first value of a header; `name` in any case.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        value.split('\0').next()
    }

    /// All names and values, in order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        push_length(&mut block, self.0.len());
        for (name, value) in &self.0 {
            for text in [name, value] {
                push_length(&mut block, text.len());
                block.extend_from_slice(text.as_bytes());
            }
        }
        block
    }

    fn from_block(block: &[u8]) -> Result<Self, SpdyError> {
        let mut rest = block;
        let count = take_length(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            let value = take_text(&mut rest)?;
            // Names that differ in case are one header to HTTP, and the draft wants them lowered.
            headers.push((name.to_ascii_lowercase(), value));
        }
        if !rest.is_empty() {
            return Err(SpdyError::Headers("bytes after the last header"));
        }
        Ok(Self(headers))
    }
}

fn push_length(block: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("our own headers are far below 4 GiB");
    block.extend_from_slice(&length.to_be_bytes());
}

fn take_length(rest: &mut &[u8]) -> Result<usize, SpdyError> {
    let (length, tail) =
        rest.split_first_chunk::<4>().ok_or(SpdyError::Headers("cut short in a length"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*length) as usize)
}

fn take_text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_length(rest)?;
    let (text, tail) =
        rest.split_at_checked(length).ok_or(SpdyError::Headers("cut short in a text"))?;
    *rest = tail;
    // Go writes header values as they are; whatever is not UTF-8 cannot be one we look for.
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Deflates the header blocks that we send.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::best(), true);
        compress
            .set_dictionary(dictionary())
            .expect("a fresh zlib stream takes a dictionary before its first byte");
        Self(compress)
    }

    /// Appends the deflated block to `out`.
    pub(super) fn deflate(&mut self, headers: &Headers, out: &mut Vec<u8>) {
        let block = headers.to_block();
        let mut rest = &block[..];
        loop {
            out.reserve(rest.len() / 2 + 64);
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, out, FlushCompress::Sync)
                .expect("deflating into a growing vector cannot fail");
            let taken = usize::try_from(self.0.total_in() - before)
                .expect("no more is taken than was given");
            rest = &rest[taken..];
            // Spare room left over means that the flush is complete.
            if rest.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }
}

/// Inflates the header blocks that we receive, up to a limit for each.
pub(super) struct Inflater {
    inflate: Decompress,
    limit: usize,
}

impl Inflater {
    pub(super) fn new(limit: usize) -> Self {
        Self { inflate: Decompress::new(true), limit }
    }

    pub(super) fn inflate(&mut self, deflated: &[u8]) -> Result<Headers, SpdyError> {
        let mut block = Vec::with_capacity(deflated.len().saturating_mul(3).min(self.limit) + 1);
        let mut rest = deflated;
        loop {
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let outcome = self.inflate.decompress_vec(rest, &mut block, FlushDecompress::Sync);
            let moved = self.inflate.total_in() - taken;
            rest = &rest[usize::try_from(moved).expect("no more is taken than was given")..];
            match outcome {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers("deflate stream ended")),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(dictionary())
                        .map_err(|_| SpdyError::Headers("another dictionary than SPDY/3's"))?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Headers("does not inflate")),
            }
            if block.len() > self.limit {
                return Err(SpdyError::HeadersTooLarge);
            }
            if block.len() == block.capacity() {
                block.reserve(block.len().max(256));
            } else if rest.is_empty() {
                return Headers::from_block(&block);
            } else if moved == 0 && self.inflate.total_out() == made {
                return Err(SpdyError::Headers("does not inflate"));
            }
        }
    }
}

/// The words of SPDY/3's dictionary, each preceded by its length there.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What follows the words, without lengths.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request",
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented",
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 ",
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,",
    "application/xml,application/xhtml+xml,text/plain,text/javascript,public",
    "privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::with_capacity(1423);
        for word in WORDS {
            push_length(&mut bytes, word.len());
            bytes.extend_from_slice(word.as_bytes());
        }
        bytes.extend_from_slice(TAIL.as_bytes());
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflate(deflater: &mut Deflater, headers: &Headers) -> Vec<u8> {
        let mut out = Vec::new();
        deflater.deflate(headers, &mut out);
        out
    }

    #[test]
    fn the_dictionary_is_spdy_3s() {
        let deflated = deflate(&mut Deflater::new(), &Headers::new());
        // zlib's header says that there is a dictionary, then comes the Adler-32 of SPDY/3's.
        assert_eq!(deflated[1] & 0x20, 0x20);
        assert_eq!(deflated[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn blocks_share_one_deflate_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new(64 << 10));
        for request in 0..50 {
            let headers = Headers::new()
                .with("streamType", "data")
                .with("port", "8080")
                .with("requestID", request.to_string());
            let deflated = deflate(&mut deflater, &headers);
            let inflated = inflater.inflate(&deflated).unwrap();
            assert_eq!(inflated, headers);
            assert_eq!(inflated.value("RequestID"), Some(request.to_string().as_str()));
        }
    }

    #[test]
    fn a_block_beyond_the_limit_is_refused_without_inflating_it_all() {
        let headers = Headers::new().with("a", "x".repeat(10 << 20));
        let deflated = deflate(&mut Deflater::new(), &headers);
        assert!(deflated.len() < 64 << 10);
        assert_eq!(Inflater::new(64 << 10).inflate(&deflated), Err(SpdyError::HeadersTooLarge));
    }

    #[test]
    fn a_count_without_headers_is_refused() {
        assert_eq!(
            Headers::from_block(&u32::MAX.to_be_bytes()),
            Err(SpdyError::Headers("cut short in a length"))
        );
    }
}
