//! What this process may do: root of the host, or root of a user namespace of its own.
//!
//! Deciding is by effective capabilities, not by uid: root in a container without them needs the
//! user namespace as everybody else. The hints name the settings that usually stand in the way.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// How the lab gets the rights that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Privilege {
    /// The process has them: no user namespace.
    Host,
    /// A user namespace in which the caller is root.
    UserNamespace,
}

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;

impl Privilege {
    /// Looks at the effective capabilities of this process.
    pub(crate) fn of_this_process() -> Privilege {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Privilege::of_status(&status)
    }

    fn of_status(status: &str) -> Privilege {
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
        if effective & needed == needed { Privilege::Host } else { Privilege::UserNamespace }
    }
}

/// What to do when the kernel refuses a namespace, a mount, a link or a table.
pub(crate) fn hint(refusal: &io::Error) -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Some(
            "AppArmor restricts user namespaces here: run as root, or allow them with \
             `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
                .into(),
        );
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Some(
            "user namespaces are for root only here: run as root, or allow them with \
             `sysctl kernel.unprivileged_userns_clone=1`"
                .into(),
        );
    }
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Some(
            "user namespaces are switched off here: run as root, or allow them with \
             `sysctl user.max_user_namespaces=15000`"
                .into(),
        );
    }
    match refusal.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Some(
            "run as root, or where a user may make user, network and mount namespaces (a container \
             needs CAP_SYS_ADMIN and CAP_NET_ADMIN and an unmasked /proc)"
                .into(),
        ),
        Some(libc::ENOSPC | libc::EUSERS) => Some(
            "a limit on namespaces is reached: see /proc/sys/user/max_*_namespaces".into(),
        ),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENODEV) => {
            Some(
                "this kernel lacks the feature; it needs namespaces, bridge, veth, overlay and \
                 nf_tables (Linux 5.13 or later)"
                    .into(),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_both_capabilities_make_host_privilege() {
        assert_eq!(Privilege::of_status("CapEff:\t000001ffffffffff\n"), Privilege::Host);
        assert_eq!(Privilege::of_status("CapEff:\t0000000000201000\n"), Privilege::Host);
        assert_eq!(Privilege::of_status("CapEff:\t0000000000001000\n"), Privilege::UserNamespace);
        assert_eq!(Privilege::of_status("CapEff:\t0000000000200000\n"), Privilege::UserNamespace);
        assert_eq!(Privilege::of_status(""), Privilege::UserNamespace);
    }
}
