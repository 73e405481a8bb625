//! Anonymous network namespaces for tests: they vanish with the thread or process that made them.

use std::panic::resume_unwind;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Set in the process that [`as_ordinary_user`] starts.
const INSIDE: &str = "PORTOLAN_TEST_IN_USER_NAMESPACE";

/// Runs `body` on a thread in a network namespace of its own; skips when none may be made.
pub(crate) fn in_netns(test: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        body();
        Ok::<_, nix::Error>(())
    })
    .join();
    match made {
        Ok(Ok(())) => {}
        Ok(Err(e)) => println!("SKIP {test}: cannot make a network namespace: {e}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs the test of that name once more as an ordinary user would: in a user namespace, where
/// the process is root over its own network namespace only.
pub(crate) fn as_ordinary_user(test: &str, path: &str) {
    let exe = std::env::current_exe().expect("a test knows its binary");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(exe)
        .args([path, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => return println!("SKIP {test}: cannot run unshare: {e}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") {
        return println!("SKIP {test}: no user namespaces: {text}");
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text.lines().filter(|line| line.starts_with("SKIP")).for_each(|line| println!("{line}"));
}

/// The output of a command, or none with a SKIP line when it is not installed.
pub(crate) fn run(test: &str, program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {args:?}: {errors}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(e) => {
            println!("SKIP {test}: {program}: {e}");
            None
        }
    }
}
