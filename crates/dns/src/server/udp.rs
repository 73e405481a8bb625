//! UDP: receive, answer, send, by one thread a socket.
//!
//! A response goes out from the address that the query came to, whichever of the machine's it was:
//! clients drop responses from others.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Arrival, Engine, Scratch, Step};
use crate::forward::Transport;

/// How often a thread without queries looks whether it should stop.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest query, in bytes; longer ones are malformed.
const LONGEST: usize = 4096;
/// How much the kernel may keep for us, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A UDP socket.
#[derive(Debug, Clone)]
pub(super) struct Udp(Arc<Socket>);

/// Where a query came from, and to.
#[derive(Debug, Clone, Copy)]
struct Peer {
    address: SockaddrStorage,
    local: Option<Local>,
}

/// Which of our addresses it came to.
#[derive(Debug, Clone, Copy)]
enum Local {
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

impl Udp {
    pub(super) fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = super::socket(at, Type::DGRAM, Protocol::UDP)?;
        socket.set_read_timeout(Some(PAUSE))?;
        // What the kernel grants is enough, too.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        // A socket of one address answers from it anyway.
        match at {
            _ if !at.ip().is_unspecified() => {}
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self(Arc::new(socket)))
    }

    /// Receives a query; none when there was none for a while.
    fn receive(
        &self,
        buffer: &mut [u8],
        control: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<Option<(usize, Peer)>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.0.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(fd, &mut slices, Some(control), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(address) = message.address else { return Ok(None) };
        let mut local = None;
        for message in message.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv4PacketInfo(mut info) => {
                    info.ipi_ifindex = 0;
                    local = Some(Local::V4(info));
                }
                ControlMessageOwned::Ipv6PacketInfo(mut info) => {
                    // A link's own address means nothing without the link.
                    if info.ipi6_addr.s6_addr[..2] != [0xFE, 0x80] {
                        info.ipi6_ifindex = 0;
                    }
                    local = Some(Local::V6(info));
                }
                _ => {}
            }
        }
        Ok(Some((message.bytes, Peer { address, local })))
    }

    fn send(&self, bytes: &[u8], peer: &Peer, flags: MsgFlags) {
        let control = peer.local.as_ref().map(|local| match local {
            Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        });
        let slices = [IoSlice::new(bytes)];
        let fd = self.0.as_raw_fd();
        if let Err(e) = sendmsg(fd, &slices, control.as_slice(), flags, Some(&peer.address)) {
            // The client may be gone, or its address made up: it asks again if it is there.
            tracing::debug!("cannot send a response: {e}");
        }
    }
}

impl Peer {
    fn is_ipv6(&self) -> bool {
        self.address.as_sockaddr_in6().is_some_and(|peer| peer.ip().to_ipv4_mapped().is_none())
    }
}

/// Answers until `stop`, and then what the kernel has received already.
pub(super) fn serve(
    socket: &Udp,
    port: u16,
    engine: &Arc<Engine>,
    tasks: &TaskTracker,
    handle: &Handle,
    stop: &CancellationToken,
) {
    let mut buffer = vec![0; LONGEST];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
    control.resize(control.capacity(), 0);
    let mut scratch = Scratch::default();
    loop {
        let is_stopped = stop.is_cancelled();
        let flags = if is_stopped { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let (length, peer) = match socket.receive(&mut buffer, &mut control, flags) {
            Ok(Some(received)) => received,
            Ok(None) if is_stopped => return,
            Ok(None) => continue,
            Err(e) => {
                tracing::warn!("cannot receive queries: {e}");
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        let arrival = Arrival { port, transport: Transport::Udp, is_ipv6: peer.is_ipv6() };
        let step = AssertUnwindSafe(|| engine.step(&buffer[..length], arrival, &mut scratch));
        let Ok(step) = catch_unwind(step) else {
            // A bug of ours costs one query, not all of them; the panic itself was printed.
            engine.note_panic();
            continue;
        };
        match step {
            Step::Reply => socket.send(&scratch.out, &peer, MsgFlags::empty()),
            Step::Drop => {}
            Step::Wait(waiting) => {
                let (engine, socket) = (Arc::clone(engine), socket.clone());
                let answer = async move {
                    let mut scratch = Scratch::default();
                    engine.wait(*waiting, &mut scratch).await;
                    if !scratch.out.is_empty() {
                        socket.send(&scratch.out, &peer, MsgFlags::MSG_DONTWAIT);
                    }
                };
                drop(tasks.spawn_on(answer, handle));
            }
        }
    }
}
