//! Two sessions talking to each other, and one talking to nonsense.

use proptest::prelude::*;

use super::*;

fn pair() -> (Session, Session) {
    let limits = Limits::default();
    (Session::new(Role::Client, limits), Session::new(Role::Server, limits))
}

fn deliver(from: &mut Session, to: &mut Session) {
    let bytes = from.take_outgoing().freeze();
    to.receive(bytes).unwrap();
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn open(client: &mut Session, server: &mut Session) -> StreamId {
    let stream = client.open(&Headers::new().with("streamType", "data")).unwrap();
    deliver(client, server);
    let opened = events(server).pop();
    assert!(matches!(opened, Some(Event::Opened(id, _)) if id == stream));
    server.reply(stream, &Headers::new());
    deliver(server, client);
    assert!(matches!(&events(client)[..], [Event::Replied(id, _)] if *id == stream));
    stream
}

#[test]
fn a_stream_carries_data_both_ways_and_ends_by_two_fins() {
    let (mut client, mut server) = pair();
    let stream = open(&mut client, &mut server);
    assert_eq!(client.send(stream, b"ping"), 4);
    client.finish(stream);
    deliver(&mut client, &mut server);
    let data = Event::Data(stream, Bytes::from_static(b"ping"));
    assert_eq!(events(&mut server), [data, Event::Finished(stream)]);
    server.send(stream, b"pong");
    server.finish(stream);
    deliver(&mut server, &mut client);
    let data = Event::Data(stream, Bytes::from_static(b"pong"));
    assert_eq!(events(&mut client), [data, Event::Finished(stream)]);
    assert_eq!((client.stream_count(), server.stream_count()), (0, 0));
}

#[test]
fn nothing_is_sent_on_a_stream_before_it_is_answered() {
    let (mut client, mut server) = pair();
    let stream = client.open(&Headers::new()).unwrap();
    deliver(&mut client, &mut server);
    assert_eq!(server.send(stream, b"too early"), 0);
    server.reply(stream, &Headers::new());
    assert_eq!(server.send(stream, b"now"), 3);
}

#[test]
fn a_peer_without_windows_is_never_waited_for() {
    let (mut client, mut server) = pair();
    let stream = open(&mut client, &mut server);
    for _ in 0..100 {
        assert_eq!(server.send(stream, &[0; DATA_FRAME]), DATA_FRAME);
        server.take_outgoing();
    }
}

#[test]
fn a_peer_with_windows_is_held_to_them_and_frees_us_by_consuming() {
    let (mut client, mut server) = pair();
    client.announce_windows();
    let stream = open(&mut client, &mut server);
    let mut sent = 0;
    loop {
        match server.send(stream, &[7; DATA_FRAME]) {
            0 => break,
            size => sent += size,
        }
    }
    assert_eq!(sent, INITIAL_WINDOW as usize);
    deliver(&mut server, &mut client);
    events(&mut client);
    client.consumed(stream, sent);
    deliver(&mut client, &mut server);
    let woken = events(&mut server);
    assert!(
        woken.contains(&Event::Writable(None)) && woken.contains(&Event::Writable(Some(stream)))
    );
    assert_eq!(server.send(stream, &[7; DATA_FRAME]), DATA_FRAME);
}

#[test]
fn more_than_the_window_resets_the_stream_of_a_peer_that_keeps_windows() {
    let (mut client, mut server) = pair();
    // The client never hears of the windows that it is held to.
    server.announce_windows();
    server.take_outgoing();
    let stream = open(&mut client, &mut server);
    // The connection's window alone is made to grow.
    server.consumed(StreamId(99), INITIAL_WINDOW as usize);
    for _ in 0..3 {
        client.send(stream, &[0; DATA_FRAME]);
    }
    deliver(&mut client, &mut server);
    let last = events(&mut server).pop();
    assert_eq!(last, Some(Event::Reset(stream, ResetStatus::FlowControlError)));
}

#[test]
fn more_than_the_connections_window_ends_the_connection() {
    let (mut client, mut server) = pair();
    server.announce_windows();
    server.take_outgoing();
    let streams = [open(&mut client, &mut server), open(&mut client, &mut server)];
    for stream in streams {
        client.send(stream, &[0; DATA_FRAME]);
        client.send(stream, &[0; DATA_FRAME / 2]);
    }
    let bytes = client.take_outgoing().freeze();
    assert_eq!(server.receive(bytes), Err(SpdyError::FlowControl));
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_rest_go_on() {
    let limits = Limits { streams: 2, ..Limits::default() };
    let (mut client, mut server) =
        (Session::new(Role::Client, limits), Session::new(Role::Server, limits));
    let first = open(&mut client, &mut server);
    let _second = open(&mut client, &mut server);
    let third = client.open(&Headers::new().with("port", "80")).unwrap();
    deliver(&mut client, &mut server);
    assert_eq!(events(&mut server), []);
    deliver(&mut server, &mut client);
    assert_eq!(events(&mut client), [Event::Reset(third, ResetStatus::RefusedStream)]);
    server.reset(first, ResetStatus::Cancel);
    deliver(&mut server, &mut client);
    client.poll_event();
    // The refused stream's headers went through the inflater all the same.
    open(&mut client, &mut server);
}

#[test]
fn pings_are_answered_and_ours_come_back() {
    let (mut client, mut server) = pair();
    let id = client.ping();
    deliver(&mut client, &mut server);
    assert_eq!(events(&mut server), []);
    deliver(&mut server, &mut client);
    assert_eq!(events(&mut client), [Event::Pong(id)]);
}

#[test]
fn no_stream_is_accepted_after_going_away() {
    let (mut client, mut server) = pair();
    server.go_away();
    let stream = client.open(&Headers::new()).unwrap();
    deliver(&mut client, &mut server);
    deliver(&mut server, &mut client);
    assert_eq!(
        events(&mut client),
        [Event::GoAway(GoAwayStatus::Ok), Event::Reset(stream, ResetStatus::RefusedStream)]
    );
}

#[test]
fn a_broken_session_says_goodbye_and_stays_broken() {
    let (_, mut server) = pair();
    let nonsense = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    // "GET " reads as a DATA frame's stream; what follows it makes no sense at all.
    let _ = server.receive(nonsense);
    let bad_version = Bytes::from_static(&[0x80, 2, 0, 6, 0, 0, 0, 4]);
    let (_, mut server) = pair();
    assert_eq!(server.receive(bad_version), Err(SpdyError::Version(2)));
    let goodbye = server.take_outgoing();
    assert_eq!(&goodbye[..4], &[0x80, 3, 0, 7]);
    assert_eq!(server.receive(Bytes::new()), Err(SpdyError::Version(2)));
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Send(usize, usize),
    Finish(usize),
    Reset(usize),
    Ping,
    Settings,
    GoAway,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Open),
        8 => (0..8usize, 0..5000usize).prop_map(|(stream, size)| Step::Send(stream, size)),
        2 => (0..8usize).prop_map(Step::Finish),
        2 => (0..8usize).prop_map(Step::Reset),
        1 => Just(Step::Ping),
        1 => Just(Step::Settings),
        1 => Just(Step::GoAway),
    ]
}

