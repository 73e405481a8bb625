//! What people do to objects by kubectl, and what they expect to see.

use std::fs;

use super::cluster::Cluster;
use crate::harness::text;

pub(crate) fn objects_are_kept(cluster: &Cluster) {
    deployments_are_created_exposed_and_described(cluster);
    services_are_explained_and_described(cluster);
    manifests_are_applied_and_compared(cluster);
    objects_are_edited_patched_and_labelled(cluster);
    rollouts_are_undone(cluster);
    namespaces_take_everything_with_them(cluster);
}

fn deployments_are_created_exposed_and_described(cluster: &Cluster) {
    cluster.run(&["create", "deployment", "shop", "--image=nginx", "--replicas=2", "--port=80"]);
    cluster.rolled_out("deployment/shop");
    let exposed = cluster.run(&["expose", "deployment", "shop", "--port=80", "--target-port=80"]);
    assert_eq!(exposed, "service/shop exposed\n");
    cluster.run(&[
        "expose",
        "deployment",
        "shop",
        "--name=shop-np",
        "--port=80",
        "--type=NodePort",
    ]);
    cluster.lab.wait_for("the slices have both pods", || cluster.ready_pods("shop").len() == 2);
    let table = cluster.run(&["get", "deployments"]);
    let cells: Vec<Vec<_>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(cells[1][..4], ["shop", "2/2", "2", "2"]);
    let pod = cluster.ready_pods("shop").remove(0);
    cluster.run(&["expose", "pod", &pod, "--port=80", "--target-port=8080", "--name=one"]);
    assert_eq!(cluster.field("service/one", "{.spec.ports[0].targetPort}"), "8080");
    let described = cluster.run(&["describe", "pod", &pod]);
    for line in ["Status:           Running", "Scheduled", "Started", "BuiltInServer"] {
        assert!(described.contains(line), "{line} is not in\n{described}");
    }
    let described = cluster.run(&["describe", "deployment", "shop"]);
    assert!(described.contains("ScalingReplicaSet"), "{described}");
}

fn services_are_explained_and_described(cluster: &Cluster) {
    let explained = cluster.run(&["explain", "service.spec.ports.nodePort"]);
    assert!(explained.contains("FIELD: nodePort <integer>"), "{explained}");
    let described = cluster.run(&["describe", "svc", "shop-np"]);
    for line in [
        "Type:                     NodePort",
        "Session Affinity:         None",
        "Selector:                 app=shop",
    ] {
        assert!(described.contains(line), "{line} is not in\n{described}");
    }
    let all = cluster.run(&["get", "svc", "-A"]);
    assert!(all.lines().any(|l| l.starts_with("default") && l.contains("kubernetes")), "{all}");
    let endpoints = cluster.try_run(&["get", "ep", "shop"]);
    assert!(text(&endpoints).contains("v1 Endpoints is deprecated"), "{}", text(&endpoints));
    assert!(text(&endpoints).contains(":80"), "{}", text(&endpoints));
    let slices = cluster.run(&["get", "endpointslices"]);
    assert!(slices.contains("IPv4") && slices.contains("shop"), "{slices}");
    let mode = cluster.run(&["get", "cm", "kube-proxy", "-n", "kube-system", "-o", "yaml"]);
    assert!(mode.contains("mode: nftables") || mode.contains("mode: \"nftables\""), "{mode}");
    let logs = cluster.run(&["logs", "-n", "kube-system", "daemonset/kube-proxy"]);
    assert!(logs.contains("Using nftables Proxier"), "{logs}");
}

const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: colours}
data: {sky: blue, grass: green}
";

