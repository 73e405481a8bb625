//! Sockets on the host's loopback, bound for the lab and passed to it; nothing is kept here.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use crate::message::Protocol;

/// Binds 127.0.0.1 and, for TCP, listens.
pub(super) fn bind(protocol: Protocol, port: u16) -> io::Result<OwnedFd> {
    let address = (Ipv4Addr::LOCALHOST, port);
    Ok(match protocol {
        Protocol::Tcp => TcpListener::bind(address)?.into(),
        Protocol::Udp => UdpSocket::bind(address)?.into(),
    })
}
