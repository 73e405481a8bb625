//! `--kernel` in a network namespace whose rules the nftables backend wrote.

use std::panic::resume_unwind;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use portolan_backend_iptables::{self as iptables, Iptables};
use portolan_backend_nftables::{self as nftables, Nftables};
use portolan_model::{Backend, Family};
use portolan_proxy::config::types::KubeProxyConfiguration;
use portolan_trace::Printed;
use portolan_trace::objects::{Key, Objects, parse};
use portolan_trace::view::{Setup, View};
use serde_json::Value;

use crate::ask::ask;

/// Runs `body` on a thread in a network namespace of its own; skips when none may be made.
fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    let made =
        std::thread::spawn(move || unshare(CloneFlags::CLONE_NEWNET).map(|()| body())).join();
    match made {
        Ok(Ok(())) => {}
        Ok(Err(e)) => println!("SKIP {test}: cannot make a network namespace: {e}"),
        Err(panic) => resume_unwind(panic),
    }
}

fn files() -> [String; 2] {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    ["cluster.yaml", "seed/objects.yaml"].map(|file| golden.join(file).to_str().unwrap().to_owned())
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    for file in files() {
        for object in parse(&std::fs::read_to_string(file).unwrap()).unwrap() {
            assert_eq!(objects.put(object), None);
        }
    }
    objects
}

fn write_rules(objects: &Objects, mode: &str) {
    let configuration = KubeProxyConfiguration {
        mode: mode.into(),
        cluster_cidr: "10.244.0.0/16,fd00:10:244::/48".into(),
        ..KubeProxyConfiguration::default()
    };
    let setup = Setup { configuration, node_ips: Vec::new() };
    let view = View::new(objects, &setup, "node-1").unwrap();
    for family in [Family::Ipv4, Family::Ipv6] {
        let table = view.table(objects, family);
        match mode {
            "iptables" => {
                let options = iptables::Options::default();
                Iptables::new(family, options).start(&table).unwrap();
            }
            "nftables" => {
                let options = nftables::Options::default();
                Nftables::open(family, options).unwrap().start(&table).unwrap();
            }
            other => panic!("no backend for {other}"),
        }
    }
}

fn compared(more: &[&str]) -> Printed {
    let question = "trace --kernel --from node/node-1 --to svc/default/nginx-clusterip \
        --cluster-cidr 10.244.0.0/16,fd00:10:244::/48";
    let [cluster, seed] = files();
    let mut words: Vec<&str> = question.split_whitespace().collect();
    words.extend(["-f", &cluster, "-f", &seed]);
    words.extend(more);
    ask(words)
}

#[test]
fn a_kernel_is_compared_and_left_as_it_is() {
    in_namespace("a_kernel_is_compared_and_left_as_it_is", || {
        for mode in ["nftables", "iptables"] {
            let asked = ["--proxy-mode", mode];
            // Before there are rules, all of them are missing.
            assert_eq!(compared(&asked).code, 3);
            let mut objects = objects();
            write_rules(&objects, mode);
            let same = compared(&asked);
            assert_eq!((same.code, same.notes.len()), (0, 0), "{}", same.out);
            assert!(same.out.ends_with("kernel      holds these rules\n"), "{}", same.out);

            // Somebody takes a Service's endpoints away.
            let gone: Key = "endpointslice/default/nginx-clusterip-a6".parse().unwrap();
            assert!(objects.delete(&gone));
            write_rules(&objects, mode);
            let drifted = compared(&asked);
            assert_eq!(drifted.code, 3);
            assert!(drifted.out.contains("kernel      has drifted: "), "{}", drifted.out);
            assert!(drifted.out.contains("fd00:10:244"), "{}", drifted.out);
            // Looking repaired nothing.
            assert_eq!(compared(&asked), drifted);
            let json: Value =
                serde_json::from_str(&compared(&["--proxy-mode", mode, "-o", "json"]).out).unwrap();
            assert_eq!(json["verdict"], "DNAT");
            assert!(json["kernel"]["operations"].as_u64().unwrap() > 0);
        }
    });
}

#[test]
fn a_mode_without_a_comparison_says_so() {
    let refused = compared(&["--proxy-mode", "ipvs"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(refused.notes[0].contains("mode ipvs cannot be compared"), "{:?}", refused.notes);
}
