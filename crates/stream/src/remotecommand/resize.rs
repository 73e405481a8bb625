//! Terminal sizes, which come as JSON objects one after the other on a stream of their own.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Reader;

/// The longest that one size may be on the wire before it is taken for nonsense.
const LIMIT: usize = 1 << 10;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}

/// Reads sizes off a stream.
pub struct Resizes {
    source: Reader,
    held: Vec<u8>,
}

impl Resizes {
    pub(super) fn new(source: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self { source: Box::new(source), held: Vec::new() }
    }

    /// The next size; `None` when the stream has ended or is no longer JSON.
    ///
    /// Safe to be dropped while it waits: nothing that was read is lost.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.held).into_iter();
            match values.next() {
                Some(Ok(size)) => {
                    let end = values.byte_offset();
                    self.held.drain(..end);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                _ => {}
            }
            if self.held.len() > LIMIT || self.source.read_buf(&mut self.held).await.ok()? == 0 {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_come_whole_or_cut_or_together() {
        let source = tokio_test_reader(&[
            br#"{"Width":80,"Hei"#,
            br#"ght":24}"#,
            b"\n{\"Width\":132,\"Height\":43}{\"Width\":1,\"Height\":2}\n",
        ]);
        let mut sizes = Resizes::new(source);
        assert_eq!(sizes.next().await, Some(TerminalSize { width: 80, height: 24 }));
        assert_eq!(sizes.next().await, Some(TerminalSize { width: 132, height: 43 }));
        assert_eq!(sizes.next().await, Some(TerminalSize { width: 1, height: 2 }));
        assert_eq!(sizes.next().await, None);
    }

    #[tokio::test]
    async fn nonsense_ends_the_sizes() {
        let mut sizes = Resizes::new(&b"not json"[..]);
        assert_eq!(sizes.next().await, None);
        let mut sizes = Resizes::new(tokio::io::repeat(b'['));
        assert_eq!(sizes.next().await, None);
    }

    fn tokio_test_reader(pieces: &'static [&'static [u8]]) -> impl AsyncRead + Send + Unpin {
        use futures::StreamExt as _;
        let pieces = futures::stream::iter(pieces.iter().map(|p| Ok::<_, std::io::Error>(*p)));
        tokio_util::io::StreamReader::new(pieces.boxed())
    }
}
