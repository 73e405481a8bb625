use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::answer::{Limits, LoadBalance, Shuffle};
use crate::corefile::CacheKind;
use crate::wire::{Header, Message};

fn settings() -> corefile::Cache {
    corefile::Cache {
        zones: Vec::new(),
        success: CacheKind { capacity: 1600, max_ttl: 60, min_ttl: 5 },
        denial: CacheKind { capacity: 160, max_ttl: 30, min_ttl: 5 },
        disabled: Vec::new(),
        servfail: Duration::from_secs(5),
        prefetch: 0,
        prefetch_pause: Duration::from_secs(60),
        prefetch_percent: 10,
        serve_stale: None,
        verify_stale: false,
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(Name::parse(name).unwrap().wire());
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    bytes
}

/// A response with addresses, or with an SOA record.
fn response(name: &str, code: u8, ttl: u32, addresses: u8) -> Vec<u8> {
    let mut bytes = query(name);
    (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80 | code, addresses);
    for last in 0..addresses {
        bytes.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
        bytes.extend_from_slice(&ttl.to_be_bytes());
        bytes.extend_from_slice(&[0, 4, 10, 0, 0, last]);
    }
    if addresses == 0 && code != 2 {
        bytes[9] = 1;
        bytes.extend_from_slice(&[0xC0, 12, 0, 6, 0, 1]);
        bytes.extend_from_slice(&3600_u32.to_be_bytes());
        bytes.extend_from_slice(&[0, 22, 0, 0]);
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&ttl.to_be_bytes());
    }
    bytes
}

fn key(name: &str) -> CacheKey {
    CacheKey::of(&Query::read(&query(name), Limits::Tcp).unwrap())
}

fn given(hit: &Hit, name: &str, limits: Limits) -> Vec<u8> {
    let bytes = query(name);
    let query = Query::read(&bytes, limits).unwrap();
    let mut out = Vec::new();
    let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 3);
    hit.stored.write(&query, Some(hit.age), &mut shuffle, &mut out);
    out
}

#[test]
fn answers_end_when_they_say_and_denials_when_their_soa_says() {
    for (code, ttl, addresses, life) in [
        (0, 20, 2, 20),
        (0, 1, 1, 5),
        (0, 4000, 1, 60),
        (3, 20, 0, 20),
        (3, 4000, 0, 30),
        (0, 10, 0, 10),
        (2, 0, 0, 5),
    ] {
        let cache = Cache::new(settings());
        cache.put(key("a.b"), &response("a.b", code, ttl, addresses), 1000);
        assert!(cache.get(&key("A.b"), 1000 + life * 1000 - 1).is_some(), "{code} {ttl}");
        assert!(cache.get(&key("a.b"), 1000 + life * 1000).is_none(), "{code} {ttl}");
    }
}

#[test]
fn times_to_live_count_down_and_the_case_is_the_questions() {
    let cache = Cache::new(settings());
    cache.put(key("a.b"), &response("a.b", 0, 40, 3), 0);
    let hit = cache.get(&key("a.b"), 15_500).unwrap();
    let out = given(&hit, "A.B", Limits::Tcp);
    let message = Message::new(&out).unwrap();
    assert_eq!(message.header.id, 0xABCD);
    assert_eq!(message.question().unwrap().0.name.to_string(), "A.B.");
    assert!(message.records().all(|record| record.unwrap().ttl == 25));
    assert_eq!(message.records().count(), 3);
}

#[test]
fn what_does_not_fit_is_cut_at_a_record() {
    let cache = Cache::new(settings());
    cache.put(key("a.b"), &response("a.b", 0, 40, 200), 0);
    let hit = cache.get(&key("a.b"), 0).unwrap();
    let out = given(&hit, "a.b", Limits::Udp { most: 1232 });
    let message = Message::new(&out).unwrap();
    assert!(out.len() <= 512 && out.len() > 496);
    assert!(message.header.flags & Header::TC != 0);
    assert_eq!(
        message.records().map(Result::unwrap).count(),
        usize::from(message.header.counts[1])
    );
}

