//! Sockets: UDP by a thread a core, TCP by tasks.
//!
//! Each port has one socket a thread (SO_REUSEPORT), bound to all addresses or to those of `bind`.
//! A change of settings touches only the ports that come or go: the others stay open, so no query is
//! lost.

mod tcp;
mod udp;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;

/// How many TCP clients there may be at once.
pub const MOST_CLIENTS: usize = 1024;

/// The open ports.
#[derive(Debug)]
pub struct Servers {
    engine: Arc<Engine>,
    tasks: TaskTracker,
    stop: CancellationToken,
    clients: Arc<tokio::sync::Semaphore>,
    threads: usize,
    open: HashMap<SocketAddr, CancellationToken>,
}

/// Where settings listen; blocks are found by the port.
pub type Listen = Vec<SocketAddr>;

impl Servers {
    /// None yet. `threads` is how many answer over UDP at each address.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        tasks: TaskTracker,
        stop: CancellationToken,
        threads: usize,
    ) -> Self {
        let clients = Arc::new(tokio::sync::Semaphore::new(MOST_CLIENTS));
        Self { engine, tasks, stop, clients, threads: threads.max(1), open: HashMap::new() }
    }

    /// Opens what is not open, and closes what is not wanted any more. Must be called on a runtime.
    ///
    /// # Errors
    /// The first address that cannot be had; what was open before is still open then.
    pub fn listen(&mut self, wanted: &Listen) -> Result<(), (SocketAddr, io::Error)> {
        let new: Vec<_> = wanted.iter().copied().filter(|at| !self.open.contains_key(at)).collect();
        let mut sockets = Vec::new();
        for at in new {
            sockets.push((at, self.bind(at).map_err(|e| (at, e))?));
        }
        for (at, (udp, tcp)) in sockets {
            let stop = self.stop.child_token();
            for socket in udp {
                let (engine, token) = (Arc::clone(&self.engine), stop.clone());
                let handle = tokio::runtime::Handle::current();
                let tasks = self.tasks.clone();
                let thread =
                    move || udp::serve(&socket, at.port(), &engine, &tasks, &handle, &token);
                let name = format!("udp-{}", at.port());
                let done =
                    std::thread::Builder::new().name(name).spawn(thread).map_err(|e| (at, e))?;
                self.tasks.spawn(wait_for(done, stop.clone()));
            }
            let clients = Arc::clone(&self.clients);
            let (engine, tasks) = (Arc::clone(&self.engine), self.tasks.clone());
            self.tasks.spawn(tcp::serve(tcp, at.port(), engine, clients, tasks, stop.clone()));
            self.open.insert(at, stop);
        }
        self.open.retain(|at, stop| {
            let is_wanted = wanted.contains(at);
            if !is_wanted {
                stop.cancel();
            }
            is_wanted
        });
        Ok(())
    }

    fn bind(&self, at: SocketAddr) -> io::Result<(Vec<udp::Udp>, tokio::net::TcpListener)> {
        let udp = (0..self.threads).map(|_| udp::Udp::bind(at)).collect::<io::Result<_>>()?;
        let socket = socket(at, Type::STREAM, Protocol::TCP)?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok((udp, tokio::net::TcpListener::from_std(socket.into())?))
    }
}

/// The threads end by themselves once they are told; the tracker waits for them.
async fn wait_for(thread: std::thread::JoinHandle<()>, stop: CancellationToken) {
    stop.cancelled().await;
    // It looks at the token a few times a second.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
}

/// Every address of a machine: both families by one socket, or IPv4 where there is no IPv6.
#[must_use]
pub fn wildcard(port: u16) -> SocketAddr {
    let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    let ip = if has_ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    SocketAddr::new(ip, port)
}

fn socket(at: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(at.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}
