use std::io;

use proptest::prelude::*;

use super::*;
use crate::answer::{Fallthrough, LoadBalance, PodMode};

struct Nothing;

impl Surroundings for Nothing {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "ZONE").then(|| "example.org".into())
    }

    fn file(&self, path: &str) -> io::Result<String> {
        match path {
            "/etc/resolv.conf" => Ok("nameserver 10.9.9.9\nnameserver fd00::9\n".into()),
            _ => Err(io::Error::other("no such file")),
        }
    }
}

fn read(text: &str) -> Result<Corefile, String> {
    parse(text, 53, &Nothing).map_err(|e| e.to_string())
}

/// As kubeadm 1.36 installs it.
const KUBEADM: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

#[test]
fn kubeadms_file_is_understood() {
    let corefile = read(KUBEADM).unwrap();
    assert_eq!(corefile.warnings, [""; 0]);
    let health = corefile.health.unwrap();
    assert_eq!((health.address.port(), health.lameduck.as_secs()), (8080, 5));
    assert_eq!(corefile.ready.unwrap().port(), 8181);
    assert_eq!(corefile.metrics.unwrap().port(), 9153);
    assert_eq!(corefile.reload.unwrap().interval.as_secs(), 30);
    let [server] = &corefile.servers[..] else { panic!("one block") };
    assert!(server.errors && server.loop_detection && server.prometheus && !server.log);
    assert_eq!(server.load_balance, LoadBalance::RoundRobin);
    let kubernetes = server.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.zones.len(), 3);
    assert_eq!((kubernetes.ttl, kubernetes.pods), (30, PodMode::Insecure));
    assert!(matches!(&kubernetes.fallthrough, Fallthrough::Zones(zones) if zones.len() == 2));
    let [forward] = &server.forwards[..] else { panic!("one forward") };
    assert_eq!(forward.to, ["10.9.9.9:53".parse().unwrap(), "[fd00::9]:53".parse().unwrap()]);
    assert_eq!(forward.max_concurrent, 1000);
    let cache = server.cache.as_ref().unwrap();
    assert_eq!((cache.success.max_ttl, cache.denial.max_ttl, cache.disabled.len()), (30, 30, 2));
}

#[test]
fn snippets_variables_quotes_and_more_blocks() {
    let text = "(common) { # a comment\n  errors\n  cache 10 { prefetch 3 2m 20%\n serve_stale } }\n\
        {$ZONE}:5353, b.org { import common\n forward . 10.0.0.1 10.0.0.2:5353 {\n policy sequential\n except x.org } }\n\
        10.1.0.0/15:53 { bind 127.0.0.1 \"::1\"\n log }";
    let corefile = read(text).unwrap();
    let zones: Vec<_> = corefile.servers.iter().flat_map(|server| &server.zones).collect();
    let zones: Vec<_> = zones.iter().map(|zone| format!("{}:{}", zone.name, zone.port)).collect();
    assert_eq!(
        zones,
        ["example.org.:5353", "b.org.:53", "0.10.in-addr.arpa.:53", "1.10.in-addr.arpa.:53"]
    );
    let cache = corefile.servers[0].cache.as_ref().unwrap();
    assert_eq!(
        (cache.prefetch, cache.prefetch_percent, cache.prefetch_pause.as_secs()),
        (3, 20, 120)
    );
    assert_eq!(cache.serve_stale.unwrap().as_secs(), 3600);
    assert_eq!(corefile.servers[0].forwards[0].policy, Policy::Sequential);
    assert_eq!(corefile.servers[1].bind.len(), 2);
}

