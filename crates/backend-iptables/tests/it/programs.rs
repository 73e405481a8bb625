//! Programs that are missing, fail, or never end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portolan_backend_iptables::{Iptables, IptablesError, Options, ProgramError, Programs};
use portolan_model::{Backend, Family, ForwardingTable, Settings};

/// A script under a name in a directory.
fn script(at: &Path, name: &str, body: &str) -> PathBuf {
    let path = at.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Held while a script is written and run: a program that another thread starts meanwhile would keep
/// the script open for writing, and then it cannot be run.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What comes of a start when `iptables-restore` is such a script.
fn started(body: &str, limit: Duration) -> Result<(), IptablesError> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
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
