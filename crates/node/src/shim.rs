//! The first process of a pod: `portolan internal pod-init`.
//!
//! It is PID 1 of the pod's namespaces, single-threaded, and driven over a Unix socket, so that
//! it outlives the node agent and a new agent can adopt it. It knows processes, not Kubernetes:
//! policy (restarts, probes, status) is the agent's.
//!
//! ```text
//! node agent ──shim.sock──▶ pod-init ─┬─ container (own PID and mount namespace)
//!                                     ├─ container …
//!                                     └─ exec (in a container's namespaces)
//! ```

pub(crate) mod caps;
pub(crate) mod channel;
mod connection;
mod events;
mod log;
mod process;
pub(crate) mod protocol;
mod rootfs;
mod rootfs_layer;
mod sandbox;

pub(crate) mod spawn;
mod streams;

pub(crate) use process::{nonblocking, signal};

/// Where the part of a log is that rotation moved away.
pub(crate) fn rotated_log(path: &std::path::Path) -> std::path::PathBuf {
    log::Log::rotated(path)
}

use std::ffi::OsString;

/// Runs as PID 1 of a pod's namespaces; started by the node agent only. `args` is one argument:
/// the pod's [`protocol::SandboxSpec`] as JSON; file descriptor 3 is the listening socket.
pub fn pod_init_main(args: &[OsString]) -> ! {
    let code = match sandbox::enter(args).and_then(events::Shim::run) {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is the pod's shim.log.
            let _ = rustix::io::write(
                rustix::stdio::stderr(),
                format!("pod-init: {error}\n").as_bytes(),
            );
            1
        }
    };
    std::process::exit(code)
}
