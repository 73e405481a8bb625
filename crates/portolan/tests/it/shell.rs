//! `portolan shell`: where it goes and what it returns.

use crate::harness::{Lab, User, text};

fn enters_and_returns(user: User) {
    let lab = Lab::up(user, &[]);
    assert_eq!(lab.shell(&[], "hostname"), "node-1\n");
    assert_eq!(lab.shell(&["--node", "node-2"], "hostname"), "node-2\n");
    let addresses = lab.shell(&["--client"], "ip -4 -o address");
    assert!(addresses.contains("172.30.0.254/24"), "{addresses}");
    assert!(lab.shell(&[], "ip route").lines().all(|route| !route.starts_with("default")));
    let hosts = lab.shell(&[], "cat /etc/hosts");
    assert!(hosts.contains("172.30.0.12\tnode-2"), "{hosts}");
    let manifests = lab.shell(&[], "grep -h cidr /etc/kubernetes/manifests/*");
    assert!(manifests.contains("--cluster-cidr=10.244.0.0/16"), "{manifests}");
    let range = lab.shell(&[], "grep -h ip-range /etc/kubernetes/manifests/kube-apiserver.yaml");
    assert!(range.contains("--service-cluster-ip-range=10.96.0.0/12"), "{range}");

    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)] {
        let output = lab.run(&["shell", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output));
    }
    for (command, code) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        let output = lab.run(&["shell", "--", command]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    }
    for target in [["--node", "node-9"], ["--pod", "default/nobody"]] {
        let output = lab.run(&["shell", target[0], target[1], "--", "true"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("hint: there are:"), "{}", text(&output));
    }
    assert!(text(&lab.run(&["shell", "--node", "node-9"])).contains("node-1, node-2"));

    let pods = lab.shell(&[], "ls /run/portolan/state/pods | wc -l");
    assert_ne!(pods.trim(), "0", "node-1 runs kube-proxy");
}

#[test]
fn a_shell_enters_nodes_and_client_and_returns_the_status_as_root() {
    if User::Root.available("a_shell_enters_nodes_and_client_and_returns_the_status_as_root") {
        enters_and_returns(User::Root);
    }
}

#[test]
fn a_shell_enters_nodes_and_client_and_returns_the_status_as_a_user() {
    enters_and_returns(User::Ordinary);
}
