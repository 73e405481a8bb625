//! `trace` and `diff` through the binary: what the README shows, exit codes, standard input.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::harness::{User, portolan, text};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The README's commands of these two, with what it says that they print.
fn shown() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let mut shown: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        let code = line.strip_prefix("    ");
        match code.and_then(|code| code.strip_prefix("$ portolan ")) {
            Some(command) => {
                inside = true;
                shown.push((command.to_owned(), String::new()));
            }
            None => match (code.filter(|_| inside), shown.last_mut()) {
                (Some(code), Some((_, printed))) => *printed += &format!("{code}\n"),
                _ => inside = false,
            },
        }
    }
    shown
}

#[test]
fn the_readme_shows_what_trace_and_diff_print() {
    let shown = shown();
    let commands: Vec<_> = shown.iter().filter_map(|(c, _)| c.split_whitespace().next()).collect();
    assert_eq!(commands, ["trace", "diff"]);
    for ((command, printed), code) in shown.iter().zip([0, 1]) {
        let mut run = portolan(User::Root, command.split_whitespace());
        let output = run.current_dir(root()).output().expect("portolan runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), *printed);
    }
}

#[test]
fn standard_input_and_wrong_arguments() {
    let objects = std::fs::read(root().join("docs/examples/rollout.yaml")).expect("it is there");
    let question =
        ["trace", "-f", "-", "--from", "external", "--to", "10.96.0.10:80", "-o", "json"];
    let mut run = portolan(User::Ordinary, question);
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = run.spawn().expect("portolan runs");
    child.stdin.take().expect("it is piped").write_all(&objects).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("\"verdict\": \"DNAT\""), "{}", text(&output));
    for (arguments, code, word) in [
        (
            &["trace", "-f", "/nowhere", "--from", "external", "--to", "10.0.0.1:1"][..],
            1,
            "/nowhere",
        ),
        (&["trace", "-f", "/dev/null", "--from", "here", "--to", "10.0.0.1:1"], 2, "external"),
        (&["trace", "-f", "/dev/null", "--from", "external"], 2, "--to"),
        (&["diff", "--base", "/dev/null", "-f", "/nowhere"], 2, "/nowhere"),
        (&["diff", "--base", "/dev/null", "-f", "/dev/null"], 0, "no flow changes"),
    ] {
        let output = portolan(User::Ordinary, arguments).output().expect("portolan runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(word), "{}", text(&output));
    }
}

#[test]
fn an_ordinary_user_is_told_what_the_kernel_comparison_needs() {
    let question =
        "trace --kernel --proxy-mode nftables -f /dev/null --from external --to 10.0.0.1:1";
    let mut run = portolan(User::Ordinary, question.split_whitespace());
    let output = run.output().expect("portolan runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("hint: run it as root in the node's network namespace"),
        "{}",
        text(&output)
    );
}
