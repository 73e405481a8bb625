//! Both families of addresses at once: nodes, pods, and a dual-stack Service from everywhere.

use std::net::{IpAddr, SocketAddr, TcpListener};

use serde_json::{Value, json};

use super::cluster::{Cluster, From};
use crate::harness::{Lab, User};

const CLIENT: [&str; 2] = ["--pod", "default/client"];
const CLUSTER_IPS: [&str; 2] = ["10.96.77.7", "fd00:10:96::77"];

/// A pod on every node with a network of its own, and one in the node's. No container has a command:
/// the built-in server runs.
const PODS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: echo, image: echo, ports: [{containerPort: 80}]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: shared}
spec:
  selector: {matchLabels: {app: shared}}
  template:
    metadata: {labels: {app: shared}}
    spec:
      hostNetwork: true
      containers: [{name: echo, image: echo, ports: [{containerPort: 8081}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: told}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: tools
    command: [sleep, infinity]
    env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
";

pub(crate) fn both_families_lead_everywhere(user: User) {
    let port = free_port();
    let lab = Lab::new(user);
    lab.seed("/registry/core/services/default/dual", dual(port));
    lab.start(&["--node-port-range", &format!("{port}-{port}")]);
    let cluster = Cluster::on(lab);
    cluster.apply(PODS);
    cluster.client_pod("client");
    for set in ["echo", "shared"] {
        cluster.run(&["rollout", "status", &format!("daemonset/{set}"), "--timeout=60s"]);
    }
    cluster.run(&["wait", "--for=condition=Ready", "pod/told", "--timeout=60s"]);

    nodes_and_status_tell_of_both(&cluster);
    a_pod_is_told_its_addresses(&cluster);
    pods_and_nodes_are_reached_by_both(&cluster);
    a_dual_stack_service_answers_everywhere(&cluster, port);
}

/// A Service with a cluster IP of each family, as the API server would have allocated them.
fn dual(port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "dual",
            "namespace": "default",
            "uid": "5e0cbe6c-8f3a-4f0a-9d8b-0a4f1c1d7e55",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": "NodePort",
            "selector": {"app": "echo"},
            "clusterIP": CLUSTER_IPS[0],
            "clusterIPs": CLUSTER_IPS,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": port}],
            "sessionAffinity": "None",
            "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster",
        },
    })
}

/// A port that is free at both loopback addresses of the host.
fn free_port() -> u16 {
    let free = || {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        TcpListener::bind(("::1", port)).is_ok().then_some(port)
    };
    (0..100).find_map(|_| free()).expect("some port is free on 127.0.0.1 and ::1")
}

fn families(list: &[IpAddr]) -> Vec<bool> {
    list.iter().map(IpAddr::is_ipv6).collect()
}

/// Addresses that a JSON path lists.
fn addresses(cluster: &Cluster, object: &str, path: &str) -> Vec<IpAddr> {
    let list = cluster.field(object, path);
    list.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
}

fn node_addresses(cluster: &Cluster, node: &str) -> Vec<IpAddr> {
    let path = "{.status.addresses[?(@.type==\"InternalIP\")].address}";
    addresses(cluster, &format!("node/{node}"), path)
}

fn pod_addresses(cluster: &Cluster, pod: &str) -> Vec<IpAddr> {
    addresses(cluster, &format!("pod/{pod}"), "{.status.podIPs[*].ip}")
}

fn at(address: impl ToString, port: u16) -> String {
    let address: IpAddr = address.to_string().parse().expect("an address");
    SocketAddr::new(address, port).to_string()
}

