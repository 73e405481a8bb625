//! Sockets on the host's loopback, bound for the lab and passed to it; nothing is kept here.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use crate::message::{Port, Protocol};

/// Binds 127.0.0.1 or ::1 and, for TCP, listens.
pub(super) fn bind(port: Port) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(port.loopback(), port.number);
    Ok(match port.protocol {
        Protocol::Tcp => TcpListener::bind(address)?.into(),
        Protocol::Udp => UdpSocket::bind(address)?.into(),
    })
}
