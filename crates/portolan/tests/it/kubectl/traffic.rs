//! The main job: Services of the seed, their pods, and requests that reach every one of them.

use std::process::Stdio;

use super::cluster::{Answers, Cluster, From, SeedPort};

const POD: From<'static> = From::Inside(&["--pod", "default/client"]);
const NODE: From<'static> = From::Inside(&["--node", "node-2"]);
const OUTSIDE: From<'static> = From::Inside(&["--client"]);

/// The seed's two Services and `kubectl create deployment`; requests from everywhere; scaling.
pub(crate) fn services_carry_traffic(cluster: &Cluster) {
    let Some(port) = SeedPort::take("services_carry_traffic") else { return };
    cluster.apply_seed("nginx-clusterip.yaml");
    cluster.apply_seed("nginx-nodeport.yaml");
    cluster.run(&["create", "deployment", "nginx", "--image=nginx", "--replicas=3", "--port=80"]);
    cluster.client_pod("client");
    cluster.rolled_out("deployment/nginx");
    let ways = ways(cluster, &port);
    all_answer(cluster, &ways, 3, 300);
    for replicas in [5, 1] {
        cluster.run(&["scale", "deployment/nginx", &format!("--replicas={replicas}")]);
        cluster.rolled_out("deployment/nginx");
        all_answer(cluster, &ways, replicas, 100);
    }
    cluster.run(&["scale", "deployment/nginx", "--replicas=0"]);
    for (name, from, address) in &ways {
        all_are_refused(cluster, name, from, address);
    }
    cluster.run(&["scale", "deployment/nginx", "--replicas=2"]);
    cluster.rolled_out("deployment/nginx");
    all_answer(cluster, &ways, 2, 100);
}

type Way = (&'static str, From<'static>, String);

/// All ways to the two Services.
fn ways(cluster: &Cluster, port: &SeedPort) -> Vec<Way> {
    let cluster_ip = |service| cluster.field(service, "{.spec.clusterIP}");
    let (first, second) =
        (cluster_ip("service/nginx-clusterip"), cluster_ip("service/nginx-nodeport"));
    let node = |name| {
        let address = "{.status.addresses[0].address}";
        cluster.field(&format!("node/{name}"), address) + ":30080"
    };
    vec![
        ("pod → cluster IP", POD, first.clone()),
        ("pod → the node port's cluster IP", POD, second),
        ("pod → node port", POD, node("node-1")),
        ("node → cluster IP", NODE, first),
        ("node → its own node port", NODE, node("node-2")),
        ("node → another's node port", NODE, node("node-1")),
        ("outside → node port of node-1", OUTSIDE, node("node-1")),
        ("outside → node port of node-2", OUTSIDE, node("node-2")),
        ("host → published node port", From::Host, port.address()),
    ]
}

/// Waits until the answering pods are those that are ready, then lets no request fail.
fn all_answer(cluster: &Cluster, ways: &[Way], replicas: usize, requests: usize) {
    cluster.lab.wait_for("the slices name every replica and no more", || {
        ["nginx-clusterip", "nginx-nodeport"]
            .iter()
            .all(|service| cluster.ready_pods(service).len() == replicas)
    });
    let pods = cluster.ready_pods("nginx-clusterip");
    for (name, from, address) in ways {
        cluster.lab.wait_for(&format!("{name}: the answering pods are {pods:?}"), || {
            cluster.requests(from, address, 20 * replicas).pods() == pods
        });
        let answers = cluster.requests(from, address, requests);
        assert!(answers.failed.is_empty(), "{name}: {answers:?}\n{}", cluster.lab.log());
        assert_eq!((answers.total(), answers.pods()), (requests, pods.clone()), "{name}");
    }
}

/// Without endpoints a connection is refused, and at once.
fn all_are_refused(cluster: &Cluster, name: &str, from: &From<'_>, address: &str) {
    /// curl's exit code for a connection that could not be made.
    const REFUSED: i32 = 7;
    /// The host's connection is made by the publisher, and then ends without an answer.
    const ENDED: [i32; 2] = [52, 56];
    cluster.lab.wait_for(&format!("{name}: refused"), || {
        let answers = cluster.requests(from, address, 1);
        let failure = answers.failed.keys().next().copied();
        // Until the rules follow, a pod may still answer; but nothing may ever hang.
        assert!(failure != Some(28), "{name}: a connection timed out");
        assert!(answers.slowest_failure < 1.0, "{name}: a connection waited: {answers:?}");
        match from {
            From::Host => failure.is_some_and(|code| ENDED.contains(&code)),
            From::Inside(_) => failure == Some(REFUSED),
        }
    });
    let answers = cluster.requests(from, address, 10);
    assert!(answers.by_pod.is_empty(), "{name}: {answers:?}");
    assert!(answers.slowest_failure < 1.0, "{name}: refused, but slowly: {answers:?}");
}