fn nodes_and_status_tell_of_both(cluster: &Cluster) {
    let status = cluster.lab.status().expect("it answers");
    let list = |value: &Value| -> Vec<String> {
        let list = value.as_array().expect("a list");
        list.iter().map(|one| one.as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(list(&status["serviceCidrs"]), ["10.96.0.0/12", "fd00:10:96::/112"]);
    assert_eq!(list(&status["clusterCidrs"]), ["10.244.0.0/16", "fd00:10:244::/48"]);
    assert_eq!(list(&status["fabricCidrs"]), ["172.30.0.0/24", "fd00:172:30::/64"]);
    assert_eq!(list(&status["clientAddresses"]), ["172.30.0.254", "fd00:172:30::254"]);
    for (index, name) in ["node-1", "node-2"].iter().enumerate() {
        let node = node_addresses(cluster, name);
        let shown = list(&status["nodes"][index]["addresses"]);
        assert_eq!(shown, node.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(families(&node), [false, true], "{name}");
        let cidrs = cluster.field(&format!("node/{name}"), "{.spec.podCIDRs[*]}");
        assert_eq!(list(&status["nodes"][index]["podCidrs"]).join(" "), cidrs);
        let (four, six) = cidrs.split_once(' ').expect("a range of each family");
        assert!(four.starts_with("10.244.") && four.ends_with("/24"), "{cidrs}");
        assert!(six.starts_with("fd00:10:244:") && six.ends_with("/64"), "{cidrs}");
    }
    let text = crate::harness::text(&cluster.lab.run(&["status"]));
    for word in ["fd00:10:96::/112", "fd00:10:244::/48", "fd00:172:30::11", "fd00:172:30::254"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

fn a_pod_is_told_its_addresses(cluster: &Cluster) {
    let own = pod_addresses(cluster, "told");
    assert_eq!(families(&own), [false, true]);
    let host = addresses(cluster, "pod/told", "{.status.hostIPs[*].ip}");
    let node = cluster.field("pod/told", "{.spec.nodeName}");
    assert_eq!(host, node_addresses(cluster, &node));
    let exec = |script: &str| cluster.run(&["exec", "told", "--", "sh", "-c", script]);
    let told = exec("echo $POD_IP $POD_IPS $HOST_IPS");
    let (pod, host) = ([own[0], own[1]], [host[0], host[1]]);
    let expected = format!("{} {},{} {},{}\n", pod[0], pod[0], pod[1], host[0], host[1]);
    assert_eq!(told, expected);
    let hosts = exec("cat /etc/hosts");
    for ip in pod {
        assert!(hosts.contains(&format!("{ip}\ttold\n")), "{hosts}");
    }
    // Both are of use at once: none waits for anybody to object to it.
    let place = ["--pod", "default/told"];
    let shown = cluster.lab.shell(&place, "ip -6 -o address show dev eth0");
    assert!(shown.contains(&format!("{}/128", pod[1])), "{shown}");
    assert!(!shown.contains("tentative"), "{shown}");
}

/// From a pod, a node and outside, at each address, on the same node and on another; a pod keeps its
/// own address on the way to another pod.
fn pods_and_nodes_are_reached_by_both(cluster: &Cluster) {
    let client = pod_addresses(cluster, "client");
    let pods = |app: &str| {
        let path = "jsonpath={.items[*].metadata.name}";
        let names = cluster.run(&["get", "pods", "-l", &format!("app={app}"), "-o", path]);
        names.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let places: [&[&str]; 3] = [&CLIENT, &["--node", "node-1"], &["--node", "node-2"]];
    let echo = pods("echo");
    assert_eq!(echo.len(), 2, "one on each node");
    for pod in &echo {
        for (address, own) in pod_addresses(cluster, pod).into_iter().zip(&client) {
            for place in places {
                let script = format!("curl -s --max-time 5 http://{}/", at(address, 80));
                let answer = cluster.lab.shell(place, &script);
                assert!(answer.contains(&format!("Hostname: {pod}\n")), "{place:?}: {answer}");
                if place == CLIENT {
                    let source = format!("Client: {}", at(own, 0).trim_end_matches('0'));
                    assert!(answer.contains(&source), "{source} is not in {answer}");
                }
            }
        }
    }
    let places: [&[&str]; 3] = [&CLIENT, &["--node", "node-1"], &["--client"]];
    for node in ["node-1", "node-2"] {
        for address in node_addresses(cluster, node) {
            for place in places {
                let script = format!("curl -s --max-time 5 http://{}/", at(address, 8081));
                let answer = cluster.lab.shell(place, &script);
                assert!(answer.contains(&format!("Node: {node}\n")), "{place:?}: {answer}");
            }
        }
    }
}

fn a_dual_stack_service_answers_everywhere(cluster: &Cluster, port: u16) {
    cluster.lab.wait_for("the slices of both families name both pods", || {
        cluster.ready_pods("dual").len() == 4
    });
    let mut pods = cluster.ready_pods("dual");
    pods.dedup();
    let node = node_addresses(cluster, "node-2");
    for family in 0..2 {
        let (cluster_ip, node_port) = (at(CLUSTER_IPS[family], 80), at(node[family], port));
        let host = at(["127.0.0.1", "::1"][family], port);
        let ways = [
            (From::Inside(&CLIENT), &cluster_ip),
            (From::Inside(&["--node", "node-1"]), &cluster_ip),
            (From::Inside(&CLIENT), &node_port),
            (From::Inside(&["--node", "node-2"]), &node_port),
            (From::Inside(&["--client"]), &node_port),
            (From::Host, &host),
        ];
        for (from, address) in &ways {
            cluster.lab.wait_for(&format!("both pods answer at {address}"), || {
                cluster.requests(from, address, 40).pods() == pods
            });
            let answers = cluster.requests(from, address, 100);
            assert!(answers.failed.is_empty(), "{address}: {answers:?}\n{}", cluster.lab.log());
            assert_eq!(answers.pods(), pods, "{address}");
        }
    }
    let status = cluster.lab.status().expect("it answers");
    let published = status["published"].as_array().expect("a list");
    let told: Vec<_> =
        published.iter().map(|one| (one["address"].as_str(), one["error"].as_str())).collect();
    assert_eq!(told, [(Some("127.0.0.1"), None), (Some("::1"), None)]);
    let text = crate::harness::text(&cluster.lab.run(&["status"]));
    assert!(text.contains(&format!("[::1]:{port}/TCP")), "{text}");
    let health = cluster.lab.shell(
        &["--client"],
        &format!("curl -s --max-time 5 http://{}/healthz", at(node[0], 10256)),
    );
    let health: Value = serde_json::from_str(&health).expect("JSON");
    for family in ["IPv4", "IPv6"] {
        assert_eq!(health["status"][family]["healthy"], true, "{health}");
    }
}
