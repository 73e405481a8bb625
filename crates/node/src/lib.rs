//! The node agent: pods as processes in namespaces, probes, volumes, logs.
//!
//! [`node_main`] registers a Node and runs the Pods bound to it; [`pod_init_main`] is the first
//! process of each pod; [`serve_main`] is the server a container without a command runs.
//! The agent follows kubelet in what it writes to the API; how it runs a pod is DESIGN's lab:
//! namespaces and the host's own files instead of images.

mod addresses;
mod agent;
mod error;
mod ipam;
mod network;
mod node;
mod objects;
mod options;
mod pod;
mod recorder;
mod register;
pub mod runtime;
mod serve;
mod server;
mod shim;
mod watches;

pub use addresses::{Addresses, AddressesError};
pub use agent::node_main;
pub use error::NodeError;
pub use options::NodeOptions;
pub use runtime::{PodKey, Runtime};
pub use serve::serve_main;
pub use shim::pod_init_main;
