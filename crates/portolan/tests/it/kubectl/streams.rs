//! exec, attach, logs, port-forward and cp: from kubectl's terminal to a process and back.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use super::cluster::{Cluster, Transport, noise, read};
use crate::harness::text;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: tools, image: tools, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: reader
    image: tools
    stdin: true
    command: [sh, -c, 'echo ready; while read line; do echo \"read $line\"; done; sleep infinity']
---
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: crasher
    image: tools
    command: [sh, -c, 'echo first line; echo to stderr >&2; echo last line; exit 1']
";

pub(crate) fn processes_are_reached(cluster: &Cluster) {
    cluster.apply(PODS);
    for pod in ["web", "tools", "reader"] {
        cluster.run(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
    }
    for transport in [Transport::Spdy, Transport::WebSocket] {
        cluster.speak(transport);
        exec_runs_commands(cluster);
        exec_has_a_terminal(cluster);
        exec_carries_much(cluster);
        attach_joins_the_main_process(cluster);
        port_forward_reaches_pods(cluster);
    }
    logs_are_read_and_followed(cluster);
    cp_copies_both_ways(cluster);
}

fn exec_runs_commands(cluster: &Cluster) {
    let script = "cat; echo err >&2; exit 3";
    let arguments = ["exec", "-i", "tools", "--", "sh", "-c", script];
    let output = cluster.run_with(&arguments, b"in\0put\n");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(output.stdout, b"in\0put\n");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(stderr, "err\ncommand terminated with exit code 3\n");
    assert_eq!(cluster.run(&["exec", "tools", "--", "hostname"]), "tools\n");
    let missing = cluster.fail(&["exec", "tools", "-c", "nobody", "--", "true"]);
    assert!(missing.contains("container nobody is not valid for pod tools"), "{missing}");
    let missing = cluster.fail(&["exec", "nobody", "--", "true"]);
    assert!(missing.contains(r#"pods "nobody" not found"#), "{missing}");
    let missing = cluster.fail(&["exec", "tools", "--", "no-such-command"]);
    assert!(missing.contains("no-such-command"), "{missing}");
}

fn exec_has_a_terminal(cluster: &Cluster) {
    // `script` gives kubectl a terminal of its own, of this size.
    let line = "stty rows 43 cols 121; kubectl exec -it tools -- sh -c 'tty; stty size'";
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]);
    cluster.environment(&mut command);
    let output = command.output().expect("util-linux is installed");
    let shown = text(&output);
    assert!(shown.contains("/dev/pts/"), "{shown}");
    // The size comes a moment after the command has started.
    let line = "stty rows 43 cols 121; kubectl exec -it tools -- \
                sh -c 'for i in $(seq 500); do s=$(stty size); [ \"$s\" = \"43 121\" ] && break; sleep 0.01; done; echo \"is $s\"'";
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]);
    cluster.environment(&mut command);
    let shown = text(&command.output().expect("util-linux is installed"));
    assert!(shown.contains("is 43 121"), "{shown}");
}

fn exec_carries_much(cluster: &Cluster) {
    let data = noise(24 << 20);
    let output = cluster.run_with(&["exec", "-i", "tools", "--", "cat"], &data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == data, "{} of {} bytes came back", output.stdout.len(), data.len());
}

fn attach_joins_the_main_process(cluster: &Cluster) {
    let mut command = cluster.command(&["attach", "-i", "reader"]);
    let mut attached =
        Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut stdin = attached.0.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(attached.0.stdout.take().expect("it is piped")).lines();
    stdin.write_all(b"one\n").expect("kubectl reads");
    let line = lines.next().expect("a line").expect("text");
    assert_eq!(line, "read one");
    drop(attached);
    let log = cluster.run(&["logs", "reader"]);
    assert!(log.contains("read one"), "{log}");
    let phase = cluster.field("pod/reader", "{.status.phase}");
    assert_eq!(phase, "Running", "a client that leaves does not end the container");
}

fn logs_are_read_and_followed(cluster: &Cluster) {
    assert_eq!(cluster.run(&["logs", "reader", "--tail=1"]), "read one\n");
    let stamped = cluster.run(&["logs", "reader", "--timestamps", "--tail=1"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z read one\n"), "{stamped}");
    assert_eq!(cluster.run(&["logs", "reader", "--limit-bytes=4"]), "read");
    assert_eq!(cluster.run(&["logs", "reader", "--since=1h"]), cluster.run(&["logs", "reader"]));

    let mut command = cluster.command(&["logs", "-f", "reader", "--tail=0"]);
    let mut following = Killed(command.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut lines = BufReader::new(following.0.stdout.take().expect("it is piped")).lines();
    // Written to the container until the follower has seen one: it may not be there yet.
    let seen = std::thread::scope(|scope| {
        let reading = scope.spawn(|| lines.next().expect("a line").expect("text"));
        cluster.lab.wait_for("the follower sees a line", || {
            cluster.run(&["exec", "reader", "--", "sh", "-c", "echo followed > /proc/1/fd/1"]);
            reading.is_finished()
        });
        reading.join().expect("it was read")
    });
    assert_eq!(seen, "followed");
    cluster.run(&["delete", "pod", "reader", "--wait=false"]);
    let status = following.0.wait().expect("kubectl ends");
    assert!(status.success(), "the follower ends with the container: {status}");

    cluster.lab.wait_for("the crasher has been restarted", || {
        let restarts = cluster.field("pod/crasher", "{.status.containerStatuses[0].restartCount}");
        restarts.parse::<u32>().is_ok_and(|restarts| restarts > 0)
    });
    let previous = cluster.run(&["logs", "crasher", "--previous"]);
    let mut lines: Vec<_> = previous.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first line", "last line", "to stderr"]);
    let none = cluster.fail(&["logs", "tools", "--previous"]);
    assert!(
        none.contains("previous terminated container \"tools\" in pod \"tools\" not found"),
        "{none}"
    );
}

fn cp_copies_both_ways(cluster: &Cluster) {
    let data = noise(6 << 20);
    fs::create_dir_all(cluster.file("tree/deep")).expect("a directory can be made");
    fs::write(cluster.file("tree/deep/noise"), &data).expect("a file can be written");
    fs::write(cluster.file("tree/empty"), "").expect("a file can be written");
    cluster.run(&["cp", "tree", "tools:/tmp/tree"]);
    cluster.run(&["cp", "tools:/tmp/tree", "back"]);
    assert!(read(&cluster.file("back/deep/noise")) == data);
    assert!(read(&cluster.file("back/empty")).is_empty());
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port_forward_reaches_pods(cluster: &Cluster) {
    for (target, port) in [("pod/web", ":80"), ("service/web", ":8080")] {
        let mut command = cluster.command(&["port-forward", target, port]);
        let mut forward = Killed(
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kubectl runs"),
        );
        let mut lines = BufReader::new(forward.0.stdout.take().expect("it is piped")).lines();
        let line = lines.next().expect("a line").expect("text");
        let address = line.split(' ').nth(2).expect("Forwarding from ADDRESS -> PORT").to_owned();
        // It says one more line for each connection, which must not fill the pipe.
        std::thread::scope(|scope| {
            scope.spawn(move || lines.for_each(drop));
            let answers = cluster.requests(&super::cluster::From::Host, &address, 100);
            assert!(answers.failed.is_empty(), "{target}: {answers:?}");
            assert_eq!(answers.pods(), ["web"]);
            let _ = forward.0.kill();
        });
    }
}
