//! Nodes, fabric and outside client as network namespaces: what `up` runs.
//!
//! ```text
//!   portolan up (host's namespaces)                     [`up`]: lock, status, publisher
//!    └─ internal lab-init (PID 1; user?, pid, net, mount, uts, ipc)   [`lab_init_main`]
//!        │  store, API server, controllers, relay of node ports, supervision
//!        ├─ internal node node-1 (net, mount, uts of its own)
//!        │   └─ internal pod-init … (pods)
//!        └─ internal node node-2
//! ```
//! Namespaces are anonymous and held by lab-init alone, which dies with `up`: then the kernel takes
//! everything back. The host's own network, firewall, sysctls and files outside the data directory
//! are read at most.

mod ask;
mod channel;
mod config;
mod data_dir;
mod error;
mod fabric;
mod host;
mod init;
mod message;
mod namespaces;
mod nets;
mod privilege;
mod routes;
mod settings;
mod shell;
pub mod status;

pub use ask::{ask, down};
pub use config::{Options, ProxyMode};
pub use data_dir::DataDir;
pub use error::{Failure, LabError};
pub use host::{Attachment, Observer, up};
pub use init::lab_init_main;
pub use message::{Event, Protocol, Summary, Target};
pub use shell::shell;
