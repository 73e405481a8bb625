//! Nodes: pod CIDRs, heartbeats, and what becomes of pods when a node falls silent.

mod cidr;
pub(crate) mod eviction;
pub(crate) mod ipam;
pub(crate) mod lifecycle;
