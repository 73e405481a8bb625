//! Lines of the CRI log format into what the client reads.
//!
//! `<RFC 3339 time> <stdout|stderr> <P|F> <text>`. A line that was cut into pieces (P) is put
//! together again, and its time is shown once, at its beginning. A line that is not of the
//! format is left out, as kubelet does.

use jiff::Timestamp;

use super::{Options, Timestamps, Wanted};

/// Turns file bytes into text, line by line.
pub(super) struct Format {
    since: Option<Timestamp>,
    timestamps: Timestamps,
    stream: Wanted,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// The beginning of a line whose end has not come yet.
    cut: Vec<u8>,
    /// For each stream, whether the next text begins a line.
    at: [LineStart; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LineStart {
    Yes,
    No,
}

struct Line<'a> {
    time: &'a [u8],
    stream: Wanted,
    whole: bool,
    text: &'a [u8],
}

impl Format {
    pub(super) fn new(options: &Options) -> Format {
        Format {
            since: options.since,
            timestamps: options.timestamps,
            stream: options.stream,
            left: options.limit,
            cut: Vec::new(),
            at: [LineStart::Yes; 2],
        }
    }

    /// Whether the limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Adds file bytes; text goes to `out`.
    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.cut.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.cut);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
        }
        self.cut.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        if self.stream != Wanted::All && self.stream != line.stream {
            return;
        }
        let at = &mut self.at[usize::from(line.stream == Wanted::Stderr)];
        let start = std::mem::replace(at, if line.whole { LineStart::Yes } else { LineStart::No });
        if let Some(since) = self.since
            && time(line.time).is_none_or(|time| time < since)
        {
            return;
        }
        if start == LineStart::Yes && self.timestamps == Timestamps::Shown {
            self.put(line.time, out);
            self.put(b" ", out);
        }
        self.put(line.text, out);
        if line.whole {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let size = match &mut self.left {
            Some(left) => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
                *left -= size as u64;
                size
            }
            None => text.len(),
        };
        out.extend_from_slice(&text[..size]);
    }
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = fields.next()?;
    let stream = match fields.next()? {
        b"stdout" => Wanted::Stdout,
        b"stderr" => Wanted::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first is the one that tells pieces from whole lines.
    let whole = match fields.next()?.first()? {
        b'F' => true,
        b'P' => false,
        _ => return None,
    };
    Some(Line { time, stream, whole, text: fields.next().unwrap_or_default() })
}

fn time(text: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
