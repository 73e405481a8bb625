//! Sandboxes with real namespaces: root, or any user where user namespaces are allowed.
//!
//! The pod's first process is the example `internal`, which `cargo test` builds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::runtime::sandbox::Sandbox;
use crate::shim::caps;
use crate::shim::protocol::{
    ContainerSpec, ContainerState, MountKind, MountSpec, ProcessSpec, RootSpec, SandboxSpec,
    UserSpec,
};
use crate::shim::spawn::HostNamespaces;

/// A pod's directory and what runs in it; everything is gone when it is dropped.
pub(crate) struct Pod {
    _guard: Guard,
    directory: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
    pub(crate) runtime: Runtime,
}

/// Kills the first process also when a test panics; with it goes all that ran in the pod.
struct Guard(OwnedFd);

impl Drop for Guard {
    fn drop(&mut self) {
        crate::shim::signal(&self.0, libc::SIGKILL);
    }
}

pub(crate) fn key() -> PodKey {
    PodKey { namespace: "default".into(), name: "test".into() }
}

fn binary() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().parent().unwrap().join("examples/internal")
}

/// None, with a line that says so, where pods cannot be made.
pub(crate) async fn pod(test: &str) -> Option<Pod> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP {test}: not root (nor root of a user namespace)");
        return None;
    }
    if !binary().exists() {
        eprintln!("SKIP {test}: {} is not built", binary().display());
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["root", "volume"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    let spec = SandboxSpec { hostname: Some("test".into()), tmpfs: vec![], sysctls: vec![] };
    let sandbox =
        Sandbox::create(&binary(), directory.path(), &spec, HostNamespaces::None).await.unwrap();
    let pid = std::fs::read_to_string(directory.path().join("shim.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let flags = rustix::process::PidfdFlags::empty();
    let guard = Guard(rustix::process::pidfd_open(pid, flags).unwrap());
    assert_eq!(sandbox.ready().await.unwrap(), vec![]);
    let info = ContainerInfo {
        name: "main".into(),
        phase: ContainerPhase::Running,
        attempt: 0,
        tty: false,
        stdin: true,
    };
    let runtime = Runtime::default();
    let entry = PodEntry {
        directory: directory.path().to_owned(),
        uid: "uid".into(),
        netns: RwLock::new(Some(sandbox.netns().try_clone().unwrap())),
        containers: vec![watch::channel(info).0],
    };
    runtime.insert(key(), Arc::new(entry));
    Some(Pod { _guard: guard, directory, sandbox, runtime })
}

impl Pod {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn spec(&self, attempt: u32, argv: &[&str]) -> ContainerSpec {
        let log = log_path(self.path(), "main", attempt);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        ContainerSpec {
            name: "main".into(),
            attempt,
            id: format!("id-{attempt}"),
            tty: false,
            stdin: false,
            stdin_once: false,
            log,
            log_limit: 1 << 20,
            share_pid: false,
            root: RootSpec {
                staging: self.path().join("root"),
                read_only: false,
                privileged: false,
                portolan: binary(),
                hidden: vec![],
                mounts: vec![],
            },
            process: ProcessSpec {
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("A".into(), "b c".into())],
                cwd: "/".into(),
                user: UserSpec { uid: 0, gid: 0, groups: vec![] },
                capabilities: caps::choose([], []).unwrap(),
                new_privileges: false,
            },
        }
    }

    fn volume(&self, target: &str) -> MountSpec {
        MountSpec {
            source: self.path().join("volume"),
            sub_path: None,
            target: target.into(),
            read_only: false,
            kind: MountKind::Volume,
        }
    }

    async fn end(&self) -> ContainerState {
        tokio::time::timeout(Duration::from_secs(30), self.sandbox.next_end())
            .await
            .unwrap()
            .unwrap()
    }

    /// Runs a shell script to its end: exit code and log texts by stream.
    async fn script(&self, change: impl FnOnce(&mut ContainerSpec), script: &str) -> (i32, String) {
        let mut spec = self.spec(0, &["sh", "-c", script]);
        change(&mut spec);
        self.sandbox.start(&spec).await.unwrap();
        let code = self.end().await.end.unwrap().code;
        (code, self.log(0))
    }

    fn log(&self, attempt: u32) -> String {
        let text = std::fs::read_to_string(log_path(self.path(), "main", attempt)).unwrap();
        text.lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_owned() + "\n")
            .collect()
    }

    pub(crate) async fn wait_for_log(&self, text: &str) {
        // The log file has no notification of its own; the loop is bounded by the test's timeout.
        for _ in 0..3000 {
            if std::fs::read_to_string(log_path(self.path(), "main", 0))
                .is_ok_and(|log| log.contains(text))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{text:?} never came: {:?}", self.log(0));
    }
}

#[tokio::test]
async fn a_container_runs_in_its_own_world() {
    let Some(pod) = pod("a_container_runs_in_its_own_world").await else { return };
    let script = "echo $$ $A; hostname; ls /sys/class/net; ls -d /etc/passwd; touch /etc/x && echo w; \
        touch /usr/x 2>/dev/null || echo ro; ls /run; echo err >&2; mount | wc -l >/dev/null; exit 7";
    let (code, log) = pod.script(|_| {}, script).await;
    assert_eq!(code, 7, "{log}");
    for line in ["1 b c", "test", "lo", "/etc/passwd", "w", "ro", "portolan", "err"] {
        assert!(log.lines().any(|one| one == line), "{line}: {log}");
    }
    assert!(!Path::new("/etc/x").exists());
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn volumes_are_mounted_where_nothing_was() {
    let Some(pod) = pod("volumes_are_mounted_where_nothing_was").await else { return };
    std::fs::write(pod.path().join("volume/file"), "in the volume\n").unwrap();
    std::fs::create_dir(pod.path().join("volume/sub")).unwrap();
    std::fs::write(pod.path().join("volume/sub/f"), "below\n").unwrap();
    let mounts = |spec: &mut ContainerSpec, pod: &Pod| {
        for target in ["/data/deep", "/var/lib/portolan-test/v", "/etc/portolan-test"] {
            spec.root.mounts.push(pod.volume(target));
        }
        let mut sub = pod.volume("/var/run/sub");
        sub.sub_path = Some("sub".into());
        sub.read_only = true;
        spec.root.mounts.push(sub);
        let mut file = pod.volume("/etc/hosts");
        file.source = pod.path().join("volume/file");
        file.kind = MountKind::Managed;
        spec.root.mounts.push(file);
    };
    let script = "cat /data/deep/file /var/lib/portolan-test/v/file /etc/portolan-test/file /run/sub/f \
        /etc/hosts && ls /etc/passwd /var/lib/dpkg >/dev/null; touch /run/sub/g 2>/dev/null || echo ro; \
        touch /data/deep/new";
    let (code, log) = pod.script(|spec| mounts(spec, &pod), script).await;
    assert_eq!(code, 0, "{log}");
    let text = "in the volume\n".repeat(3) + "below\nin the volume\nro\n";
    assert_eq!(log, text);
    assert!(pod.path().join("volume/new").exists());
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_sub_path_cannot_leave_its_volume() {
    let Some(pod) = pod("a_sub_path_cannot_leave_its_volume").await else { return };
    std::os::unix::fs::symlink("/etc", pod.path().join("volume/out")).unwrap();
    std::os::unix::fs::symlink("../..", pod.path().join("volume/up")).unwrap();
    for (attempt, sub) in (0..).zip(["out", "up", "../root", "up/etc"]) {
        let mut spec = pod.spec(attempt, &["true"]);
        let mut mount = pod.volume("/data");
        mount.sub_path = Some(sub.into());
        spec.root.mounts.push(mount);
        let error = pod.sandbox.start(&spec).await.unwrap_err();
        assert!(error.to_string().contains("subPath"), "{sub}: {error}");
    }
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_mount_target_cannot_leave_the_root() {
    let Some(pod) = pod("a_mount_target_cannot_leave_the_root").await else { return };
    // A link that an earlier run of the pod left in its volume.
    std::os::unix::fs::symlink("../../../../../../tmp", pod.path().join("volume/link")).unwrap();
    let outside = Path::new("/tmp").join(format!("portolan-escape-{}", std::process::id()));
    let inner = format!("/data/link/{}", outside.file_name().unwrap().to_str().unwrap());
    let (code, log) = pod
        .script(
            |spec| {
                spec.root.mounts.push(pod.volume("/data"));
                spec.root.mounts.push(pod.volume(&inner));
            },
            "ls /tmp",
        )
        .await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("portolan-escape"), "{log}");
    assert!(!outside.exists());
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_missing_command_is_told_apart() {
    let Some(pod) = pod("a_missing_command_is_told_apart").await else { return };
    for (argv, kind) in [
        ("no-such-command", FailureKind::NotFound),
        ("/no/such/command", FailureKind::NotFound),
        ("/etc/passwd", FailureKind::NotExecutable),
    ] {
        match pod.sandbox.start(&pod.spec(0, &[argv])).await {
            Err(StartError::Refused { kind: got, message }) => assert_eq!(got, kind, "{message}"),
            other => panic!("{argv}: {other:?}"),
        }
    }
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn our_own_names_run_our_binary() {
    let Some(pod) = pod("our_own_names_run_our_binary").await else { return };
    // The example ends with 2 when it is given no command.
    pod.sandbox.start(&pod.spec(0, &["/usr/local/bin/kube-proxy", "--x"])).await.unwrap();
    assert_eq!(pod.end().await.end.unwrap().code, 2);
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_container_is_without_dangerous_privileges() {
    let Some(pod) = pod("a_container_is_without_dangerous_privileges").await else { return };
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; mount -t tmpfs x /mnt && echo bad; \
        echo 1 > /proc/sys/net/ipv4/ip_forward && echo bad; mknod /tmp/x b 1 1 && echo bad; true";
    let (_, log) = pod.script(|_| {}, script).await;
    let bits = caps::choose([], []).unwrap();
    assert!(log.contains(&format!("CapEff:\t{bits:016x}")), "{log}");
    assert!(log.contains(&format!("CapBnd:\t{bits:016x}")), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(!log.lines().any(|line| line == "bad"), "{log}");
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn sigterm_is_the_processs_choice_and_sigkill_is_not() {
    let Some(pod) = pod("sigterm_is_the_processs_choice_and_sigkill_is_not").await else { return };
    let script = "trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    pod.sandbox.start(&pod.spec(0, &["sh", "-c", script])).await.unwrap();
    pod.wait_for_log("up").await;
    pod.sandbox.signal("main", 0, libc::SIGTERM).unwrap();
    let end = pod.end().await.end.unwrap();
    assert_eq!((end.code, end.signal), (3, None));
    pod.sandbox.start(&pod.spec(1, &["sleep", "1000"])).await.unwrap();
    // PID 1 of its namespace ignores what it has no handler for; a late signal for the instance
    // before does nothing at all.
    pod.sandbox.signal("main", 1, libc::SIGTERM).unwrap();
    pod.sandbox.signal("main", 0, libc::SIGKILL).unwrap();
    pod.sandbox.signal("main", 1, libc::SIGKILL).unwrap();
    let end = pod.end().await;
    assert_eq!((end.attempt, end.end.unwrap().code, end.end.unwrap().signal), (1, 137, Some(9)));
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn exec_streams_and_exit_code() {
    let Some(pod) = pod("exec_streams_and_exit_code").await else { return };
    pod.sandbox.start(&pod.spec(0, &["sleep", "1000"])).await.unwrap();
    let all = Streams { stdin: true, stdout: true, stderr: true };
    let argv = ["sh", "-c", "read x; echo out $x $A; echo err >&2; exit 5"].map(String::from);
    let exec = pod.runtime.exec(&key(), "main", &argv, Terminal::None, all).await.unwrap();
    let Exec { stdin, stdout, stderr, mut control } = exec;
    stdin.unwrap().write_all(b"hello\n").await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    stdout.unwrap().read_to_string(&mut out).await.unwrap();
    stderr.unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out hello b c\n", "err\n"));
    assert_eq!(control.wait().await.unwrap(), ExitStatus::Code(5));
    let missing = ["no-such-command".to_owned()];
    let error = pod.runtime.exec(&key(), "main", &missing, Terminal::None, all).await;
    assert!(matches!(error, Err(RuntimeError::CannotStart { code: 127, .. })));
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn exec_with_a_terminal_has_a_size() {
    let Some(pod) = pod("exec_with_a_terminal_has_a_size").await else { return };
    pod.sandbox.start(&pod.spec(0, &["sleep", "1000"])).await.unwrap();
    let all = Streams { stdin: true, stdout: true, stderr: false };
    let argv = ["sh", "-c", "read x; tty; stty size; exit 0"].map(String::from);
    let exec = pod.runtime.exec(&key(), "main", &argv, Terminal::Pty, all).await.unwrap();
    let Exec { stdin, stdout, stderr, mut control } = exec;
    assert!(stderr.is_none());
    control.resize(101, 33).unwrap();
    stdin.unwrap().write_all(b"go\n").await.unwrap();
    let mut out = String::new();
    stdout.unwrap().read_to_string(&mut out).await.unwrap();
    assert!(out.contains("/dev/pts/"), "{out}");
    assert!(out.contains("33 101"), "{out}");
    assert_eq!(control.wait().await.unwrap(), ExitStatus::Code(0));
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn attach_joins_the_main_process() {
    let Some(pod) = pod("attach_joins_the_main_process").await else { return };
    let mut spec = pod.spec(0, &["sh", "-c", "while read x; do echo got $x; done; echo end"]);
    spec.stdin = true;
    spec.stdin_once = true;
    pod.sandbox.start(&spec).await.unwrap();
    let all = Streams { stdin: true, stdout: true, stderr: true };
    let attached = pod.runtime.attach(&key(), "main", all).await.unwrap();
    let Attachment { stdin, stdout, mut control, .. } = attached;
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let mut out = String::new();
    stdout.unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "got one\ngot two\nend\n");
    assert_eq!(control.wait().await.unwrap(), ExitStatus::Code(0));
    assert_eq!(pod.log(0), out);
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs() {
    let Some(pod) = pod("a_new_agent_adopts_what_runs").await else { return };
    pod.sandbox.start(&pod.spec(0, &["sh", "-c", "sleep 0.2; exit 9"])).await.unwrap();
    let Pod { _guard, directory, sandbox, .. } = pod;
    drop(sandbox);
    let (sandbox, state) = Sandbox::adopt(directory.path()).await.unwrap().unwrap();
    assert_eq!(state.len(), 1);
    assert_eq!((state[0].name.as_str(), state[0].id.as_str()), ("main", "id-0"));
    let end = match state[0].end {
        Some(end) => end,
        None => sandbox.next_end().await.unwrap().end.unwrap(),
    };
    assert_eq!(end.code, 9);
    sandbox.stop().await;
    assert!(Sandbox::adopt(directory.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_port_of_the_pods_loopback_is_reached() {
    let Some(pod) = pod("a_port_of_the_pods_loopback_is_reached").await else { return };
    let lo = network::within(pod.sandbox.netns().as_fd(), rtnetlink::new_connection);
    let (connection, handle, _) = lo.unwrap();
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
    handle.link().set(up).execute().await.unwrap();
    let argv = ["/run/portolan/bin/portolan", "internal", "serve", "--tcp", "80", "--udp", "53"];
    pod.sandbox.start(&pod.spec(0, &argv)).await.unwrap();
    pod.wait_for_log("serving").await;
    let mut stream = pod.runtime.connect(&key(), 80).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-portolan-pod: test\r\n"), "{answer}");
    assert!(answer.contains("Hostname: test\n") && answer.contains("GET /x HTTP/1.1\n"));
    assert!(pod.runtime.connect(&key(), 81).await.is_err());
    // It drains on SIGTERM: an idle connection is closed, and it exits with 0.
    let mut idle = pod.runtime.connect(&key(), 80).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = vec![0; 64];
    idle.read_exact(&mut first).await.unwrap();
    pod.sandbox.signal("main", 0, libc::SIGTERM).unwrap();
    assert_eq!(pod.end().await.end.unwrap().code, 0);
    pod.sandbox.stop().await;
}

#[tokio::test]
async fn the_built_in_server_hears_of_new_ports() {
    let Some(pod) = pod("the_built_in_server_hears_of_new_ports").await else { return };
    let lo = network::within(pod.sandbox.netns().as_fd(), rtnetlink::new_connection);
    let (connection, handle, _) = lo.unwrap();
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
    handle.link().set(up).execute().await.unwrap();
    let program = "/run/portolan/bin/portolan";
    let argv = [program, "internal", "serve", "--tcp", "80", "--ports-from", "/ports"];
    let mut spec = pod.spec(0, &argv);
    let mut ports = pod.volume("/ports");
    ports.source = crate::pod::launch::ports_directory(pod.path(), "main");
    ports.read_only = true;
    spec.root.mounts.push(ports);
    crate::pod::launch::write_ports(pod.path(), "main", &[80, 81], &[]).unwrap();
    pod.sandbox.start(&spec).await.unwrap();
    pod.wait_for_log("serving").await;
    assert!(pod.runtime.connect(&key(), 81).await.is_ok());
    assert!(pod.runtime.connect(&key(), 8080).await.is_err());
    crate::pod::launch::write_ports(pod.path(), "main", &[80, 8080], &[]).unwrap();
    for _ in 0..1000 {
        if pod.runtime.connect(&key(), 8080).await.is_ok() {
            pod.sandbox.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("port 8080 is never served");
}

#[tokio::test]
async fn stopping_kills_everything() {
    let Some(pod) = pod("stopping_kills_everything").await else { return };
    pod.sandbox.start(&pod.spec(0, &["sleep", "1000"])).await.unwrap();
    let pid: i32 = std::fs::read_to_string(pod.path().join("shim.pid")).unwrap().parse().unwrap();
    let before = children();
    let below = before.iter().filter(|(_, parent)| **parent == pid).map(|(child, _)| *child);
    let below: Vec<i32> = below.collect();
    assert!(!below.is_empty());
    pod.sandbox.stop().await;
    let after = children();
    assert!(below.iter().all(|child| !after.contains_key(child)));
}

/// Every process and its parent.
fn children() -> HashMap<i32, i32> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let rest = stat.rsplit(") ").next().unwrap();
        all.insert(pid, rest.split(' ').nth(1).unwrap().parse().unwrap());
    }
    all
}
