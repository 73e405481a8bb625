//! Golden cases: objects and questions on one side, answers as JSON and as text on the other.
//!
//! A case is a folder of tests/golden with objects.yaml, questions.txt (`name: arguments`, a line
//! each), what is expected of each, and perhaps a config.yaml of its own. The cluster around them is
//! cluster.yaml. `PORTOLAN_GOLDEN=write` writes what is expected anew; read the difference before
//! you keep it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::ask::ask;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn cases() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// The questions of a case by name, in the order of the file.
fn questions(case: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(case.join("questions.txt")).unwrap();
    let lines = text.lines().map(|line| line.split_once(": ").unwrap());
    lines.map(|(name, arguments)| (name.to_owned(), arguments.to_owned())).collect()
}

fn words(case: &Path, arguments: &str) -> Vec<String> {
    let own = case.join("config.yaml");
    let config = if own.exists() { own } else { folder().join("config.yaml") };
    let mut words = vec!["trace".to_owned()];
    words.extend(arguments.split_whitespace().map(Into::into));
    for (flag, path) in [
        ("-f", folder().join("cluster.yaml")),
        ("-f", case.join("objects.yaml")),
        ("--config", config),
    ] {
        words.extend([flag.to_owned(), path.to_str().unwrap().to_owned()]);
    }
    words
}

/// What is expected of a case: JSON by question, and all texts in a row.
fn answers(case: &Path) -> (String, String) {
    let (mut all, mut text) = (Map::new(), String::new());
    for (name, arguments) in questions(case) {
        let words = words(case, &arguments);
        let json = ask(words.iter().map(String::as_str).chain(["-o", "json"]));
        let plain = ask(&words);
        assert_eq!((json.code, &json.notes), (plain.code, &plain.notes), "{name}");
        writeln!(text, "$ portolan trace {arguments}").unwrap();
        for line in plain.notes {
            writeln!(text, "{line}").unwrap();
        }
        text += &plain.out;
        if plain.code == 0 {
            all.insert(name, serde_json::from_str(&json.out).unwrap());
        } else {
            assert_eq!(json.out, "", "{name}");
            writeln!(text, "exit code {}", plain.code).unwrap();
        }
        text.push('\n');
    }
    (serde_json::to_string_pretty(&Value::Object(all)).unwrap() + "\n", text)
}

#[test]
fn every_case_is_answered_as_expected() {
    let write = std::env::var_os("PORTOLAN_GOLDEN").is_some_and(|what| what == "write");
    let mut wrong = Vec::new();
    for case in cases() {
        let (json, text) = answers(&case);
        for (file, answer) in [("expected.json", json), ("expected.txt", text)] {
            let path = case.join(file);
            if write {
                fs::write(path, answer).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != answer {
                wrong.push(format!("{}:\n{answer}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every row of the fields, and of the differences between modes, and each reason is asked for, in
/// both families where the family is not the point.
#[test]
fn the_cases_cover_every_reason() {
    let texts: BTreeMap<PathBuf, String> =
        cases().into_iter().map(|case| (case.clone(), answers(&case).1)).collect();
    let all = texts.values().map(String::as_str).collect::<String>();
    for reason in [
        // Classes of source.
        "counts as a pod",
        "sent by this node",
        "counts as outside, within no pod range",
        "come in at a pod's interface",
        "come in at no pod's interface",
        "no pod range of this family",
        // Fronts.
        "cluster IP of Service",
        "node port 30080 of Service",
        "external IP of Service",
        "load balancer IP of Service",
        "is the healthCheckNodePort",
        "with ipMode Proxy",
        "node ports answer at",
        "node ports do not answer at loopback",
        "is not a Service's",
        "service-proxy-name gives it to proxy",
        "is headless",
        "is of type ExternalName",
        "has no cluster IP yet",
        "mode nftables refuses the packet",
        "mode iptables lets the packet go on",
        "mode ipvs refuses the packet",
        "mode nftables drops the packet",
        "mode ipvs lets the packet go on",
        // Who is admitted.
        "is admitted by",
        "is not within loadBalancerSourceRanges",
        "not at this node port",
        "claims it, too",
        "not at this external IP",
        "admit everybody",
        "from the front's own address",
        "none of this family",
        // Policies and what follows.
        "internalTrafficPolicy Cluster",
        "internalTrafficPolicy Local",
        "externalTrafficPolicy Cluster",
        "externalTrafficPolicy Local: only",
        "short-circuit",
        "no usable endpoint on any node: refused",
        "the usable endpoints are on other nodes: dropped",
        "silent for 60 s",
        "silent for 10800 s",
        // Masquerade.
        "yes: masqueradeAll",
        "yes: not from a pod",
        "yes: externalTrafficPolicy Cluster",
        "yes: this node sent it",
        "yes, if sent back to",
        "no: a pod's address is kept",
        "no: nothing says which",
        "no: externalTrafficPolicy Local keeps",
        // Endpoints, in and out.
        "in: ready (",
        "in: ready, with a hint for zone",
        "in: ready, with a hint for node",
        "in: terminating but still serving",
        "out: of the other address family",
        "its slice has no port of that name",
        "out: its slice has no port (",
        "out: the same address in slice",
        "out: on another node, under policy Local",
        "out: not ready",
        "out: terminating, and others are ready",
        "out: terminating, and no longer serving",
        "out: hint for other nodes",
        "out: hint for other zones",
        "the Service has no EndpointSlice that counts",
        "out: its addresses are of type FQDN",
        "out: its label says that the Service is headless",
        // Hints.
        "no endpoint has any",
        "not asked under policy Local",
        "(PreferSameNode)",
        "(PreferSameZone)",
        "no hint for nodes on endpoint",
        "no hint for this node on any",
        "no hint for zones on endpoint",
        "no hint for this node's zone",
        "this node has no zone",
    ] {
        let of = texts.iter().filter(|(_, text)| text.contains(reason)).count();
        assert!(of > 0 && all.contains(reason), "no case shows {reason:?}");
    }
    let questions: usize = cases().iter().map(|case| questions(case).len()).sum();
    assert!(questions >= 200, "{questions} questions");
}

#[test]
fn no_answer_can_steer_a_terminal() {
    let case = folder().join("hostile-names");
    let (json, text) = answers(&case);
    for printed in [json, text] {
        let steers = |c: &char| (c.is_control() && *c != '\n') || *c == '\u{202e}';
        assert_eq!(printed.chars().find(steers), None);
        assert!(printed.contains("u{1b}"));
    }
}
