//! A container's log: lines in the CRI log format, in a file that is rotated at a size.
//!
//! `<RFC 3339 time with nanoseconds, UTC> <stdout|stderr> <P|F> <text>`: P marks a piece of a line that
//! was too long (16 KiB, as containerd cuts), F a line's end. A process that floods its output
//! fills two files of the limit and no more.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Longest text of one log line.
const LINE: usize = 16 * 1024;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, and a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The lines of one stream under way.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    /// No line yet.
    pub(crate) fn new(stream: Stream) -> Lines {
        Lines { stream, pending: Vec::new() }
    }

    /// Adds output; whole lines and over-long pieces are written to `out` as log lines.
    pub(crate) fn push(&mut self, mut bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LINE - self.pending.len();
            let taken = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
            match taken.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.pending.extend_from_slice(&taken[..end]);
                    self.line(time, 'F', out);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.pending.extend_from_slice(taken);
                    bytes = &bytes[taken.len()..];
                    if self.pending.len() == LINE {
                        self.line(time, 'P', out);
                    }
                }
            }
        }
    }

    /// The stream ended: what is pending becomes a line.
    pub(crate) fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.line(time, 'F', out);
        }
    }

    fn line(&mut self, time: &str, tag: char, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{time} {} {tag} ", self.stream.name());
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// The file, and its rotation.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl Log {
    /// Opens the log of a new instance, empty.
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Log> {
        Ok(Log { path: path.to_owned(), file: open(path)?, size: 0, limit })
    }

    /// Where the file before the last rotation is.
    pub(crate) fn rotated(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        name.into()
    }

    /// Appends log lines, rotating first when they would pass the limit.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self.size > 0 && self.size + length > self.limit {
            std::fs::rename(&self.path, Log::rotated(&self.path))?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(lines)?;
        self.size += length;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(path)
}

/// The present time as log lines carry it.
pub(crate) fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pushes: &[&[u8]]) -> String {
        let mut lines = Lines::new(Stream::Stdout);
        let mut out = Vec::new();
        for bytes in pushes {
            lines.push(bytes, "T", &mut out);
        }
        lines.finish("T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_split_over_writes_is_one_log_line() {
        assert_eq!(lines(&[b"he", b"llo\nwor", b"ld"]), "T stdout F hello\nT stdout F world\n");
    }

    #[test]
    fn an_empty_line_is_a_log_line() {
        assert_eq!(lines(&[b"\n\n"]), "T stdout F \nT stdout F \n");
    }

    #[test]
    fn an_overlong_line_is_cut_into_pieces() {
        let long = vec![b'x'; LINE + 3];
        let out = lines(&[&long, b"\n"]);
        let all: Vec<&str> = out.lines().collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].starts_with("T stdout P x") && all[0].len() == LINE + 11);
        assert_eq!(all[1], "T stdout F xxx");
    }

    #[test]
    fn a_flood_fills_two_files_of_the_limit_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::create(&path, 1000).unwrap();
        for _ in 0..1000 {
            log.write(&[b'y'; 100]).unwrap();
        }
        let total: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= 2000, "{total}");
        assert!(Log::rotated(&path).exists());
    }

    #[test]
    fn the_time_has_nine_digits_and_is_utc() {
        let time = timestamp();
        assert_eq!(time.len(), "2016-10-06T00:17:09.669794202Z".len());
        assert!(time.ends_with('Z'));
    }
}
