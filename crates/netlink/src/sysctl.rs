//! The kernel's settings of a network namespace, `/proc/sys/net`.
//!
//! `/proc/sys/net` shows the namespace of the *reading process's thread*, whatever namespace its
//! procfs was mounted from; so these calls act where the calling thread is.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A setting that could not be read or written.
#[derive(Debug, Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct SysctlError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl SysctlError {
    /// Whether the setting is read-only here, as some are outside the first network namespace.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }

    /// Whether this kernel or namespace has no such setting.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

fn path(name: &str) -> PathBuf {
    // A name is written with slashes, since interface names may have dots in them.
    PathBuf::from("/proc/sys").join(name.trim_start_matches('/'))
}

/// Reads a setting such as `net/ipv4/ip_forward`.
///
/// # Errors
/// When it is absent or may not be read.
pub fn read(name: &str) -> Result<String, SysctlError> {
    let path = path(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(SysctlError { verb: "read", path, source }),
    }
}

/// Writes a setting such as `net/ipv4/ip_forward`, unless it already is so.
///
/// # Errors
/// When it is absent or may not be written.
pub fn write(name: &str, value: impl ToString) -> Result<(), SysctlError> {
    let value = value.to_string();
    if read(name).is_ok_and(|now| now == value) {
        return Ok(());
    }
    let path = path(name);
    std::fs::write(&path, value).map_err(|source| SysctlError { verb: "write", path, source })
}

/// Makes the calling thread's network namespace plain for IPv6, as far as links are made there from
/// now on: addresses are used at once, without looking for duplicates, and nobody asks for routers.
/// Where a module's parameter switches IPv6 off by default it is switched on. A kernel without IPv6
/// is left alone.
///
/// # Errors
/// When a setting may not be written.
pub fn plain_ipv6() -> Result<(), SysctlError> {
    for (name, value) in [
        ("all/disable_ipv6", 0),
        ("default/disable_ipv6", 0),
        ("default/accept_dad", 0),
        ("default/accept_ra", 0),
    ] {
        match write(&format!("net/ipv6/conf/{name}"), value) {
            Err(error) if error.is_absent() => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}