/// The bytes of a valid client.
fn session(steps: &[Step]) -> Vec<u8> {
    let mut client = Session::new(Role::Client, Limits::default());
    let mut streams = Vec::new();
    for step in steps {
        match step {
            Step::Open => {
                let port = streams.len().to_string();
                let headers = Headers::new().with("streamType", "data").with("port", port);
                streams.push(client.open(&headers).unwrap());
            }
            Step::Send(stream, size) => {
                if let Some(stream) = streams.get(*stream) {
                    client.send(*stream, &vec![b'x'; *size]);
                }
            }
            Step::Finish(stream) => {
                if let Some(stream) = streams.get(*stream) {
                    client.finish(*stream);
                }
            }
            Step::Reset(stream) => {
                if let Some(stream) = streams.get(*stream) {
                    client.reset(*stream, ResetStatus::Cancel);
                }
            }
            Step::Ping => {
                client.ping();
            }
            Step::Settings => client.announce_windows(),
            Step::GoAway => client.go_away(),
        }
    }
    client.take_outgoing().to_vec()
}

/// Feeds bytes cut as told, answering streams as a server does, and checks the bounds.
fn swallow(bytes: &[u8], cut: usize) {
    let limits =
        Limits { control_frame: 4 << 10, header_block: 4 << 10, streams: 4, ..Limits::default() };
    let mut server = Session::new(Role::Server, limits);
    for chunk in bytes.chunks(cut.max(1)) {
        let before = server.outgoing_len();
        let outcome = server.receive(Bytes::copy_from_slice(chunk));
        assert!(server.stream_count() <= limits.streams);
        // A held control frame, this chunk, and inflated headers of streams within the limit.
        let most =
            limits.control_frame + chunk.len() + limits.header_block * (1 + chunk.len() / 18);
        assert!(server.held() <= most, "{} held of {}", server.held(), most);
        // The shortest frame that is answered is 8 bytes, the longest answer 16, or two window
        // updates of 16 for data that nobody takes.
        assert!(server.outgoing_len() - before <= 64 + 8 * chunk.len());
        while let Some(event) = server.poll_event() {
            match event {
                Event::Opened(id, _) => server.reply(id, &Headers::new()),
                Event::Data(id, piece) => server.consumed(id, piece.len()),
                Event::Finished(id) => server.finish(id),
                _ => {}
            }
        }
        server.take_outgoing();
        if outcome.is_err() {
            assert!(server.receive(Bytes::from_static(b"more")).is_err());
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_neither_panic_nor_exceed_the_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..4096),
        cut in 1..600usize,
    ) {
        swallow(&bytes, cut);
    }

    #[test]
    fn mutated_sessions_neither_panic_nor_exceed_the_bounds(
        steps in prop::collection::vec(step(), 1..60),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in 1..6000usize,
    ) {
        let mut bytes = session(&steps);
        for (place, value) in mutations {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        swallow(&bytes, cut);
    }

    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..20),
        cut in 1..5000usize,
    ) {
        let (mut client, mut server) = pair();
        let stream = open(&mut client, &mut server);
        let mut arrived = Vec::new();
        for piece in &pieces {
            client.send(stream, piece);
        }
        client.finish(stream);
        for chunk in client.take_outgoing().chunks(cut) {
            server.receive(Bytes::copy_from_slice(chunk)).unwrap();
            while let Some(event) = server.poll_event() {
                if let Event::Data(_, piece) = event {
                    arrived.extend_from_slice(&piece);
                }
            }
        }
        prop_assert_eq!(arrived, pieces.concat());
        prop_assert_eq!(server.stream_count(), 1);
    }
}
