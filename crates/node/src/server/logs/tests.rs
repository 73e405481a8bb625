//! Logs from files, without a server: options, lines, the last lines, rotation, following.

use std::io::Write as _;
use std::path::PathBuf;

use tokio::sync::watch;

use super::source::{Follow, Source};
use super::*;
use crate::runtime::{ContainerInfo, ContainerPhase, LogFiles};

const NOW: &str = "2026-11-23T12:00:00Z";

fn options(query: &str) -> Result<Options, BadQuery> {
    Options::parse(&Query::parse(query), NOW.parse().unwrap())
}

fn format(query: &str, pieces: &[&str]) -> String {
    let mut format = Format::new(&options(query).unwrap());
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| format.push(piece.as_bytes(), &mut out));
    String::from_utf8(out).unwrap()
}

const LOG: &str = "2026-11-23T11:00:00.000000001Z stdout F one\n\
                   2026-11-23T11:30:00.5Z stderr F two\n\
                   2026-11-23T11:59:59.25Z stdout P thr\n\
                   2026-11-23T11:59:59.5Z stdout F ee\n\
                   not a line of the format\n\
                   2026-11-23T12:00:00Z stdout F \n";

#[test]
fn lines_are_put_together_and_nonsense_is_left_out() {
    assert_eq!(format("", &[LOG]), "one\ntwo\nthree\n\n");
}

#[test]
fn lines_may_come_cut_anywhere() {
    let pieces: Vec<String> = LOG.chars().map(String::from).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    assert_eq!(format("", &pieces), "one\ntwo\nthree\n\n");
}

#[test]
fn a_time_is_shown_once_for_a_line_in_pieces() {
    let text = format("timestamps=true&sinceSeconds=60", &[LOG]);
    assert_eq!(text, "2026-11-23T11:59:59.25Z three\n2026-11-23T12:00:00Z \n");
}

#[test]
fn since_and_stream_choose_lines() {
    assert_eq!(format("sinceTime=2026-11-23T11:30:00Z", &[LOG]), "two\nthree\n\n");
    assert_eq!(format("sinceTime=2026-11-23T12:30:00%2B01:00", &[LOG]), "two\nthree\n\n");
    assert_eq!(format("stream=Stderr", &[LOG]), "two\n");
    assert_eq!(format("stream=Stdout", &[LOG]), "one\nthree\n\n");
}

#[test]
fn limit_bytes_cuts_within_a_line() {
    assert_eq!(format("limitBytes=5", &[LOG]), "one\nt");
}

#[test]
fn bad_options_are_told_by_name() {
    for query in [
        "tailLines=-1",
        "tailLines=many",
        "limitBytes=0",
        "sinceSeconds=1&sinceTime=2026-11-23T11:30:00Z",
        "sinceTime=yesterday",
        "stream=Both",
        "tailLines=1&stream=Stdout",
    ] {
        assert!(options(query).is_err(), "{query}");
    }
}

struct Files {
    _directory: tempfile::TempDir,
    files: LogFiles,
    state: watch::Sender<ContainerInfo>,
}

impl Files {
    fn new(rotated: Option<&str>, current: &str) -> Files {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| -> PathBuf { directory.path().join(name) };
        let files = LogFiles { rotated: file("0.log.1"), current: file("0.log") };
        if let Some(text) = rotated {
            std::fs::write(&files.rotated, text).unwrap();
        }
        std::fs::write(&files.current, current).unwrap();
        let state = watch::channel(ContainerInfo {
            name: "main".into(),
            phase: ContainerPhase::Running,
            attempt: 0,
            tty: false,
            stdin: false,
        });
        Files { _directory: directory, files, state: state.0 }
    }

    fn open(&self, tail: Option<u64>, follow: Follow) -> Source {
        Source::open(self.files.clone(), tail, follow, self.state.subscribe()).unwrap()
    }

    async fn read(&self, tail: Option<u64>) -> String {
        read_to_end(self.open(tail, Follow::No)).await
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.files.current).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self) {
        std::fs::rename(&self.files.current, &self.files.rotated).unwrap();
        std::fs::write(&self.files.current, "").unwrap();
    }
}

async fn read_to_end(mut source: Source) -> String {
    let mut text = Vec::new();
    while source.read(&mut text).await.unwrap() > 0 {}
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn the_last_lines_may_reach_into_the_rotated_file() {
    let files = Files::new(Some("a\nb\n"), "c\nd\n");
    assert_eq!(files.read(None).await, "a\nb\nc\nd\n");
    for (tail, text) in [
        (0, ""),
        (1, "d\n"),
        (2, "c\nd\n"),
        (3, "b\nc\nd\n"),
        (4, "a\nb\nc\nd\n"),
        (9, "a\nb\nc\nd\n"),
    ] {
        assert_eq!(files.read(Some(tail)).await, text, "tailLines={tail}");
    }
}

#[tokio::test]
async fn the_last_lines_are_found_over_many_blocks() {
    let lines: Vec<String> = (0..40_000).map(|i| format!("line {i}\n")).collect();
    let files = Files::new(None, &lines.concat());
    assert_eq!(files.read(Some(30_000)).await, lines[10_000..].concat());
    assert_eq!(files.read(Some(40_000)).await, lines.concat());
}

#[tokio::test]
async fn a_follower_reads_through_rotation_to_the_containers_end() {
    let files = Files::new(None, "one\n");
    let following = tokio::spawn(read_to_end(files.open(None, Follow::Yes)));
    files.append("two\n");
    tokio::task::yield_now().await;
    files.append("three\n");
    files.rotate();
    files.append("four\n");
    tokio::task::yield_now().await;
    files.append("five\n");
    files.state.send_modify(|state| state.phase = ContainerPhase::Terminated);
    assert_eq!(following.await.unwrap(), "one\ntwo\nthree\nfour\nfive\n");
}

#[tokio::test]
async fn a_follower_sees_lines_as_they_come() {
    let files = Files::new(None, "old\n");
    let mut source = files.open(Some(0), Follow::Yes);
    for line in ["one\n", "two\n"] {
        let mut text = Vec::new();
        let (size, ()) = tokio::join!(source.read(&mut text), async { files.append(line) });
        assert_eq!((size.unwrap(), &text[..]), (4, line.as_bytes()));
    }
}

#[tokio::test]
async fn a_follower_ends_with_its_own_instance() {
    let files = Files::new(None, "one\n");
    let source = files.open(None, Follow::Yes);
    files.state.send_modify(|state| state.attempt = 1);
    assert_eq!(read_to_end(source).await, "one\n");
}
