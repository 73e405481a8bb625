//! A lab with kubectl beside it, and HTTP clients at its every place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Lab, User, eventually, text};

/// The seed's node port; the host has only one of it.
const SEED_PORT: u16 = 30080;

/// Whether kubectl is there; says so when it is not.
pub(crate) fn kubectl_available(test: &str) -> bool {
    let version = Command::new("kubectl").args(["version", "--client"]).output();
    let available = version.is_ok_and(|output| output.status.success());
    if !available {
        eprintln!("SKIP {test}: kubectl is not installed");
    }
    available
}

/// A lab, and a home for kubectl that nobody else uses.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    home: tempfile::TempDir,
    /// Whether kubectl speaks SPDY alone, as it did before 1.31.
    raw_spdy: AtomicBool,
}

/// How kubectl reaches a process in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Spdy,
}

impl Cluster {
    pub(crate) fn up(user: User, more: &[&str]) -> Cluster {
        Cluster::on(Lab::up(user, more))
    }

    /// kubectl for a lab that is up.
    pub(crate) fn on(lab: Lab) -> Cluster {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        Cluster { lab, home, raw_spdy: AtomicBool::new(false) }
    }

    /// Makes kubectl use this transport from now on.
    pub(crate) fn speak(&self, transport: Transport) {
        self.raw_spdy.store(transport == Transport::Spdy, Ordering::Relaxed);
    }

    /// A file of this test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.lab.data_dir().join("kubeconfig")
    }

    /// kubectl on this lab. A word of `arguments` never holds spaces of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        if self.raw_spdy.load(Ordering::Relaxed) {
            command
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path())
            .env("KUBECONFIG", self.kubeconfig())
            .env_remove("KUBERNETES_SERVICE_HOST")
            .current_dir(self.home.path())
            .stdin(Stdio::null());
    }

    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kubectl runs")
    }

    /// Standard output of a command that succeeds.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let line = arguments.join(" ");
        assert!(output.status.success(), "kubectl {line}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Both outputs of a command that fails.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let line = arguments.join(" ");
        assert!(!output.status.success(), "kubectl {line} succeeded: {}", text(&output));
        text(&output)
    }

    /// A command with this on its standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that fails early does not read to the end.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("kubectl ends")
        })
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let output = self.run_with(&["apply", "-f", "-"], manifest.as_bytes());
        assert!(output.status.success(), "{manifest}\n{}", text(&output));
    }

    /// Applies a manifest of the seed, as it stands there.
    pub(crate) fn apply_seed(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seed").join(name);
        self.run(&["apply", "-f", path.to_str().expect("a plain path")]);
    }

    /// A field of an object, by kubectl's JSON path.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.run(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Waits for a Deployment's rollout, as kubectl sees it.
    pub(crate) fn rolled_out(&self, deployment: &str) {
        self.run(&["rollout", "status", deployment, "--timeout=60s"]);
    }

    /// A pod that does nothing, to be a client.
    pub(crate) fn client_pod(&self, name: &str) {
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "tools", "command": ["sleep", "infinity"]}],
            },
        });
        self.apply(&manifest.to_string());
        self.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
    }

    /// The names of the pods that a Service's slices say are ready.
    pub(crate) fn ready_pods(&self, service: &str) -> Vec<String> {
        let selector = format!("kubernetes.io/service-name={service}");
        let path = "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}\
                    {.targetRef.name}{\"\\n\"}{end}";
        let names = self.run(&["get", "endpointslices", "-l", &selector, "-o", path]);
        let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Sends requests from a place, each on a connection of its own.
    pub(crate) fn requests(&self, from: &From<'_>, address: &str, count: usize) -> Answers {
        let output = match from {
            From::Host => {
                let mut command = Command::new("curl");
                command.args(curl(address, count)).stdin(Stdio::null());
                command.output().expect("curl runs")
            }
            From::Inside(place) => {
                let words: Vec<String> = [&["shell"], *place, &["--", "curl"]]
                    .concat()
                    .iter()
                    .map(|w| (*w).to_owned())
                    .collect();
                let words: Vec<String> = words.into_iter().chain(curl(address, count)).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.lab.run(&words)
            }
        };
        Answers::parse(&output)
    }
}

/// Where requests come from.
pub(crate) enum From<'a> {
    /// The host, through its loopback.
    Host,
    /// A place that `portolan shell` knows.
    Inside(&'a [&'a str]),
}

/// One line for each request: curl's exit code, the status, the seconds to the connection's end of
/// opening, and who answered.
fn curl(address: &str, count: usize) -> Vec<String> {
    let format = "%{exitcode} %{http_code} %{time_total} %header{x-portolan-pod}\\n";
    let fixed =
        ["-s", "-o", "/dev/null", "--max-time", "5", "-H", "Connection: close", "-w", format];
    let mut words: Vec<String> = fixed.iter().map(|word| (*word).to_owned()).collect();
    words.push(format!("http://{address}/[1-{count}]"));
    words
}

/// What came of some requests.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// How many each pod answered.
    pub(crate) by_pod: BTreeMap<String, usize>,
    /// How many failed, by curl's exit code.
    pub(crate) failed: BTreeMap<i32, usize>,
    /// The longest that a failed one took.
    pub(crate) slowest_failure: f64,
}

impl Answers {
    fn parse(output: &Output) -> Answers {
        Answers::of(&String::from_utf8_lossy(&output.stdout), &text(output))
    }

    pub(crate) fn of(lines: &str, context: &str) -> Answers {
        let mut answers = Answers::default();
        for line in lines.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [exit, status, seconds, pod] = words[..] else { panic!("{line:?} of\n{context}") };
            let exit: i32 = exit.parse().expect("a number");
            if exit == 0 && status == "200" {
                *answers.by_pod.entry(pod.to_owned()).or_default() += 1;
            } else {
                *answers.failed.entry(exit).or_default() += 1;
                let seconds: f64 = seconds.parse().expect("a number");
                answers.slowest_failure = answers.slowest_failure.max(seconds);
            }
        }
        assert!(!answers.by_pod.is_empty() || !answers.failed.is_empty(), "no lines: {context}");
        answers
    }

    pub(crate) fn total(&self) -> usize {
        self.by_pod.values().chain(self.failed.values()).sum()
    }

    pub(crate) fn pods(&self) -> Vec<String> {
        self.by_pod.keys().cloned().collect()
    }
}

/// Holds the seed's node port on the host for one lab at a time, over all test processes.
pub(crate) struct SeedPort(#[expect(dead_code, reason = "the lock is held while it is open")] File);

impl SeedPort {
    /// None, with a line that says so, when something else has the port.
    pub(crate) fn take(test: &str) -> Option<SeedPort> {
        let path = std::env::temp_dir().join(format!("portolan-test-{SEED_PORT}.lock"));
        let lock = File::create(&path).or_else(|_| File::open(&path)).expect("a lock file");
        lock.lock().expect("the lock is let go in time");
        // The lab that had the lock before may still be stopping.
        let is_free = || TcpListener::bind(("127.0.0.1", SEED_PORT)).is_ok();
        if !eventually(is_free) {
            eprintln!("SKIP {test}: port {SEED_PORT} of the host is in use");
            return None;
        }
        Some(SeedPort(lock))
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{SEED_PORT}")
    }
}

/// Bytes that look like noise, and are the same each time.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
