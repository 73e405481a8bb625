//! Cluster IPs and node ports: given, kept, shared, given back.

use serde_json::{Value, json};

use crate::support::*;

fn uri(name: &str) -> String {
    format!("{SERVICES}/{name}")
}

#[tokio::test]
async fn a_service_gets_an_address_and_keeps_it_through_updates() {
    let t = start().await;
    let manifest = || service("web", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let created = t.post(SERVICES, manifest()).await.ok();
    let spec = &created["spec"];
    assert!(spec["clusterIP"].as_str().unwrap().starts_with("10.96.0."));
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    assert!((30000..=30100).contains(&spec["ports"][0]["nodePort"].as_u64().unwrap()));
    // PUT of the manifest that names none of them (kubectl replace).
    let replaced = t.put(&uri("web"), manifest()).await.ok();
    assert_eq!(replaced["spec"], created["spec"]);
}

#[tokio::test]
async fn one_port_over_two_protocols_shares_the_node_port() {
    let t = start().await;
    let spec = json!({"type": "NodePort", "ports": [
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
        {"name": "http", "port": 80},
    ]});
    let ports = t.post(SERVICES, service("dns", spec)).await.ok()["spec"]["ports"].clone();
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
    assert_ne!(ports[0]["nodePort"], ports[2]["nodePort"]);
}

#[tokio::test]
async fn taken_and_foreign_values_are_refused_and_leave_nothing_behind() {
    let t = start().await;
    let ip = |ip: &str| json!({"clusterIP": ip, "ports": [{"port": 80}]});
    t.post(SERVICES, service("a", ip("10.96.0.20"))).await.ok();
    t.post(SERVICES, service("b", ip("10.96.0.20"))).await.fails(
        422,
        "Invalid",
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.20\"]: failed to \
         allocate IP 10.96.0.20: provided IP is already allocated",
    );
    t.post(SERVICES, service("b", ip("10.97.0.1"))).await.fails(
        422,
        "Invalid",
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to \
         allocate IP 10.97.0.1: the provided network does not match the current range",
    );
    let port = |p: u64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": p}]});
    t.post(SERVICES, service("c", port(30050))).await.ok();
    // The cluster IP that this attempt took before it failed is free again.
    let mut both = port(30050);
    both["clusterIP"] = json!("10.96.0.30");
    t.post(SERVICES, service("d", both)).await.fails(
        422,
        "Invalid",
        "Service \"d\" is invalid: spec.ports[0].nodePort: Invalid value: 30050: provided port is \
         already allocated",
    );
    t.post(SERVICES, service("e", ip("10.96.0.30"))).await.ok();
    t.post(SERVICES, service("f", port(40000))).await.fails(
        422,
        "Invalid",
        "Service \"f\" is invalid: spec.ports[0].nodePort: Invalid value: 40000: provided port is \
         not in the valid range. The range of valid ports is 30000-30100",
    );
}

#[tokio::test]
async fn deleting_frees_the_address_and_the_port() {
    let t = start().await;
    let spec = || {
        json!({"type": "NodePort", "clusterIP": "10.96.0.40",
            "ports": [{"port": 80, "nodePort": 30060}]})
    };
    for name in ["a", "b"] {
        t.post(SERVICES, service(name, spec())).await.ok();
        t.delete(&uri(name)).await.ok();
    }
}

#[tokio::test]
async fn a_dry_run_takes_nothing() {
    let t = start().await;
    let spec = || json!({"clusterIP": "10.96.0.50", "ports": [{"port": 80}]});
    let dry = t.post(&format!("{SERVICES}?dryRun=All"), service("a", spec())).await.ok();
    assert_eq!(dry["spec"]["clusterIP"], "10.96.0.50");
    t.post(SERVICES, service("b", spec())).await.ok();
    t.delete(&format!("{}?dryRun=All", uri("b"))).await.ok();
    assert_eq!(t.post(SERVICES, service("c", spec())).await.code, 422);
}

#[tokio::test]
async fn changing_the_type_gives_back_what_it_needed() {
    let t = start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30070}]});
    let created = t.post(SERVICES, service("web", spec)).await.ok();
    let patch = |spec: Value| json!({"spec": spec});
    let plain = patch(json!({"type": "ClusterIP"}));
    let plain = t.patch(&uri("web"), "merge-patch", plain).await.ok();
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null(), "{plain}");
    assert!(plain["spec"]["externalTrafficPolicy"].is_null());
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30070}]});
    t.post(SERVICES, service("other", taken)).await.ok();
    let external = patch(json!({"type": "ExternalName", "externalName": "example.com"}));
    let external = t.patch(&uri("web"), "merge-patch", external).await.ok();
    assert!(external["spec"]["clusterIP"].as_str().unwrap_or("").is_empty(), "{external}");
    let ip = json!({"clusterIP": created["spec"]["clusterIP"], "ports": [{"port": 80}]});
    t.post(SERVICES, service("heir", ip)).await.ok();
    let back = patch(json!({"type": "ClusterIP", "externalName": null}));
    let back = t.patch(&uri("web"), "merge-patch", back).await.ok();
    assert_ne!(back["spec"]["clusterIP"], created["spec"]["clusterIP"]);
    assert!(back["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96.0."));
}

#[tokio::test]
async fn headless_services_have_no_address() {
    let t = start().await;
    let spec = json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]});
    let created = t.post(SERVICES, service("h", spec)).await.ok();
    assert_eq!(created["spec"]["clusterIPs"], json!(["None"]));
    let spec = json!({"clusterIP": "None"});
    let created = t.post(SERVICES, service("s", spec)).await.ok();
    assert_eq!(created["spec"]["ipFamilyPolicy"], "RequireDualStack");
}

#[tokio::test]
async fn a_second_family_is_refused_on_a_cluster_with_one() {
    let t = start().await;
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
    t.post(SERVICES, service("d", spec)).await.fails(
        422,
        "Invalid",
        "Service \"d\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this \
         cluster is not configured for dual-stack services",
    );
    let spec = json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]});
    assert_eq!(t.post(SERVICES, service("d", spec)).await.code, 422);
}

#[tokio::test]
async fn strategic_merge_keeps_tcp_and_udp_on_one_port_apart() {
    let t = start().await;
    let spec = json!({"ports": [
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
    ]});
    t.post(SERVICES, service("dns", spec)).await.ok();
    let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}});
    let patched = t.patch(&uri("dns"), "strategic-merge-patch", patch).await.ok();
    let ports = patched["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 2, "{ports:?}");
    let target =
        |name: &str| ports.iter().find(|p| p["name"] == name).unwrap()["targetPort"].clone();
    assert_eq!((target("udp"), target("tcp")), (json!(5353), json!(53)));
}

#[tokio::test]
async fn a_full_range_says_so_and_concurrent_creates_never_share() {
    let t = start().await;
    let create = |i: usize| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let t = &t;
        async move { t.post(SERVICES, service(&format!("s{i}"), spec)).await }
    };
    let answers = futures::future::join_all((0..110).map(create)).await;
    let mut ports: Vec<u64> = answers
        .iter()
        .filter(|a| a.code == 201)
        .map(|a| a.body["spec"]["ports"][0]["nodePort"].as_u64().unwrap())
        .collect();
    assert_eq!(ports.len(), 101);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 101);
    let refused = answers.iter().find(|a| a.code != 201).unwrap();
    refused.fails(
        500,
        "InternalError",
        "Internal error occurred: failed to allocate a nodePort: range is full",
    );
}
