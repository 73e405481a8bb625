//! Anonymous namespaces, held by descriptors, and work done inside them by threads of their own.
//!
//! A thread that has entered other namespaces never goes back: it ends. So no namespace outlives
//! the lab's first process, and none needs a process to hold it.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use crate::error::LabError;

/// A node's or the client's network, mounts and host name.
#[derive(Debug, Clone)]
pub(crate) struct Namespaces {
    pub(crate) net: Arc<OwnedFd>,
    pub(crate) mount: Arc<OwnedFd>,
    pub(crate) uts: Arc<OwnedFd>,
}

impl Namespaces {
    /// Makes new ones and runs `furnish` inside, on a thread that then ends.
    pub(crate) async fn make(
        name: String,
        furnish: impl FnOnce() -> Result<(), LabError> + Send + 'static,
    ) -> Result<Namespaces, LabError> {
        in_thread(format!("make {name}"), move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
                .map_err(LabError::kernel("make network, mount and uts namespaces"))?;
            portolan_netlink::sysctl::plain_ipv6()?;
            nix::unistd::sethostname(&name).map_err(LabError::kernel("set a host name"))?;
            furnish()?;
            Ok(Namespaces { net: own("net")?, mount: own("mnt")?, uts: own("uts")? })
        })
        .await
    }

    /// Runs a future on a thread inside the network namespace only.
    pub(crate) async fn in_network<T, Fut>(
        &self,
        work: impl FnOnce() -> Fut + Send + 'static,
    ) -> Result<T, LabError>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, LabError>>,
    {
        let net = Arc::clone(&self.net);
        in_thread("network".into(), move || {
            enter_network(&net)?;
            runtime()?.block_on(work())
        })
        .await
    }
}

/// Moves the calling thread into a network namespace; for threads that stay there.
pub(crate) fn enter_network(net: &OwnedFd) -> Result<(), LabError> {
    setns(net.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(LabError::kernel("enter a network namespace"))
}

/// A runtime for one thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, LabError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::kernel("start a runtime"))
}

/// The calling thread's own namespace of a kind.
pub(crate) fn own(kind: &str) -> Result<Arc<OwnedFd>, LabError> {
    let path = format!("/proc/thread-self/ns/{kind}");
    let file = File::open(&path).map_err(LabError::file("open", path))?;
    Ok(Arc::new(file.into()))
}

async fn in_thread<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> Result<T, LabError> + Send + 'static,
) -> Result<T, LabError> {
    let (done, result) = oneshot::channel();
    // A name of a thread has at most 15 bytes.
    let name: String = name.chars().take(15).collect();
    thread::Builder::new()
        .name(name)
        .spawn(move || drop(done.send(work())))
        .map_err(LabError::kernel("start a thread"))?;
    result.await.unwrap_or_else(|_| {
        Err(LabError::Kernel {
            action: "finish work in a namespace",
            source: io::Error::other("the thread panicked"),
        })
    })
}