fn manifests_are_applied_and_compared(cluster: &Cluster) {
    cluster.apply(CONFIG);
    let output = cluster.run_with(&["apply", "-f", "-"], CONFIG.as_bytes());
    assert_eq!(text(&output), "configmap/colours unchanged\n");
    let changed = CONFIG.replace("blue", "grey").replace(", grass: green", "");
    let output = cluster.run_with(&["diff", "-f", "-"], changed.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let shown = text(&output);
    assert!(shown.contains("-  sky: blue") && shown.contains("+  sky: grey"), "{shown}");
    let dry = ["apply", "-f", "-", "--dry-run=server"];
    let output = cluster.run_with(&dry, changed.as_bytes());
    assert_eq!(text(&output), "configmap/colours configured (server dry run)\n");
    assert_eq!(cluster.field("configmap/colours", "{.data.sky}"), "blue");
    cluster.apply(&changed);
    assert_eq!(cluster.field("configmap/colours", "{.data}"), r#"{"sky":"grey"}"#);
}

fn objects_are_edited_patched_and_labelled(cluster: &Cluster) {
    let mut edit = cluster.command(&["edit", "configmap", "colours"]);
    let output = edit.env("KUBE_EDITOR", "sed -i s/grey/black/").output().expect("kubectl runs");
    assert_eq!(text(&output), "configmap/colours edited\n");
    let patches = [
        ("merge", r#"{"data":{"sea":"green"}}"#),
        (
            "json",
            r#"[{"op":"test","path":"/data/sea","value":"green"},{"op":"add","path":"/data/sand","value":"yellow"}]"#,
        ),
        ("strategic", r#"{"data":{"sky":null}}"#),
    ];
    for (kind, patch) in patches {
        cluster.run(&["patch", "configmap", "colours", &format!("--type={kind}"), "-p", patch]);
    }
    let data = cluster.field("configmap/colours", "{.data}");
    assert_eq!(data, r#"{"sand":"yellow","sea":"green"}"#);
    let strategic = r#"{"spec":{"ports":[{"port":80,"name":"web"}]}}"#;
    cluster.run(&["patch", "service", "shop", "-p", strategic]);
    assert_eq!(cluster.field("service/shop", "{.spec.ports[*].name}"), "web");
    cluster.run(&["label", "configmap", "colours", "mood=bright"]);
    assert_eq!(
        cluster.run(&["get", "cm", "-l", "mood in (bright)", "-o", "name"]),
        "configmap/colours\n"
    );
    let again = cluster.fail(&["label", "configmap", "colours", "mood=dark"]);
    assert!(again.contains("already has a value (bright), and --overwrite is false"), "{again}");
    cluster.run(&["annotate", "configmap", "colours", "note=a"]);
    let stale = cluster.run(&["get", "configmap", "colours", "-o", "yaml"]);
    cluster.run(&["label", "configmap", "colours", "mood-"]);
    fs::write(cluster.file("stale.yaml"), stale).expect("a file can be written");
    let conflict = cluster.fail(&["replace", "-f", "stale.yaml"]);
    assert!(
        conflict.contains(
            "the object has been modified; please apply your changes to the latest version"
        ),
        "{conflict}"
    );
}

fn rollouts_are_undone(cluster: &Cluster) {
    cluster.run(&["set", "env", "deployment/shop", "COLOUR=red"]);
    cluster.rolled_out("deployment/shop");
    let history = cluster.run(&["rollout", "history", "deployment/shop"]);
    assert_eq!(history.lines().filter(|line| line.starts_with(['1', '2'])).count(), 2, "{history}");
    cluster.run(&["rollout", "undo", "deployment/shop"]);
    cluster.rolled_out("deployment/shop");
    let env = cluster.field("deployment/shop", "{.spec.template.spec.containers[0].env}");
    assert_eq!(env, "");
    cluster.run(&["rollout", "restart", "deployment/shop"]);
    cluster.rolled_out("deployment/shop");
}

fn namespaces_take_everything_with_them(cluster: &Cluster) {
    cluster.run(&["create", "namespace", "tmp"]);
    cluster.run(&["-n", "tmp", "create", "deployment", "web", "--image=nginx"]);
    cluster.run(&["-n", "tmp", "create", "configmap", "c", "--from-literal=a=b"]);
    cluster.run(&["delete", "namespace", "tmp", "--timeout=60s"]);
    let gone = cluster.fail(&["get", "namespace", "tmp"]);
    assert!(gone.contains(r#"namespaces "tmp" not found"#), "{gone}");
    cluster.run(&["delete", "deployment/shop", "service/shop", "service/shop-np", "service/one"]);
    cluster.lab.wait_for("the deployment's pods are collected", || {
        cluster.run(&["get", "pods,replicasets", "-o", "name"]).is_empty()
    });
}
