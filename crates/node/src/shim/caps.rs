//! Capabilities: names, the default set, and a container's choice.
//!
//! The default set is the container runtimes' (Docker, containerd), less MKNOD: there is no
//! device cgroup here that would keep a made device from being opened. "All" leaves out what
//! reaches the machine beyond the lab's namespaces, so that a privileged pod cannot set the
//! host's clock or load a module.

/// Every capability by its number in linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const BEYOND_THE_LAB: [&str; 12] = [
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_BOOT",
    "SYS_TIME",
    "SYS_PACCT",
    "MKNOD",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_CONTROL",
];

/// A set of capabilities, a bit each.
pub(crate) type Set = u64;

fn bit(name: &str) -> Option<Set> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

fn set(names: &[&str]) -> Set {
    names.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit)
}

/// What a privileged container gets.
pub(crate) fn privileged() -> Set {
    set(&NAMES) & !set(&BEYOND_THE_LAB)
}

/// The default set with `drop` taken away and `add` granted; `ALL` names every one. An unknown
/// name is the error.
pub(crate) fn choose<'a>(
    add: impl IntoIterator<Item = &'a str>,
    drop: impl IntoIterator<Item = &'a str>,
) -> Result<Set, String> {
    let named = |name: &str| {
        if name.eq_ignore_ascii_case("ALL") {
            Ok(set(&NAMES))
        } else {
            bit(name).ok_or_else(|| format!("unknown capability {name:?}"))
        }
    };
    let mut dropped = 0;
    for name in drop {
        dropped |= named(name)?;
    }
    let mut added = 0;
    for name in add {
        added |= named(name)? & privileged();
    }
    Ok((set(&DEFAULT) & !dropped) | added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_all_and_adding_one_leaves_that_one() {
        assert_eq!(choose(["NET_ADMIN"], ["ALL"]), Ok(1 << 12));
    }

    #[test]
    fn the_prefix_and_the_case_do_not_matter() {
        assert_eq!(choose(["cap_net_admin"], ["all"]), choose(["NET_ADMIN"], ["ALL"]));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(choose(["FLY"], []).is_err());
    }

    #[test]
    fn nobody_may_load_modules_or_make_devices() {
        let module = 1 << 16;
        let mknod = 1 << 27;
        assert_eq!(privileged() & (module | mknod), 0);
        assert_eq!(choose(["ALL", "SYS_MODULE", "MKNOD"], []).unwrap() & (module | mknod), 0);
    }
}
