//! A lab to test with: started as root or as an ordinary user, gone when dropped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use portolan_store::{Op, Options, Store};
use serde_json::Value;

/// Who runs the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// The machine's root.
    Root,
    /// A user without any privilege.
    Ordinary,
}

/// A user and group number that no account should have.
const ORDINARY: u32 = 61_234;

/// Longer than anything should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl User {
    /// Whether this test can run as that user; says so when it cannot.
    pub(crate) fn available(self, test: &str) -> bool {
        let root = nix_geteuid() == 0;
        if self == User::Root && !root {
            eprintln!("SKIP {test}: it needs root");
            return false;
        }
        true
    }
}

fn nix_geteuid() -> u32 {
    // The owner of one's own /proc entry is the effective user.
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("/proc is mounted"))
}

/// The binary, where every user may run it.
fn binary() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = COPY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        open_to_all(dir.path());
        let path = dir.path().join("portolan");
        fs::copy(env!("CARGO_BIN_EXE_portolan"), &path).expect("the binary can be copied");
        (dir, path)
    });
    path
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// A `portolan` command as this user, with an environment of its own.
pub(crate) fn portolan<I: AsRef<OsStr>>(
    user: User,
    arguments: impl IntoIterator<Item = I>,
) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("XDG_STATE_HOME").env_remove("PORTOLAN_DATA_DIR").env("SHELL", "/bin/sh");
    if user == User::Ordinary && nix_geteuid() == 0 {
        command.uid(ORDINARY).gid(ORDINARY);
    }
    command
}

/// A lab that runs, or is about to.
pub(crate) struct Lab {
    temp: tempfile::TempDir,
    pub(crate) user: User,
    /// `up` itself, when it stays in the foreground.
    pub(crate) up: Option<Child>,
}

impl Lab {
    /// A data directory, and no lab on it yet.
    pub(crate) fn new(user: User) -> Lab {
        Lab::new_in(user, &std::env::temp_dir())
    }

    /// The same, with the data directory somewhere below `parent`.
    pub(crate) fn new_in(user: User, parent: &Path) -> Lab {
        let temp = tempfile::tempdir_in(parent).expect("a temporary directory can be made");
        open_to_all(temp.path());
        if user == User::Ordinary && nix_geteuid() == 0 {
            chown(temp.path(), Some(ORDINARY), Some(ORDINARY)).expect("root may give files away");
        }
        Lab { temp, user, up: None }
    }

    /// Puts an object into the store of a lab that has never run, under its key there.
    pub(crate) fn seed(&self, key: &str, value: Value) {
        let data = self.data_dir();
        fs::create_dir(&data).expect("it is not there yet");
        let file = data.join("objects.redb");
        let store = Store::open(&file, Options::default()).expect("a store can be made");
        let written = store.commit(vec![Op::Create { key: key.to_owned(), value }]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(written).expect("it is written");
        if self.user == User::Ordinary && nix_geteuid() == 0 {
            for path in [&data, &file] {
                chown(path, Some(ORDINARY), Some(ORDINARY)).expect("root may give files away");
            }
        }
    }

    /// A lab that is up, detached.
    pub(crate) fn up(user: User, arguments: &[&str]) -> Lab {
        let lab = Lab::new(user);
        lab.start(arguments);
        lab
    }

    /// Starts detached and waits until it is up.
    pub(crate) fn start(&self, arguments: &[&str]) {
        let output = self.try_start(arguments);
        assert!(output.status.success(), "up failed:\n{}\n{}", text(&output), self.log());
    }

    pub(crate) fn try_start(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&["up", "--detach", "--api-port", "0"]);
        command.args(arguments).output().expect("portolan runs")
    }

    /// Starts in the foreground and waits until it is up.
    pub(crate) fn start_foreground(&mut self, arguments: &[&str]) {
        let mut command = self.command(&["up", "--api-port", "0"]);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        self.up = Some(command.spawn().expect("portolan runs"));
        self.wait_for("the lab is up", || {
            self.status().is_some_and(|status| status["state"] == "Running")
        });
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    /// A `portolan` command on this lab.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = portolan(self.user, [arguments[0], "--data-dir"]);
        command.arg(self.data_dir()).args(&arguments[1..]);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("portolan runs")
    }

    /// `shell WHERE -- sh -c SCRIPT`; its output, which must be a success.
    pub(crate) fn shell(&self, place: &[&str], script: &str) -> String {
        let arguments = [&["shell"], place, &["--", "sh", "-c", script]].concat();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{script}: {}", text(&output));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// `status -o json`, when a lab answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "-o", "json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// `up`'s process number.
    pub(crate) fn pid(&self) -> u32 {
        let status = self.status().expect("the lab answers");
        u32::try_from(status["pid"].as_u64().expect("a number")).expect("a process number")
    }

    pub(crate) fn client(&self) -> kube::Client {
        let text = fs::read_to_string(self.data_dir().join("kubeconfig")).expect("a kubeconfig");
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&text).expect("a valid kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
        let config = tokio::runtime::Handle::current().block_on(config).expect("a usable one");
        kube::Client::try_from(config).expect("a usable client")
    }

    pub(crate) fn wait_for(&self, what: &str, mut seen: impl FnMut() -> bool) {
        wait_for(what, &mut seen, || self.log());
    }

    pub(crate) fn log(&self) -> String {
        let mut text = fs::read_to_string(self.data_dir().join("portolan.log")).unwrap_or_default();
        for index in 1..=2 {
            let path = self.data_dir().join(format!("nodes/node-{index}/agent.log"));
            let agent = fs::read_to_string(path).unwrap_or_default();
            text.push_str(&format!("--- node-{index}\n{agent}"));
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let owner = fs::read_to_string(self.data_dir().join("lock")).ok();
        let running = self.status().is_some();
        if running {
            let _ = self.run(&["down"]);
        }
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        } else if let (true, Some(pid)) = (running && self.status().is_some(), owner) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

/// Polls until it is seen; fails with `context` when it never is.
pub(crate) fn wait_for(
    what: &str,
    seen: &mut dyn FnMut() -> bool,
    context: impl FnOnce() -> String,
) {
    assert!(eventually(seen), "never seen: {what}\n{}", context());
}

/// Looks until it is seen, or patience ends.
pub(crate) fn eventually(mut seen: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !seen() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Both outputs, for messages and for looking into.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