#[test]
fn what_says_nothing_for_long_is_not_kept() {
    let cache = Cache::new(settings());
    let mut cut = response("a.b", 0, 40, 1);
    cut[2] |= 2;
    for bytes in [cut, response("a.b", 5, 40, 1), response("a.b", 0, 40, 1)[..30].to_vec()] {
        assert!(cache.put(key("a.b"), &bytes, 0).is_none());
    }
    assert!(cache.is_empty());
}

#[test]
fn a_popular_answer_is_fetched_by_one_before_it_ends() {
    let cache = Cache::new(corefile::Cache { prefetch: 2, ..settings() });
    cache.put(key("a.b"), &response("a.b", 0, 50, 1), 0);
    let at = |now| cache.get(&key("a.b"), now).unwrap().freshness;
    assert_eq!(at(1000), Freshness::Fresh);
    assert_eq!(at(44_000), Freshness::Fresh);
    assert_eq!(at(45_000), Freshness::Prefetch);
    assert_eq!(at(45_001), Freshness::Fresh);
    cache.give_up(&key("a.b"));
    assert_eq!(at(45_002), Freshness::Prefetch);
    cache.put(key("a.b"), &response("a.b", 0, 50, 1), 46_000);
    assert_eq!(at(46_001), Freshness::Fresh);
}

#[test]
fn an_ended_answer_is_given_as_long_as_the_setting_says() {
    let stale = Some(Duration::from_secs(100));
    let cache = Cache::new(corefile::Cache { serve_stale: stale, ..settings() });
    cache.put(key("a.b"), &response("a.b", 0, 50, 1), 0);
    let at = |now| cache.get(&key("a.b"), now).map(|hit| hit.freshness);
    assert_eq!(at(50_000), Some(Freshness::Stale));
    assert_eq!(at(50_001), Some(Freshness::StaleAwaited));
    // A failure hides it no longer than it is remembered itself.
    cache.put(key("a.b"), &response("a.b", 2, 0, 0), 60_000);
    assert_eq!(at(149_999), Some(Freshness::StaleAwaited));
    assert_eq!(at(150_000), None);
}

#[test]
fn zones_may_be_left_out() {
    let zone = |text| Name::parse(text).unwrap();
    let cache = Cache::new(corefile::Cache {
        disabled: vec![(Denial::Denial, zone("b"))],
        zones: vec![zone("b"), zone("c")],
        ..settings()
    });
    for (name, code, is_kept) in
        [("a.b", 0, true), ("a.b", 3, false), ("a.c", 3, true), ("a.d", 0, false)]
    {
        let addresses = u8::from(code == 0);
        let stored = cache.put(key(name), &response(name, code, 40, addresses), 0);
        assert_eq!(stored.is_some(), is_kept, "{name} {code}");
    }
}

#[test]
fn it_is_bounded_and_denials_drive_out_no_answer() {
    let cache = Cache::new(settings());
    cache.put(key("a.b"), &response("a.b", 0, 40, 1), 0);
    for i in 0..5000 {
        let name = format!("n{i}.b");
        cache.put(key(&name), &response(&name, 3, 40, 0), 0);
    }
    assert_eq!(cache.len().0, 1);
    assert!(cache.len().1 <= 160, "{:?}", cache.len());
    assert!(cache.get(&key("a.b"), 1).is_some());
}

proptest! {
    #[test]
    fn any_response_is_kept_or_not_without_harm(
        edits in proptest::collection::vec((0_usize..90, any::<u8>()), 0..8), cut in 0_usize..120
    ) {
        let mut bytes = response("a.b", 0, 40, 4);
        for (at, byte) in edits {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let cache = Cache::new(settings());
        cache.put(key("a.b"), &bytes, 0);
        if let Some(hit) = cache.get(&key("a.b"), 1) {
            let out = given(&hit, "a.b", Limits::Udp { most: 1232 });
            prop_assert!(out.len() <= 512);
            let message = Message::new(&out).unwrap();
            prop_assert!(message.records().all(|record| record.is_ok()));
            let _ = hit.stored.answers(0);
        }
    }
}
