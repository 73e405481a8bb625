//! SCTP, of which this kernel has no sockets: an INIT over a raw socket arrives at the endpoint with its
//! port rewritten and its checksum right.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portolan_model::{Event, Family, NodePort, Protocol, TrafficPolicy};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::lab::Namespace;
use crate::objects::{NODE, STACKS, Stack, ip, port, service, slice};
use crate::traffic::{in_each_mode, programmed};

const SCTP: i32 = 132;
const SOURCE_PORT: u16 = 5000;

/// CRC-32C (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

/// An INIT chunk in a packet (RFC 9260, 3.3.2).
fn init(to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(SOURCE_PORT.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]); // Verification tag, and the checksum to come.
    packet.extend([1, 0, 0, 20]); // INIT, no flags, 20 bytes.
    packet.extend(0x0102_0304_u32.to_be_bytes()); // Initiate tag.
    packet.extend(65_536_u32.to_be_bytes()); // Window.
    packet.extend([0, 1, 0, 1]); // Streams out and in.
    packet.extend(7_u32.to_be_bytes()); // First sequence number.
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// A raw socket of a protocol.
pub(crate) fn raw(namespace: &Namespace, family: Family, protocol: i32) -> Socket {
    let domain = if family == Family::Ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    namespace.run(|| Socket::new(domain, Type::RAW, Some(protocol.into())).unwrap())
}

/// The next packet of this kind that arrives within a moment, without its IP header.
pub(crate) fn arrived(
    mut socket: &Socket,
    family: Family,
    patience: Duration,
    is_it: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let began = Instant::now();
    let mut buffer = [0; 256];
    while began.elapsed() < patience {
        let len = socket.read(&mut buffer).ok()?;
        let header = match family {
            Family::Ipv4 => usize::from(buffer[0] & 0xf) * 4,
            Family::Ipv6 => 0,
        };
        let packet = buffer.get(header..len)?;
        if is_it(packet) {
            return Some(packet.to_vec());
        }
    }
    None
}

fn is_init(packet: &[u8]) -> bool {
    packet.get(12) == Some(&1)
}

fn phone(stack: &Stack) -> [Event; 2] {
    let mut phone = service("phone", &stack.service(16), Some(30086));
    phone.ports.truncate(1);
    phone.ports[0].protocol = Protocol::Sctp;
    phone.external_traffic_policy = TrafficPolicy::Local;
    let Event::EndpointSlice(mut ends) = slice("phone", &[(&stack.pod(1), NODE)]) else {
        unreachable!("it makes slices");
    };
    ends.ports.truncate(1);
    ends.ports[0].protocol = Protocol::Sctp;
    ends.ports[0].port = port(7000);
    [Event::Service(phone), Event::EndpointSlice(ends)]
}

#[test]
fn an_init_reaches_the_endpoint_with_its_port_and_checksum_rewritten() {
    let test = "an_init_reaches_the_endpoint_with_its_port_and_checksum_rewritten";
    in_each_mode(test, 2, "sctp", |mode, lab| {
        for stack in &STACKS {
            let mut model = stack.model();
            phone(stack).into_iter().for_each(|event| model.apply(event));
            model.flush();
            let mut rules = programmed(mode, lab, &model);
            let node_port = NodePort::new(30086).unwrap().number();
            for (from, to, at) in [
                (&lab.pods[1], stack.service(16), 80),
                (&lab.node, stack.service(16), 80),
                (&lab.client, stack.node.to_owned(), node_port),
            ] {
                let end = raw(&lab.pods[0], stack.family, SCTP);
                let client = raw(from, stack.family, SCTP);
                // A raw socket of IPv6 wants no port in the address.
                let to = SockAddr::from(SocketAddr::new(ip(&to), 0));
                client.send_to(&init(at), &to).unwrap();
                let got = arrived(&end, stack.family, Duration::from_secs(3), is_init);
                let got = got.unwrap_or_else(|| panic!("nothing arrived of {to:?} {at}"));
                assert_eq!(got[2..4], 7000_u16.to_be_bytes());
                let mut plain = got.clone();
                plain[8..12].fill(0);
                assert_eq!(got[8..12], crc32c(&plain).to_le_bytes(), "the checksum");
            }
            rules.cleanup(lab);
        }
    });
}
