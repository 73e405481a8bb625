//! The forwarding table as iptables rules, in the names and the shape that operators know from
//! kube-proxy.
//!
//! [`Planner`] decides, without looking at the kernel, which chains say what; a [`Plan`] prints as the
//! text that `iptables-restore --noflush` takes; [`Iptables`] carries plans out.
//!
//! Upstream rule: `pkg/proxy/iptables/proxier.go`.

mod backend;
mod name;
mod plan;
mod program;
mod render;
mod save;
mod service;
mod sight;

pub use backend::{Iptables, IptablesError};
pub use plan::{Plan, Planner};
pub use program::{ProgramError, Programs};
pub use render::{Accounting, INVALID_DROPPED, LOCALHOST_ACCEPTED, Options};
