//! The kernel settings that the proxy cares for. One that cannot be written is a warning, a metric and
//! an event: in a child network namespace some are read-only even for root.
//!
//! Upstream rule: `setupConntrack` of cmd/kube-proxy/app/server_linux.go, and `route_localnet` by
//! `NewProxier` of pkg/proxy/iptables/proxier.go.

use portolan_backend_ipvs::{StrictArp, Sysctl};
use portolan_model::LocalhostNodePorts;
use portolan_netlink::sysctl::{self, SysctlError};

use crate::config::duration::Span;
use crate::config::types::Conntrack;
use crate::config::{Mode, Settings};
use crate::metrics::Metrics;

const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";

/// Writes what the configuration asks for; gives what could not be written.
pub(crate) fn apply(settings: &Settings, cores: usize, metrics: &Metrics) -> Vec<SysctlError> {
    let conntrack = &settings.effective.conntrack;
    let mut failed = Vec::new();
    let mut note = |result: Result<(), SysctlError>| {
        if let Err(e) = result {
            metrics.sysctl_failed();
            tracing::warn!("{e}; it stays as it is");
            failed.push(e);
        }
    };
    if let Some(max) = conntrack_max(conntrack, cores) {
        note(raise(CONNTRACK_MAX, max));
    }
    let mut seconds = |name: &str, span: Option<Span>| {
        if let Some(span) = span.filter(|span| !span.0.is_zero()) {
            note(sysctl::write(&format!("net/netfilter/nf_conntrack_{name}"), span.0.as_secs()));
        }
    };
    seconds("tcp_timeout_established", conntrack.tcp_established_timeout);
    seconds("tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout);
    seconds("udp_timeout", Some(conntrack.udp_timeout));
    seconds("udp_timeout_stream", Some(conntrack.udp_stream_timeout));
    if settings.mode == Mode::Ipvs {
        let is_strict = settings.effective.ipvs.strict_arp;
        let strict_arp = if is_strict { StrictArp::On } else { StrictArp::Off };
        for Sysctl { name, value } in portolan_backend_ipvs::sysctls(strict_arp, kernel_version()) {
            note(sysctl::write(name, value));
        }
    }
    if conntrack.tcp_be_liberal {
        note(sysctl::write("net/netfilter/nf_conntrack_tcp_be_liberal", 1));
    }
    failed
}

/// Lets what is sent from 127.0.0.1 leave there once its address is rewritten, where node ports answer
/// at localhost. It lets neighbours ask for such addresses as well, which only the rules keep out: they
/// must be there before (CVE-2020-8558).
pub(crate) fn open_localhost(settings: &Settings, metrics: &Metrics) -> Vec<SysctlError> {
    if settings.localhost_node_ports == LocalhostNodePorts::Off {
        return Vec::new();
    }
    let written = sysctl::write("net/ipv4/conf/all/route_localnet", 1);
    let failed: Vec<_> = written.err().into_iter().collect();
    for e in &failed {
        metrics.sysctl_failed();
        tracing::warn!("{e}; it stays as it is");
    }
    failed
}

/// The kernel's version: major and minor; noughts where it does not say.
fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// How many connections to allow for; none: leave the kernel's limit alone.
fn conntrack_max(conntrack: &Conntrack, cores: usize) -> Option<u64> {
    let per_core = u64::try_from(conntrack.max_per_core?).ok().filter(|n| *n > 0)?;
    let floor = u64::try_from(conntrack.min.unwrap_or(0)).unwrap_or(0);
    Some((per_core * u64::try_from(cores).unwrap_or(1)).max(floor))
}

/// Never lowers a limit that somebody set higher.
fn raise(name: &str, value: u64) -> Result<(), SysctlError> {
    let now = sysctl::read(name)?;
    if now.parse::<u64>().is_ok_and(|now| now >= value) {
        Ok(())
    } else {
        sysctl::write(name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_the_cores_from_a_floor() {
        let conntrack = |per_core, min| Conntrack {
            max_per_core: Some(per_core),
            min: Some(min),
            ..Conntrack::default()
        };
        assert_eq!(conntrack_max(&conntrack(32_768, 131_072), 2), Some(131_072));
        assert_eq!(conntrack_max(&conntrack(32_768, 131_072), 8), Some(262_144));
        assert_eq!(conntrack_max(&conntrack(0, 131_072), 8), None);
    }
}
