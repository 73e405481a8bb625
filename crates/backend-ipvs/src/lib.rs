//! The forwarding table as IPVS' virtual servers, and what they need around them.
//!
//! ```text
//! front ──▶ virtual server(s) ──▶ real servers          IPVS, see `content`
//!   └─ its address ──▶ kube-ipvs0                        so that packets to it end here, where IPVS is
//!   └─ who may come, who is masqueraded ──▶ table portolan-ipvs    nftables, see `rules`
//! ```
//! A [`Plan`] is made without looking at the kernel (a full one, or one for a delta) or by comparing
//! with what is read of it. IPVS has no transactions, so a plan is a row of steps after each of which
//! no packet goes where it should not: see `diff`.
//!
//! A virtual server has one list of real servers, so of a front's actions the one for packets from
//! outside counts, as upstream's mode ipvs has it.
//!
//! Upstream rule: `pkg/proxy/ipvs/proxier.go` and `graceful_termination.go`.

mod backend;
mod content;
mod diff;
mod kernel;
mod layout;
mod options;
mod plan;
mod planner;
mod rules;
mod termination;

pub use backend::{Ipvs, IpvsModeError};
pub use layout::TABLE;
pub use options::{LINK, Options, StrictArp, Sysctl, sysctls};
pub use plan::{Plan, Stage};
pub use planner::Planner;
