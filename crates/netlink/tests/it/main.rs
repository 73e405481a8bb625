//! The netlink sockets against a real kernel, each test in an anonymous network namespace.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "skipped tests say so")]

mod address;
mod conntrack;
mod ipvs;
mod link;
mod monitor;
mod netns;
mod nfacct;
mod nft;
mod round_trip;
mod vm;
