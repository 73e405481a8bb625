//! The forwarding table as a constant number of nftables rules.
//!
//! Services are elements of maps, never rules: a packet's front names the endpoint set for its class
//! of source, the set names how many slots it has, and one chain for each such number picks a slot.
//! See [`rules`] for the way of a packet and docs/decisions/001-nftables-shape.md for what this shape
//! was chosen against.
//!
//! A [`Plan`] is made without looking at the kernel (a full one, or one for a delta) or by comparing
//! with a dump of it; it is printed as nft text, and carried out as few transactions as the socket
//! allows, in an order that leaves the rules whole after each.

mod backend;
mod diff;
mod layout;
mod plan;
mod render;
mod rules;

pub use backend::{Nftables, NftablesError, Planner};
pub use layout::{Options, TABLE};
pub use plan::Plan;
