//! ServiceCIDR and IPAddress objects, what they mean for Services, and what mends them.

use std::collections::BTreeSet;

use portolan_store::{Op, Store, Stored};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn address(ip: &str) -> String {
    format!("{ADDRESSES}/{ip}")
}

fn cidr(name: &str, cidrs: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

fn with_ip(ip: &str) -> Value {
    json!({"clusterIP": ip, "ports": [{"port": 80}]})
}

fn ready(cidr: &Value) -> &Value {
    &cidr["status"]["conditions"][0]["status"]
}

/// Polls until `done` says so; answers what it saw last.
async fn until(what: &str, t: &Fixture, uri: &str, done: impl Fn(&Answer) -> bool) -> Answer {
    let start = std::time::Instant::now();
    loop {
        let answer = t.get(uri).await;
        if done(&answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {}", answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn names(t: &Fixture, uri: &str) -> BTreeSet<String> {
    let list = t.get(uri).await.ok();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn has_event(t: &Fixture, reason: &str) -> bool {
    let uri = format!("{EVENTS}?fieldSelector=reason%3D{reason}");
    let answer = until(reason, t, &uri, |a| !a.body["items"].as_array().unwrap().is_empty()).await;
    answer.body["items"][0]["type"] == "Warning"
}

#[tokio::test]
async fn the_servers_own_range_is_there_and_ready() {
    let t = start_on(tempfile::tempdir().unwrap(), &["fd00::/112", "10.96.0.0/24"]).await;
    let default = t.get(&format!("{CIDRS}/kubernetes")).await.ok();
    assert_eq!(default["spec"]["cidrs"], json!(["fd00::/112", "10.96.0.0/24"]));
    assert_eq!(ready(&default), "True");
    let finalizer = "networking.k8s.io/service-cidr-finalizer";
    assert_eq!(default["metadata"]["finalizers"], json!([finalizer]));
    let service = t.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(service["spec"]["clusterIPs"], json!(["fd00::1"]));
    assert_eq!(names(&t, ADDRESSES).await, BTreeSet::from(["fd00::1".to_owned()]));
}

#[tokio::test]
async fn each_cluster_ip_is_an_object_in_the_services_own_transaction() {
    let t = start_on(tempfile::tempdir().unwrap(), &["10.96.0.0/24", "fd00::/112"]).await;
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
    let created = t.post(SERVICES, service("web", spec)).await.ok();
    let version = created["metadata"]["resourceVersion"].clone();
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let ip = created["spec"]["clusterIPs"][index].as_str().unwrap();
        let object = t.get(&address(ip)).await.ok();
        assert_eq!(object["metadata"]["resourceVersion"], version, "one transaction");
        assert_eq!(
            object["metadata"]["labels"],
            json!({"ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
        );
        let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
        assert_eq!(object["spec"]["parentRef"], parent);
    }
    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    t.patch(&format!("{SERVICES}/web"), "merge-patch", single).await.ok();
    let second = created["spec"]["clusterIPs"][1].as_str().unwrap();
    assert_eq!(t.get(&address(second)).await.code, 404, "the second was given up");
    t.delete(&format!("{SERVICES}/web")).await.ok();
    assert_eq!(names(&t, ADDRESSES).await, BTreeSet::from(["10.96.0.1".to_owned()]));
}

#[tokio::test]
async fn a_refused_service_leaves_no_object() {
    let t = start().await;
    let spec = json!({"sessionAffinity": "x", "clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
    assert_eq!(t.post(SERVICES, service("web", spec)).await.code, 422);
    assert_eq!(
        t.post(&format!("{SERVICES}?dryRun=All"), service("web", with_ip("10.96.0.9"))).await.code,
        201
    );
    assert_eq!(t.get(&address("10.96.0.9")).await.code, 404);
    t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
    // A name that is taken fails at the commit, after the address was taken.
    assert_eq!(t.post(SERVICES, service("web", with_ip("10.96.0.10"))).await.code, 409);
    t.post(SERVICES, service("other", with_ip("10.96.0.10"))).await.ok();
}

#[tokio::test]
async fn an_address_that_something_else_has_is_not_given_to_a_service() {
    let t = start().await;
    let parent = json!({"group": "gateway.networking.k8s.io", "resource": "gateways", "name": "g"});
    let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": parent}});
    t.post(ADDRESSES, body).await.ok();
    let refused = t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await;
    assert!(
        refused.body["message"].as_str().unwrap().ends_with("provided IP is already allocated")
    );
    t.delete(&address("10.96.0.9")).await.ok();
    t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
}

#[tokio::test]
async fn another_range_is_allocated_from_when_the_first_is_full() {
    let t = start_on(tempfile::tempdir().unwrap(), &["10.96.0.0/29"]).await;
    let spec = || json!({"ports": [{"port": 80}]});
    // Six addresses, one of which is the server's own.
    for index in 0..5 {
        t.post(SERVICES, service(&format!("s{index}"), spec())).await.ok();
    }
    t.post(SERVICES, service("more", spec())).await.fails(
        500,
        "InternalError",
        "Internal error occurred: failed to allocate a serviceIP: range is full",
    );
    t.post(CIDRS, cidr("extra", json!(["10.97.0.0/29"]))).await.ok();
    let more = t.post(SERVICES, service("more", spec())).await.ok();
    let given = more["spec"]["clusterIP"].as_str().unwrap();
    assert!(given.starts_with("10.97.0."), "{more}");
    let free = if given == "10.97.0.6" { "10.97.0.5" } else { "10.97.0.6" };
    t.post(SERVICES, service("chosen", with_ip(free))).await.ok();
}

#[tokio::test]
async fn a_range_stays_as_long_as_addresses_depend_on_it() {
    let t = start().await;
    let extra = format!("{CIDRS}/extra");
    t.post(CIDRS, cidr("extra", json!(["10.97.0.0/28"]))).await.ok();
    until("ready", &t, &extra, |a| ready(&a.body) == "True").await;
    t.post(SERVICES, service("web", with_ip("10.97.0.5"))).await.ok();
    t.delete(&extra).await.ok();
    let blocked = until("blocked", &t, &extra, |a| ready(&a.body) == "False").await.ok();
    assert_eq!(blocked["status"]["conditions"][0]["reason"], "Terminating");
    // From a range that is going nothing new comes, neither chosen nor by chance.
    assert_eq!(t.post(SERVICES, service("new", with_ip("10.97.0.6"))).await.code, 422);
    t.delete(&format!("{SERVICES}/web")).await.ok();
    until("gone", &t, &extra, |a| a.code == 404).await;
}

#[tokio::test]
async fn a_range_may_go_when_another_has_its_addresses() {
    let t = start().await;
    let extra = format!("{CIDRS}/extra");
    t.post(CIDRS, cidr("extra", json!(["10.97.0.0/28"]))).await.ok();
    t.post(SERVICES, service("web", with_ip("10.97.0.5"))).await.ok();
    t.delete(&extra).await.ok();
    until("blocked", &t, &extra, |a| a.code == 404 || ready(&a.body) == "False").await.ok();
    t.post(CIDRS, cidr("wider", json!(["10.97.0.0/24"]))).await.ok();
    until("gone", &t, &extra, |a| a.code == 404).await;
    t.post(SERVICES, service("new", with_ip("10.97.0.200"))).await.ok();
}

#[tokio::test]
async fn an_address_whose_object_was_deleted_gets_another() {
    let t = start().await;
    let service = t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
    let before = t.get(&address("10.96.0.9")).await.ok();
    t.delete(&address("10.96.0.9")).await.ok();
    let after = until("repaired", &t, &address("10.96.0.9"), |a| a.code == 200).await.ok();
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"]);
    assert!(has_event(&t, "ClusterIPNotAllocated").await);
    t.delete(&format!("{SERVICES}/web")).await.ok();
    assert_eq!(t.get(&address("10.96.0.9")).await.code, 404, "{service}");
}

#[tokio::test]
async fn an_object_with_wrong_labels_is_made_anew() {
    let t = start().await;
    t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
    let strip = json!({"metadata": {"labels": null}});
    t.patch(&address("10.96.0.9"), "merge-patch", strip).await.ok();
    let repaired = |a: &Answer| {
        a.code == 200 && a.body["metadata"]["labels"].as_object().is_some_and(|l| l.len() == 2)
    };
    until("repaired", &t, &address("10.96.0.9"), repaired).await;
}

#[tokio::test]
async fn an_object_that_names_a_service_without_the_address_is_deleted() {
    let t = start().await;
    t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
    let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": "10.96.0.10", "labels": {
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
    t.post(ADDRESSES, body).await.ok();
    until("deleted", &t, &address("10.96.0.10"), |a| a.code == 404).await;
    assert!(has_event(&t, "IPAddressWrongReference").await);
    // The address is free again.
    let start = std::time::Instant::now();
    while t.post(SERVICES, service("heir", with_ip("10.96.0.10"))).await.code != 201 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_restart_knows_what_is_taken() {
    let t = start().await;
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.9",
        "ports": [{"port": 80, "nodePort": 30007}]});
    t.post(SERVICES, service("web", spec)).await.ok();
    t.post(CIDRS, cidr("extra", json!(["10.97.0.0/28"]))).await.ok();
    let Fixture { server, dir, .. } = t;
    drop(server);
    let t = start_again(dir).await;
    assert_eq!(t.post(SERVICES, service("a", with_ip("10.96.0.9"))).await.code, 422);
    let port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]});
    assert_eq!(t.post(SERVICES, service("a", port)).await.code, 422);
    t.post(SERVICES, service("a", with_ip("10.97.0.3"))).await.ok();
    t.delete(&format!("{SERVICES}/web")).await.ok();
    t.post(SERVICES, service("b", with_ip("10.96.0.9"))).await.ok();
}

/// Changes the file of a server that is not running, as another version or a mishap might.
async fn tamper(dir: &TempDir, ops: impl FnOnce(&Store) -> Vec<Op>) {
    let store = open(dir).await;
    let ops = ops(&store);
    store.commit(ops).await.unwrap();
}

fn service_key(name: &str) -> String {
    format!("/registry/core/services/default/{name}")
}

fn update(store: &Store, key: String, change: impl FnOnce(&mut Value)) -> Op {
    let stored = store.get(&key).unwrap();
    let mut value = (*stored.value).clone();
    change(&mut value);
    Op::Update { key, expected: stored.revision, value }
}

#[tokio::test]
async fn a_store_without_address_objects_gets_them() {
    let t = start().await;
    t.post(SERVICES, service("web", with_ip("10.96.0.9"))).await.ok();
    let Fixture { server, dir, .. } = t;
    drop(server);
    tamper(&dir, |store| {
        let page = store.list("/registry/networking.k8s.io/ipaddresses/", Default::default());
        let items = page.unwrap().items;
        assert_eq!(items.len(), 2);
        let delete = |s: &Stored| Op::Delete { key: s.key.to_string(), expected: s.revision };
        items.iter().map(delete).collect()
    })
    .await;
    let t = start_again(dir).await;
    // Before it has its object, the address is known to be taken.
    assert_eq!(t.post(SERVICES, service("thief", with_ip("10.96.0.9"))).await.code, 422);
    for ip in ["10.96.0.1", "10.96.0.9"] {
        until("made", &t, &address(ip), |a| a.code == 200).await;
    }
}

#[tokio::test]
async fn what_only_the_owner_can_mend_is_told() {
    let t = start().await;
    let node_port =
        |port: u64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    for (name, port) in [("a", 30001), ("b", 30002), ("c", 30003)] {
        t.post(SERVICES, service(name, node_port(port))).await.ok();
    }
    let Fixture { server, dir, .. } = t;
    drop(server);
    tamper(&dir, |store| {
        let a = store.get(&service_key("a")).unwrap().value["spec"].clone();
        let twin = update(store, service_key("b"), |service| service["spec"] = a);
        let lost = update(store, service_key("c"), |service| {
            service["spec"]["clusterIP"] = "192.168.0.1".into();
            service["spec"]["clusterIPs"] = json!(["192.168.0.1"]);
            service["spec"]["ports"][0]["nodePort"] = 29999.into();
        });
        vec![twin, lost]
    })
    .await;
    let t = start_again(dir).await;
    for reason in [
        "ClusterIPAlreadyAllocated",
        "ClusterIPOutOfRange",
        "PortAlreadyAllocated",
        "PortOutOfRange",
    ] {
        assert!(has_event(&t, reason).await, "{reason}");
    }
    // The twin's deletion does not take the address from its owner.
    let ip = t.get(&format!("{SERVICES}/a")).await.ok()["spec"]["clusterIP"].clone();
    t.delete(&format!("{SERVICES}/b")).await.ok();
    let kept = t.get(&address(ip.as_str().unwrap())).await.ok();
    assert_eq!(kept["spec"]["parentRef"]["name"], "a");
    assert_eq!(t.post(SERVICES, service("new", with_ip(ip.as_str().unwrap()))).await.code, 422);
}

#[tokio::test]
async fn a_second_family_comes_with_the_configuration() {
    let t = start().await;
    let required = || json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
    t.post(
        SERVICES,
        service("old", json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]})),
    )
    .await
    .ok();
    assert_eq!(t.post(SERVICES, service("web", required())).await.code, 422);
    let Fixture { server, dir, .. } = t;
    drop(server);
    drop(open(&dir).await);
    let t = start_on(dir, &["10.96.0.0/24", "fd00::/112"]).await;
    let default = t.get(&format!("{CIDRS}/kubernetes")).await.ok();
    assert_eq!(default["spec"]["cidrs"], json!(["10.96.0.0/24", "fd00::/112"]));
    let web = t.post(SERVICES, service("web", required())).await.ok();
    assert_eq!(web["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    // One that only prefers two does not follow the cluster by itself.
    let uri = format!("{SERVICES}/old");
    let patched =
        t.patch(&uri, "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(patched["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn the_allocators_show_what_they_have() {
    let t = start().await;
    t.post(SERVICES, service("a", with_ip("10.96.0.9"))).await.ok();
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    t.post(SERVICES, service("b", spec)).await.ok();
    t.post(SERVICES, service("c", with_ip("10.96.0.9"))).await;
    let dry = format!("{SERVICES}?dryRun=All");
    t.post(&dry, service("d", with_ip("10.96.0.10"))).await.ok();
    let text = t.get("/metrics").await.body.as_str().unwrap().to_owned();
    let ips = "kube_apiserver_clusterip_allocator";
    let ports = "kube_apiserver_nodeport_allocator";
    for line in [
        format!("{ips}_allocated_ips{{cidr=\"10.96.0.0/24\"}} 3"),
        format!("{ips}_available_ips{{cidr=\"10.96.0.0/24\"}} 251"),
        // default/kubernetes and a.
        format!("{ips}_allocation_total{{cidr=\"10.96.0.0/24\",scope=\"static\"}} 2"),
        format!("{ips}_allocation_total{{cidr=\"10.96.0.0/24\",scope=\"dynamic\"}} 1"),
        format!("{ips}_allocation_errors_total{{cidr=\"10.96.0.0/24\",scope=\"static\"}} 1"),
        format!("{ips}_allocation_duration_seconds_count{{cidr=\"10.96.0.0/24\"}} 1"),
        format!("{ports}_allocated_ports 1"),
        format!("{ports}_available_ports 100"),
        format!("{ports}_allocation_total{{scope=\"dynamic\"}} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn tables_show_ranges_and_parents() {
    let t = start_on(tempfile::tempdir().unwrap(), &["10.96.0.0/24", "fd00::/112"]).await;
    let table = |uri: &'static str| {
        let t = &t;
        async move {
            let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
            let table = t.send("GET", uri, &[("accept", accept)], "").await.ok();
            let columns = table["columnDefinitions"].as_array().unwrap().clone();
            let names: Vec<String> =
                columns.iter().map(|c| c["name"].as_str().unwrap().to_uppercase()).collect();
            (names, table["rows"][0]["cells"].clone())
        }
    };
    let (columns, row) = table(CIDRS).await;
    assert_eq!(columns, ["NAME", "CIDRS", "AGE"]);
    assert_eq!((&row[0], &row[1]), (&json!("kubernetes"), &json!("10.96.0.0/24,fd00::/112")));
    let (columns, row) = table(ADDRESSES).await;
    assert_eq!(columns, ["NAME", "PARENTREF", "AGE"]);
    assert_eq!((&row[0], &row[1]), (&json!("10.96.0.1"), &json!("services/default/kubernetes")));
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_is_refused() {
    for (cidrs, why) in [
        (&[][..], "at least one is needed"),
        (&["10.96.0.0/24", "10.97.0.0/24"], "two must be of different families"),
        (&["10.96.0.0/24", "fd00::/112", "10.97.0.0/24"], "3 are too many"),
        (&["10.96.0.1/24"], "has bits set beyond the prefix length"),
        (&["10.96.0.0/31"], "too small"),
        (&["fd00::/48"], "wider than /64"),
    ] {
        let error = refused(cidrs).await;
        assert!(error.contains(why), "{cidrs:?}: {error}");
    }
}
