//! Packets that connection tracking calls invalid: dropped on their way through the node in mode
//! iptables, unless it is told to be liberal, and let through in mode nftables, as upstream has it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portolan_backend_iptables::{Iptables, Options};
use portolan_model::{Backend as _, InvalidPackets, Model};
use socket2::SockAddr;

use crate::lab::Lab;
use crate::objects::{STACKS, Stack, ip};
use crate::sctp::{arrived, raw};
use crate::traffic::{in_each_mode, programmed};

const TCP: i32 = 6;
const SOURCE_PORT: u16 = 5001;
/// Nobody listens there, so that nothing but what is sent arrives.
const PORT: u16 = 7999;

const SYN: u8 = 2;
/// No connection has such a segment, so connection tracking calls it invalid.
const SYN_FIN: u8 = 3;

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("it was folded twice")
}

/// A segment without data (RFC 9293, 3.1), its checksum right.
fn segment(from: IpAddr, to: IpAddr, flags: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(SOURCE_PORT.to_be_bytes());
    segment.extend(PORT.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0]); // Sequence and acknowledgement.
    segment.extend([5 << 4, flags, 255, 255, 0, 0, 0, 0]); // Window, checksum to come, urgent.
    let mut covered: Vec<u8> = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => unreachable!("both are of one stack"),
    };
    covered.extend([0, 6, 0, 20]); // Protocol and length.
    covered.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&covered).to_be_bytes());
    segment
}

/// Whether a segment with these flags gets from the second pod to the first.
fn gets_through(lab: &Lab, stack: &Stack, flags: u8) -> bool {
    let [to, from] = [stack.pod(1), stack.pod(2)].map(|pod| ip(&pod));
    let end = raw(&lab.pods[0], stack.family, TCP);
    let client = raw(&lab.pods[1], stack.family, TCP);
    client.send_to(&segment(from, to, flags), &SockAddr::from(SocketAddr::new(to, 0))).unwrap();
    let is_it = |packet: &[u8]| {
        packet.get(2..4) == Some(&PORT.to_be_bytes()) && packet.get(13) == Some(&flags)
    };
    arrived(&end, stack.family, Duration::from_millis(500), is_it).is_some()
}

fn empty(stack: &Stack) -> Model {
    let mut model = stack.model();
    model.flush();
    model
}

#[test]
fn invalid_packets_are_dropped_where_the_mode_says_so() {
    let test = "invalid_packets_are_dropped_where_the_mode_says_so";
    in_each_mode(test, 2, "invalid", |mode, lab| {
        for stack in &STACKS {
            let mut rules = programmed(mode, lab, &empty(stack));
            let passes = mode.profile().invalid_packets == InvalidPackets::Pass;
            assert!(gets_through(lab, stack, SYN));
            assert_eq!(gets_through(lab, stack, SYN_FIN), passes);
            rules.cleanup(lab);
            assert!(gets_through(lab, stack, SYN_FIN), "without rules");
        }
        let [stack, _] = &STACKS;
        let options = Options { invalid_packets: InvalidPackets::Pass, ..Options::default() };
        lab.node.run(|| {
            Iptables::new(stack.family, options).start(empty(stack).table()).unwrap();
        });
        assert!(gets_through(lab, stack, SYN_FIN), "liberal");
    });
}