/// With readiness and a preStop pause, as a user sets them.
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {version: '1'}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// Constant load from a pod, a new connection for each request, no retries: none fails.
pub(crate) fn a_rolling_update_loses_no_request(cluster: &Cluster) {
    cluster.apply(DEPLOYMENT);
    cluster.client_pod("client");
    cluster.rolled_out("deployment/web");
    let address = cluster.field("service/web", "{.spec.clusterIP}");
    let from = ["--pod", "default/client"];
    cluster.lab.wait_for("all answer", || {
        let answers = cluster.requests(&POD, &address, 60);
        answers.failed.is_empty() && answers.by_pod.len() == 3
    });
    let before = cluster.ready_pods("web");
    let format = "%{exitcode} %{http_code} %{time_total} %header{x-portolan-pod}\\n";
    let script = format!(
        "while [ ! -e /tmp/stop ]; do \
         curl -s -o /dev/null --max-time 5 -H 'Connection: close' -w '{format}' 'http://{address}/[1-20]'; done"
    );
    let load = cluster
        .lab
        .command(&["shell", from[0], from[1], "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("portolan runs");
    std::thread::scope(|scope| {
        let load = scope.spawn(move || load.wait_with_output().expect("the load ends"));
        cluster.run(&[
            "patch",
            "deployment/web",
            "-p",
            r#"{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}"#,
        ]);
        cluster.rolled_out("deployment/web");
        cluster.lab.wait_for("the old pods are gone", || {
            let pods = cluster.run(&["get", "pods", "-l", "app=web", "-o", "name"]);
            pods.lines().count() == 3 && before.iter().all(|old| !pods.contains(old.as_str()))
        });
        let after = cluster.ready_pods("web");
        cluster.lab.shell(&from, "touch /tmp/stop");
        let output = load.join().expect("the load's thread ends");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers = Answers::of(&lines, &crate::harness::text(&output));
        assert!(answers.failed.is_empty(), "{answers:?}\n{}", cluster.lab.log());
        for pod in before.iter().chain(&after) {
            assert!(answers.by_pod.contains_key(pod), "{pod} answered nothing: {answers:?}");
        }
    });
}

/// kubeadm's DaemonSet for kube-proxy, word for word but for the image, with no mode in its ConfigMap: its
/// command, its mounts and its configuration do what they do on a cluster.
pub(crate) fn kubeadms_daemon_set_runs_the_proxy(cluster: &Cluster) {
    let namespace = ["-n", "kube-system"];
    let config = cluster.run(
        &[&namespace[..], &["get", "cm", "kube-proxy", "-o", r"jsonpath={.data.config\.conf}"]]
            .concat(),
    );
    assert!(config.contains("\nmode: nftables\n"), "{config}");
    let config = config.replace("\nmode: nftables\n", "\nmode: \"\"\n");
    let patch = cluster.file("patch.json");
    let change = serde_json::json!({"data": {"config.conf": config}});
    std::fs::write(&patch, change.to_string()).expect("a file can be written");
    let patch = patch.to_str().expect("a plain path");
    let words = ["patch", "cm", "kube-proxy", "--type=merge", "--patch-file", patch];
    cluster.run(&[&namespace[..], &words].concat());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/kubeadm-kube-proxy.yaml");
    cluster.run(&["apply", "-f", manifest]);
    let rollout = ["rollout", "status", "daemonset/kube-proxy", "--timeout=60s"];
    cluster.run(&[&namespace[..], &rollout].concat());

    cluster.run(&["create", "deployment", "web", "--image=nginx", "--replicas=2", "--port=80"]);
    cluster.run(&["expose", "deployment", "web"]);
    cluster.rolled_out("deployment/web");
    let address = cluster.field("service/web", "{.spec.clusterIP}");
    cluster.lab.wait_for("the Service answers", || {
        let answers = cluster.requests(&NODE, &address, 10);
        answers.failed.is_empty() && answers.total() == 10
    });
    let logs = ["logs", "-l", "k8s-app=kube-proxy", "--tail=-1"];
    let logs = cluster.run(&[&namespace[..], &logs].concat());
    let line = |text: &str| logs.find(text).unwrap_or_else(|| panic!("no {text} in {logs}"));
    assert!(line("\"Using iptables proxy\"") < line("\"Using iptables Proxier\""), "{logs}");
}