#[test]
fn faults_say_where_they_are() {
    for (text, fault) in [
        (".:53 {\n  errors\n  nonsense a b\n}", "3:3: \"nonsense\" is no plugin"),
        (".:53 {\n\thosts /etc/hosts\n}", "2:2: the plugin \"hosts\" is not supported"),
        (".:53 {\n  errors\n", "1:1: the block of \".:53\" is never closed"),
        ("}", "1:1: this brace closes nothing"),
        (".:53", "1:1: a block must follow: `{` is missing"),
        (".:99999 {\n}", "1:1: 99999 is no port"),
        ("tls://.:853 {\n}", "1:1: the protocol tls:// is not supported"),
        (". {\n cache 30 {\n  success x\n }\n}", "3:11: \"x\" is no number from 0 to 16777216"),
        (
            ". {\n kubernetes a {\n  pods some\n }\n}",
            "3:8: \"some\" is none of disabled, insecure, verified",
        ),
        (". {\n kubernetes a {\n  ttl 3601\n }\n}", "3:7: \"3601\" is no number from 0 to 3600"),
        (". {\n kubernetes a {\n  tls a b c\n }\n}", "3:3: kubernetes: \"tls\" is not supported"),
        (". {\n kubernetes a {\n  what\n }\n}", "3:3: kubernetes has no option \"what\""),
        (". {\n forward .\n}", "2:2: forward needs 2 arguments or more"),
        (
            ". {\n forward . tls://10.0.0.1\n}",
            "2:12: the protocol of \"tls://10.0.0.1\" is not supported",
        ),
        (". {\n forward . /nowhere\n}", "2:12: cannot read /nowhere: no such file"),
        (
            ". {\n forward . dns.example\n}",
            "2:12: \"dns.example\" is neither an address nor a file",
        ),
        (". {\n errors\n errors\n}", "3:2: errors is there already"),
        (". {\n}\n.:53 {\n}", "3:1: .:53 is served by a block above"),
        (
            ". {\n import x\n}",
            "2:9: there is no snippet \"x\" above; import of files is not supported",
        ),
        (". {\n reload 1s\n}", "2:9: the interval must be 2s or more"),
        (". {\n loop now\n}", "2:7: \"now\" is one argument too many"),
        (". {\n errors \"\n}", "2:9: this quote is never closed"),
        ("a..b {\n}", "1:1: \"a..b\" is no zone"),
        (". {\n health { lameduck\n }\n}", "2:11: lameduck needs an argument"),
        (". {\n health :1\n}\nb {\n health :2\n}", "5:2: health is set otherwise by a block above"),
    ] {
        assert_eq!(read(text).unwrap_err(), fault, "{text}");
    }
}

#[test]
fn what_has_no_effect_is_said() {
    let text = ". {\n errors {\n  consolidate 5m \".*\"\n }\n log . {\n  class error\n }\n\
        kubernetes {\n  apiserver_qps 5\n }\n}";
    let warnings = read(text).unwrap().warnings;
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert_eq!(warnings[0], "3:3: errors: \"consolidate\" has no effect");
}

proptest! {
    #[test]
    fn any_text_is_read_without_harm(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn words_in_any_order_are_read_without_harm(
        words in proptest::collection::vec(proptest::sample::select(&[
            ".:53", "{", "}", "\n", "errors", "kubernetes", "cluster.local", "forward", ".",
            "/etc/resolv.conf", "cache", "30", "success", "(a)", "import", "a", "\"", "#", "{$ZONE}",
            "10.0.0.0/9", "fd00::/7", "pods", "verified", "ttl", "health", "lameduck", "5s", "{%X%}",
        ][..]), 0..60)
    ) {
        if let Err(e) = parse(&words.join(" "), 53, &Nothing) {
            prop_assert!(e.position.line <= words.len() + 1);
        }
    }
}

#[test]
fn snippets_that_grow_end() {
    let mut text = String::from("(a0) {\n errors\n errors\n}\n");
    for i in 1..40 {
        text.push_str(&format!("(a{i}) {{\n import a{}\n import a{}\n}}\n", i - 1, i - 1));
    }
    text.push_str(". {\n import a39\n}");
    assert!(read(&text).unwrap_err().ends_with("the file has too many lines"));
}
