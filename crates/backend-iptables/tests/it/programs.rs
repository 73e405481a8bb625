//! Programs that are missing, fail, or never end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use portolan_backend_iptables::{Iptables, IptablesError, Options, ProgramError, Programs};
use portolan_model::{Backend, Family, ForwardingTable, Settings};

use crate::kernel::in_namespace;

/// A script under a name in a directory. A process of its own writes it: were it open for writing here
/// while another thread starts a program, that program would have it open, too, and it could not be run.
fn script(at: &Path, name: &str, body: &str) -> PathBuf {
    let path = at.join(name);
    let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"";
    let written = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(body).status();
    assert!(written.unwrap().success());
    path
}

/// What comes of a start when `iptables-restore` is such a script.
fn started(body: &str, limit: Duration) -> Result<(), IptablesError> {
    let at = tempfile::tempdir().unwrap();
    let save = script(at.path(), "save", "exit 0");
    let restore = script(at.path(), "restore", body);
    let programs = Programs { restore, save, limit, limit_per_line: Duration::ZERO };
    let table = ForwardingTable::new(Family::Ipv4, Settings::default());
    Iptables::with_programs(Options::default(), programs).start(&table).map(drop)
}

const AMPLE: Duration = Duration::from_secs(60);

#[test]
fn the_text_is_handed_over_whole() {
    let check = "test \"$*\" = '--noflush -w 5 --counters' || exit 9\ntest $(grep -c COMMIT) = 3";
    started(check, AMPLE).unwrap();
}

#[test]
fn a_failure_names_status_and_complaint() {
    let error = started("cat >/dev/null; echo line 7 failed >&2; exit 2", AMPLE).unwrap_err();
    assert!(matches!(error, IptablesError::Refused(ProgramError::Failed { .. })));
    let text = error.to_string();
    assert!(text.contains("exit status: 2") && text.ends_with("line 7 failed"), "{text}");
}

#[test]
fn a_held_lock_is_told_from_a_failure() {
    let held = "cat >/dev/null; echo Another app is holding the xtables lock >&2; exit 4";
    let error = started(held, AMPLE).unwrap_err();
    assert!(matches!(error, IptablesError::Refused(ProgramError::Locked { .. })), "{error}");
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let error = started("exec sleep 600", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, IptablesError::Refused(ProgramError::TimedOut { .. })), "{error}");
}

/// A program that started others, as a wrapper does, is ended with them: who holds its output open
/// would be waited for, and who goes on may still change rules.
#[test]
fn what_a_program_started_is_ended_with_it() {
    let at = tempfile::tempdir().unwrap();
    let told = at.path().join("pid");
    let body = format!("sleep 600 & echo $! >{}; wait", told.display());
    let error = started(&body, Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, IptablesError::Refused(ProgramError::TimedOut { .. })), "{error}");
    let pid = fs::read_to_string(told).unwrap();
    let status = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    for _ in 0..500 {
        // Whoever inherits it may take a moment to look after it.
        match fs::read_to_string(&status) {
            Ok(stat) if !stat.contains(") Z ") => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
    panic!("the child {pid} still runs");
}

/// The real lock, held as another iptables would hold it.
#[test]
fn iptables_legacy_waits_for_the_lock_and_then_says_so() {
    let test = "iptables_legacy_waits_for_the_lock_and_then_says_so";
    let restore = Path::new("/usr/sbin/iptables-legacy-restore");
    if !restore.exists() {
        return println!("SKIP {test}: no {}", restore.display());
    }
    in_namespace(test, move || {
        let at = tempfile::tempdir().unwrap();
        let lock = File::create(at.path().join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
        let own = |name: &str| {
            let file = at.path().join("lock");
            let body = format!(
                "XTABLES_LOCKFILE={} exec /usr/sbin/iptables-legacy-{name} \"$@\"",
                file.display()
            );
            script(at.path(), name, &body)
        };
        let programs = Programs {
            restore: own("restore"),
            save: own("save"),
            limit: AMPLE,
            limit_per_line: Duration::ZERO,
        };
        let mut backend = Iptables::with_programs(Options::default(), programs);
        let table = ForwardingTable::new(Family::Ipv4, Settings::default());
        let error = backend.start(&table).unwrap_err();
        assert!(matches!(error, IptablesError::Refused(ProgramError::Locked { .. })), "{error}");
        drop(lock);
        backend.start(&table).unwrap();
        assert!(backend.verify(&table).unwrap());
    });
}

#[test]
fn an_iptables_of_long_ago_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let programs = |version: &str| Programs {
        restore: script(at.path(), "restore", &format!("echo 'iptables-restore {version}'")),
        save: "/nowhere/iptables-save".into(),
        limit: AMPLE,
        limit_per_line: Duration::ZERO,
    };
    programs("v1.8.9 (legacy)").check().unwrap();
    let error = programs("v1.6.1").check().unwrap_err();
    assert!(error.to_string().ends_with("the rules need iptables 1.6.2 or later"), "{error}");
}

#[test]
fn a_missing_program_is_named() {
    let programs = Programs {
        restore: "/nowhere/iptables-restore".into(),
        save: "/nowhere/iptables-save".into(),
        limit: AMPLE,
        limit_per_line: Duration::ZERO,
    };
    let table = ForwardingTable::new(Family::Ipv4, Settings::default());
    let mut backend = Iptables::with_programs(Options::default(), programs);
    let error = backend.start(&table).unwrap_err();
    assert!(error.to_string().contains("/nowhere/iptables-save is not installed"), "{error}");
}
