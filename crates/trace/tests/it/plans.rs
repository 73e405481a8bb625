//! Golden cases: API objects on one side, the rules of every backend in both families on the other.
//!
//! The cases are in `tests/golden/` of the workspace: `objects.yaml`, and `config.yaml` where the proxy's
//! configuration matters. The node is node-1, 172.30.0.11, in a cluster of 10.244.0.0/16. The case
//! `empty` has every line of a table without Services; the others have the lines that are different
//! there. `PORTOLAN_GOLDEN=write` writes what is expected anew; read the difference before you keep it.

use std::collections::BTreeSet;
use std::path::Path;

use portolan_backend_iptables as iptables;
use portolan_backend_ipvs as ipvs;
use portolan_backend_nftables as nftables;
use portolan_model::{Family, ForwardingTable};
use portolan_proxy::config::load;
use portolan_proxy::config::types::KubeProxyConfiguration;
use portolan_trace::objects::{Objects, parse};
use portolan_trace::view::{Setup, View};

const MODES: [&str; 3] = ["nftables", "iptables", "ipvs"];
const FAMILIES: [(Family, &str); 2] = [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")];
/// Where every case's cluster is.
const PODS: &str = "10.244.0.0/16,fd00:10:244::/48";
const SERVICES: &str = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, \"fd00:10:96::/112\"]}
";

fn read(case: &Path, file: &str) -> String {
    std::fs::read_to_string(case.join(file)).unwrap_or_default()
}

/// A case's objects, in a cluster with a node.
fn objects(case: &Path, node: &str) -> Objects {
    let mut objects = Objects::default();
    for text in [SERVICES, node, &read(case, "objects.yaml")] {
        for object in parse(text).unwrap() {
            // A case may have a node of its own.
            let _ = objects.put(object);
        }
    }
    objects
}

/// The table of a family, and the text of its rules.
fn rules(case: &Path, node: &str, mode: &str, family: Family) -> (ForwardingTable, String) {
    let mut configuration = match read(case, "config.yaml") {
        none if none.is_empty() => KubeProxyConfiguration::default(),
        text => load::parse(&text).unwrap().configuration,
    };
    configuration.mode = mode.into();
    configuration.cluster_cidr = PODS.into();
    let objects = objects(case, node);
    let setup = Setup { configuration, node_ips: Vec::new() };
    let view = View::new(&objects, &setup, "node-1").unwrap();
    let table = view.table(&objects, family);
    let masquerade_mark = view.masquerade_mark;
    let text = match mode {
        "iptables" => {
            let invalid_packets = view.profile.invalid_packets;
            let accounting = iptables::Accounting::Off;
            let options = iptables::Options { masquerade_mark, invalid_packets, accounting };
            iptables::Planner::new(options).full(&table).to_string()
        }
        "ipvs" => {
            let options = ipvs::Options { masquerade_mark, ..ipvs::Options::default() };
            ipvs::Planner::new(family, options).full(&table).to_string()
        }
        _ => {
            let options = nftables::Options { masquerade_mark };
            nftables::Planner::new(family, options).full(&table).to_string()
        }
    };
    (table, text)
}

#[test]
fn rules_are_as_the_golden_cases_have_them() {
    let is_written = std::env::var_os("PORTOLAN_GOLDEN").is_some_and(|what| what == "write");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let node = read(&cases.join("empty"), "objects.yaml");
    let (mut seen, mut wrong) = (0, Vec::new());
    for case in std::fs::read_dir(&cases).unwrap() {
        let case = case.unwrap().path();
        for mode in MODES {
            for (family, name) in FAMILIES {
                let empty = cases.join("empty");
                let (table, mut text) = rules(&case, &node, mode, family);
                if case != empty {
                    if table.fronts.is_empty() {
                        continue;
                    }
                    let (_, always) = rules(&empty, &node, mode, family);
                    let always: BTreeSet<_> = always.lines().collect();
                    let own = text.lines().filter(|line| !always.contains(line));
                    text = own.map(|line| format!("{line}\n")).collect();
                }
                let file = format!("{mode}-{name}.txt");
                if is_written {
                    std::fs::write(case.join(&file), &text).unwrap();
                }
                if read(&case, &file) != text {
                    wrong.push(format!("{}/{file}: the rules are\n{text}", case.display()));
                }
                seen += 1;
            }
        }
    }
    let hint = "hint: PORTOLAN_GOLDEN=write takes the new rules over";
    assert!(wrong.is_empty(), "{}\n{hint}", wrong.join("\n"));
    assert!(seen >= 38, "only {seen} texts in {}", cases.display());
}
