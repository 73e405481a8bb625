//! What an operator can configure, and the kernel's settings that go with it.

use std::time::Duration;

use ipnet::IpNet;
use portolan_netlink::ipvs::{Scheduler, ServiceFlags};

/// The dummy link that holds the addresses of Services.
pub const LINK: &str = "kube-ipvs0";

/// What an operator can configure about mode ipvs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The bit of the packet mark that asks for masquerading, as a mask
    /// (`iptables.masqueradeBit` 14 is `0x4000`).
    pub masquerade_mark: u32,
    /// How virtual servers pick a real one (`ipvs.scheduler`); round robin by default.
    pub scheduler: Scheduler,
    /// Virtual servers and addresses in these ranges that are not ours are left alone
    /// (`ipvs.excludeCIDRs`).
    pub exclude_cidrs: Vec<IpNet>,
    /// After how long a TCP real server that is no endpoint any more is removed, though it has
    /// connections; 15 minutes by default.
    ///
    /// Upstream has no such end: `rsGracefulDeleteInterval` of graceful_termination.go is unused.
    pub termination_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masquerade_mark: 1 << 14,
            scheduler: Scheduler::default(),
            exclude_cidrs: Vec::new(),
            termination_deadline: Duration::from_secs(15 * 60),
        }
    }
}

impl Options {
    /// Flags of every virtual server: Maglev hashes ports, too.
    ///
    /// Upstream rule: `FlagSourceHash` of pkg/proxy/ipvs/util, which is `IP_VS_SVC_F_SCHED_MH_PORT`.
    pub(crate) fn flags(&self) -> ServiceFlags {
        let is_maglev = self.scheduler.as_str() == "mh";
        ServiceFlags { sched2: is_maglev, ..ServiceFlags::default() }
    }
}

/// A setting of the kernel that mode ipvs depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name with slashes, below `/proc/sys`.
    pub name: &'static str,
    /// What it must be.
    pub value: u8,
}

/// Whether ARP for Services' addresses is left to others (`ipvs.strictARP`), as MetalLB wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StrictArp {
    /// Any link answers for any address of this node.
    #[default]
    Off,
    /// A link answers for its own addresses alone; kube-ipvs0 never answers.
    On,
}

/// The settings to write before [`crate::Ipvs`] starts first, all of the network namespace of the
/// thread that writes, for a kernel of this version (major, minor).
///
/// Before 5.9 a client's port that is used again would wait a second while `conntrack` is 1, unless
/// `conn_reuse_mode` is 0; from there on 0 would bind it to the real server that it had, even one that is
/// leaving (kubernetes/kubernetes#81775, #93297).
///
/// Upstream rule: `NewProxier` of pkg/proxy/ipvs/proxier.go.
pub fn sysctls(strict_arp: StrictArp, kernel: (u32, u32)) -> Vec<Sysctl> {
    let set = |name, value| Sysctl { name, value };
    let mut all = vec![
        set("net/ipv4/vs/conntrack", 1),
        set("net/ipv4/vs/expire_nodest_conn", 1),
        set("net/ipv4/vs/expire_quiescent_template", 1),
        set("net/ipv4/ip_forward", 1),
    ];
    if ((4, 1)..(5, 9)).contains(&kernel) {
        all.push(set("net/ipv4/vs/conn_reuse_mode", 0));
    }
    if strict_arp == StrictArp::On {
        all.extend([
            set("net/ipv4/conf/all/arp_ignore", 1),
            set("net/ipv4/conf/all/arp_announce", 2),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_used_again_as_the_kernel_has_it_since_5_9() {
        let names = |strict_arp, kernel| -> Vec<_> {
            sysctls(strict_arp, kernel).into_iter().map(|setting| setting.name).collect()
        };
        let reuse = "net/ipv4/vs/conn_reuse_mode";
        assert!(!names(StrictArp::Off, (4, 0)).contains(&reuse));
        assert!(names(StrictArp::Off, (4, 1)).contains(&reuse));
        assert!(names(StrictArp::Off, (5, 8)).contains(&reuse));
        assert!(!names(StrictArp::Off, (5, 9)).contains(&reuse));
        assert!(!names(StrictArp::Off, (6, 1)).contains(&reuse));
        assert_eq!(names(StrictArp::Off, (6, 1)).len(), 4);
        assert_eq!(names(StrictArp::On, (6, 1)).len(), 6);
    }
}
