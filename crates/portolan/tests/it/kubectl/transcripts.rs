//! Transcripts: what is typed, and all that is answered.
//!
//! ```text
//!   # a comment
//!   $ a shell command, with kubectl on this lab; `<<EOF` takes the lines up to EOF along
//!   the lines of both outputs; [..] stands for anything in a line, ... for any lines
//!   ? the exit code, when it is not 0
//! ```
//!
//! `PORTOLAN_TRANSCRIPTS=overwrite` writes what was answered instead of comparing it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::Cluster;

/// Whatever is wrong is answered as upstream answers it, and changes nothing.
pub(crate) fn bad_input(cluster: &Cluster) {
    cluster.run(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let state = || cluster.run(&["get", "cm,svc,deploy,pods", "-o", "yaml"]);
    let before = state();
    play(cluster, "bad-input.txt");
    assert_eq!(state(), before, "bad input changed something");
}

/// Commands and outputs of an introduction to Services, as upstream prints them.
pub(crate) fn services(cluster: &Cluster) {
    play(cluster, "services.txt");
}

#[derive(Default)]
struct Step {
    comments: String,
    command: String,
    output: String,
    code: i32,
}

fn play(cluster: &Cluster, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(name);
    let text = fs::read_to_string(&path).expect("the transcript is there");
    let overwrite = std::env::var("PORTOLAN_TRANSCRIPTS").is_ok_and(|how| how == "overwrite");
    let (mut written, mut wrong) = (String::new(), String::new());
    for step in parse(&text) {
        let mut command = Command::new("timeout");
        command.args(["30", "sh", "-c", &format!("exec 2>&1\n{}", step.command)]);
        cluster.environment(&mut command);
        let server =
            cluster.run(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let output = command.env("SERVER", server).output().expect("sh runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code().unwrap_or(-1);
        if overwrite {
            let kept = if matches(&step.output, &shown) { &step.output } else { &shown };
            let code = if code == 0 { String::new() } else { format!("? {code}\n") };
            written += &format!("{}$ {}\n{kept}{code}", step.comments, step.command);
        } else if code != step.code || !matches(&step.output, &shown) {
            wrong += &format!(
                "$ {}\n--- expected ({})\n{}--- answered ({code})\n{shown}\n",
                step.command, step.code, step.output
            );
        }
    }
    if overwrite {
        fs::write(&path, written).expect("the transcript can be written");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut comments = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let mut step = Step { comments: std::mem::take(&mut comments), ..Step::default() };
            step.command = command.to_owned();
            if command.contains("<<EOF") {
                for line in lines.by_ref() {
                    step.command.push('\n');
                    step.command += line;
                    if line == "EOF" {
                        break;
                    }
                }
            }
            steps.push(step);
        } else if line.starts_with('#') || line.is_empty() {
            comments += &format!("{line}\n");
        } else if let Some(code) = line.strip_prefix("? ") {
            steps.last_mut().expect("a command comes first").code = code.parse().expect("a code");
        } else {
            steps.last_mut().expect("a command comes first").output += &format!("{line}\n");
        }
    }
    steps
}

/// Whether the shown lines are the expected ones.
fn matches(expected: &str, shown: &str) -> bool {
    let expected: Vec<_> = expected.lines().collect();
    let shown: Vec<_> = shown.lines().filter(|line| !line.is_empty()).collect();
    lines_match(&expected, &shown)
}

fn lines_match(expected: &[&str], shown: &[&str]) -> bool {
    match (expected, shown) {
        ([], []) => true,
        (["...", rest @ ..], _) => (0..=shown.len()).any(|skip| lines_match(rest, &shown[skip..])),
        ([first, rest @ ..], [line, others @ ..]) => {
            line_matches(first, line) && lines_match(rest, others)
        }
        _ => false,
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((head, tail)) = pattern.split_once("[..]") else { return pattern == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| line_matches(tail, &rest[at..]))
}

#[test]
fn transcripts_match_by_lines_and_wildcards() {
    assert!(matches("a [..] c\n...\nend\n", "a b c\nx\ny\n\nend\n"));
    assert!(matches("...\n", ""));
    assert!(!matches("a\n", "a\nb\n"));
    assert!(!matches("a [..] c\n", "a b d\n"));
}
