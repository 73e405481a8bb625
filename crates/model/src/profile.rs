//! What upstream's modes do differently on purpose, as data.
//!
//! The walk of a packet takes a profile, so that one model holds every backend to its own mode.

/// How one mode treats what is no front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeProfile {
    /// The mode's name in the proxy's configuration.
    pub mode: &'static str,
    /// A port of a cluster IP in use that no Service has defined.
    pub undefined_port: UndefinedPort,
    /// An address in a service CIDR that is no cluster IP in use.
    pub unallocated_cluster_ip: UnallocatedClusterIp,
    /// Packets that connection tracking calls invalid, on their way through this node.
    pub invalid_packets: InvalidPackets,
    /// Packets from pods and this node to a front of `externalTrafficPolicy: Local`.
    pub short_circuit: ShortCircuit,
    /// Where addresses of Services are.
    pub service_addresses: ServiceAddresses,
}

/// Where packets from pods and this node go at a front of `externalTrafficPolicy: Local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortCircuit {
    /// To any of the cluster's endpoints, as if they had gone to the load balancer and come back.
    Honoured,
    /// To this node's endpoints, as packets from outside: a front has one list for everyone.
    Absent,
}

/// Whether the addresses of fronts are addresses of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceAddresses {
    /// They are nobody's.
    Nowhere,
    /// The node has them, so that packets to any of their ports end here: an undefined port is so at
    /// external and load balancer's addresses, too, and what a process of this node sends there comes
    /// from such an address. Those that are the node's in any case are left out.
    OnThisNode,
}

/// What becomes of packets that connection tracking calls invalid and that this node forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidPackets {
    /// They go on.
    Pass,
    /// They are dropped, unless connection tracking is liberal (`conntrack.tcpBeLiberal`): one that
    /// left without its address rewritten would make the peer reset the connection.
    Drop,
}

/// What becomes of packets to an undefined port of a cluster IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndefinedPort {
    /// They go on as if there were no proxy.
    Pass,
    /// They are refused.
    Reject,
}

/// What becomes of packets to an unallocated cluster IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnallocatedClusterIp {
    /// They go on as if there were no proxy.
    Pass,
    /// They are dropped.
    Drop,
}

impl ModeProfile {
    /// The nftables mode.
    pub const NFTABLES: Self = Self {
        mode: "nftables",
        undefined_port: UndefinedPort::Reject,
        unallocated_cluster_ip: UnallocatedClusterIp::Drop,
        invalid_packets: InvalidPackets::Pass,
        short_circuit: ShortCircuit::Honoured,
        service_addresses: ServiceAddresses::Nowhere,
    };
    /// The iptables mode.
    pub const IPTABLES: Self = Self {
        mode: "iptables",
        undefined_port: UndefinedPort::Pass,
        unallocated_cluster_ip: UnallocatedClusterIp::Pass,
        invalid_packets: InvalidPackets::Drop,
        short_circuit: ShortCircuit::Honoured,
        service_addresses: ServiceAddresses::Nowhere,
    };
    /// The ipvs mode.
    pub const IPVS: Self = Self {
        mode: "ipvs",
        undefined_port: UndefinedPort::Reject,
        unallocated_cluster_ip: UnallocatedClusterIp::Pass,
        invalid_packets: InvalidPackets::Pass,
        short_circuit: ShortCircuit::Absent,
        service_addresses: ServiceAddresses::OnThisNode,
    };
}
