//! IPVS: virtual servers, their real servers, and the timeouts of their connections.
//!
//! [`Socket::apply`] carries many operations out with few system calls. There are no transactions:
//! each operation succeeds or is refused for itself, and what a refusal means (EEXIST, ENOENT,
//! ESRCH) is decided above. What is read back compares equal to what was applied.
//!
//! All state belongs to the network namespace of the socket. Virtual servers by firewall mark, and
//! those of other protocols than these, are left alone and not listed.
//!
//! Upstream rule: include/uapi/linux/ip_vs.h and net/netfilter/ipvs/ip_vs_ctl.c.

mod attr;
mod decode;
mod encode;
mod object;
mod scheduler;
mod socket;
mod text;

pub use encode::Op;
pub use object::{
    Connections, Destination, ForwardingMethod, Granularity, Info, ListedDestination, Persistence,
    Protocol, RealServer, Service, ServiceFlags, Timeouts, VirtualServer,
};
pub use scheduler::Scheduler;
pub use socket::{IpvsError, Refusal, Socket};
