//! Messages that nobody sane sends: no panic, and no work that their length does not bound.

use hickory_proto::op::Message as Reader;
use portolan_dns::answer::{Limits, LoadBalance, Outcome, Query, Refusal, Shuffle, answer, error};
use portolan_dns::wire::{Message, Name};
use proptest::prelude::*;

use crate::cases::{cluster, question};

const CLUSTER: &str = include_str!("../cases/cluster.txt");

fn respond(bytes: &[u8], limits: Limits) -> Option<Vec<u8>> {
    let (cluster, _) = cluster(CLUSTER);
    let mut out = Vec::new();
    match Query::read(bytes, limits) {
        Err(refusal) => error(bytes, refusal, &mut out).map(|_| out),
        Ok(query) => {
            let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 1);
            let outcome =
                answer(&query, &cluster.snapshot, &cluster.authority, &mut shuffle, &mut out);
            matches!(outcome, Outcome::Written(_)).then_some(out)
        }
    }
}

/// A message with the parts of one, in any disorder.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("svc1.testns.svc.cluster.local"),
        Just("_http._tcp.hdls1.testns.svc.cluster.local"),
        Just("external-to-external.testns.svc.cluster.local"),
        Just("4.0.0.172.in-addr.arpa"),
    ];
    let edits = proptest::collection::vec((0_usize..80, any::<u8>()), 0..6);
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    (name, any::<u16>(), edits, tail, 0_usize..100).prop_map(|(name, qtype, edits, tail, cut)| {
        let mut bytes = question(name, qtype % 300);
        bytes.extend(tail);
        for (at, byte) in edits {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(bytes.len().min(cut + 8));
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = respond(&bytes, Limits::Tcp);
        if let Ok(message) = Message::new(&bytes) {
            let _ = message.question();
            let _ = message.opt();
            prop_assert!(message.records().count() <= bytes.len() / 11 + 1);
        }
    }

    #[test]
    fn whatever_is_answered_is_a_message(bytes in broken()) {
        if let Some(response) = respond(&bytes, Limits::Udp { most: 1232 }) {
            prop_assert!(response.len() <= 1232);
            prop_assert_eq!(&response[..2], &bytes[..2]);
            prop_assert!(response[2] & 0x80 != 0);
            prop_assert!(Reader::from_vec(&response).is_ok(), "{:?}", response);
        }
    }

    #[test]
    fn names_are_read_as_another_reader_does(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
        use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
        let theirs = hickory_proto::rr::Name::read(&mut BinDecoder::new(&bytes));
        match (Name::read(&bytes, 0), theirs) {
            (Ok((ours, _)), Ok(theirs)) => {
                let labels: Vec<&[u8]> = theirs.iter().collect();
                prop_assert_eq!(ours.labels().collect::<Vec<_>>(), labels);
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} {:?}", ours, theirs),
        }
    }
}

#[test]
fn names_that_point_in_circles_end() {
    // A name of pointers to pointers, each one byte pair before: read once each.
    let mut bytes = vec![0; 12];
    bytes.push(0);
    for at in 0..8000_u16 {
        let target = if at == 0 { 12 } else { 13 + 2 * (at - 1) };
        bytes.extend_from_slice(&(0xC000 | target).to_be_bytes());
    }
    let last = bytes.len() - 2;
    assert_eq!(Name::read(&bytes, last).unwrap().0, Name::root());
    for circle in [b"\xC0\x0C", b"\xC0\x0D", b"\xFF\xFF"] {
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(circle);
        assert!(Name::read(&bytes, 12).is_err());
    }
}

#[test]
fn what_is_no_query_is_refused_by_its_fault() {
    let good = question("svc1.testns.svc.cluster.local", 1);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let opt = |version: u8, count: usize| {
        let mut bytes = good.clone();
        bytes[11] = u8::try_from(count).unwrap();
        for _ in 0..count {
            bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, version, 0, 0, 0, 0]);
        }
        bytes
    };
    let class = {
        let mut bytes = good.clone();
        *bytes.last_mut().unwrap() = 3;
        bytes
    };
    for (bytes, refusal) in [
        (with(2, 0x80), Refusal::Drop),
        (good[..11].to_vec(), Refusal::Drop),
        (with(2, 0x28), Refusal::NotImp),
        (with(5, 0), Refusal::FormErr),
        (with(5, 2), Refusal::FormErr),
        (with(7, 2), Refusal::FormErr),
        (with(12, 0xC0), Refusal::FormErr),
        (with(12, 64), Refusal::FormErr),
        (good[..good.len() - 1].to_vec(), Refusal::FormErr),
        (with(11, 1), Refusal::FormErr),
        (opt(1, 1), Refusal::BadVers),
        (opt(0, 2), Refusal::FormErr),
        (class, Refusal::Refused),
    ] {
        assert_eq!(Query::read(&bytes, Limits::Tcp).unwrap_err(), refusal, "{bytes:?}");
        let mut out = Vec::new();
        let code = error(&bytes, refusal, &mut out);
        assert_eq!(code.is_none(), refusal == Refusal::Drop);
        if let Some(code) = code {
            let message = Reader::from_vec(&out).unwrap();
            assert_eq!(u16::from(message.metadata.response_code), code);
        }
    }
    assert!(Query::read(&opt(0, 1), Limits::Tcp).is_ok());
}
