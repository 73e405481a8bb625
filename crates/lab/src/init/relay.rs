//! Carries connections from the host's loopback to nodes' ports, from the outside client's network.
//!
//! The listening sockets belong to the host's network namespace (`up` bound and passed them); the
//! dialing ones are made on a thread that lives in the client's. So every published port is reached
//! through a node's data plane, as from any client outside the cluster.
//!
//! ```text
//!   curl 127.0.0.1:30080 ─▶ [host's socket] accept ─ copy both ways ─ connect [client's netns] ─▶ node:30080
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::LabError;
use crate::message::{Port, Protocol};
use crate::namespaces::{self, Namespaces};
use crate::nets::Family;

/// How long a node may take to accept; longer than two lost SYNs take.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a UDP client's answers find their way back after its last packet; as the kernel's
/// conntrack does for a stream.
const UDP_IDLE: Duration = Duration::from_secs(120);

/// UDP clients of one port at a time; further ones wait for an idle one to go.
const MOST_UDP_CLIENTS: usize = 1024;

/// Hands sockets to the thread in the client's network; dropping it closes them all.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Open(Port, OwnedFd),
    Close(Port),
}

/// The addresses of the nodes that connections may go to; the order decides nothing.
pub(super) type ReadyNodes = watch::Receiver<Arc<[IpAddr]>>;

impl Relay {
    /// Starts the thread in the client's network.
    pub(super) fn start(client: &Namespaces, nodes: ReadyNodes) -> Result<Relay, LabError> {
        let (orders, mut received) = mpsc::unbounded_channel();
        let net = Arc::clone(&client.net);
        std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                let runtime =
                    match namespaces::enter_network(&net).and_then(|()| namespaces::runtime()) {
                        Ok(runtime) => runtime,
                        Err(error) => {
                            tracing::error!(%error, "node ports are not published");
                            return;
                        }
                    };
                runtime.block_on(async move {
                    let rotation = Rotation { nodes, next: Arc::default() };
                    let mut open: HashMap<Port, AbortHandle> = HashMap::new();
                    while let Some(order) = received.recv().await {
                        match order {
                            Order::Open(port, socket) => {
                                let task = tokio::spawn(serve(port, socket, rotation.clone()));
                                if let Some(old) = open.insert(port, task.abort_handle()) {
                                    old.abort();
                                }
                            }
                            Order::Close(port) => {
                                if let Some(old) = open.remove(&port) {
                                    old.abort();
                                }
                            }
                        }
                    }
                });
            })
            .map_err(LabError::kernel("start a thread"))?;
        Ok(Relay { orders })
    }

    /// Serves a port with this socket, in place of any before.
    pub(super) fn open(&self, port: Port, socket: OwnedFd) {
        // Without a thread (it has said why) nothing is served.
        let _ = self.orders.send(Order::Open(port, socket));
    }

    /// Serves a port no more; established connections go on.
    pub(super) fn close(&self, port: Port) {
        let _ = self.orders.send(Order::Close(port));
    }
}

/// Takes ready nodes in turn.
#[derive(Debug, Clone)]
struct Rotation {
    nodes: ReadyNodes,
    next: Arc<Mutex<usize>>,
}

impl Rotation {
    /// The port on a node, at its address of the port's family.
    fn next(&self, port: Port) -> io::Result<SocketAddr> {
        let nodes = self.nodes.borrow();
        let of_family = || nodes.iter().filter(|node| Family::of(**node) == port.family);
        let mut next = self.next.lock();
        *next = next.wrapping_add(1);
        let node = (*next).checked_rem(of_family().count()).and_then(|turn| of_family().nth(turn));
        let none = || {
            let problem = format!("no node with an {} address is ready", port.family);
            io::Error::new(io::ErrorKind::NetworkUnreachable, problem)
        };
        Ok(SocketAddr::new(*node.ok_or_else(none)?, port.number))
    }
}

async fn serve(port: Port, socket: OwnedFd, rotation: Rotation) {
    let result = match port.protocol {
        Protocol::Tcp => serve_tcp(socket, port, rotation).await,
        Protocol::Udp => serve_udp(socket, port, rotation).await,
    };
    if let Err(error) = result {
        tracing::warn!(%port, %error, "a published port is no longer served");
    }
}

async fn serve_tcp(socket: OwnedFd, port: Port, rotation: Rotation) -> io::Result<()> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = rotation.next(port);
                tokio::spawn(async move {
                    if let Err(error) = carry(stream, node).await {
                        tracing::debug!(%port, %error, "a relayed connection broke");
                    }
                });
            }
            // Out of descriptors: the connection waits in the backlog until some are free.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                tracing::warn!(%port, %error, "connections wait");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies both ways until both have ended; a refusal or break on one side resets the other.
