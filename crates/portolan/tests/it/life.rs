//! A lab's life as its user sees it: up, in use, stopped or killed, and up again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Node};
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::harness::{Lab, User, text, wait_for};
use crate::host::{Footprint, assert_untouched, is_mounted, snapshot};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    work()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

fn lives(user: User, nodes: usize) {
    let before = snapshot();
    let lab = Lab::up(user, &["--nodes", &nodes.to_string()]);
    let footprint = Footprint::of(lab.pid());
    let (processes, namespaces) = footprint.counts();
    assert!(processes > 2 + nodes, "up, init, agents, pods: {footprint:?}");
    assert!(namespaces > 4 + nodes, "{footprint:?}");

    let status = lab.status().expect("it answers");
    assert_eq!(status["state"], "Running");
    assert_eq!(status["nodes"].as_array().expect("a list").len(), nodes);
    for (index, node) in status["nodes"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(node["name"], format!("node-{}", index + 1));
        assert_eq!(node["ready"], true, "{node}");
        assert!(node["podCidr"].as_str().is_some_and(|cidr| cidr.starts_with("10.244.")));
    }
    assert!(status["readyAfterMillis"].as_u64().is_some());
    for part in status["components"].as_array().expect("a list") {
        assert_eq!(part["state"], "Ready", "{part}");
    }

    assert_eq!(mode(&lab.data_dir()), 0o700);
    assert_eq!(mode(&lab.data_dir().join("kubeconfig")), 0o600);
    let second = lab.try_start(&[]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second);
    assert!(said.contains(&lab.pid().to_string()) && said.contains("hint:"), "{said}");

    in_runtime(|| {
        let client = lab.client();
        let list = async { Api::<Node>::all(client.clone()).list(&ListParams::default()).await };
        assert_eq!(block_on(list).expect("nodes are served").items.len(), nodes);
        let map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "kept"}, "data": {"a": "b"},
        }))
        .expect("a ConfigMap");
        let maps = Api::<ConfigMap>::default_namespaced(client);
        block_on(maps.create(&PostParams::default(), &map)).expect("it is accepted");
    });

    assert_untouched(&before);
    let down = lab.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(footprint.left(), Vec::<String>::new());
    assert!(!is_mounted(&lab.data_dir()));
    assert_untouched(&before);

    lab.start(&["--nodes", &nodes.to_string()]);
    in_runtime(|| {
        let maps = Api::<ConfigMap>::default_namespaced(lab.client());
        let map = block_on(maps.get("kept")).expect("objects survive");
        assert_eq!(map.data.expect("its data")["a"], "b");
    });
}

#[test]
fn a_lab_of_two_nodes_lives_and_leaves_the_host_as_it_was_as_root() {
    if User::Root.available("a_lab_of_two_nodes_lives_and_leaves_the_host_as_it_was_as_root") {
        lives(User::Root, 2);
    }
}

#[test]
fn a_lab_of_one_node_lives_and_leaves_the_host_as_it_was_as_a_user() {
    lives(User::Ordinary, 1);
}

fn killed(user: User) {
    let before = snapshot();
    let mut lab = Lab::new(user);
    lab.start_foreground(&["--nodes", "1"]);
    let footprint = Footprint::of(lab.pid());
    assert!(footprint.counts().0 > 3, "{footprint:?}");
    let mut up = lab.up.take().expect("it runs in the foreground");
    up.kill().expect("it is ours");
    up.wait().expect("it is ours");
    wait_for("nothing is left", &mut || footprint.left().is_empty(), || {
        format!("{:?}", footprint.left())
    });
    assert!(!is_mounted(&lab.data_dir()));
    assert_untouched(&before);
    // And the data directory is free and whole.
    lab.start(&["--nodes", "1"]);
}

#[test]
fn a_killed_up_leaves_nothing_behind_as_root() {
    if User::Root.available("a_killed_up_leaves_nothing_behind_as_root") {
        killed(User::Root);
    }
}

#[test]
fn a_killed_up_leaves_nothing_behind_as_a_user() {
    killed(User::Ordinary);
}

#[test]
fn an_interrupt_stops_in_order_and_returns_success() {
    let mut lab = Lab::new(User::Ordinary);
    lab.start_foreground(&["--nodes", "1"]);
    let footprint = Footprint::of(lab.pid());
    let up = lab.up.take().expect("it runs in the foreground");
    let interrupted = Command::new("kill").args(["-INT", &up.id().to_string()]).status();
    assert!(interrupted.expect("kill runs").success());
    let output = up.wait_with_output().expect("it is ours");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in ["ready node-1", "The lab is up", "stopping pods", "stopped after"] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    assert_eq!(footprint.left(), Vec::<String>::new());
}

#[test]
fn an_agent_that_dies_is_started_again_and_its_node_stays() {
    let lab = Lab::up(User::Ordinary, &["--nodes", "1"]);
    let link = lab.shell(&[], "cat /sys/class/net/eth0/ifindex /proc/sys/kernel/hostname");
    lab.shell(&[], "pkill -KILL -f '[i]nternal node --name node-1'");
    lab.wait_for("the agent is ready again", || {
        let status = lab.status().expect("it answers");
        let parts = status["components"].as_array().expect("a list").clone();
        let node =
            parts.iter().find(|part| part["name"] == "node-1").expect("it is listed").clone();
        node["restarts"] == 1 && node["state"] == "Ready"
    });
    assert_eq!(lab.shell(&[], "cat /sys/class/net/eth0/ifindex /proc/sys/kernel/hostname"), link);
    in_runtime(|| {
        let events = Api::<Event>::all(lab.client());
        let list = block_on(events.list(&ListParams::default())).expect("events are served");
        let told = |event: &Event| event.reason.as_deref() == Some("NodeAgentRestarted");
        assert!(list.items.iter().any(told), "no event tells of it");
    });
}

#[test]
fn a_second_interrupt_ends_a_lab_that_hangs() {
    let mut lab = Lab::new(User::Ordinary);
    lab.start_foreground(&["--nodes", "1"]);
    let footprint = Footprint::of(lab.pid());
    let up = lab.up.take().expect("it runs in the foreground");
    let signal = |name: &str, pid: &str| {
        let sent = Command::new("kill").args([name, pid]).status().expect("kill runs");
        assert!(sent.success());
    };
    let children = format!("/proc/{0}/task/{0}/children", up.id());
    let init = fs::read_to_string(children).expect("it has a child");
    signal("-STOP", init.trim());
    signal("-INT", &up.id().to_string());
    // Two signals of one kind may become one; another kind never does.
    signal("-TERM", &up.id().to_string());
    let output = up.wait_with_output().expect("it is ours");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("killed") && said.contains("hint:"), "{said}");
    wait_for("nothing is left", &mut || footprint.left().is_empty(), || {
        format!("{:?}", footprint.left())
    });
}
