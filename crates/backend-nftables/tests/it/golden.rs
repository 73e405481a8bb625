//! Golden cases: API objects on one side, the whole plan as text on the other.
//!
//! The cases are in `tests/golden/` of the workspace, shared by all backends. The node is always
//! node-1, 172.30.0.11, in a cluster of 10.244.0.0/16. `PORTOLAN_GOLDEN=write` writes what is
//! expected anew; read the difference before you keep it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use portolan_backend_nftables::{Options, Planner};
use portolan_model::*;
use serde_json::Value;

use crate::objects::{flushed, ip, model};

fn text(value: &Value, default: &str) -> std::sync::Arc<str> {
    value.as_str().unwrap_or(default).into()
}

fn number(value: &Value) -> Option<NonZeroU16> {
    value.as_u64().and_then(|number| NonZeroU16::new(number.try_into().unwrap()))
}

fn protocol(port: &Value) -> Protocol {
    match port["protocol"].as_str() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => panic!("protocol {other}"),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn addresses(value: &Value) -> Vec<IpAddr> {
    list(value).map(|address| ip(address.as_str().unwrap())).collect()
}

fn event(object: &Value) -> Event {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let name = NamespacedName::new(text(&metadata["namespace"], ""), text(&metadata["name"], ""));
    let policy = |field: &str| match spec[field].as_str() {
        None | Some("Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => panic!("{field} {other}"),
    };
    match object["kind"].as_str().unwrap() {
        "Service" => Event::Service(Service {
            name,
            cluster_ips: addresses(&spec["clusterIPs"]),
            ports: list(&spec["ports"])
                .map(|port| ServicePort {
                    name: text(&port["name"], ""),
                    protocol: protocol(port),
                    port: number(&port["port"]).unwrap(),
                    node_port: number(&port["nodePort"]).map(NodePort),
                })
                .collect(),
            session_affinity: match spec["sessionAffinity"].as_str() {
                None | Some("None") => SessionAffinity::None,
                Some("ClientIP") => {
                    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
                    let timeout = Duration::from_secs(seconds.as_u64().unwrap_or(10_800));
                    SessionAffinity::ClientIp { timeout }
                }
                Some(other) => panic!("sessionAffinity {other}"),
            },
            external_traffic_policy: policy("externalTrafficPolicy"),
            internal_traffic_policy: policy("internalTrafficPolicy"),
            external_ips: addresses(&spec["externalIPs"]),
            load_balancer_ingress: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: None,
        }),
        "EndpointSlice" => {
            let endpoint = |endpoint: &Value| {
                let condition = |name: &str, default: bool| {
                    endpoint["conditions"][name].as_bool().unwrap_or(default)
                };
                Endpoint {
                    address: addresses(&endpoint["addresses"])[0],
                    conditions: Conditions {
                        ready: condition("ready", true),
                        serving: condition("serving", true),
                        terminating: condition("terminating", false),
                    },
                    node_name: endpoint["nodeName"].as_str().map(Into::into),
                    hints: Hints::default(),
                }
            };
            Event::EndpointSlice(EndpointSlice {
                name,
                service: text(&metadata["labels"]["kubernetes.io/service-name"], ""),
                ports: list(&object["ports"])
                    .map(|port| EndpointPort {
                        name: text(&port["name"], ""),
                        protocol: protocol(port),
                        port: number(&port["port"]).unwrap(),
                    })
                    .collect(),
                endpoints: list(&object["endpoints"]).map(endpoint).collect(),
            })
        }
        other => panic!("golden cases know no {other} yet"),
    }
}

#[test]
fn plans_are_as_the_golden_cases_have_them() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut seen = 0;
    for case in std::fs::read_dir(&cases).unwrap() {
        let case = case.unwrap().path();
        let yaml = std::fs::read_to_string(case.join("objects.yaml")).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        let mut model = model();
        objects.iter().for_each(|object| model.apply(event(object)));
        let plan = Planner::new(Family::Ipv4, Options::default()).full(flushed(model).table());
        let file = case.join("nft.txt");
        if std::env::var_os("PORTOLAN_GOLDEN").is_some_and(|what| what == "write") {
            std::fs::write(&file, plan.to_string()).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap();
        let hint = "hint: PORTOLAN_GOLDEN=write takes the new plan over";
        assert!(plan.to_string() == expected, "{}: the plan is\n{plan}\n{hint}", case.display());
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} cases in {}", cases.display());
}