async fn carry(mut outside: TcpStream, node: io::Result<SocketAddr>) -> io::Result<()> {
    let dialed = match node {
        Ok(node) => timeout(DIAL_LIMIT, TcpStream::connect(node)).await.map_err(io::Error::from),
        Err(error) => Err(error),
    };
    let mut inside = match dialed.and_then(|connected| connected) {
        Ok(stream) => stream,
        Err(error) => {
            let _ = outside.set_zero_linger();
            return Err(error);
        }
    };
    let _ = (outside.set_nodelay(true), inside.set_nodelay(true));
    if let Err(error) = tokio::io::copy_bidirectional(&mut outside, &mut inside).await {
        let _ = (outside.set_zero_linger(), inside.set_zero_linger());
        return Err(error);
    }
    Ok(())
}

/// Each client address gets a socket of its own towards a node, so that answers find back and the
/// node sees one flow per client.
async fn serve_udp(socket: OwnedFd, port: Port, rotation: Rotation) -> io::Result<()> {
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    let outside = Arc::new(UdpSocket::from_std(socket)?);
    let clients: Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>>> = Arc::default();
    let mut packet = vec![0; 65_536];
    loop {
        let (length, client) = outside.recv_from(&mut packet).await?;
        let bytes = packet[..length].to_vec();
        let known = clients.lock().get(&client).cloned();
        let to_client = match known {
            Some(sender) => sender,
            None if clients.lock().len() >= MOST_UDP_CLIENTS => continue,
            None => {
                let Ok(node) = rotation.next(port) else { continue };
                let (sender, packets) = mpsc::channel(64);
                clients.lock().insert(client, sender.clone());
                let (outside, clients) = (Arc::clone(&outside), Arc::clone(&clients));
                tokio::spawn(async move {
                    if let Err(error) = carry_udp(&outside, client, node, packets).await {
                        tracing::debug!(%port, %client, %error, "a relayed UDP flow ended");
                    }
                    clients.lock().remove(&client);
                });
                sender
            }
        };
        // A full queue loses the packet, as a full socket buffer would.
        let _ = to_client.try_send(bytes);
    }
}

/// One client's flow, until it is idle.
async fn carry_udp(
    outside: &UdpSocket,
    client: SocketAddr,
    node: SocketAddr,
    mut packets: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let any: IpAddr = match Family::of(node.ip()) {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let inside = UdpSocket::bind((any, 0)).await?;
    inside.connect(node).await?;
    let mut answer = vec![0; 65_536];
    let mut idle = Instant::now() + UDP_IDLE;
    loop {
        tokio::select! {
            packet = packets.recv() => {
                let Some(packet) = packet else { return Ok(()) };
                inside.send(&packet).await?;
            }
            length = inside.recv(&mut answer) => {
                outside.send_to(&answer[..length?], client).await?;
            }
            () = sleep_until(idle) => return Ok(()),
        }
        idle = Instant::now() + UDP_IDLE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(nodes: &[&str]) -> (Rotation, watch::Sender<Arc<[IpAddr]>>) {
        let (sender, nodes) = watch::channel(nodes.iter().map(|ip| ip.parse().unwrap()).collect());
        (Rotation { nodes, next: Arc::default() }, sender)
    }

    fn port(family: Family) -> Port {
        Port { number: 30080, protocol: Protocol::Tcp, family }
    }

    #[test]
    fn each_family_goes_to_every_nodes_address_of_it_in_turn() {
        let both = ["172.30.0.11", "fd00:172:30::11", "172.30.0.12", "fd00:172:30::12"];
        let (rotation, _nodes) = rotation(&both);
        for (family, wanted) in [
            (Family::Ipv4, ["172.30.0.11:30080", "172.30.0.12:30080"]),
            (Family::Ipv6, ["[fd00:172:30::11]:30080", "[fd00:172:30::12]:30080"]),
        ] {
            let mut reached: Vec<_> =
                (0..2).map(|_| rotation.next(port(family)).unwrap().to_string()).collect();
            reached.sort();
            assert_eq!(reached, wanted);
        }
    }

    #[test]
    fn without_a_ready_node_of_the_family_nothing_is_dialed() {
        let (rotation, nodes) = rotation(&["172.30.0.11"]);
        let error = rotation.next(port(Family::Ipv6)).unwrap_err();
        assert!(error.to_string().contains("IPv6"), "{error}");
        nodes.send_replace(Arc::from([]));
        assert!(rotation.next(port(Family::Ipv4)).is_err());
    }
}
