//! The raw netlink sockets: nf_tables, IPVS, conntrack, links and routes.
//!
//! Everything here acts on the network namespace of the calling thread at the time a socket is
//! opened; a socket stays with that namespace afterwards. No module keeps global state, and none
//! decides anything: plans are made above and only carried out here.

pub mod address;
pub mod conntrack;
mod generic;
pub mod ipvs;
pub mod link;
pub mod nfacct;
pub mod nft;
mod socket;
pub mod sysctl;
mod wire;

pub use nix::errno::Errno;
pub use wire::Malformed;
