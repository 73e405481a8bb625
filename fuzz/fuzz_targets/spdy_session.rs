//! The SPDY state machine as a server and as a client, fed bytes in chunks.
//!
//! The first byte chooses role, raw bytes or a mutated session, and chunk size. Besides not panicking it must keep its bounds.

#![no_main]

mod client;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portolan_stream::spdy::{Event, Headers, Limits, Role, Session};

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let driven;
    let data = if first & 4 == 0 {
        data
    } else {
        driven = client::session(data);
        &driven[..]
    };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let limits =
        Limits { control_frame: 4 << 10, header_block: 4 << 10, streams: 8, ..Limits::default() };
    let mut session = Session::new(role, limits);
    if first & 2 != 0 {
        session.announce_windows();
    }
    if role == Role::Client {
        let _ = session.open(&Headers::new().with("streamType", "data"));
    }
    for chunk in data.chunks(usize::from(first >> 3) * 40 + 1) {
        let before = session.outgoing_len();
        let outcome = session.receive(Bytes::copy_from_slice(chunk));
        assert!(session.stream_count() <= limits.streams);
        assert!(
            session.held()
                <= limits.control_frame
                    + chunk.len()
                    + limits.header_block * (1 + chunk.len() / 12)
        );
        assert!(session.outgoing_len() - before <= 64 + 8 * chunk.len());
        while let Some(event) = session.poll_event() {
            match event {
                Event::Opened(id, _) => {
                    session.reply(id, &Headers::new());
                    session.send(id, b"hello");
                }
                Event::Data(id, piece) => {
                    session.consumed(id, piece.len());
                    session.send(id, &piece);
                }
                Event::Finished(id) => session.finish(id),
                _ => {}
            }
        }
        session.take_outgoing();
        if outcome.is_err() {
            return;
        }
    }
});
