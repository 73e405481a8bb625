//! Ways into and through a lab that are easily short-cut: datagrams, the API server's proxy, the
//! host's node port, and a pod's view of the host's files.
//!
//! One lab serves all checks; the last one takes the nodes' rules away and so leaves no way at all.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::cluster::{Cluster, From};
use crate::harness::{Lab, User, text};

/// Where pods see the host's own directory, unlike /tmp, of which each has its own.
const SEEN_BY_PODS: &str = "/var/tmp";

/// How long an answer to a datagram is waited for, in seconds, before another is sent.
const ANSWER: u64 = 2;

pub(crate) fn every_way_goes_through_the_lab(test: &str, user: User) {
    let port = free_port();
    let range = format!("{port}-{port}");
    let lab = Lab::new_in(user, Path::new(SEEN_BY_PODS));
    lab.start(&["--node-port-range", &range]);
    let cluster = Cluster::on(lab);
    cluster.apply(&manifest(port));
    cluster.client_pod("client");
    cluster.rolled_out("deployment/echo");
    cluster.lab.wait_for("the slice names the pod", || cluster.ready_pods("echo").len() == 1);
    let pod = cluster.ready_pods("echo").remove(0);

    a_shell_enters_the_pod(&cluster, &pod);
    datagrams_are_echoed(&cluster, port);
    the_api_server_passes_requests_on(&cluster, &pod);
    pods_see_nothing_of_the_data_directory(&cluster);
    the_hosts_way_goes_through_a_nodes_rules(test, &cluster, &pod, port);
}

fn manifest(port: u16) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      containers:
      - name: echo
        image: echo
        ports: [{{containerPort: 80}}, {{containerPort: 7007, protocol: UDP}}]
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  type: NodePort
  selector: {{app: echo}}
  ports:
  - {{name: http, port: 80, nodePort: {port}}}
  - {{name: echo, port: 7, targetPort: 7007, nodePort: {port}, protocol: UDP}}
"
    )
}

/// A port that nothing on the host's loopback has, for both protocols.
fn free_port() -> u16 {
    let free = || {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = tcp.local_addr().ok()?.port();
        UdpSocket::bind(("127.0.0.1", port)).is_ok().then_some(port)
    };
    (0..100).find_map(|_| free()).expect("some port is free")
}

fn a_shell_enters_the_pod(cluster: &Cluster, pod: &str) {
    let place = format!("default/{pod}");
    let place = ["--pod", place.as_str()];
    assert_eq!(cluster.lab.shell(&place, "hostname"), format!("{pod}\n"));
    let output = cluster.lab.run(&["shell", place[0], place[1], "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
}

fn datagrams_are_echoed(cluster: &Cluster, port: u16) {
    let cluster_ip = cluster.field("service/echo", "{.spec.clusterIP}");
    let node_ip = |node| cluster.field(node, "{.status.addresses[0].address}");
    let ways: [(&[&str], String); 4] = [
        (&["--pod", "default/client"], format!("{cluster_ip}/7")),
        (&["--node", "node-2"], format!("{cluster_ip}/7")),
        (&["--client"], format!("{}/{port}", node_ip("node/node-1"))),
        (&["--client"], format!("{}/{port}", node_ip("node/node-2"))),
    ];
    for (place, target) in ways {
        // dd takes a datagram whole, where a shell's `read` would take its first byte.
        let script = format!(
            "exec 3<>/dev/udp/{target}; echo to {target} >&3; \
             timeout {ANSWER} dd bs=2048 count=1 status=none <&3"
        );
        let arguments = [&["shell"], place, &["--", "bash", "-c", &script]].concat();
        let expected = format!("to {target}\n");
        cluster.lab.wait_for(&format!("a datagram from {place:?} to {target} comes back"), || {
            cluster.lab.run(&arguments).stdout == expected.as_bytes()
        });
    }

    let socket = UdpSocket::bind("127.0.0.1:0").expect("the host has a loopback");
    socket.set_read_timeout(Some(Duration::from_secs(ANSWER))).expect("a valid timeout");
    socket.connect(("127.0.0.1", port)).expect("an address of the host");
    cluster.lab.wait_for("a datagram from the host comes back", || {
        let mut answer = [0; 64];
        socket.send(b"from the host").is_ok()
            && socket.recv(&mut answer).is_ok_and(|size| answer[..size] == *b"from the host")
    });
}

fn the_api_server_passes_requests_on(cluster: &Cluster, pod: &str) {
    for target in ["services/echo:80", "services/echo:http", &format!("pods/{pod}:80")] {
        let path = format!("/api/v1/namespaces/default/{target}/proxy/some/path?a=b");
        let answer = cluster.run(&["get", "--raw", &path]);
        assert!(answer.contains(pod), "{target}: {answer}");
        assert!(answer.contains("GET /some/path?a=b"), "{target}: {answer}");
    }
}

fn pods_see_nothing_of_the_data_directory(cluster: &Cluster) {
    let data = cluster.lab.data_dir();
    assert!(data.join("pki").is_dir(), "the keys are there to be seen");
    let beside = data.with_file_name("beside");
    fs::write(&beside, "seen").expect("a file can be written");
    let exec = |words: &[&str]| cluster.try_run(&[&["exec", "client", "--"], words].concat());
    let seen = exec(&["cat", beside.to_str().expect("a plain path")]);
    assert_eq!(seen.stdout, b"seen", "pods see what lies beside: {}", text(&seen));
    let entries = exec(&["ls", "-A", data.to_str().expect("a plain path")]);
    assert!(entries.stdout.is_empty(), "{}", text(&entries));
    for secret in ["pki", "kubeconfig", "lock"] {
        let path = data.join(secret);
        assert!(path.exists(), "{secret} is there to be seen");
        let found = exec(&["test", "-e", path.to_str().expect("a plain path")]);
        assert_eq!(found.status.code(), Some(1), "{secret}: {}", text(&found));
    }
}

/// Without the rules the host's connection is made, by the publisher, and ends unanswered.
fn the_hosts_way_goes_through_a_nodes_rules(test: &str, cluster: &Cluster, pod: &str, port: u16) {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIP {test}: nft is not installed");
        return;
    }
    let address = format!("127.0.0.1:{port}");
    cluster.lab.wait_for("the host's requests are answered", || {
        cluster.requests(&From::Host, &address, 20).pods() == [pod]
    });
    // Its proxies would repair the rules within a second.
    cluster.run(&["-n", "kube-system", "delete", "daemonset", "kube-proxy"]);
    cluster.lab.wait_for("the proxies are gone", || {
        let pods = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-proxy", "-o", "name"];
        cluster.run(&pods).is_empty()
    });
    let answers = cluster.requests(&From::Host, &address, 20);
    assert!(answers.failed.is_empty(), "rules outlive their proxy: {answers:?}");
    for node in ["node-1", "node-2"] {
        cluster.lab.shell(&["--node", node], "nft delete table ip portolan");
    }
    let answers = cluster.requests(&From::Host, &address, 5);
    assert!(answers.by_pod.is_empty(), "answered without rules: {answers:?}");
}
